"""What an adapter is, and how strong it is where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from submerge import documents
from submerge.adapters import Resolved, format_of, in_words, open_adapter, resolve, targets_of
from submerge.blocks import execution_key, place_of, stream_of
from submerge.checkpoint import open_checkpoint
from submerge.columns import aligned
from submerge.errors import AdapterError, counted, listing
from submerge.files import path_of, write_whole
from submerge.layout import FAMILIES, family_of, identify, unit_shapes
from submerge.lora.heatmap import draw
from submerge.merge import named
from submerge.plan.adapted import Fused
from submerge.plan.finite import factors_plan
from submerge.plan.strength import lengths_plan, strength_plan
from submerge.recipe import AdapterSource
from submerge.report import Run
from submerge.run import RunArguments, RunOptions, __version__, execute, expect_finite_adapters

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Unpack

    from submerge.adapters import Adapter, Target
    from submerge.documents import AdapterDocument
    from submerge.layout import Architecture, Model

__all__ = ["AdapterInfo", "Strength", "info"]


class Strength(NamedTuple):
    """What an adapter does to one part of one block; sums add up over rows.

    Attributes:
        block: `double.7`, `single.37`, or the part's name outside the blocks.
        stream: `img` or `txt` in a double block; else empty.
        part: `attn.q`, `mlp`, `mod`, ...
        kinds: `LoRA`, `DoRA`, `LoHa`, `LoKr`, `difference`, each once.
        ranks: the ranks of its products, each once.
        alphas: the alphas the file holds, each once.
        scales: what products are multiplied by, each once.
        elements: elements of the units that are changed.
        norm2: squared length of what is added, NaN where it was not measured.
        base2: squared length of the same units of the model, NaN without one.
    """

    block: str
    stream: str
    part: str
    kinds: tuple[str, ...]
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    scales: tuple[float, ...]
    elements: int
    norm2: float
    base2: float

    @property
    def norm(self) -> float:
        """The length of what is added, `|up @ down| * scale` for a LoRA."""
        return math.sqrt(self.norm2)

    @property
    def relative(self) -> float:
        """That length over the model's; NaN without a model."""
        return math.sqrt(self.norm2 / self.base2) if self.base2 > 0 else math.nan

    def plus(self, other: Strength) -> Strength:
        """Return the sum of two rows, under this row's name."""
        return self._replace(
            kinds=_once(self.kinds, other.kinds),
            ranks=_once(self.ranks, other.ranks),
            alphas=_once(self.alphas, other.alphas),
            scales=_once(self.scales, other.scales),
            elements=self.elements + other.elements,
            norm2=self.norm2 + other.norm2,
            base2=self.base2 + other.base2,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        found = self._asdict()
        del found["norm2"], found["base2"]
        return found | {"norm": self.norm, "relative": self.relative}


def _once(one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*one, *other)))


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an adapter is.

    Attributes:
        path: the file or folder.
        kind: in words: `LoRA, kohya names, 304 modules, rank 16`.
        names: whose names its keys are: `kohya`, `diffusers`, `comfyui`, `xlabs`, ...
        trainer: what wrote it, where its metadata says so.
        trained_on: the model it was trained on, where that is said.
        model: the model it was looked at on, in words.
        problem: why it does not fit that model, or None.
        rows: one for each stream and part of each block that it changes.
        unmatched: keys that have no place in the model, with the reason.
        elsewhere: keys for other models of a pipeline, counted.
        metadata: the header's text.
        run: time, memory and speed, if anything was measured.
    """

    path: Path
    kind: str
    names: str | None
    trainer: str | None
    trained_on: str | None
    model: str
    problem: str | None
    rows: tuple[Strength, ...]
    unmatched: Mapping[str, str]
    elsewhere: Mapping[str, int]
    metadata: Mapping[str, str]
    run: Run | None

    def __repr__(self) -> str:
        return f"<AdapterInfo {str(self.path)!r}: {self.kind}>"

    def total(self) -> Strength:
        """Return the sum of all rows."""
        nothing = Strength("total", "", "all", (), (), (), (), 0, 0.0, 0.0)
        for row in self.rows:
            nothing = nothing.plus(row)
        return nothing

    def to_dict(self) -> AdapterDocument:
        """Return the findings as plain data, ready for JSON."""
        total = self.total()
        return {
            "format": "submerge-adapter/1",
            "submerge": __version__,
            "path": str(self.path),
            "kind": self.kind,
            "names": self.names,
            "trainer": self.trainer,
            "trained_on": self.trained_on,
            "model": self.model,
            "problem": self.problem,
            "norm": total.norm,
            "relative": total.relative,
            "rows": [cast(Any, row.to_dict()) for row in self.rows],
            "unmatched": dict(self.unmatched),
            "elsewhere": dict(self.elsewhere),
            "metadata": dict(self.metadata),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the findings as JSON."""
        return documents.text(self.to_dict(), indent=indent)

    def heatmap(self, path: str | os.PathLike[str]) -> Path:
        """Draw blocks against parts into a `.svg`, or with Pillow into a `.png`.

        Raises:
            RecipeError: another kind of file is asked for.
            SubmergeError: nothing was measured; a `.png` is asked for and Pillow is not installed.
        """
        if all(math.isnan(row.norm2) for row in self.rows):
            raise AdapterError(
                f"{self.path}: nothing was measured, expected something to draw",
                hint="name a model that the adapter fits, `base=MODEL`",
            )
        write_whole(path, draw(self.path.name, self.rows, Path(path)))
        return Path(path)

    def text(self, by: Literal["part", "block"] = "part") -> str:
        """Return the findings in words, and a line for each part of each stack or each block."""
        facts = {
            "path": str(self.path),
            "adapter": self.kind,
            "trainer": self.trainer or "",
            "trained on": self.trained_on or "",
            "on": self.model,
            "elsewhere": ", ".join(
                f"{counted(n, 'key')} for {what}" for what, n in self.elsewhere.items()
            ),
        }
        lines = [f"{name + ':':<12}{value}" for name, value in facts.items() if value]
        reasons: dict[str, list[str]] = {}
        for key, why in self.unmatched.items():
            reasons.setdefault(why, []).append(key)
        lines += [f"{'unmatched:':<12}{listing(k, noun='key')} ({w})" for w, k in reasons.items()]
        lines += [] if self.problem is None else [f"{'problem:':<12}{self.problem}"]
        if self.rows:
            lines += ["", self._table(by)]
        return "\n".join([*lines, *([] if self.run is None else [self.run.line()])])

    def _table(self, by: Literal["part", "block"]) -> str:
        sums: dict[tuple[str, ...], Strength] = {}
        for row in self.rows:
            stack = row.block.partition(".")[0]
            key = (stack, row.stream, row.part) if by == "part" else (row.block,)
            label = " ".join(dict.fromkeys(filter(None, key)))
            sums[key] = sums[key].plus(row) if key in sums else row._replace(block=label)
        based = not math.isnan(self.total().relative)
        head = ["", "kind", "rank", "alpha", "scale", "norm", *(["of the model"] if based else [])]
        rows = [*sums.values(), self.total()]
        return aligned([head, *(_cells(row, based=based) for row in rows)], 2)


def _cells(row: Strength, *, based: bool) -> list[str]:
    cells = [
        row.block,
        ", ".join(row.kinds),
        _range(row.ranks),
        _range(row.alphas),
        _range(row.scales),
        "-" if math.isnan(row.norm2) else f"{row.norm:.4g}",
    ]
    share = "-" if math.isnan(row.relative) else f"{row.relative:.3%}"
    return [*cells, share] if based else cells


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g}..{high:.4g}"


def info(
    path: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    *,
    compat: Literal["diffusers", "comfyui", "lycoris"] | None = None,
    **run: Unpack[RunArguments],
) -> AdapterInfo:
    """Say what an adapter is, and how strong it is in each block; nothing is written.

    Args:
        path: a `.safetensors` file, or a folder that peft or diffusers saved.
        base: the model to look at it on; without one, FLUX.1 [dev]'s sizes are taken.
        compat: whose reading of the file to follow where programs differ.
        **run: how to run, see `RunOptions`.

    Raises:
        AdapterError: no adapter, or one that is damaged. One that does not fit the model is
            described all the same, with the reason in `problem`.
        CheckpointError, LayoutError: a file is damaged, or the base is no model.
        Cancelled, OSError: as `merge`.
    """
    options = RunOptions.of(run).with_(stats=True)
    given = {"path": str(path_of(path, "adapter"))} | ({} if compat is None else {"compat": compat})
    source = AdapterSource.parse(given, "adapter")
    adapter = open_adapter(path)
    model = None if base is None else identify(open_checkpoint(base))
    arch = _published() if model is None else model.arch
    try:
        resolved, problem = resolve(adapter, arch, compat), None
    except AdapterError as error:
        resolved, problem = _unresolved(adapter, arch), error.message
    onto = None if base is None else next(iter(named([base])))
    strengths = dict.fromkeys(resolved.deltas, 1.0)
    fused = Fused("adapter", "adapter", onto, source, adapter, resolved, strengths)
    sick = _nonfinite(fused, options)
    rows, went = _measured(fused, (arch, model), options, finite=sick is None)
    problem = problem or sick
    targets = resolved.targets
    return AdapterInfo(
        path=adapter.path,
        kind=in_words(targets),
        names=format_of(targets[0]) if targets else None,
        trainer=adapter.trainer,
        trained_on=adapter.base,
        model=_assumed(arch) if model is None else f"{base}, {model.variant}",
        problem=problem,
        rows=rows,
        unmatched={**resolved.unmatched, **resolved.left},
        elsewhere={what: len(keys) for what, keys in adapter.elsewhere.items()},
        metadata=adapter.metadata,
        run=went,
    )


def _published() -> Architecture:
    """Return the architecture that adapters are made for, where no model is given."""
    return next(family.published for family in FAMILIES.values() if family.published is not None)


def _assumed(arch: Architecture) -> str:
    """Say which sizes were taken, as no model was named."""
    family = family_of(arch)
    depths = "" if family is None else f"{family.depth_words(arch.depths)}, "
    return f"FLUX.1 [dev]'s sizes ({depths}width {arch.hidden:,}); `--base MODEL` takes a model's"


def _unresolved(adapter: Adapter, arch: Architecture) -> Resolved:
    """Return the modules that an adapter names, where their shapes do not fit."""
    try:
        targets, unmatched = targets_of(adapter, arch)
    except AdapterError:
        return Resolved({}, (), {}, {})
    return Resolved({}, tuple(targets), unmatched, {})


def _nonfinite(fused: Fused, options: RunOptions) -> str | None:
    """Say which numbers are infinite or NaN, if any that change something are."""
    try:
        expect_finite_adapters(factors_plan([fused]), options)
    except AdapterError as error:
        return error.message
    return None


def _measured(
    fused: Fused, on: tuple[Architecture, Model | None], options: RunOptions, *, finite: bool
) -> tuple[tuple[Strength, ...], Run | None]:
    """Return a row for each part of each block, measured where the shapes fit the model."""
    arch, model = on
    shapes = unit_shapes(arch)
    found: dict[str, tuple[float, float]] = {}
    went = None
    # Of what is not finite some rows may be: these are formed one by one.
    made = lengths_plan(fused, shapes) if model is None and finite else None
    if made is not None:
        figures = execute(made, options.with_(stats=False), "measure")
        went = Run.of(figures)
        found = {module["name"]: (module["norm2"], math.nan) for module in figures["modules"]}
    made = strength_plan(fused, shapes, model, without=found)
    if made is not None:
        figures = execute(made, options, "measure")
        went = Run.of(figures)
        for figure in figures["units"]:
            norms = figure["norm2"]
            # Beside the model it is the difference that counts; alone it is all there is.
            pair = (norms[0], math.nan) if model is None else (figure["delta2"][1], norms[0])
            found[made.units[figure["unit"]].name] = pair
    rows: dict[tuple[str, ...], Strength] = {}
    for unit, target in _units_of(fused.resolved):
        row = _row(unit, target, math.prod(shapes[unit]), found.get(unit, (math.nan, math.nan)))
        row = row._replace(alphas=_alphas(fused, target) if row.ranks else ())
        # Of what does not fit no scale is known.
        row = row if fused.resolved.deltas else row._replace(scales=())
        rows[row[:3]] = rows[row[:3]].plus(row) if row[:3] in rows else row
    return tuple(rows[key] for key in sorted(rows, key=_order)), went


def _order(key: tuple[str, ...]) -> Any:
    return execution_key(".".join(filter(None, key)))


def _units_of(resolved: Resolved) -> Iterator[tuple[str, Target]]:
    """Yield the units that are changed, or would be if the shapes fitted, with their module."""
    for target in resolved.targets:
        for name in target.units:
            for unit in (f"{name}.weight", f"{name}.bias"):
                if unit in resolved.deltas or (not resolved.deltas and unit.endswith(".weight")):
                    yield unit, target


def _alphas(fused: Fused, target: Target) -> tuple[float, ...]:
    """Return a module's alpha, of the file or of peft's configuration, if there is one."""
    alpha, config = target.module.alpha, fused.adapter.config
    if alpha is None and config is not None:
        return (config.alpha_of(target.name),)
    return () if alpha is None else (alpha,)


def _row(unit: str, target: Target, elements: int, found: tuple[float, float]) -> Strength:
    module = target.module
    product = module.rank is not None and unit.endswith(".weight")
    block, part = place_of(unit)
    return Strength(
        block=block,
        stream=stream_of(unit),
        part=part,
        kinds=(module.words,),
        ranks=(module.rank,) if module.rank is not None and product else (),
        alphas=(),
        scales=(target.scale,) if product else (),
        elements=elements,
        norm2=found[0],
        base2=found[1],
    )
