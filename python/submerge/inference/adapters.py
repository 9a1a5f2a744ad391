"""What is put on top of a loaded model for one run: LoRAs, an IP-Adapter, a ControlNet.

All of it is diffusers' own; here it is only switched on for a run and off after it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from submerge.errors import AdapterError, RecipeError, quoted
from submerge.inference.placing import computing_on
from submerge.inference.weights import unmap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from submerge.inference.loading import LoadedModel
    from submerge.inference.options import InferenceOptions

__all__ = ["adapted"]


@contextmanager
def adapted(
    model: LoadedModel, options: InferenceOptions
) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Give the keywords a run's adapters add to the call of the pipeline, `pipe` among them.

    Beside them what is worth telling: LoRAs that change nothing.

    Raises:
        AdapterError: diffusers cannot apply an adapter.
        RecipeError: an adapter's fields are malformed.
    """
    keywords: dict[str, Any] = dict(options.more)
    idle: tuple[str, ...] = ()
    with model.phase("denoise") as pipe:
        try:
            if options.loras:
                idle = _applied("loras", _load_loras, pipe, options.loras)
            if options.ip_adapter is not None:
                given = options.ip_adapter
                keywords |= _applied("ip_adapter", _load_ip_adapter, pipe, given, model.device)
            if options.controlnet is not None:
                keywords |= _applied("controlnet", _load_controlnet, pipe, options.controlnet)
            yield keywords, idle
        finally:
            if options.loras:
                pipe.unload_lora_weights()
            if options.ip_adapter is not None:
                pipe.unload_ip_adapter()


def _load_loras(pipe: Any, loras: Mapping[str, float]) -> tuple[str, ...]:
    """Load LoRAs and set their scales; text encoder parts have no effect on encoded prompts.

    Returns what is to be said of those that change nothing.
    """
    names = [f"lora_{index}" for index in range(len(loras))]
    encoders = {name: getattr(pipe, name) for name in ("text_encoder", "text_encoder_2")}
    # Out of the way: diffusers looks at every module of a pipeline for an offload of its own.
    pipe.register_modules(**dict.fromkeys(encoders))
    try:
        for name, path in zip(names, loras, strict=True):
            pipe.load_lora_weights(str(path), adapter_name=name)
            parameters = pipe.transformer.named_parameters()
            unmap(tensor for known, tensor in parameters if f".{name}." in known)
        pipe.set_adapters(names, [float(scale) for scale in loras.values()])
    finally:
        pipe.register_modules(**encoders)
    return tuple(
        f"LoRA {quoted(str(path))}: has no effect, "
        + ("its scale is 0" if scale == 0 else "all it adds is zero")
        for name, (path, scale) in zip(names, loras.items(), strict=True)
        if scale == 0 or not _adds(pipe.transformer, name)
    )


def _adds(transformer: Any, name: str) -> bool:
    """Return whether a LoRA changes any layer."""
    for layer in transformer.modules():
        if name in getattr(layer, "lora_magnitude_vector", {}):
            return True  # a magnitude changes a layer whatever the rest adds
        if name in getattr(layer, "lora_B", {}) and layer.lora_B[name].weight.any():
            return True
    return False


def _load_ip_adapter(pipe: Any, given: Mapping[str, Any], device: Any) -> dict[str, Any]:
    """Load an IP-Adapter, all of it onto the device, wherever the pipeline's weights are."""
    from transformers import CLIPVisionModelWithProjection

    fields = dict(given)
    image, scale = fields.pop("image", None), fields.pop("scale", 1.0)
    if image is None:
        raise RecipeError("options.ip_adapter: has no `image`, expected a path or a picture")
    encoder = fields.pop(f"{_ENCODER}_pretrained_model_name_or_path", None)
    if encoder is None:
        raise RecipeError(
            f"options.ip_adapter: has no `{_ENCODER}_pretrained_model_name_or_path`, "
            "expected the folder of the CLIP vision model it was trained with"
        )
    # diffusers would put it where it finds the pipeline's first weight.
    vision = CLIPVisionModelWithProjection.from_pretrained(
        encoder,
        subfolder=fields.pop(f"{_ENCODER}_subfolder", ""),
        dtype=fields.pop(f"{_ENCODER}_dtype", pipe.transformer.dtype),
        local_files_only=True,
    )
    unmap((*vision.parameters(), *vision.buffers()))
    pipe.register_modules(image_encoder=vision.to(device).eval())
    pipe.load_ip_adapter(**fields)
    pipe.set_ip_adapter_scale(scale)
    unmap(pipe.transformer.encoder_hid_proj.to(device).parameters())
    for processor in pipe.transformer.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            unmap(processor.to(device).parameters())
    return {"ip_adapter_image": _picture(image)}


def _load_controlnet(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    from diffusers import FluxControlNetModel, FluxControlNetPipeline

    fields = dict(given)
    for name in ("model", "image"):
        if name not in fields:
            raise RecipeError(f"options.controlnet: has no `{name}`, expected `model` and `image`")
    net = FluxControlNetModel.from_pretrained(
        fields.pop("model"), torch_dtype=pipe.transformer.dtype, local_files_only=True
    )
    unmap((*net.parameters(), *net.buffers()))
    parts = {name: part for name, part in pipe.components.items() if name in _COMPONENTS}
    device = pipe._execution_device  # noqa: SLF001 - the only name it has
    kind = computing_on(FluxControlNetPipeline, device)
    control = kind(**parts, controlnet=net.to(device))
    control.set_progress_bar_config(disable=True)
    scale = fields.pop("scale", 1.0)
    return {
        "pipe": control,
        "control_image": _picture(fields.pop("image")),
        "controlnet_conditioning_scale": scale,
        **fields,
    }


_ENCODER = "image_encoder"
_COMPONENTS = (
    "scheduler",
    "vae",
    "text_encoder",
    "tokenizer",
    "text_encoder_2",
    "tokenizer_2",
    "transformer",
)


def _picture(image: Any) -> Any:
    """Return a picture, opened where a path is given."""
    from PIL import Image

    if not isinstance(image, str):
        return image
    with Image.open(image) as file:
        return file.convert("RGB")


def _applied(field: str, load: Any, *arguments: Any) -> Any:
    """Call a loader of diffusers; its failure is reported as that of the option."""
    try:
        return load(*arguments)
    except (
        AttributeError,
        ImportError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if isinstance(error, RecipeError):
            raise
        raise AdapterError(
            f"options.{field}: cannot be applied: {error}",
            hint="LoRAs need `peft`: pip install peft" if isinstance(error, ImportError) else None,
        ) from error
