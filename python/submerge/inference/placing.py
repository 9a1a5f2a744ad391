"""Carry out a load plan: put each part of a pipeline where the plan says, phase by phase."""

from __future__ import annotations

import gc
import tempfile
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from submerge.checkpoint.reading import Reading
from submerge.errors import CheckpointError, listing
from submerge.inference.activations import TILE
from submerge.inference.failures import is_out_of_memory
from submerge.inference.quantized import NOT_CAST, PACKED, casts, packed, packs, replace_layers
from submerge.inference.weights import Weights
from submerge.layout import config_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import torch

    from submerge.inference.parts import Parts
    from submerge.inference.planner import LoadPlan

__all__ = ["Placed", "computing_on", "import_all"]

# The modules of the pipeline that make up each part of the plan, and the phase that needs them.
_MODULES = {
    "text": ("text_encoder", "text_encoder_2"),
    "transformer": ("transformer",),
    "vae": ("vae",),
}
_HOOKED = ("blocks", "layers")
_PHASES = {"text": "text", "denoise": "transformer", "decode": "vae"}


def import_all() -> None:
    """Import every class a pipeline is made of, which the libraries put off until they are used."""
    from accelerate import init_empty_weights  # noqa: F401
    from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel  # noqa: F401
    from transformers import CLIPTextModel, T5EncoderModel  # noqa: F401


def computing_on(kind: Any, device: torch.device) -> Any:
    """Return a pipeline class that computes on a device, wherever its weights are meanwhile.

    diffusers takes the device from the first weight it finds, which may not be there yet. LoRAs
    are loaded for the transformer alone: prompts are encoded before.
    """
    own = {
        "_execution_device": property(lambda _: device),
        "load_lora_into_text_encoder": lambda *_, **__: None,
    }
    return type(kind.__name__, (kind,), own)


class Placed:
    """The modules of a pipeline where their plan puts them; `phase` brings in what is needed."""

    def __init__(
        self,
        parts: Parts,
        plan: LoadPlan,
        device: torch.device,
        *,
        checkpointing: bool = False,
        text_when_asked: bool = False,
    ) -> None:
        import torch

        self._checkpointing = checkpointing
        self._parts = parts
        self._plan = plan
        self._device = device
        self._dtype: torch.dtype = getattr(torch, plan.dtype)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        # Files that are read while the model lives.
        self._held: list[Weights | Reading] = []
        self.pipe = self._assemble()
        self._text_first = plan.chosen.placement["text"] == "once"
        if self._text_first:
            return
        try:
            for part in _MODULES:
                if part != "text" or not text_when_asked:
                    self._bring(part)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Have what the phase `text`, `denoise` or `decode` needs."""
        if self._text_first:
            self._drop(*(part for part in _MODULES if (part == "text") != (name == "text")))
            for part in _MODULES:
                if (part == "text") == (name == "text"):
                    self._bring(part)
        elif name == "text":
            self._bring(name)
        part = _PHASES[name]
        moved = self._plan.chosen.placement[part] == "host"
        modules = [getattr(self.pipe, module) for module in _MODULES[part]] if moved else []
        for module in modules:
            module.to(self._device)
        try:
            with self._streaming(name):
                yield
        finally:
            for module in modules:
                module.to("cpu")

    @contextmanager
    def _streaming(self, phase: str) -> Iterator[None]:
        """Have transformers stream text encoders from the files whose headers were read."""
        if phase != "text" or self._plan.chosen.placement["text"] != "disk":
            yield
            return
        with self._loading("text_encoder"), self._loading("text_encoder_2"):
            yield

    def close(self) -> None:
        """Drop everything that was loaded."""
        self._drop(*_MODULES)
        for files in self._held:
            files.close()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _assemble(self) -> Any:
        """Return the pipeline with scheduler and tokenizers, and no weights yet."""
        from diffusers import FluxPipeline
        from diffusers.image_processor import VaeImageProcessor

        folder = self._parts.companions
        # Nor what pipelines that paint from pictures have besides.
        further = ("image_encoder", "feature_extractor")
        nothing = dict.fromkeys((*(name for part in _MODULES.values() for name in part), *further))
        with _explained(folder):
            pipe = computing_on(FluxPipeline, self._device).from_pretrained(
                folder, local_files_only=True, **nothing
            )
        pipe.set_progress_bar_config(disable=True)
        # What `FluxPipeline` works out from a VAE it is made with.
        pipe.vae_scale_factor = self._parts.default_size() // 128
        pipe.image_processor = VaeImageProcessor(vae_scale_factor=2 * pipe.vae_scale_factor)
        return pipe

    def _bring(self, part: str) -> None:
        """Load a part, unless it is there, and put it in its place."""
        if getattr(self.pipe, _MODULES[part][0]) is not None:
            return
        load = {"text": self._text, "transformer": self._transformer, "vae": self._vae}
        self.pipe.register_modules(**load[part]())

    def _drop(self, *parts: str) -> None:
        there = [part for part in parts if getattr(self.pipe, _MODULES[part][0]) is not None]
        if not there:
            return
        for part in there:
            modules = [getattr(self.pipe, name) for name in _MODULES[part]]
            self.pipe.register_modules(**dict.fromkeys(_MODULES[part]))
            for module in modules:
                _empty(module)
        if self._plan.chosen.name in _HOOKED:
            gc.collect()  # the hooks hold weights of their own, in cycles
        if self._device.type != "cpu":
            import torch

            torch.accelerator.empty_cache()

    def _text(self) -> dict[str, Any]:
        import transformers

        place = self._plan.chosen.placement["text"]
        classes = {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"}
        modules = {}
        for name, kind in classes.items():
            folder = self._parts.companions / name
            more: dict[str, Any] = {}
            if place == "disk":
                # transformers reads each layer from the file itself; the folder stays empty.
                more = {"device_map": {"": "disk"}, "offload_folder": self._folder()}
            with self._loading(name):
                module, about = getattr(transformers, kind).from_pretrained(
                    folder,
                    output_loading_info=True,
                    dtype=self._dtype,
                    local_files_only=True,
                    variant=self._parts.beside.variants[name],
                    **more,
                )
            _check_whole(folder, about)
            modules[name] = self._put(module, place)
        return modules

    def _vae(self) -> dict[str, Any]:
        from diffusers import AutoencoderKL

        folder = self._parts.companions / "vae"
        with self._loading("vae"):
            vae, about = AutoencoderKL.from_pretrained(
                folder,
                output_loading_info=True,
                torch_dtype=self._dtype,
                local_files_only=True,
                variant=self._parts.beside.variants["vae"],
            )
        _check_whole(folder, about)
        if self._plan.chosen.tiles:
            vae.enable_tiling()
            # The config's own tile is a whole image of 1024 x 1024.
            vae.tile_sample_min_size = TILE
            vae.tile_latent_min_size = TILE // 2 ** (len(vae.config.block_out_channels) - 1)
        return {"vae": self._put(vae, self._plan.chosen.placement["vae"])}

    def _transformer(self) -> dict[str, Any]:
        from accelerate import init_empty_weights
        from diffusers import FluxTransformer2DModel

        with init_empty_weights(include_buffers=False):
            config = config_of(self._parts.model.arch)
            transformer = FluxTransformer2DModel.from_config(config).to(self._dtype).eval()
        place = self._plan.chosen.placement["transformer"]
        weights = Weights(self._parts.model, self._dtype, self._parts.adapters)
        if place == "disk":
            self._held.append(weights)
            self._stream(transformer, weights)
        else:
            with closing(weights):
                self._fill(transformer, weights, keep_on_host=place != "resident")
                weights.check()
            transformer = self._put(transformer, place)
        if self._checkpointing:
            transformer.enable_gradient_checkpointing()
        return {"transformer": transformer}

    def _fill(self, transformer: Any, weights: Weights, *, keep_on_host: bool) -> None:
        """Give a transformer its weights, each moved on its own."""
        import torch

        home = torch.device("cpu") if keep_on_host else self._device
        fp8, kind = torch.float8_e4m3fn, self._plan.chosen.quantization
        shapes = {name: tensor.shape for name, tensor in transformer.named_parameters()}
        if kind in PACKED:
            replace_layers(transformer, [n for n in shapes if packs(n, shapes[n])], self._dtype)
        for name in weights:
            weight = weights[name]
            if kind in PACKED and packs(name, shapes[name]):
                weight = packed(kind, name, weight)
            elif kind == "fp8" and casts(name):
                weight = weight.to(fp8)
            _give(transformer, name, weight.to(home))
        if kind == "fp8":
            transformer.enable_layerwise_casting(fp8, self._dtype, skip_modules_pattern=NOT_CAST)

    def _stream(self, transformer: Any, weights: Weights) -> None:
        """Have each layer read its weights when it is called and drop them afterwards."""
        transformer.requires_grad_(requires_grad=False)
        kept = self._plan.chosen.kept
        blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
        stays = {id(module) for block in blocks[:kept] for module in block.modules()}
        for name, module in transformer.named_modules():
            names = [parameter for parameter, _ in module.named_parameters(recurse=False)]
            if not names:
                continue
            load = _loader({p: f"{name}.{p}" for p in names}, weights, self._device)
            if id(module) in stays:
                load(module)
            else:
                unload = _unloader(names, self._device)
                unload(module)
                module.register_forward_pre_hook(load)
                module.register_forward_hook(unload, always_call=True)

    def _put(self, module: Any, place: str) -> Any:
        """Put a loaded module into its place and return it."""
        module.eval()
        if place in ("resident", "once"):
            return module.to(self._device)
        if place in ("blocks", "layers"):
            self._offload_groups(module, place)
        return module

    def _offload_groups(self, module: Any, place: str) -> None:
        import torch
        from diffusers.hooks import apply_group_offloading

        blocks = {"num_blocks_per_group": 1} if place == "blocks" else {}
        apply_group_offloading(
            module,
            onload_device=self._device,
            offload_device=torch.device("cpu"),
            offload_type="block_level" if place == "blocks" else "leaf_level",
            use_stream=self._device.type in ("cuda", "xpu"),
            low_cpu_mem_usage=True,
            **blocks,
        )

    @contextmanager
    def _loading(self, component: str) -> Iterator[None]:
        """Have a library load a component, from the files whose headers were read."""
        with Reading(self._parts.beside.weights[component]) as reading:
            try:
                with _explained(self._parts.companions / component):
                    yield
            finally:
                reading.check()

    def _folder(self) -> str:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="submerge-")
        return self._scratch.name


def _check_whole(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse a component that lacks weights: the libraries make them up, and only warn."""
    if missing := sorted(about["missing_keys"]):
        raise CheckpointError(
            f"{folder}: {listing(missing)} missing, expected those of its config",
            hint="the component was only partly saved or downloaded; fetch it again",
        )


def _empty(module: Any) -> None:
    """Give a module's memory back at once, though its hooks and their owner refer to each other.

    Collecting garbage would do as well, but walks everything the process holds.
    """
    import torch

    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def _loader(names: dict[str, str], weights: Weights, device: torch.device) -> Callable[..., None]:
    """Return the hook that gives a module its weights."""

    def load(module: Any, *_: object) -> None:
        for parameter, name in names.items():
            _give(module, parameter, weights[name].to(device))

    return load


def _give(module: Any, name: str, tensor: Any) -> None:
    """Make a tensor a parameter of a module; one that is a parameter already keeps its class."""
    import torch

    path, _, parameter = name.rpartition(".")
    owner = module.get_submodule(path)
    if not isinstance(tensor, torch.nn.Parameter):
        learns = getattr(owner, parameter).requires_grad
        tensor = torch.nn.Parameter(tensor, requires_grad=learns)
    setattr(owner, parameter, tensor)


def _unloader(names: list[str], device: torch.device) -> Callable[..., None]:
    """Return the hook that takes a module's weights away again.

    What stands in for them has their shape, dtype and device, for those who add adapters beside
    them, and takes one number: not a number, so that nothing computes with it unnoticed.
    """

    def unload(module: Any, *_: object) -> None:
        import torch

        for parameter in names:
            weight = getattr(module, parameter)
            nothing = torch.full((), torch.nan, dtype=weight.dtype, device=device)
            empty = torch.nn.Parameter(nothing.expand(weight.shape), requires_grad=False)
            setattr(module, parameter, empty)

    return unload


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say which component could not be loaded."""
    import torch

    # diffusers sets the process's default dtype while it builds a model, and forgets to set it back
    # when that fails.
    dtype = torch.get_default_dtype()
    try:
        yield
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{folder}: cannot be loaded: {error}",
            hint="the component may be damaged or of another version; download it again",
        ) from error
    finally:
        torch.set_default_dtype(dtype)
