"""The very line to write, where what was written belongs elsewhere or has another name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from submerge.errors import quoted
from submerge.given import declared, meant, plain
from submerge.methods import METHODS

if TYPE_CHECKING:
    from submerge.methods import Method

__all__ = ["beside_another_action", "for_unknown", "in_one_line", "numbers_in"]

# What other tools call the second model's share.
_SHARES = ("ratio", "strength", "multiplier", "share", "t", "mix", "blend", "amount", "base_alpha")
_DTYPES = ("precision", "data_type", "torch_dtype", "out_dtype")


def in_one_line(value: object) -> str:
    """Return plain data as YAML writes it in one line: `{slerp: {alpha: 0.4}}`."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case Mapping():
            return "{" + ", ".join(f"{k}: {in_one_line(v)}" for k, v in value.items()) + "}"
        case Sequence():
            return "[" + ", ".join(map(in_one_line, value)) + "]"
        case _:
            return str(value)


def for_unknown(
    name: str, given: Mapping[str, Any], known: Sequence[str], output: Sequence[str]
) -> str | None:
    """Return what to write instead of a field that there is not.

    Args:
        name: the unknown field.
        given: everything written beside it.
        known: the fields that there are.
        output: those of `output`, where there is one.
    """
    value = given[name]
    method, parameters = _named(given.get("method"))
    if method is not None and name in METHODS[method].parameters():
        return f"write `method: {in_one_line({method: {**parameters, name: value}})}`"
    if output and (name in output or name in _DTYPES):
        written = given.get("output")
        field = {name if name in output else "dtype": value}
        fields = {**written, **field} if isinstance(written, Mapping) else field
        return f"write `output: {in_one_line(fields)}`"
    if name in _SHARES:
        if method is not None and "alpha" in METHODS[method].parameters():
            return f"write `method: {in_one_line({method: {**parameters, 'alpha': value}})}`"
        return f"write `alpha: {in_one_line(value)}`, the second model's share"
    return meant(name, known)


def beside_another_action(method: Method | None, alpha: Any, weight: Any) -> str | None:
    """Return what to write instead of a method and a number beside it."""
    if method is None:
        return "leave all but one out"
    beside = {"alpha": alpha, "weight": weight}
    mine = {name: plain(value) for name, value in beside.items() if value is not None}
    strange = [name for name in mine if name not in declared(type(method))]
    if not mine or strange:
        names = " and ".join(map(quoted, strange)) or "`take`"
        return f"{quoted(method.name)} takes no {names}; leave one of them out"
    return f"write `method: {in_one_line({method.name: {**method.written(), **mine}})}`"


def numbers_in(value: object) -> Iterator[float]:
    """Yield the numbers of a parameter as it is written: one, a list, a gradient, by selector."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping):
        for inside in value.values():
            yield from numbers_in(inside)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inside in value:
            yield from numbers_in(inside)


def _named(method: object) -> tuple[str | None, Mapping[str, Any]]:
    """Return the name and the parameters of a method as it is written."""
    if isinstance(method, str) and method in METHODS:
        return method, {}
    if isinstance(method, Mapping) and len(method) == 1:
        ((name, parameters),) = method.items()
        if name in METHODS and isinstance(parameters, Mapping | None):
            return name, parameters or {}
    return None, {}
