"""Carry out a load plan: put each part of a pipeline where the plan says, phase by phase."""

from __future__ import annotations

import gc
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.inference.activations import TILE
from submerge.inference.failures import explained_folder
from submerge.inference.modules import build, transformer_weights
from submerge.inference.quantized import NOT_CAST, PACKED, casts, packed, packs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator, Mapping

    import torch

    from submerge.inference.codes import Packing
    from submerge.inference.parts import Parts
    from submerge.inference.planner import LoadPlan
    from submerge.inference.weights import Weights

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


class _Read(NamedTuple):
    """A module's parameters in the form that they have in memory."""

    weights: Weights
    packings: Mapping[str, Packing]
    quantization: str | None

    def one(self, name: str) -> torch.Tensor:
        """Return a parameter; raises as `Weights`, or as `packed`."""
        import torch

        if (packing := self.packings.get(name)) is None:
            weight = self.weights[name]
            return weight.to(torch.float8_e4m3fn) if self._is_cast(name) else weight
        if self.quantization is None:
            codes = self.weights.codes(name)
        else:
            codes = packed(self.quantization, name, self.weights[name])
        if packing.scaled:
            return codes
        from submerge.inference.layers import blocks

        return blocks(packing.codec, codes)

    def _is_cast(self, name: str) -> bool:
        return self.quantization == "fp8" and casts(name)


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
        # What is read while the model lives.
        self._held: list[Weights] = []
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
            yield
        finally:
            for module in modules:
                module.to("cpu")

    def exchange(self, parts: Parts, changed: Collection[str]) -> None:
        """Take other weights of the same architecture, of which these parameters differ.

        Raises as `Weights`; the transformer is then neither the one nor the other.
        """
        self._parts = parts
        if (transformer := self.pipe.transformer) is None or not changed:
            return
        chosen = self._plan.chosen
        in_place = chosen.placement["transformer"] in ("resident", "host")
        if not in_place or chosen.coded or chosen.quantization is not None:
            self._drop("transformer")
            self._bring("transformer")
            return
        parameters = dict(transformer.named_parameters())
        dtypes = {name: parameters[name].dtype for name in changed}
        with closing(transformer_weights(parts, dtypes, self._dtype)) as weights:
            weights.fill({name: parameters[name].data for name in changed})

    def close(self) -> None:
        """Drop everything that was loaded."""
        self._drop(*_MODULES)
        for weights in self._held:
            weights.close()

    def _assemble(self) -> Any:
        """Return the pipeline with scheduler and tokenizers, and no weights yet."""
        from diffusers import FluxPipeline
        from diffusers.image_processor import VaeImageProcessor

        folder = self._parts.companions
        # Nor what pipelines that paint from pictures have besides.
        further = ("image_encoder", "feature_extractor")
        nothing = dict.fromkeys((*(name for part in _MODULES.values() for name in part), *further))
        with explained_folder(folder):
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
        place = self._plan.chosen.placement["text"]
        return {name: self._loaded(name, place) for name in _MODULES["text"]}

    def _vae(self) -> dict[str, Any]:
        vae = self._loaded("vae", self._plan.chosen.placement["vae"])
        if self._plan.chosen.tiles:
            vae.enable_tiling()
            # The config's own tile is a whole image of 1024 x 1024.
            vae.tile_sample_min_size = TILE
            vae.tile_latent_min_size = TILE // 2 ** (len(vae.config.block_out_channels) - 1)
        return {"vae": vae}

    def _transformer(self) -> dict[str, Any]:
        chosen = self._plan.chosen
        transformer = self._loaded(
            "transformer", chosen.placement["transformer"], chosen.quantization
        )
        if self._checkpointing:
            transformer.enable_gradient_checkpointing()
        return {"transformer": transformer}

    def _loaded(self, name: str, place: str, quantization: str | None = None) -> Any:
        """Return a module with its weights, in its place."""
        module, weights = build(self._parts, name, self._dtype)
        if place == "disk":
            self._held.append(weights)
            self._stream(module, weights)
            return module.to(self._device)  # what is not read: positions
        direct = place in ("resident", "once")
        packings = self._packings(module, quantization) if name == "transformer" else {}
        with closing(weights):
            home = self._device if direct else "cpu"
            self._fill(module, _Read(weights, packings, quantization), home)
            weights.check()
        if place in ("blocks", "layers"):
            self._offload_groups(module, place)
        return module.to(self._device) if direct else module

    def _packings(self, module: Any, quantization: str | None) -> dict[str, Packing]:
        """Return how the transformer's layers are packed, by their parameters."""
        if self._plan.chosen.coded:
            return self._parts.packings
        if quantization not in PACKED:
            return {}
        shapes = {name: tensor.shape for name, tensor in module.named_parameters()}
        return {n: PACKED[quantization] for n, shape in shapes.items() if packs(n, shape)}

    def _fill(self, module: Any, read: _Read, home: torch.device | str) -> None:
        """Give a module its weights, each moved on its own."""
        import torch

        if read.packings:
            from submerge.inference.layers import replace_layers

            replace_layers(module, read.packings, self._dtype)
        given: dict[Hashable, Any] = {}  # parameters that several modules share
        for name in read.weights:
            if (same := read.weights.alike(name)) in given:
                _give(module, name, given[same])
                continue
            given[same] = _give(module, name, read.one(name).to(home))
            if (packing := read.packings.get(name)) is not None and packing.scaled:
                _give(module, f"{name}_scale", read.weights.scales(name).to(home))
        if read.quantization == "fp8":
            fp8 = torch.float8_e4m3fn
            module.enable_layerwise_casting(fp8, self._dtype, skip_modules_pattern=NOT_CAST)

    def _stream(self, module: Any, weights: Weights) -> None:
        """Have each layer read its weights when it is called and drop them afterwards."""
        module.requires_grad_(requires_grad=False)
        # Of the transformer some may stay.
        blocks = [
            block
            for stack in ("transformer_blocks", "single_transformer_blocks")
            for block in getattr(module, stack, ())
        ]
        kept = blocks[: self._plan.chosen.kept]
        stays = {id(part) for block in kept for part in block.modules()}
        for name, part in module.named_modules():
            names = [parameter for parameter, _ in part.named_parameters(recurse=False)]
            if not names:
                continue
            load = _loader({p: f"{name}.{p}" for p in names}, weights, self._device)
            if id(part) in stays:
                load(part)
            else:
                unload = _unloader(names, self._device)
                unload(part)
                part.register_forward_pre_hook(load)
                part.register_forward_hook(unload, always_call=True)

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


def _give(module: Any, name: str, tensor: Any) -> Any:
    """Make a tensor a parameter of a module, and return that; one that is one keeps its class."""
    import torch

    path, _, parameter = name.rpartition(".")
    owner = module.get_submodule(path)
    if not isinstance(tensor, torch.nn.Parameter):
        learns = getattr(owner, parameter).requires_grad
        tensor = torch.nn.Parameter(tensor, requires_grad=learns)
    setattr(owner, parameter, tensor)
    return tensor


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
