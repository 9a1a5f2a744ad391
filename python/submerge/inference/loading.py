"""Open any model that submerge reads as a diffusers pipeline, within a memory budget."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from threading import RLock
from typing import TYPE_CHECKING, Any, Self

from submerge.checkpoint.dtypes import DTYPES
from submerge.errors import PlanError, RecipeError, quoted
from submerge.inference.embeddings import Embeddings
from submerge.inference.failures import explained
from submerge.inference.options import Defaults, defaults_for
from submerge.inference.planner import LoadPlan, plan_load
from submerge.inference.quiet import quiet
from submerge.inference.request import (
    LoadArguments,
    Request,
    check_device,
    fetched,
    libraries,
    requested,
)
from submerge.profile import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Unpack

    from submerge.inference.parts import Parts
    from submerge.inference.placing import Placed
    from submerge.inference.request import Paintable
    from submerge.view import View

__all__ = [
    "LoadArguments",
    "LoadedModel",
    "check_loading",
    "fetched",
    "load_model",
    "plan_loading",
]


class LoadedModel:
    """A model ready to paint; also a context manager that closes it.

    Attributes:
        pipe: the diffusers `FluxPipeline`. Under a plan that reads the text encoders first,
            modules that the current phase does not need are None; so are text encoders that no
            prompt has needed yet, with a folder of embeddings.
        plan: where its parts live and why.
        source: the transformer's file or folder.
        name: what the model is called.
        guided: whether the transformer has a guidance embedder.
        fingerprint: a digest of the transformer's headers and of the first bytes of every tensor.
        defaults: the options it is painted with unless asked otherwise, and why.
        notes: what is worth telling: the scheduler chosen, for instance.
        texts: embeddings by prompt and tokens, as `encode` remembers them; models with the same
            text encoders may lend each other theirs.
    """

    def __init__(
        self, parts: Parts, plan: LoadPlan, placed: Placed, kept: Embeddings | None = None
    ) -> None:
        self.pipe: Any = placed.pipe
        self.plan = plan
        self.parts = parts
        self.source = parts.model.checkpoint.path
        self.name = parts.name
        self.guided = parts.guided
        self.fingerprint = parts.fingerprint()
        self.defaults: Defaults = defaults_for(
            guided=parts.guided, few_step_parent=parts.few_step_parent, size=parts.default_size()
        )
        adapters = (f"adapter {quoted(a.name)}: {a.kind}" for a in parts.adapters)
        self.notes: tuple[str, ...] = (*adapters, *_fit_scheduler(self.pipe, parts))
        self._placed: Placed | None = placed
        self._kept = kept
        # Another thread may merge it anew between two phases, never within one.
        self._lock = RLock()
        self.texts: dict[tuple[str, int], Any] = {}

    @property
    def device(self) -> Any:
        """The torch device it computes on."""
        import torch

        return torch.device(self.plan.machine.device)

    @contextmanager
    def phase(self, name: str) -> Iterator[Any]:
        """Have in memory what a phase (`text`, `denoise` or `decode`) needs; gives the pipeline."""
        with self._lock, self._open().phase(name):
            yield self.pipe

    def _open(self) -> Placed:
        if self._placed is None:
            raise RecipeError(f"{self.name}: the model was closed, expected an open one")
        return self._placed

    def remerge(
        self,
        view: View | None = None,
        *,
        alpha: float | None = None,
        set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command line has it
        **fields: Any,
    ) -> tuple[str, ...]:
        """Merge a model that was loaded from a recipe anew, in place: only what changes is made.

        Any thread may call it; what is being painted is painted first. Takes what `View.with_`
        takes, from the view it is now or from another one of the same models.

        Returns:
            The parameters that changed, by diffusers' names.

        Raises:
            RecipeError: it was not loaded from a recipe, the recipe is malformed, or the result
                would have another architecture.
            PlanError, OSError: a file changed or cannot be read. If that is noticed half-way the
                model is closed.
        """
        base = self._view() if view is None else view
        changes = alpha is not None or set or fields
        parts = self.parts_of(base.with_(alpha=alpha, set=set, **fields) if changes else base)
        with self._lock:
            placed = self._open()
            old, new = (p.painted(p.view, self.plan.dtype) for p in (self.parts, parts) if p.view)
            changed = tuple(new.changed(old))
            self.parts = parts
            try:
                placed.exchange(self.parts, changed)
            except BaseException:
                self.close()
                raise
            self.fingerprint = self.parts.fingerprint()
        return changed

    def _view(self) -> View:
        if self.parts.view is None:
            raise RecipeError(
                f"{self.name}: was loaded from a file, expected one loaded from a recipe",
                hint="`load_model` takes a recipe in place of a path",
            )
        return self.parts.view

    def parts_of(self, view: View) -> Parts:
        """Return the parts it would have, merged anew into a view.

        Raises:
            RecipeError: it was not loaded from a recipe, or has another architecture.
        """
        self._view()
        if view.model.arch != self.parts.model.arch:
            raise RecipeError(
                f"{self.name}: the recipe gives {view.model.variant}, "
                f"expected {self.parts.model.variant} as it is loaded",
                hint="load the recipe anew",
            )
        return replace(self.parts, view=view, model=view.model)

    def encode(self, prompt: str, tokens: int) -> tuple[Any, Any]:
        """Return the T5 embeddings [1, tokens, width] and pooled CLIP embeddings [1, width].

        On the CPU, and remembered: the text encoders run once for a prompt and a length.

        Raises:
            OSError: the folder of embeddings cannot be written to.
        """
        key = (prompt, tokens)
        if key not in self.texts:
            found = None if self._kept is None else self._kept.find(prompt, tokens)
            if found is None:
                found = self._encoded(prompt, tokens)
                if self._kept is not None:
                    self._kept.keep(prompt, tokens, found)
            self.texts[key] = found
        return self.texts[key]  # type: ignore[no-any-return]

    def _encoded(self, prompt: str, tokens: int) -> tuple[Any, Any]:
        import torch

        with quiet(), self.phase("text") as pipe, torch.no_grad():
            embeds, pooled, _ = pipe.encode_prompt(
                prompt, device=self.device, max_sequence_length=tokens
            )
        return embeds.cpu(), pooled.cpu()

    @property
    def recomputed(self) -> tuple[str, ...]:
        """What to tell of files of embeddings that could not be used."""
        damaged = [] if self._kept is None else self._kept.damaged
        return tuple(f"{path}: holds no such embeddings, computed again" for path in damaged)

    def close(self) -> None:
        """Give the memory back; the model cannot paint any more."""
        if self._placed is not None:
            self._placed.close()
            self._placed = None
        self.texts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_model(
    source: Paintable,
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory_budget: int | str | Mapping[str, int | str] | None = None,
    quantization: str | None = None,
    **more: Unpack[LoadArguments],
) -> LoadedModel:
    """Open a model as a diffusers pipeline, within a memory budget.

    Args:
        source: a pipeline folder; a transformer alone, a folder or single file in any layout that
            submerge reads; a `MergedModel`; a recipe or a view, of which no file is written; or
            a hub id, `owner/name` or `owner/name@revision`.
        device: `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`, ...; `auto` is the accelerator torch finds.
        dtype: `bf16`, `f16` or `f32`; `auto` is the transformer's own, bf16 for fp8 files.
        memory_budget: the most that may be used: `"12GB"` of the device's memory, or
            `{"vram": "12GB", "ram": "16GB"}`. `ram` counts the whole process, libraries included,
            unlike the working memory that a merge's `memory_budget` limits. None is the device's
            free memory, and no limit in main memory.
        quantization: `fp8`, `int8` or `int4` stores the transformer's layers so and computes in
            `dtype`; `auto` takes the first of them that saves streaming and is installed; None
            never changes the weights, which stay in the codes of a quantised file where torch can
            compute from them. Layers streamed from their files are read as they are there.
        **more: see `LoadArguments`.

    Raises:
        PlanError: the budget is too small; the hint names the smallest that would do.
        CheckpointError, LayoutError: a part is damaged, missing, or would be opened as garbage.
        RecipeError: an argument is malformed, or a transformer alone without `components`.
        SubmergeError: torch, diffusers or transformers are not installed, or gguf, by which
            `int8` and `int4` are stored.
        OSError: a file cannot be read.
    """
    asked = requested(source, (device, dtype, quantization), memory_budget, more)
    _check_budget(asked)
    libraries("torch", "transformers", "accelerate", "diffusers")
    import torch

    from submerge.inference.placing import Placed, import_all

    import_all()
    # What the libraries take differs threefold between builds of torch: measured, not assumed.
    parts, plan = asked.parts, _planned(asked, read()[0].rss)
    check_device(plan.machine.device)
    if (package := plan.package) is not None:
        libraries(package)

    folder, kept = more.get("embeddings"), None
    if folder is not None:
        kept = Embeddings(folder, parts.companions, dtype=plan.dtype, device=plan.machine.kind)
    with (
        quiet(),
        explained(
            f"{parts.name}: cannot be loaded",
            f"{plan.chosen.words} on {plan.machine.device}",
            hint="this is a defect worth reporting, or versions of libraries that do not fit",
        ),
    ):
        placed = Placed(
            parts,
            plan,
            torch.device(plan.machine.device),
            checkpointing=more.get("checkpointing", False),
            text_when_asked=kept is not None,
        )
    return LoadedModel(parts, plan, placed, kept)


def plan_loading(
    source: Paintable,
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory_budget: int | str | Mapping[str, int | str] | None = None,
    quantization: str | None = None,
    **more: Unpack[LoadArguments],
) -> LoadPlan:
    """Return the plan by which `load_model` would load, without loading a weight.

    Takes what `load_model` takes and raises what it raises. With a named `device` it needs no
    torch, unless the budget is left to the device's free memory.
    """
    return _planned(requested(source, (device, dtype, quantization), memory_budget, more))


def check_loading(
    source: Paintable,
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory_budget: int | str | Mapping[str, int | str] | None = None,
    quantization: str | None = None,
    **more: Unpack[LoadArguments],
) -> None:
    """Refuse what headers and the budget show, without importing torch.

    Takes what `load_model` takes and raises what it raises.
    """
    _check_budget(requested(source, (device, dtype, quantization), memory_budget, more))


def _check_budget(asked: Request) -> None:
    """Refuse a budget that would not do if the libraries took nothing.

    What they take is known when they are imported; `auto` is any device, until torch says which.

    Raises:
        PlanError: the budget is too small; the hint reckons with what libraries may take.
    """
    if asked.limits is None:
        return
    devices = ("cpu", "cuda") if asked.device == "auto" else (asked.device,)
    for device in devices:
        with suppress(PlanError):
            _planned(asked._replace(device=device), base=0)
            return
    _planned(asked._replace(device=devices[0]))


def _planned(asked: Request, base: int | None = None) -> LoadPlan:
    """Plan for the machine; `base` is what the libraries take of its main memory."""
    machine = asked.machine()
    plan = plan_load(
        asked.parts.sizes(DTYPES[asked.dtype].bits // 8),
        machine if base is None else replace(machine, base=base),
        asked.work,
        quantization=asked.quantization,
        packages=find_spec("gguf") is not None,
    )
    return plan.with_dtype(str(DTYPES[asked.dtype].torch))


def _fit_scheduler(pipe: Any, parts: Parts) -> tuple[str, ...]:
    """Give a borrowed scheduler the shift that suits the transformer, and say so."""
    dynamic = bool(pipe.scheduler.config.get("use_dynamic_shifting", False))
    if dynamic == parts.guided:
        return ()
    kind = "with" if parts.guided else "without"
    suited = "dynamic shifting" if parts.guided else "a static shift of 1"
    if parts.own_scheduler:
        return (
            (
                f"scheduler: kept as the pipeline has it; models {kind} guidance were trained for "
                f"{suited}"
            ),
        )
    shift = {"use_dynamic_shifting": parts.guided, "shift": 3.0 if parts.guided else 1.0}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **shift)
    return (f"scheduler: {suited}, because the model is one {kind} guidance",)
