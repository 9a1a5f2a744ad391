"""Whether a model on disk is sound: structure, config, components, numbers, the recipe's bytes.

A check says what it looked at, in numbers, and names what it did not look at. What is odd but stops
nothing is a remark, here as everywhere: it fails no check.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.adapters import in_words, is_adapter, open_adapter, resolve, targets_of
from submerge.blocks import block_of
from submerge.checkpoint import NUMBERS, open_checkpoint, read_header
from submerge.checkpoint.components import Pipeline, is_index
from submerge.checkpoint.names import is_safetensors
from submerge.errors import AdapterError, CheckpointError, PlanError, counted, listing, quoted
from submerge.files import same_bytes
from submerge.layout import FAMILIES, Model, identify
from submerge.merge import plan, single_model_recipe
from submerge.plan.adapted import Fused
from submerge.plan.finite import factors_plan
from submerge.recipe import AdapterSource
from submerge.run import RunArguments, RunOptions, execute, expect_finite_adapters

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Unpack

    from submerge.plan import Plan
    from submerge.plan.form import OutputTensor, Unit
    from submerge.recipe import Recipe

__all__ = ["Check", "Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: its name, whether it is right, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        path: the model.
        checks: what was looked at, in order.
        remarks: what is odd but stops nothing, as sentences.
    """

    path: Path
    checks: tuple[Check, ...]
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        failed = [check.name for check in self.checks if not check.passed]
        outcome = f"failed: {', '.join(failed)}" if failed else "passed"
        return f"<Verification {str(self.path)!r}: {outcome}>"

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def require(self) -> None:
        """Raise `CheckpointError` naming the checks that did not pass, if there are any."""
        if failed := [f"{check.name}: {check.found}" for check in self.checks if not check.passed]:
            raise CheckpointError(f"{self.path}: {'; '.join(failed)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain data, ready for JSON."""
        checks = [{"name": c.name, "passed": c.passed, "found": c.found} for c in self.checks]
        return {
            "format": "submerge-verification/1",
            "path": str(self.path),
            "passed": self.passed,
            "checks": checks,
            "remarks": list(self.remarks),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the findings as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def text(self) -> str:
        """Return a line for each check and each remark."""
        checks = [f"{'ok  ' if c.passed else 'FAIL'}  {c.name}: {c.found}" for c in self.checks]
        return "\n".join([*checks, *(f"note  {remark}" for remark in self.remarks)])


def verify(
    path: str | os.PathLike[str],
    *,
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe | None = None,
    layout: str = "auto",
    nvfp4: str = "auto",
    **run: Unpack[RunArguments],
) -> Verification:
    """Check a model: its structure, its config, the components of a pipeline, its numbers.

    Of an adapter, whether every key has a place in FLUX.1 [dev] and every number is finite. A
    damaged file raises; what is sound but wrong is a check that did not pass.

    Args:
        path: a checkpoint file or folder.
        recipe: recompute the model from it and compare byte for byte.
        layout: what to expect: `auto`, `diffusers`, `bfl`, `comfy` or `generic`.
        nvfp4: whose NVFP4 codes it has, where the file does not say: `comfy` or `bfl`.
        **run: how to run, see `RunOptions`.

    Raises:
        AdapterError: an adapter is damaged.
        CheckpointError, LayoutError: the model is damaged, or none that submerge knows; a config
            that contradicts the weights is among the latter.
        RecipeError, Cancelled, OSError: as `merge`.
    """
    options = RunOptions.of(run).with_(stats=True)
    if recipe is None and layout == "auto" and is_adapter(path):
        return _of_adapter(Path(path), options)
    model = identify(open_checkpoint(path), layout=layout, nvfp4=nvfp4)
    remarks = list(model.checkpoint.warnings)
    measured = _Measured.of(model, options, nvfp4)
    checks = [_structure(model), _config(model), *_components(model)]
    checks += [_finite(measured), _zeros(measured, remarks)]
    if recipe is not None:
        checks.append(_recomputed(Path(path), recipe, options, remarks))
    return Verification(Path(path), tuple(checks), tuple(remarks))


def _of_adapter(path: Path, options: RunOptions) -> Verification:
    """Look at an adapter: its modules, whether they fit, its numbers."""
    adapter = open_adapter(path)
    arch = next(family.published for family in FAMILIES.values() if family.published is not None)
    targets, unmatched = targets_of(adapter, arch)
    tensors = counted(len(adapter.checkpoint.tensors), "tensor")
    checks = [Check("structure", passed=True, found=f"{in_words(targets)}, {tensors}")]
    hint = "`submerge lora info FILE --base MODEL` looks at it on another model"
    try:
        resolved = resolve(adapter, arch)
    except AdapterError as error:
        found = f"does not fit FLUX.1 [dev]: {error.message}; {hint}"
        missed = "not looked at: the modules do not fit"
        checks += [Check("places", False, found), Check("finite", False, missed)]
        return Verification(path, tuple(checks))
    lost = listing(list(unmatched), noun="key")
    found = f"{lost} without a place in FLUX.1 [dev] ({next(iter(unmatched.values()), '')}); {hint}"
    remarks = [
        f"not looked at: {counted(len(k), 'key')} for {w}" for w, k in adapter.elsewhere.items()
    ]
    checks.append(
        Check("places", not unmatched, found if unmatched else "every key has one in FLUX.1 [dev]")
    )
    source = AdapterSource.parse(str(path), "adapter")
    strengths = dict.fromkeys(resolved.deltas, 1.0)
    factors = factors_plan(
        [Fused("adapter", "adapter", None, source, adapter, resolved, strengths)]
    )
    try:
        expect_finite_adapters(factors, options)
    except AdapterError as error:
        checks.append(Check("finite", False, error.message))
    else:
        outputs = () if factors is None else factors.outputs
        elements = counted(sum(math.prod(o.shape) for o in outputs), "element")
        checks.append(Check("finite", True, f"{elements}, all finite"))
    return Verification(path, tuple(checks), tuple(remarks))


def _structure(model: Model) -> Check:
    """Opening and identifying are strict: a model that got this far is complete."""
    checkpoint = model.checkpoint
    return Check(
        "structure",
        passed=True,
        found=f"{model.variant}, layout {model.layout}, "
        f"{counted(len(checkpoint.tensors), 'tensor')} in "
        f"{counted(len(checkpoint.files), 'file')}",
    )


def _config(model: Model) -> Check:
    """Identifying refuses a config that contradicts the weights; say what was compared."""
    config = model.checkpoint.config
    if config is None:
        return Check("config", passed=True, found="none beside the weights")
    if model.layout == "generic":
        return Check("config", passed=True, found="not compared: the model is not known")
    guidance = json.dumps(config.get("guidance_embeds", False))
    weights = "with" if model.arch.guidance else "without"
    return Check(
        "config",
        passed=True,
        found=f"agrees with the sizes of the weights; guidance_embeds {guidance}, weights "
        f"{weights} guidance embedder",
    )


def _components(model: Model) -> list[Check]:
    """Look at what stands around the transformer, when a whole pipeline was named."""
    if model.checkpoint.form != "pipeline" or model.checkpoint.pipeline is None:
        return []
    pipeline = Pipeline.open(model.checkpoint.pipeline)
    seen, wrong = [], []
    for name in pipeline.names:
        if name == "transformer":
            continue
        try:
            component = pipeline.component(name)
            for file in component.files:
                if is_index(file):
                    component.check_shards(file)
                elif is_safetensors(file):
                    read_header(component.folder / file)
        except CheckpointError as error:
            wrong.append(error.message)
        else:
            seen.append(f"{name} ({counted(len(component.files), 'file')})")
    found = "whole by their files and headers, numbers not looked at: " + ", ".join(seen)
    return [Check("components", not wrong, "; ".join(wrong) or found)]


@dataclass(frozen=True, slots=True)
class _Measured:
    """The numbers of a model as the core saw them, and those it cannot decode."""

    plan: Plan
    figures: Mapping[str, Any]

    @classmethod
    def of(cls, model: Model, options: RunOptions, nvfp4: str) -> _Measured:
        layout = "generic" if model.layout == "generic" else "auto"
        recipe = single_model_recipe(model.checkpoint.path, layout=layout, nvfp4=nvfp4)
        # Nothing is written: the target only has to be somewhere else than the input.
        made = plan(recipe, model.checkpoint.path.with_name("measured.safetensors"))
        # Of a copy the core takes no norm; one times the same numbers is the same.
        units = [
            unit._replace(blend=replace(unit.blend, op="linear", arguments={"weights": [1.0]}))
            if made.outputs[unit.output].dtype in NUMBERS
            else unit
            for unit in made.units
        ]
        made = replace(made, units=tuple(units))
        return cls(made, execute(made, options, "measure"))

    @property
    def unseen(self) -> dict[str, list[OutputTensor]]:
        """The tensors whose numbers were not decoded, by dtype."""
        found: dict[str, list[OutputTensor]] = {}
        for output in self.plan.outputs:
            if output.dtype not in NUMBERS:
                found.setdefault(output.dtype, []).append(output)
        return found

    @property
    def seen(self) -> list[tuple[Unit, Mapping[str, Any]]]:
        """The units whose numbers were decoded, and the figures of each."""
        units = [(self.plan.units[f["unit"]], f) for f in self.figures["units"]]
        return [(u, f) for u, f in units if self.plan.outputs[u.output].dtype in NUMBERS]


def _finite(measured: _Measured) -> Check:
    seen = measured.seen
    elements = sum(figure["elements"] for _, figure in seen)
    bad = {unit.name: f["nonfinite"][0] for unit, f in seen if f["nonfinite"][0]}
    words = f"{counted(elements, 'element')}, all finite"
    if bad:
        worst = max(bad, key=lambda name: bad[name])
        words = (
            f"{sum(bad.values()):,} of {counted(elements, 'element')} are infinite or NaN, "
            f"{bad[worst]:,} of them in {quoted(worst)}"
        )
    for dtype, outputs in measured.unseen.items():
        number = counted(sum(math.prod(o.shape) for o in outputs), "element")
        words += f"; not looked at: {number} of {dtype} in {listing([o.name for o in outputs], 3)}"
    return Check("finite", not bad, words)


def _zeros(measured: _Measured, remarks: list[str]) -> Check:
    """Tell of what is all zeros, as the rest of a download is that was cut off in a sparse file.

    A single tensor may be meant so; a whole block, its norms included, computes nothing.
    """
    zero = {unit.name: f["zero"][0] for unit, f in measured.seen}
    blocks: dict[str, list[bool]] = {}
    for name, is_zero in zero.items():
        if (block := block_of(name)) is not None:
            stack, index = block
            blocks.setdefault(f"{stack}.{index}", []).append(is_zero)
    empty = [block for block, zeros in blocks.items() if all(zeros)]
    if empty:
        found = (
            f"{listing(empty, noun='block')} of {len(blocks)} all zeros, as after half a download"
        )
        return Check("zeros", passed=False, found=found)
    if names := [name for name, is_zero in zero.items() if is_zero]:
        remarks.append(f"all zeros: {listing(names, noun='unit')}")
    what = counted(len(blocks), "block") if blocks else counted(len(zero), "tensor")
    return Check("zeros", passed=True, found=f"none of {what} all zeros")


def _recomputed(
    path: Path,
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe,
    options: RunOptions,
    remarks: list[str],
) -> Check:
    """Make the output again and compare: weight files by the core, what lies beside them here."""
    made = plan(recipe, path)
    try:
        execute(made, options.with_(stats=False), "check")
    except PlanError as error:
        return Check("recipe", passed=False, found=error.message)
    differing = [text.path for text in made.texts if not _is_text(path / text.path, text.text)]
    differing += [c.path for c in made.copies if not same_bytes(path / c.path, c.source)]
    # Card, notice and licence are the user's to write on; what a loader reads is not.
    words = [name for name in differing if "/" not in name and not name.endswith(".json")]
    wrong = [name for name in differing if name not in words]
    if wrong:
        found = f"not as the recipe gives beside the weights: {listing(wrong, noun='file')}"
        return Check("recipe", passed=False, found=found)
    if words:
        remarks.append(f"changed since it was written: {listing(words, noun='file')}")
    found = f"made again, every byte equal: {counted(sum(made.file_sizes), 'byte')} in "
    found += counted(len(made.files), "weight file")
    if beside := len(made.texts) + len(made.copies) - len(words):
        found += f", {counted(beside, 'file')} beside"
    return Check("recipe", passed=True, found=found)


def _is_text(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
