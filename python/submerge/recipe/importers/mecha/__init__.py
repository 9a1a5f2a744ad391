"""sd-mecha's recipes as a recipe: its graph of nodes evaluated as far as one method can say it.

Nodes that add and scale models are one weighted sum, however many there are:

    weighted_sum     (1 - alpha) a + alpha b       alpha is the second model's share, as here
    n_average        the mean
    add_difference   a + alpha b, b a difference
    subtract, scale  a - b, alpha a

Others become the method of the same formula, where they stand alone. Nodes without a counterpart
are all named in one error.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from submerge.errors import RecipeError, counted, listing, quoted
from submerge.recipe.importers.mecha.call import Call
from submerge.recipe.importers.mecha.forms import Formula, Numbers, Sum, selectors
from submerge.recipe.importers.mecha.instructions import Instruction, Reference, read_text_of
from submerge.recipe.importers.mecha.nodes import NODES
from submerge.recipe.importers.preset import Imported, model_names
from submerge.recipe.model import Recipe

if TYPE_CHECKING:
    from submerge.recipe.importers.mecha.forms import Value

__all__ = ["import_mecha"]

_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_DTYPES |= {"float8_e4m3fn": "f8_e4m3", "float8_e5m2": "f8_e5m2"}
_WITHOUT = {
    "balance_attention": "SDXL's attention heads",
    "crossover": "a mix of frequencies",
    "dropout": "random numbers of its own; `dare_linear` is the method here",
    "exchange_ema": "the moving average kept beside the weights",
    "geometric_sum": "complex powers of elements",
    "multiply_quotient": "complex powers of elements",
    "omit_component": "leaves a component out",
    "pick_component": "picks a component",
    "randperm": "permutes neurons at random",
    "rebasin": "permutes neurons of SD1 and SDXL",
    "tensor_sum": "swaps a range of rows",
    "ties_sum_with_dropout": "random numbers of its own; `dare_ties` is the method here",
    "top_k_tensor_sum": "sorts elements",
}
# Hand their first argument on as it is.
_THROUGH = ("cast", "omit_non_finite", "fallback")


def import_mecha(text: str, name: str, node: str | None = None) -> Imported:
    """Read a recipe of sd-mecha.

    Args:
        text: the content of a `.mecha` file.
        name: what to call it in errors.
        node: which value is the result, as `&5` or `5`; None for the last.

    Returns:
        The recipe, and notes on what was not carried over or is computed otherwise.

    Raises:
        RecipeError: malformed, or nodes that no single method expresses.
    """
    instructions = read_text_of(text, name)
    root = _root(instructions, name, node)
    reader = _Reader(instructions, name)
    value = reader.value(root)
    return Imported(reader.recipe(value, root), reader.notes)


def _root(instructions: list[Instruction], name: str, node: str | None) -> int:
    if node is None:
        return len(instructions) - 1
    digits = node.removeprefix("&")
    if not digits.isdecimal() or len(digits) > 9 or int(digits) >= len(instructions):
        raise RecipeError(
            f"{name}: there is no node {quoted(node)}, expected `&0` to `&{len(instructions) - 1}`"
        )
    return int(digits)


class _Reader:
    """Evaluates the instructions a result needs; collects notes for the user."""

    def __init__(self, instructions: list[Instruction], name: str) -> None:
        self.instructions = instructions
        self.name = name
        self.notes: list[str] = []
        paths = [self._path(i) for i in instructions if i.command == "model"]
        self.names = model_names(list(dict.fromkeys(paths)))

    def value(self, root: int) -> Value:
        """Return what the instruction of this index makes."""
        needed = {root}
        for i in range(root, -1, -1):
            if i in needed:
                needed.update(self.instructions[i].uses)
        wanted = [self.instructions[i] for i in sorted(needed)]
        self._refuse(wanted)
        values: dict[int, Value] = {}
        for instruction in wanted:
            values[instruction.index] = self._evaluate(instruction, values)
        return values[root]

    def recipe(self, value: Value, root: int) -> Recipe:
        """Return the recipe of a value, which must be a model."""
        if not isinstance(value, Sum | Formula) or value.space != "weight":
            got = f"a {value.space}" if isinstance(value, Sum | Formula) else "a parameter"
            raise RecipeError(
                f"{self.name}: {self.instructions[root]} makes {got}, expected a model",
                hint="add the difference to a model with `add_difference`"
                if got == "a delta"
                else None,
            )
        paths = {name: path for path, name in self.names.items()}
        used = value.models(paths)
        models = {name: paths[name] for name in used}
        data: dict[str, Any] = {"models": models, **value.action(used)}
        if dtype := self._dtype(root):
            data["output"] = {"dtype": dtype}
        if isinstance(value, Formula):
            self.notes += value.notes
            if value.whole_tensors:
                data["scope"] = "tensor"
        self._say(used)
        return Recipe.load(data)

    def _say(self, used: list[str]) -> None:
        """Note which way ratios point, and where results differ."""
        if len(used) == 2:
            self.notes.append(
                "direction: sd-mecha's alpha is the share of the second model, as `alpha` is here"
            )
        self.notes.append(
            "sd-mecha leaves tensors out that some models lack; here `guidance` decides for the "
            "guidance embedder of FLUX.1, and any other such tensor is an error"
        )

    def _refuse(self, wanted: list[Instruction]) -> None:
        """Refuse merge methods without a counterpart, all at once."""
        lost = [i for i in wanted if i.command == "merge" and i.method not in (*NODES, *_THROUGH)]
        if lost:
            said = "; ".join(f"{i}: {_why(i.method)}" for i in lost[:10])
            more = f"; and {len(lost) - 10} more" if len(lost) > 10 else ""
            raise RecipeError(
                f"{self.name}: {counted(len(lost), 'node')} without a counterpart: {said}{more}",
                hint="name a node before them (`node`) to import that part",
            )

    def _evaluate(self, instruction: Instruction, values: dict[int, Value]) -> Value:
        where = f"{self.name}: {instruction}"
        call = Call(where, instruction, values)
        match instruction.command:
            case "dict":
                return dict(instruction.named)
            case "literal":
                return self._literal(call)
            case "model":
                return self._model(instruction, where)
            case _:
                pass
        if instruction.method in _THROUGH:
            return self._through(call)
        return NODES[instruction.method](call)

    def _path(self, instruction: Instruction) -> str:
        path = instruction.given[0] if instruction.given else None
        if not isinstance(path, str) or not path:
            raise RecipeError(f"{self.name}: {instruction}: expected a file, got none")
        return path

    def _model(self, instruction: Instruction, where: str) -> Sum:
        config = instruction.named.get("model_config")
        if isinstance(config, str) and ("lycoris" in config or "kohya" in config):
            raise RecipeError(
                f"{where}: {quoted(self._path(instruction))} is an adapter (`{config}`), expected "
                "a checkpoint",
                hint="bake it into its model first",
            )
        space = instruction.named.get("merge_space") or "weight"
        if space not in ("weight", "delta"):
            got = quoted(str(space))
            raise RecipeError(f"{where}: merge_space, expected `weight` or `delta`, got {got}")
        name = self.names[self._path(instruction)]
        return Sum(str(space), {"": {name: Fraction(1)}})

    def _literal(self, call: Call) -> Value:
        """Return numbers by selector; or the one thing in `key`, if that is all there is."""
        entries = call.at(0)
        if not isinstance(entries, dict):
            raise RecipeError(f"{call.where}: expected a `dict`, got something else")
        config = call.instruction.named.get("model_config")
        if config == "singleton-mecha" or set(entries) == {"key"}:
            return call.one(entries.get("key"))
        numbers: Numbers = {}
        outside = []
        for name, raw in entries.items():
            number = call.number(raw, name)
            found = selectors(name, str(config), call.where)
            numbers |= dict.fromkeys(found, number)
            outside += [] if found else [name]
        if outside:
            self.notes.append(
                f"not carried over: {call.instruction}: {listing(outside)}; only the transformer "
                "is merged"
            )
        return numbers

    def _through(self, call: Call) -> Value:
        """Return the first argument of a node that leaves a model as it is, or nearly so."""
        first = call.at(0)
        if call.instruction.method == "fallback" and isinstance(first, dict):
            return {**call.numbers(1, "default"), **call.numbers(0, "a")}
        if call.instruction.method == "omit_non_finite":
            self.notes.append(
                f"not carried over: {call.instruction}: tensors with NaN or infinity are merged "
                "as they are"
            )
        return first

    def _dtype(self, root: int) -> str | None:
        """Return the dtype the result is cast to; note casts on the way, which are not made."""
        found = None
        for instruction in self.instructions[: root + 1]:
            if instruction.method != "cast":
                continue
            raw = self._cast_to(instruction)
            if raw is None or (instruction.index != root and raw in ("float32", "float64")):
                continue
            if instruction.index != root:
                self.notes.append(
                    f"not carried over: {instruction}: rounds to {raw} midway; here arithmetic is "
                    "f32 and the result is rounded once"
                )
            elif raw in _DTYPES:
                found = _DTYPES[raw]
            else:
                expected = ", ".join(map(quoted, _DTYPES))
                raise RecipeError(
                    f"{self.name}: {instruction}: dtype {quoted(raw)}, expected one of {expected}"
                )
        return found

    def _cast_to(self, instruction: Instruction) -> str | None:
        """Return the dtype of a cast, through the literals it is wrapped in."""
        found: object = instruction.named.get("dtype", (*instruction.given, None, None, None)[3])
        while isinstance(found, Reference):
            inner = self.instructions[found.at]
            if inner.command == "dict":
                found = inner.named.get("key")
            else:
                found = inner.given[-1] if inner.given else None
        return found if isinstance(found, str) else None


def _why(method: str) -> str:
    if method.startswith("convert_"):
        return "turns an adapter or another naming into the model's"
    return _WITHOUT.get(method, "no method of sd-mecha's own")
