"""Adapters into one adapter: merged, made smaller, or written in another form."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from submerge.adapters import open_adapter, resolve
from submerge.adapters.written import FORMS
from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.names import is_safetensors
from submerge.errors import PlanError, RecipeError, quoted
from submerge.files import expanded, path_of
from submerge.given.faults import shown
from submerge.layout import FAMILIES, identify, unit_shapes
from submerge.lora.asked import split
from submerge.lora.report import MadeAdapter
from submerge.plan.about import About
from submerge.plan.adapted import Fused, expect_change, expect_matched, strengths_of
from submerge.plan.combined import Combining
from submerge.plan.extracted import placed_in_one
from submerge.plan.factorwise import Blending, Method
from submerge.plan.finite import factors_plan
from submerge.plan.form import OutFile, Plan
from submerge.plan.labels import label
from submerge.plan.licence import adapter_terms, combined
from submerge.plan.making import Making, Wanted, expect_energy, expect_rank
from submerge.recipe import AdapterSource
from submerge.run import __version__, execute, expect_finite_adapters
from submerge.values import Selection, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from submerge.adapters import Adapter
    from submerge.layout import Architecture
    from submerge.lora.asked import Combined
    from submerge.plan.licence import Terms

__all__ = ["convert", "merge", "resize"]

_DTYPES = ("same", "bf16", "f16", "f32")
_USED_BY = {
    "density": ("ties", "dare_linear", "dare_ties", "magnitude_prune", "knots"),
    "seed": ("dare_linear", "dare_ties"),
}


def merge(
    adapters: Sequence[str | Mapping[str, Any]],
    output: str | os.PathLike[str],
    **asked: Unpack[Combined],
) -> MadeAdapter:
    """Write the sum of what adapters add, as one adapter with scale 1.

    Without a rank or an energy the factors stand beside each other: exact but for the rounding of
    scales into them, of a rank that is the sum of ranks. With one, the sum is made smaller through
    the Gram matrices of the factors and a core of the rank of all together, never multiplied out.
    With a `method` other than `cat` it is not the sum: `knots` votes on what the adapters add in
    the directions that all share, the others merge factors number by number as peft does.

    Args:
        adapters: paths, or `{"path", "scale", "compat", "allow"}` as in a recipe.
        output: the `.safetensors` file to write.
        **asked: `rank`, `energy`, `form` and `dtype`, see `Asked`; `base`, `method`, `density` and
            `seed`, see `Combined`; and how to run, which decides no byte.

    Raises:
        AdapterError: an adapter is damaged, holds numbers that are not finite, does not fit the
            architecture, or is no sum (DoRA).
        RecipeError: ranks or energies out of range.
        PlanError: the adapters cancel out, or their sum is beyond f32.
        CheckpointError, LayoutError, Cancelled, OSError: as `submerge.merge`.
    """
    wanted, options = split(asked)
    made = combined_plan(adapters, output, wanted)
    try:
        figures = execute(made, options, "write")
    except PlanError:
        # Which tensor holds no numbers is looked up only where something is wrong.
        expect_finite_adapters(made.factors, options)
        raise
    return MadeAdapter.of(made, figures)


def resize(
    adapter: str | os.PathLike[str] | Mapping[str, Any],
    output: str | os.PathLike[str],
    **asked: Unpack[Combined],
) -> MadeAdapter:
    """Write an adapter with another rank; arguments and errors as those of `merge`."""
    if asked.get("rank") is None and asked.get("energy") is None:
        raise RecipeError(
            "rank: expected `rank`, `energy` or both, got neither", hint="name a rank: 16, say"
        )
    return merge([_named(adapter)], output, **asked)


def convert(
    adapter: str | os.PathLike[str] | Mapping[str, Any],
    output: str | os.PathLike[str],
    **asked: Unpack[Combined],
) -> MadeAdapter:
    """Write a LoRA in another form, its numbers and alphas as they are.

    Modules that the form stacks become one whose `up` is block-diagonal, of the sum of their ranks,
    as kohya's `split_qkv` does; what it splits shares a `down`. Arguments and errors as those of
    `merge`.
    """
    if asked.get("form") is None:
        raise RecipeError("form: expected one to convert to, got none")
    return merge([_named(adapter)], output, **asked)


def _named(adapter: str | os.PathLike[str] | Mapping[str, Any]) -> str | Mapping[str, Any]:
    return os.fspath(adapter) if isinstance(adapter, os.PathLike) else adapter


def combined_plan(
    adapters: Sequence[str | Mapping[str, Any]],
    output: str | os.PathLike[str],
    wanted: Mapping[str, Any],
) -> Plan:
    """Return the plan of adapters combined; arguments and errors as those of `merge`."""
    target = path_of(output, "output").absolute()
    if not is_safetensors(target.name):
        raise RecipeError(
            f"output: {quoted(target.name)}, expected one `.safetensors` file for an adapter",
            hint="let its name end in `.safetensors`",
        )
    arch = _architecture(wanted.get("base"))
    form, dtype = wanted.get("form", "peft"), wanted.get("dtype", "same")
    expect_words(form, dtype)
    fused = tuple(_fused(adapters, arch))
    combining = Combining(fused, arch, (form, dtype), _how(wanted))
    made = list(combining.modules(_wanted(wanted, unit_shapes(arch))))
    placed = placed_in_one(tensor for _, outputs in made for tensor in outputs)
    licence = combined({f.name: _terms(f) for f in fused})
    facts = _facts(fused) | {"submerge.license": licence.text}
    making = Making(form, "BF16", tuple(module for module, _ in made), facts)
    title = " + ".join(f.name for f in fused)
    about = About(title, form, dtype, "", licence.words, (), notes=combining.notes)
    return Plan(
        target=target,
        is_folder=False,
        overflow="saturate",
        sources=combining.sources,
        files=(OutFile("", making.longest()),),
        texts=(),
        copies=(),
        outputs=placed.outputs,
        units=placed.units,
        about=about,
        read_bytes=sum(t.nbytes for f in fused for t in f.adapter.checkpoint.tensors.values()),
        making=making,
        factors=factors_plan(fused),
    )


def _architecture(base: str | os.PathLike[str] | None) -> Architecture:
    published = FAMILIES["flux1"].published
    if base is None and published is not None:
        return published
    if base is None:
        raise RecipeError("base: expected a model, got none")
    return identify(open_checkpoint(expanded(path_of(base, "base")))).arch


def _fused(adapters: Sequence[str | Mapping[str, Any]], arch: Architecture) -> Iterator[Fused]:
    """Yield the adapters on the architecture, with the strength at each unit."""
    units = tuple(unit_shapes(arch))
    if not adapters or isinstance(adapters, str | Mapping):
        got = shown(adapters) if adapters else "none"
        raise RecipeError(
            f"adapters: expected at least one in a list, got {got}",
            hint="a path alone stands in a list, too",
        )
    for at, given in enumerate(adapters):
        where = f"adapters[{at}]"
        source = AdapterSource.parse(_named(given), where)
        if source.onto is not None:
            raise RecipeError(
                f"{where}.onto: {quoted(source.onto)} of adapters alone, expected none",
                hint="`submerge lora bake` puts adapters onto a model",
            )
        adapter = open_adapter(source.path)
        resolved = resolve(adapter, arch, source.compat)
        expect_matched(adapter, resolved, source)
        expect_change(adapter, resolved)
        strengths = strengths_of(source, resolved, units, where)
        # Twice the same file is two adapters.
        yield Fused(f"{at}:{_name(adapter)}", where, None, source, adapter, resolved, strengths)


def _name(adapter: Adapter) -> str:
    return label(str(adapter.path)).rpartition("/")[2]


def expect_words(form: str, dtype: str) -> None:
    """Refuse a form or a dtype that there is none of."""
    for name, word, known in (("form", form, FORMS), ("dtype", dtype, _DTYPES)):
        if word not in tuple(known):
            expected = ", ".join(map(quoted, known))
            raise RecipeError(f"{name}: expected one of {expected}, got {quoted(str(word))}")


def _how(asked: Mapping[str, Any]) -> Blending:
    """Return how factors are merged, or raise RecipeError."""
    how = Blending(**{name: asked[name] for name in Blending._fields if name in asked})
    known = get_args(Method)
    if how.method not in known:
        expected = ", ".join(map(quoted, known))
        raise RecipeError(f"method: expected one of {expected}, got {quoted(str(how.method))}")
    for field, users in _USED_BY.items():
        if field in asked and how.method not in users:
            expected = ", ".join(map(quoted, users))
            raise RecipeError(
                f"{field}: given for the method {quoted(how.method)}, expected one of {expected}",
                hint=f"name such a method, or leave {quoted(field)} out",
            )
    if isinstance(how.density, bool) or not isinstance(how.density, int | float):
        raise RecipeError(f"density: expected a number, got {shown(how.density)}")
    if isinstance(how.seed, bool) or not isinstance(how.seed, int):
        raise RecipeError(f"seed: expected a whole number, got {shown(how.seed)}")
    if not 0 < how.density <= 1:
        raise RecipeError(f"density: expected more than 0 and at most 1, got {how.density:g}")
    return how


def _wanted(asked: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Wanted]:
    """Return what is asked for at each unit."""
    selection = Selection.of(shapes)
    tables = {
        name: Value.parse(asked[name], name).table(selection, name)
        for name in ("rank", "energy")
        if name in asked
    }
    found = {}
    for unit in shapes:
        rank = expect_rank(tables["rank"][unit], "rank", unit) if "rank" in tables else None
        if rank == 0:
            raise RecipeError(
                f"rank: 0 for {quoted(unit)}, expected at least 1",
                hint="a scale of 0 leaves units out: `scale: {single: 0, default: 1}`",
            )
        energy = None
        if "energy" in tables:
            energy = expect_energy(tables["energy"][unit], "energy", unit)
        found[unit] = Wanted(rank, energy)
    return found


def _terms(fused: Fused) -> Terms:
    """Return the licences of an adapter."""
    return adapter_terms(fused.field, fused.adapter, fused.source.license)


def _facts(fused: Sequence[Fused]) -> dict[str, str]:
    """Return metadata that does not depend on ranks."""
    inputs = [{"adapter": _name(f.adapter), "scale": f.source.scale.plain()} for f in fused]
    return {
        "format": "pt",
        "submerge.adapters": json.dumps(inputs, separators=(",", ":")),
        "submerge.version": __version__,
    }
