"""What painting holds beside the weights: the planner's formulas beside torch's own accounting.

    python benches/activations.py [--resident]

FLUX.1's transformer with one block of either kind (what a block needs is gone when the next
begins), T5-XXL with two layers and FLUX.1's VAE, all at full width. Nothing is computed: the
tensors are fake, of real shapes, and every storage that an operation makes counts until it is
dropped. `--resident` computes a smaller part of it on the CPU, one thread, and tells by how much
the process grew; run it with and without `MALLOC_MMAP_THRESHOLD_=65536`. Needs the oracle group.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from submerge.inference.activations import TILE, Shapes, Work, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
FLUX = Shapes()


class Ledger(TorchDispatchMode):
    """Adds up the bytes of the storages that operations make, while they live."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        weights = [*module.parameters(), *module.buffers()]
        self._known = {_address(weight.untyped_storage()) for weight in weights}

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = _address(storage), storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _address(storage: torch.UntypedStorage) -> int:
    """Return what tells a storage from others; fake ones have no data to point at."""
    address: int = storage._cdata  # noqa: SLF001 - the only name it has
    return address


@contextmanager
def numbers(dtype: torch.dtype) -> Iterator[None]:
    """Make tensors in a dtype unless told otherwise."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)


def held(
    make: Callable[[Shapes, Work], tuple[torch.nn.Module, Callable[[], object]]],
    work: Work,
    dtype: torch.dtype,
    shapes: Shapes = FLUX,
) -> int:
    """Return the most bytes that a module's call holds at once, its weights apart."""
    with FakeTensorMode(), numbers(dtype), torch.no_grad():
        module, call = make(shapes, work)
        with Ledger(module) as ledger:
            call()
    return ledger.peak


def transformer(shapes: Shapes, work: Work) -> tuple[torch.nn.Module, Callable[[], object]]:
    from diffusers import FluxTransformer2DModel

    size, text = shapes.head_dim, shapes.text
    net = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        guidance_embeds=True,
        attention_head_dim=size,
        num_attention_heads=shapes.hidden // size,
        joint_attention_dim=text,
        axes_dims_rope=(size // 8, size * 7 // 16, size * 7 // 16),
    ).eval()
    patches, batch = work.width * work.height // 256, work.batch

    def call() -> object:
        return net(
            hidden_states=torch.ones(batch, patches, 64),
            encoder_hidden_states=torch.ones(batch, work.tokens, text),
            pooled_projections=torch.ones(batch, 768),
            timestep=torch.ones(batch),
            guidance=torch.ones(batch),
            img_ids=torch.zeros(patches, 3),
            txt_ids=torch.zeros(work.tokens, 3),
            return_dict=False,
        )

    return net, call


def encoder(shapes: Shapes, work: Work) -> tuple[torch.nn.Module, Callable[[], object]]:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        d_model=shapes.text,
        d_kv=64,
        d_ff=shapes.text_inner,
        num_heads=shapes.text_heads,
        num_layers=2,
        vocab_size=64,
        feed_forward_proj="gated-gelu",
    )
    net = T5EncoderModel(config).eval()
    return net, lambda: net(torch.zeros(1, work.tokens, dtype=torch.long))


def decoder(
    shapes: Shapes, work: Work, *, tiles: bool = False
) -> tuple[torch.nn.Module, Callable[[], object]]:
    from diffusers import AutoencoderKL

    levels = len(shapes.vae)
    net = AutoencoderKL(
        block_out_channels=shapes.vae,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=16,
        layers_per_block=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    scale = 2 ** (levels - 1)
    if tiles:
        net.enable_tiling()
        net.tile_sample_min_size, net.tile_latent_min_size = TILE, TILE // scale
    latents = (1, 16, work.height // scale, work.width // scale)
    return net, lambda: net.decode(torch.ones(latents), return_dict=False)


def tiled(shapes: Shapes, work: Work) -> tuple[torch.nn.Module, Callable[[], object]]:
    return decoder(shapes, work, tiles=True)


PHASES = {
    "text": (encoder, "text"),
    "denoise": (transformer, "denoise"),
    "decode": (decoder, "decode"),
    "decode, tiled": (tiled, "decode"),
}


def formula(name: str, work: Work, dtype: torch.dtype, shapes: Shapes = FLUX) -> int:
    """Return what the planner reckons with for one of `PHASES`."""
    plain = {f: getattr(shapes, f) for f in Shapes.__dataclass_fields__}
    known = Shapes(**{**plain, "itemsize": dtype.itemsize})
    return counted(known, work, tiles=name.endswith("tiled"))[PHASES[name][1]]


def grown(call: Callable[[], object]) -> int:
    """Return by how much the process's resident memory grows at most during a call, on Linux."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the most ever, from now on
    before = _status("VmRSS")
    with torch.no_grad():
        call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resident", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| phase | dtype | work | formula | counted |" + " grown |" * asked.resident)
    print("|---|---|---|---|---|" + "---|" * asked.resident)
    for name, (make, _) in PHASES.items():
        for dtype in (torch.bfloat16, torch.float32):
            sides = (256, 512) if asked.resident else (256, 512, 1024, 2048)
            for side in (1024,) if name == "text" else sides:
                work = Work(side, side)
                sizes = [formula(name, work, dtype), held(make, work, dtype)]
                if asked.resident:
                    with numbers(dtype):
                        _, call = make(FLUX, work)
                        sizes.append(grown(call))
                cells = " | ".join(f"{size / MIB:.1f} MiB" for size in sizes)
                print(f"| {name} | {str(dtype)[6:]} | {side} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
