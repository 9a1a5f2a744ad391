"""A view: the tensors of a recipe, read as `safetensors.safe_open` reads those of a file."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from submerge.adapters import open_adapter
from submerge.arrays import Slice, array_of, check_framework, memory_for
from submerge.checkpoint import open_checkpoint
from submerge.errors import LayoutError, PlanError, RecipeError, nearest, quoted
from submerge.files import expanded
from submerge.layout import config_of, family_of, identify
from submerge.opened import Opened
from submerge.plan import compile_plan
from submerge.recipe import Recipe
from submerge.run import RunOptions
from submerge.view.likeness import alike, checkpoint_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from submerge.adapters import Adapter
    from submerge.checkpoint import Checkpoint
    from submerge.layout import Model
    from submerge.plan import Plan
    from submerge.plan.form import OutputTensor
    from submerge.statistics import Statistics

    Framework: TypeAlias = Literal["np", "pt"]

__all__ = ["View"]


# What a recipe does at its top level: one of these.
_ACTIONS = frozenset(("alpha", "method", "weight", "take"))
# What a recipe says of the files it is written into, of which a view has none.
_FILES = ("shard_size", "pipeline_from", "scheduler_from", "components")


@dataclass
class _Shared:
    """What views of the same files have in common: headers, and what methods found out."""

    models: dict[tuple[str, str, str], Model] = field(default_factory=dict)
    adapters: dict[str, Adapter] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=dict)

    def plan(self, recipe: Recipe) -> Plan:
        """Return what writing the recipe into one file would do."""
        data = recipe.to_dict()
        output = {k: v for k, v in data.pop("output", {}).items() if k not in _FILES}
        plain = Recipe.load(data | {"output": output} if output else data)
        models, adapters = self.opened(recipe)
        return compile_plan(plain, models, Path("view.safetensors"), adapters)

    def opened(self, recipe: Recipe) -> tuple[dict[str, Model], list[Adapter]]:
        """Return the models of a recipe and its adapters, each opened once."""
        models, adapters = {}, []
        for name, source in recipe.models.items():
            key = (str(source.path), source.layout, source.nvfp4)
            if key not in self.models:
                checkpoint = open_checkpoint(expanded(source.path))
                self.models[key] = identify(checkpoint, layout=source.layout, nvfp4=source.nvfp4)
            models[name] = self.models[key]
        for adapter in recipe.adapters:
            path = str(adapter.path)
            if path not in self.adapters:
                self.adapters[path] = open_adapter(adapter.path)
            adapters.append(self.adapters[path])
        return models, adapters


class View(Mapping[str, Any]):
    """A model that was never written: names of tensors to arrays, each made when it is asked for.

    Any thread may read; nothing is kept between two tensors.

    Attributes:
        recipe: what it is made of.
        path: the file it was opened from, or else the names of its models.
        plan: what `merge` would do to write it into one file.
        framework: `np` gives numpy arrays, `pt` torch tensors.
        device: where torch tensors are given.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        framework: Framework = "np",
        device: str = "cpu",
        options: RunOptions | None = None,
        path: Path | None = None,
        shared: _Shared | None = None,
    ) -> None:
        check_framework(framework, device)
        self.recipe = recipe
        self.path = Path("-".join(recipe.models)) if path is None else path
        self.framework: Framework = framework
        self.device = device
        self._options = RunOptions() if options is None else options
        self._shared = _Shared() if shared is None else shared
        if recipe.output.adapter is not None:
            raise RecipeError(
                "recipe.output.adapter: an adapter, expected a model to open",
                hint="`submerge merge` writes the adapter",
            )
        self.plan = self._shared.plan(recipe)
        self._opened: Opened | None = Opened(self.plan, self._options, self._shared.statistics)
        self._lock = threading.Lock()

    # -- what it is --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        return iter(self._held().tensors)

    def __len__(self) -> int:
        return len(self._held().tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._held().tensors

    def __repr__(self) -> str:
        return f"<View of {' and '.join(self.recipe.models)}: {len(self.plan.outputs)} tensors>"

    def _repr_html_(self) -> str:
        """Return what writing it would do, as a notebook shows it."""
        return self.plan._repr_html_()

    def offset_keys(self) -> list[str]:
        """Return the names in the order of the file, as `safe_open` does."""
        return list(self._held().tensors)

    def metadata(self) -> dict[str, str]:
        """Return the text metadata that the file would have."""
        return dict(self.plan.files[0].metadata)

    @cached_property
    def model(self) -> Model:
        """The model as it would be identified in the file, whose tensors are those of the view.

        Raises:
            LayoutError: written in codes; open it with a dtype of numbers.
        """
        if any(output.format for output in self.plan.outputs):
            raise LayoutError(
                f"view: written in {self.plan.about.dtype}, expected a dtype of numbers",
                hint="open it with `dtype='same'` or another float",
            )
        return identify(checkpoint_of(self.plan, self.path), layout=self._layout())

    @property
    def config(self) -> dict[str, Any] | None:
        """The config of diffusers of the transformer; None of a model of no known family."""
        arch = self.as_(dtype="f32").model.arch
        return None if family_of(arch) is None else config_of(arch)

    def _layout(self) -> str:
        return "generic" if self.plan.about.layout == "generic" else "auto"

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The files that it is made of: models in the recipe's order, then adapters."""
        models, adapters = self._shared.opened(self.recipe)
        return (*(m.checkpoint for m in models.values()), *(a.checkpoint for a in adapters))

    @property
    def opened(self) -> Opened:
        """Its tensors as the core makes them.

        Raises:
            PlanError: the view was closed.
        """
        return self._held()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(output.nbytes for output in self.plan.outputs)

    def output(self, name: str) -> OutputTensor:
        """Return dtype (as files spell it), shape and bytes of a tensor.

        Raises:
            KeyError: there is no such tensor; it names one that is near.
        """
        tensors = self._held().tensors
        if name not in tensors:
            near = nearest(name, tensors)
            more = f"; did you mean {quoted(near[0])}?" if near else ""
            msg = f"the view holds no tensor {quoted(name)}{more}"
            raise KeyError(msg)
        return tensors[name]

    # -- reading -----------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        """Make one tensor; raises as `bytes`, and where the framework has no such dtype."""
        output = self.output(name)
        memory, array = memory_for(output, self.framework, self.device)
        self._held().into(name, memory)
        return array()

    def get_tensor(self, name: str) -> Any:
        """Return what `view[name]` does, as `safe_open` calls it."""
        return self[name]

    def get_slice(self, name: str) -> Slice:
        """Return a tensor of which parts can be read: `view.get_slice(name)[3:7]`.

        Rows that methods look at as a whole are made as a whole.
        """
        output = self.output(name)
        return Slice(output, lambda start, end: self._rows(output, start, end))

    def _rows(self, output: OutputTensor, start: int, end: int) -> Any:
        part = output._replace(shape=(end - start, *output.shape[1:]))
        memory, array = memory_for(part, self.framework, self.device)
        if part.nbytes:
            self._held().rows_into(output.name, start, end, memory)
        return array()

    def bytes(self, name: str) -> bytes:
        """Return a tensor as the file would hold it.

        Raises:
            KeyError: there is no such tensor.
            PlanError: a file was written or replaced meanwhile, or the view was closed.
            Cancelled: the run was cancelled.
            OSError: a file cannot be read, or is no longer there.
        """
        memory = bytearray(self.output(name).nbytes)
        self._held().into(name, memory)
        return bytes(memory)

    def into(self, name: str, memory: Any) -> None:
        """Fill what exposes writable memory: an array, a tensor on the CPU, a `bytearray`.

        Raises:
            PlanError: it has another size than the tensor, or as `bytes`.
            BufferError: it cannot be written, or does not lie in one piece.
        """
        self.output(name)
        self._held().into(name, array_of(memory))

    def load(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Make tensors in one run, all by default: faster than one by one.

        Calls `progress` of the options the view was opened with; raises as `view[name]`.
        """
        wanted = list(self) if names is None else list(names)
        made = {name: memory_for(self.output(name), self.framework, self.device) for name in wanted}
        memory = {name: held for name, (held, _) in made.items()}
        self._held().into_all(memory, self._options.with_(stats=False))
        return {name: array() for name, (_, array) in made.items()}

    # -- other views -------------------------------------------------------------------------------

    def with_(
        self,
        *,
        alpha: float | None = None,
        set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command line has it
        **fields: Any,
    ) -> View:
        """Return another view, which shares what was read and found out so far.

        Args:
            alpha: another share of the second model.
            set: alphas by selector, before every rule there is.
            **fields: other fields of the recipe, `adapters` or `output` say, as it has them.

        Raises:
            RecipeError: malformed, or as `submerge.open`.
        """
        if alpha is not None:
            fields["alpha"] = alpha
        data = self.recipe.to_dict()
        if fields.keys() & _ACTIONS:
            data = {name: value for name, value in data.items() if name not in _ACTIONS}
        data |= fields
        rules = [{"where": where, "alpha": value} for where, value in (set or {}).items()]
        if rules:
            # One slider moved twice is one rule.
            others = (r for r in data.get("rules", ()) if not _sets(r, set or {}))
            data["rules"] = [*rules, *others]
        return View(
            Recipe.load(data),
            framework=self.framework,
            device=self.device,
            options=self._options,
            path=self.path,
            shared=self._shared,
        )

    def as_(self, *, layout: str | None = None, dtype: str | None = None) -> View:
        """Return the same model in another layout or dtype."""
        output = self.recipe.to_dict().get("output", {})
        asked = {"layout": layout, "dtype": dtype}
        return self.with_(output=output | {k: v for k, v in asked.items() if v is not None})

    def changed(self, other: View) -> list[str]:
        """Return the tensors of this view that are not those of another, by what makes them.

        Two that are made in different ways and come out equal count as changed.
        """
        mine, theirs = self._held(), other._held()
        return [
            name
            for name, output in mine.tensors.items()
            if theirs.tensors.get(name) != output._replace(file=theirs.tensors[name].file)
            or not alike(mine.units(name), theirs.units(name), self.plan, other.plan)
        ]

    # -- closing -----------------------------------------------------------------------------------

    def _held(self) -> Opened:
        opened = self._opened
        if opened is None:
            raise PlanError("view: was closed, expected it open", hint="open the recipe again")
        return opened

    def close(self) -> None:
        """Give everything back; tensors already made stay."""
        with self._lock:
            self._opened = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        msg = "a View belongs to one process, it cannot be pickled or copied; open its recipe again"
        raise TypeError(msg)


def _sets(rule: Mapping[str, Any], selectors: Mapping[str, Any]) -> bool:
    """Tell whether a rule says no more than an alpha for one of these selectors."""
    return rule.keys() == {"where", "alpha"} and rule["where"] in selectors
