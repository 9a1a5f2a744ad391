"""What a GGUF says of itself, for the programs that load it: key-values beside submerge's own.

Sources: `docs/gguf.md` of ggml; `tools/convert.py` and `loader.py` of ComfyUI-GGUF.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from submerge.layout import family_of
from submerge.plan.form import OutFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.layout import Architecture
    from submerge.plan.form import OutputTensor

__all__ = ["OF_THE_FILE", "gguf_file"]

# Key-values that say how a file is written, not what the model is.
OF_THE_FILE = frozenset(
    {
        "general.alignment",
        "general.architecture",
        "general.file_type",
        "general.quantization_version",
    }
)

# What ggml's blocks mean changed twice; 2 is what they mean now.
_QUANTIZATION_VERSION = 2
# `llama_ftype`: what most of a file is written in. The K formats have several numbers, by how much
# of a file is in a larger one; these are those of all alike (S) and of some larger (M).
_FILE_TYPES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "F32": (0, 0), "F16": (1, 1), "BF16": (32, 32),
        "q4_0": (2, 2), "q4_1": (3, 3), "q5_0": (8, 8), "q5_1": (9, 9), "q8_0": (7, 7),
        "q4_k": (14, 15), "q5_k": (16, 17), "q6_k": (18, 18),
    }
)  # fmt: skip
_LARGER = {"q4_k": {"q5_k", "q6_k"}, "q5_k": {"q6_k"}}


def gguf_file(
    said: Mapping[str, str], arch: Architecture, outputs: Sequence[OutputTensor]
) -> OutFile:
    """Return the one file of an output that is a GGUF.

    Args:
        said: the metadata that a safetensors file would have.
        arch: of the output; it names the family for loaders, where they have a word for it.
        outputs: its tensors.
    """
    texts = {key: text for key, text in said.items() if key != "format"}  # torch's mark
    family = family_of(arch)
    if family is not None and family.gguf:
        texts["general.architecture"] = family.gguf
    if "modelspec.title" in said:
        texts["general.name"] = said["modelspec.title"]
    numbers = {"general.quantization_version": _QUANTIZATION_VERSION}
    if (file_type := _file_type(outputs)) is not None:
        numbers["general.file_type"] = file_type
    return OutFile("", texts, numbers)


def _file_type(outputs: Sequence[OutputTensor]) -> int | None:
    """Return the number of what most of the bytes are written in; None where it has none."""
    sizes: Counter[str] = Counter()
    for output in outputs:
        sizes[output.written] += output.nbytes
    if not sizes:
        return None
    most = max(sorted(sizes), key=lambda written: sizes[written])
    alike, mixed = _FILE_TYPES.get(most, (None, None))
    return mixed if _LARGER.get(most, set()) & sizes.keys() else alike
