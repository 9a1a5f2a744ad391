"""How the numbers of an output are written: which format each tensor has, and what beside it.

A format is of the blocks' matrices. Which of these stay as they are follows from the program that
reads it, and can be set by selector.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.blocks import Selector, block_of
from submerge.errors import RecipeError, counted, quoted
from submerge.formats import FORMATS, GGUF_SMALL, READERS, Format
from submerge.methods import Blend
from submerge.plan.form import BESIDE, OutputTensor, Unit
from submerge.recipe import Formats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from submerge.checkpoint.codecs import Spec
    from submerge.formats import Container
    from submerge.layout import OutTensor
    from submerge.recipe import Output

__all__ = ["Encoding", "beside_units", "encoding_of", "marker_of", "quantization_config"]

_FIELD = "recipe.output.dtype"
_CONTAINERS: Mapping[Container, tuple[str, str]] = {
    "file": ("one safetensors file", "let the output's name end in `.safetensors`"),
    "folder": ("a folder", "leave the ending off the output's name"),
    "gguf": ("a GGUF", "let the output's name end in `.gguf`"),
}


class Encoding(NamedTuple):
    """How the numbers of an output are written.

    Attributes:
        formats: the number formats, by selector.
        container: what the tensors stand in.
        seed: of rounding at random, if it is.
        reader: the program it is written for, if one was named.
    """

    formats: Formats
    container: Container
    seed: int | None = None
    reader: str | None = None

    @property
    def forms(self) -> tuple[Format, ...]:
        """The formats named, each once."""
        return tuple(FORMATS[name] for name in self.formats.names)

    @property
    def layouts(self) -> tuple[str, ...]:
        """The layouts that may be written, the first where none is asked for; () for any."""
        reader = READERS.get(self.reader or "")
        found = () if reader is None else reader.layouts[self.container]
        if self.container == "gguf" and not found:
            found = ("bfl", "diffusers")
        for form in self.forms:
            if form.layout is not None:
                found = (form.layout,)
        return found

    @property
    def what(self) -> str:
        """What the layout must suit, in words."""
        forms = [form.name for form in self.forms if form.layout is not None]
        if forms or self.reader is None:
            return quoted(forms[0]) if forms else "a GGUF"
        return READERS[self.reader].title

    def chosen(self, tensors: Sequence[OutTensor]) -> dict[str, tuple[Format, bool]]:
        """Return the format of every tensor, and whether a selector asked for it.

        Raises:
            RecipeError: a selector matches nothing, or parts of a tensor have other formats.
        """
        units = [unit for tensor in tensors for unit in tensor.units]
        asked = self.formats.table(units, _FIELD)
        found = {}
        for tensor in tensors:
            names = {asked.get(unit) for unit in tensor.units}
            if len(names) > 1:
                words = sorted(name or self.formats.default for name in names)
                raise RecipeError(
                    f"{_FIELD}: {quoted(tensor.name)} holds units in {' and '.join(words)}, "
                    "expected one format for a tensor",
                    hint=f"select all of {', '.join(map(quoted, tensor.units))}",
                )
            (name,) = names
            found[tensor.name] = (FORMATS[name or self.formats.default], name is not None)
        return found

    def tensor(self, tensor: OutTensor, form: Format, rest: str, *, asked: bool) -> OutputTensor:
        """Return a tensor as it is written: in its format, or in the dtype `rest`.

        `asked` is whether a selector asked for the format of this tensor: what a convention keeps
        is then written so all the same.
        """
        name, shape = tensor.name, tensor.shape
        if form.codec and _is_matrix(tensor, form, asked=asked) and form.fits(*shape):
            stem = name.rpartition(".")[0]
            beside = tuple(
                OutputTensor(0, f"{stem}.{side.leaf}", side.dtype, side.shape(*shape))
                for side in form.sides
            )
            codes, spec = form.payload(*shape), self._rounded(form.spec)
            return OutputTensor(0, name, form.dtype, codes, form.name, spec, beside)
        dtype = self._contained(rest, shape)
        at_random = self.seed is not None and form.stochastic and dtype == form.dtype
        codec = self._rounded("plain") if at_random else None
        return OutputTensor(0, name, dtype, shape, codec=codec)

    def _rounded(self, spec: str) -> Spec:
        """Return a codec with the seed that it rounds by, if it does so at random."""
        return spec if self.seed is None else {spec: {"seed": self.seed}}

    def _contained(self, dtype: str, shape: tuple[int, ...]) -> str:
        """Return the dtype that a tensor of numbers has in the container.

        In a GGUF as ComfyUI-GGUF's `convert.py` has it: what is small is F32. ggml has no fp8.
        """
        if self.container != "gguf" or dtype not in ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"):
            return dtype
        elements = 1
        for n in shape:
            elements *= n
        if len(shape) <= 1 or elements <= GGUF_SMALL:
            return "F32"
        return "BF16" if dtype.startswith("F8") else dtype

    def notes(self, tensors: Sequence[OutTensor], written: Mapping[str, str]) -> Iterator[str]:
        """Yield what a reader of the plan should know of the formats.

        `written` has the format of every tensor that has one, else its dtype.

        Raises:
            RecipeError: a format that fits no tensor.
        """
        unfit: Counter[tuple[str, str]] = Counter()
        used = set(written.values())
        chosen = self.chosen(tensors)
        for tensor in tensors:
            form, asked = chosen[tensor.name]
            wanted = form.codec and _is_matrix(tensor, form, asked=asked)
            if wanted and not form.fits(*tensor.shape):
                unfit[form.name, written[tensor.name]] += 1
        for (name, dtype), count in unfit.items():
            rows, columns = FORMATS[name].grain
            whole = f"{rows} rows and {columns} columns" if rows > 1 else f"{columns} columns"
            if name not in used:
                raise RecipeError(
                    f"{_FIELD}: {quoted(name)} fits none of {counted(count, 'tensor')}, "
                    f"expected multiples of {whole}",
                    hint="choose a format with smaller blocks",
                )
            yield (f"{counted(count, 'tensor')} in {dtype}: {name} takes multiples of {whole}")


def _is_matrix(tensor: OutTensor, form: Format, *, asked: bool) -> bool:
    """Tell whether a format is of a tensor, by the convention of who reads it."""
    if len(tensor.shape) != 2:
        return False
    kept = [Selector.parse(text, "formats") for text in form.kept]
    return asked or all(
        block_of(unit) is not None and not any(s.matches(unit) for s in kept)
        for unit in tensor.units
    )


def encoding_of(wanted: Output, container: Container) -> Encoding:
    """Return how the numbers of an output are written.

    Raises:
        RecipeError: formats that nobody reads in that container, or not beside each other.
    """
    formats, reader = wanted.dtype, READERS.get(wanted.for_ or "")
    if reader is not None and container not in reader.layouts:
        what, how = _CONTAINERS[container], _CONTAINERS[next(iter(reader.layouts))]
        raise RecipeError(
            f"recipe.output.for: {what[0]} for {reader.title}, expected {how[0]}", hint=how[1]
        )
    if reader is not None and formats == Formats():
        formats = Formats(reader.dtypes[container])
    encoding = Encoding(formats, container, wanted.rounding.seed, wanted.for_)
    for form in encoding.forms:
        _expect_readable(form, encoding)
    readers = frozenset(READERS).intersection(*(form.readers for form in encoding.forms))
    if not readers:
        names = " and ".join(map(quoted, encoding.formats.names))
        raise RecipeError(
            f"{_FIELD}: {names} in one file, expected formats that one program reads",
            hint="docs/outputs.md says who reads which",
        )
    _expect_roundable(encoding)
    return encoding


def _expect_readable(form: Format, encoding: Encoding) -> None:
    """Refuse a format in a container, or for a reader, that does not know it."""
    container, reader = encoding.container, READERS.get(encoding.reader or "")
    if reader is not None and reader.name != "gguf" and reader.name not in form.readers:
        known = [f.name for f in FORMATS.values() if reader.name in f.readers and f.codec]
        fitting = [n for n in known if container in FORMATS[n].containers] or known
        raise RecipeError(
            f"{_FIELD}: {quoted(form.name)} for {reader.title}, expected what it reads",
            hint=f"{reader.title} reads {', '.join(map(quoted, fitting))}",
        )
    if container not in form.containers:
        first = next(c for c in _CONTAINERS if c in form.containers)
        what, (right, hint) = _CONTAINERS[container][0], _CONTAINERS[first]
        if container == "gguf":
            hint = "a GGUF takes `f32`, `f16`, `bf16` and those of ggml: `q8_0`, `q4_k`, ..."
        raise RecipeError(f"{_FIELD}: {quoted(form.name)} in {what}, expected {right}", hint=hint)


def _expect_roundable(encoding: Encoding) -> None:
    if encoding.seed is None:
        return
    strange = [f.name for f in encoding.forms if f.codec and not f.stochastic]
    if strange or not any(form.stochastic for form in encoding.forms):
        known = [form.name for form in FORMATS.values() if form.stochastic]
        got = strange[0] if strange else encoding.formats.default
        raise RecipeError(
            f"recipe.output.rounding: `stochastic` of {quoted(got)}, expected one of "
            f"{', '.join(map(quoted, known))}",
            hint="leave `rounding` out",
        )


def marker_of(tensor: OutputTensor) -> tuple[OutputTensor, list[Unit]] | None:
    """Return the tensor that tells ComfyUI of a layer's format, if the format has one."""
    form = FORMATS.get(tensor.format)
    if form is None or form.marker is None:
        return None
    name = f"{tensor.name.rpartition('.')[0]}.comfy_quant"
    text = form.text()
    size = len(text.encode())
    blend = Blend("text", {"text": text}, (), "")
    return OutputTensor(0, name, "U8", (size,)), [Unit(name, BESIDE, blend, (), 0, size)]


def beside_units(tensor: OutputTensor, payload: int) -> list[tuple[OutputTensor, Unit]]:
    """Return the tensors beside one, with what fills each; `payload` is its index in the plan."""
    found = []
    for index, side in enumerate(tensor.beside):
        rows = side.shape[0] if side.shape else 1
        blend = Blend("beside", {"output": payload, "side": index}, (), "")
        found.append((side, Unit(side.name, BESIDE, blend, (), 0, rows)))
    return found


def quantization_config(outputs: Sequence[OutputTensor]) -> dict[str, Any]:
    """Return what `config.json` says of the format: SDNQ's, or nothing.

    SDNQ loads as codes every layer but those named: it looks at no tensor for that.
    """
    if all(tensor.format != "sdnq_int8" for tensor in outputs):
        return {}
    kept = [t.name for t in outputs if t.format != "sdnq_int8" and t.name.endswith(".weight")]
    return {"quantization_config": {**_SDNQ, "modules_to_not_convert": kept}}


# As SDNQ 0.2.8 saves it, but for the layers; a test compares it with what it saves.
_SDNQ: Mapping[str, Any] = {
    "add_skip_keys": True,
    "codebook_steps": 24,
    "dequantize_fp32": True,
    "dynamic_loss_threshold": None,
    "group_size": 0,
    "hadamard_group_size": 256,
    "is_integer": True,
    "is_training": False,
    "is_unsigned": False,
    "minimum_allowed_channel_size": 32,
    "minimum_allowed_numel": 16384,
    "modules_dtype_dict": {},
    "modules_quant_config": {},
    "modules_to_not_use_matmul": [],
    "non_blocking": False,
    "quant_conv": False,
    "quant_embedding": False,
    "quant_method": "sdnq",
    "quantization_device": None,
    "quantized_matmul_dtype": None,
    "return_device": None,
    "scale_dtype": None,
    "sdnq_version": "0.2.8",
    "svd_rank": 32,
    "svd_steps": 8,
    "use_codebook": False,
    "use_codebook_scale": False,
    "use_dynamic_quantization": False,
    "use_grad_ckpt": True,
    "use_hadamard": False,
    "use_quantized_matmul": False,
    "use_quantized_matmul_conv": False,
    "use_static_quantization": True,
    "use_stochastic_rounding": False,
    "use_svd": False,
    "weights_dtype": "int8",
    "zero_point_dtype": None,
}
