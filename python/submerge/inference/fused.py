"""Adapters in a model that is painted with: added to each tensor as it is read, in F32.

The same terms as in a merge, so the weights are those that `submerge lora bake` writes, but for the
last bit of F32 sums, whose order is torch's here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from submerge.adapters import open_adapter
from submerge.checkpoint.dtypes import DTYPES
from submerge.checkpoint.reading import Reading
from submerge.errors import InternalError
from submerge.plan import terms as t
from submerge.plan.adapted import added, fuse
from submerge.plan.finite import factors_plan
from submerge.recipe import AdapterSource
from submerge.run import RunOptions, expect_finite_adapters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from submerge.layout import Model
    from submerge.plan.adapted import Fused
    from submerge.plan.terms import Rows, Term

__all__ = ["Adapters", "fused_onto"]

_MODEL = "model"


def fused_onto(model: Model, adapters: Sequence[str | Mapping[str, Any]]) -> tuple[Fused, ...]:
    """Return adapters on the one model that is painted with.

    Raises:
        RecipeError: malformed.
        AdapterError, CheckpointError: one is damaged, holds numbers that are not finite, or does
            not fit the model.
        OSError: a file cannot be read.
    """
    sources = [
        AdapterSource.parse(raw, f"adapters[{at}]").alone(f"adapters[{at}]")
        for at, raw in enumerate(adapters)
    ]
    opened = [open_adapter(source.path) for source in sources]
    fused = fuse(sources, opened, {_MODEL: model}, list(model.units))
    expect_finite_adapters(factors_plan(fused), RunOptions())
    return fused


class Adapters:
    """The files of adapters, open until they are closed.

    Raises:
        CheckpointError: a file is no longer the one whose header was read.
        OSError: a file cannot be opened.
    """

    def __init__(self, fused: Sequence[Fused]) -> None:
        self._fused = fused
        self._readings = [Reading(one.adapter.checkpoint) for one in fused]

    def touch(self, unit: str) -> bool:
        """Tell whether any of them changes a unit."""
        return any(unit in fused.strengths for fused in self._fused)

    def onto(self, unit: str, base: torch.Tensor, first: int) -> torch.Tensor:
        """Return rows of a unit in F32 with what adapters add to them.

        Args:
            unit: one that an adapter changes.
            base: the model's rows, in F32.
            first: which row of the unit they begin with.
        """
        own = t.Rows(-1, "", 0, 0)
        terms: tuple[Term, ...] = (own,)
        for at, fused in enumerate(self._fused):
            if unit in fused.strengths:
                terms = added(fused, unit, terms, lambda span, at=at: t.Rows(at, *span))  # type: ignore[misc]
        total = base
        for index, term in enumerate(terms):
            made = self._made(_from(term, first, len(base)), base, total)
            total = made if index == 0 or isinstance(term, t.Magnitude) else total + made
        return total

    def check(self) -> None:
        """Raise as reading would if any of the files has changed."""
        for reading in self._readings:
            reading.check()

    def close(self) -> None:
        """Let the files go."""
        for reading in self._readings:
            reading.close()

    def _made(self, term: Term, base: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Return what a term adds, of a magnitude what it makes of the sum so far."""
        match term:
            case t.Rows():
                return base if term.source < 0 else self._rows(term).reshape(base.shape)
            case t.Scaled(rows, scale):
                of = base if rows.source < 0 else self._rows(rows).reshape(base.shape)
                return of * scale
            case t.LowRank(product, scale):
                return self._product(product) * scale
            case t.Multiplied() | t.Hadamard() | t.Kronecker():
                return self._of_lycoris(term, base)
            case t.Magnitude():
                measured = total if term.norm == "sum" else base
                length = measured.double().norm(dim=1, keepdim=True).float() + term.epsilon
                values = self._rows(term.values).reshape(length.shape)
                return total * (term.strength * (values / length - 1) + 1)
        raise InternalError(f"a term of {type(term).__name__}, expected one of an adapter")

    def _of_lycoris(
        self, term: t.Multiplied | t.Hadamard | t.Kronecker, base: torch.Tensor
    ) -> torch.Tensor:
        """Return what GLoRA does with the model's rows, LoHa or LoKr."""
        match term:
            case t.Multiplied((up, down), scale):
                return base @ self._rows(up) @ self._rows(down) * scale
            case t.Hadamard(left, right, scale):
                return self._product(left) * self._product(right) * scale
            case t.Kronecker():
                return self._kronecker(term, base)

    def _product(self, thin: t.Thin) -> torch.Tensor:
        return self._rows(thin.up) @ self._rows(thin.down)

    def _kronecker(self, term: t.Kronecker, base: torch.Tensor) -> torch.Tensor:
        import torch

        left, right = (
            self._product(side) if isinstance(side, t.Thin) else self._rows(side)
            for side in (term.left, term.right)
        )
        rows = torch.arange(term.first, term.first + base.shape[0])
        outer = left[rows // len(right)][:, :, None] * right[rows % len(right)][:, None, :]
        return outer.reshape(base.shape) * term.scale

    def _rows(self, rows: Rows) -> torch.Tensor:
        """Read rows of an adapter's tensor, in F32."""
        import torch

        info = self._fused[rows.source].adapter.checkpoint.tensors[rows.tensor]
        shape = (rows.end - rows.start, math.prod(info.shape[1:]))
        size = math.prod(shape) * DTYPES[info.dtype].bits // 8
        memory = bytearray(size)
        skip = rows.start * info.nbytes // max(1, info.rows)
        self._readings[rows.source].into(info, skip, memory)
        dtype: Any = getattr(torch, str(DTYPES[info.dtype].torch))
        return torch.frombuffer(memory, dtype=dtype).view(shape).float()


def _from(term: Term, first: int, count: int) -> Term:
    """Return a term over some rows of its unit only."""

    def cut(rows: Rows) -> Rows:
        return rows._replace(start=rows.start + first, end=rows.start + first + count)

    def thin(product: t.Thin) -> t.Thin:
        return product._replace(up=cut(product.up))

    found = term
    match term:
        case t.Rows():
            found = cut(term)
        case t.Scaled():
            found = term._replace(rows=cut(term.rows))
        case t.LowRank():
            found = term._replace(product=thin(term.product))
        case t.Hadamard():
            found = term._replace(left=thin(term.left), right=thin(term.right))
        case t.Kronecker():
            found = term._replace(first=term.first + first)
        case t.Magnitude():
            found = term._replace(values=cut(term.values))
    return found
