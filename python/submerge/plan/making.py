"""The modules of an adapter that is made: what the core makes of the outputs of a plan."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.adapters.written import FORMS, Ranked, form_metadata
from submerge.checkpoint.dtypes import DTYPES
from submerge.errors import RecipeError, counted, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Tensor = tuple[str, str, tuple[int, ...], int]

__all__ = ["Making", "Module", "Wanted", "expect_energy", "expect_rank", "most"]

# As many digits as any rank has.
_MANY = 99_999


class Wanted(NamedTuple):
    """What is asked for at a module: a rank at most, None for all there is, and an energy."""

    rank: int | None = None
    energy: float | None = None


def most(wishes: Iterable[Wanted]) -> Wanted:
    """Return what is enough for each of the units that a module stacks."""
    ranks, energies = zip(*wishes, strict=True)
    return Wanted(
        max((rank for rank in ranks if rank is not None), default=None),
        max((energy for energy in energies if energy is not None), default=None),
    )


def expect_rank(rank: float, where: str, unit: str) -> int:
    """Return a rank that is a whole number of at least 0, or raise RecipeError."""
    if rank != int(rank) or rank < 0:
        raise RecipeError(
            f"{where}: {rank:g} for {quoted(unit)}, expected a whole number of at least 0",
            hint="16 to 64 are usual; 0 leaves units out",
        )
    return int(rank)


def expect_energy(energy: float, where: str, unit: str) -> float:
    """Return a share that is more than 0 and at most 1, or raise RecipeError."""
    if not 0 < energy <= 1:
        raise RecipeError(
            f"{where}: {energy:g} for {quoted(unit)}, expected more than 0 and at most 1",
            hint="0.95 holds 95 % of the sum of squares",
        )
    return energy


class Module(NamedTuple):
    """One module and what is written of it.

    Attributes:
        name: its name in the form's layout.
        units: what it stacks, by their canonical names.
        made: `matrix` (the factors of an output, with a bias where there are two), `products` (the
            factors of a sum of products), `difference` (an output as it is) or `whole` (the second
            of two outputs, where the first, a difference, is not zero).
        rank: its rank at most.
        energy: the share of the sum of squares that is enough.
        bias: whether a bias stands beside it.
        products: what each of several products is multiplied by, and the first row it adds to.
        rows: the rows of their sum.
        dtype: the dtype of its factors, as headers spell it; the adapter's where it is empty.
        scale: what readers multiply its product by: alpha is so many times the rank.
        value: whether it is a tensor's new value and no difference, so that it has no length.
        shared: how adapters are voted on whose products are not added up, in the core's words.
    """

    name: str
    units: tuple[str, ...]
    made: str
    rank: int = 0
    energy: float | None = None
    bias: bool = False
    products: tuple[tuple[float, int], ...] = ()
    rows: int = 0
    dtype: str = ""
    scale: float = 1.0
    value: bool = False
    shared: Mapping[str, Any] | None = None

    @property
    def outputs(self) -> int:
        """How many outputs it is made of."""
        whole = {"difference": 1, "whole": 2, "matrix": 1, "products": 2 * len(self.products)}
        return whole[self.made] + self.bias


@dataclass(frozen=True)
class Making:
    """An adapter that a plan makes of its outputs.

    Attributes:
        form: the form it is written in.
        dtype: the dtype of its factors, as headers spell it.
        modules: in the order of the outputs they are made of.
        facts: metadata that does not depend on ranks.
    """

    form: str
    dtype: str
    modules: tuple[Module, ...]
    facts: Mapping[str, str]

    def in_words(self) -> str:
        """Return what is made: `form peft, BF16, 48 modules, rank 16 at most`."""
        ranks = [module.rank for module in self.modules if module.rank]
        made = f"form {self.form}, {self.dtype}, {counted(len(ranks), 'module')}"
        return f"{made}, rank {max(ranks)} at most" if ranks else made

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "modules": [{"name": m.name, "made": self._made(m)} for m in self.modules],
        }

    def _made(self, module: Module) -> dict[str, Any]:
        if module.made in ("difference", "whole"):
            return {module.made: {}}
        form, stem = FORMS[self.form], FORMS[self.form].stem(module.name)
        factors = {
            "up": stem + form.up,
            "down": stem + form.down,
            "alpha": None
            if form.alpha is None
            else {"name": stem + form.alpha, "scale": module.scale},
            "dtype": module.dtype or self.dtype,
            "rank": module.rank,
            "energy": module.energy,
            "key": _key(module.name),
        }
        if module.made == "products":
            products = [{"scale": scale, "first": first} for scale, first in module.products]
            made = {"rows": module.rows, "products": products, "shared": module.shared}
            return {"products": {**made, "factors": factors, "bias": module.bias}}
        return {"matrix": {"factors": factors, "bias": module.bias}}

    def describe(self, ranks: Sequence[int]) -> dict[str, str]:
        """Return the metadata once the rank of each module is known."""
        return self._metadata(ranks, longest=False)

    def longest(self) -> dict[str, str]:
        """Return metadata that is as long as any can be."""
        return self._metadata([_MANY if m.rank else 0 for m in self.modules], longest=True)

    def largest(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return what is written of outputs, in order, if ranks are as large as they may be.

        Tensors are name, dtype, shape and bytes.
        """
        form, left, written = FORMS[self.form], iter(outputs), []
        for module in self.modules:
            mine = [next(left) for _ in range(module.outputs)]
            if module.made in ("difference", "whole"):
                written.append(mine[-1])
                continue
            stem, dtype = form.stem(module.name), module.dtype or self.dtype
            rows = module.rows if module.made == "products" else mine[0][2][0]
            columns = mine[1 if module.made == "products" else 0][2][1]
            for suffix, shape in (
                (form.down, (module.rank, columns)),
                (form.up, (rows, module.rank)),
            ):
                size = math.prod(shape) * DTYPES[dtype].bits // 8
                written.append((stem + suffix, dtype, shape, size))
            if form.alpha is not None:
                written.append((stem + form.alpha, "F32", (), 4))
            written += mine[-1:] if module.bias else []
        return written

    def _metadata(self, ranks: Sequence[int], *, longest: bool) -> dict[str, str]:
        made = [
            Ranked(module.name, rank, module.scale)
            for module, rank in zip(self.modules, ranks, strict=True)
            if rank
        ]
        biased = any(module.bias for module in self.modules)
        return {**self.facts, **form_metadata(self.form, made, biased=biased, longest=longest)}


def _key(name: str) -> int:
    """Return what chooses the random numbers of a module."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
