"""A plan opened instead of written: its tensors, each made when it is asked for.

What is made is byte for byte what the file would hold. Nothing is kept between two tensors but what
methods found out about whole ones, so memory is that of the tensors asked for and of the core's
buffers.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from submerge.plan.form import OutFile
from submerge.plan.terms import Rows
from submerge.run import RunOptions, execute_into, expect_finite_adapters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from submerge.plan import Plan
    from submerge.plan.form import OutputTensor, Unit
    from submerge.plan.terms import Operand
    from submerge.statistics import Statistics

    Memory: TypeAlias = bytearray | memoryview | mmap.mmap

__all__ = ["Opened", "room"]

# Bytes from which on memory is asked of the system, to which it goes back when it is dropped.
_LARGE = 1 << 20


def room(nbytes: int) -> bytearray | mmap.mmap:
    """Return writable memory of any content: in huge pages it is ready four times as fast."""
    if nbytes < _LARGE or not hasattr(mmap, "MAP_ANONYMOUS"):
        return bytearray(nbytes)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class _Piece(NamedTuple):
    """Tensors of a plan that are made together: one, and those beside it that its codec fills."""

    outputs: tuple[OutputTensor, ...]
    units: tuple[Unit, ...]


class Opened:
    """The tensors of a plan; any thread may ask for them.

    Args:
        plan: what would be written; its target is left alone.
        options: how to run, for each tensor.
        known: what methods found out about whole tensors, kept and added to; several plans of the
            same files may share it.

    Raises:
        AdapterError: an adapter of the plan holds numbers that are not finite.
        PlanError: a file changed since the plan was made.
        OSError: a file cannot be read.

    Attributes:
        tensors: the tensors by name, in the order of the file.
    """

    def __init__(
        self, plan: Plan, options: RunOptions | None = None, known: Statistics | None = None
    ) -> None:
        given = RunOptions() if options is None else options
        self._options = given.with_(stats=False, progress=None)
        self._plan = replace(plan, texts=(), copies=(), files=(OutFile("", {}),), factors=None)
        self._known: Statistics = {} if known is None else known
        self.tensors: Mapping[str, OutputTensor] = {o.name: o for o in plan.outputs}
        self._pieces = _pieces(plan)
        expect_finite_adapters(plan.factors, given)

    @property
    def computed(self) -> frozenset[str]:
        """The names of the tensors that are not rows of the files as they are, but for a dtype."""
        return frozenset(n for n in self.tensors if not all(map(_is_copy, self.units(n))))

    def units(self, name: str) -> tuple[Unit, ...]:
        """Return what makes a tensor, in row order."""
        piece = self._pieces[name]
        at = [output.name for output in piece.outputs].index(name)
        return tuple(unit for unit in piece.units if unit.output == at)

    def into(self, name: str, memory: Memory) -> None:
        """Fill memory with a tensor.

        Args:
            name: the tensor.
            memory: writable bytes in one dimension, as many as `tensors[name].nbytes`.

        Raises:
            KeyError: there is no such tensor.
            PlanError: a file was written or replaced meanwhile, or memory of another size.
            Cancelled: the run was cancelled.
            OSError: a file cannot be read, or is no longer there.
        """
        self.into_all({name: memory})

    def into_all(
        self,
        memory: Mapping[str, Memory],
        options: RunOptions | None = None,
    ) -> None:
        """Fill memory with several tensors in one run; raises as `into`.

        Args:
            memory: writable bytes by the tensors' names.
            options: how to run, if not as all others.
        """
        pieces = {id(piece): piece for piece in (self._pieces[name] for name in memory)}
        outputs: list[OutputTensor] = []
        units: list[Unit] = []
        for piece in pieces.values():
            first = len(outputs)
            outputs += (o._replace(file=first + at) for at, o in enumerate(piece.outputs))
            units += (_moved(unit, first) for unit in piece.units)
        self._run(outputs, units, memory, options)

    def rows_into(self, name: str, start: int, end: int, memory: Memory) -> None:
        """Fill memory with rows `start` to `end` (exclusive) of a tensor; raises as `into`.

        What methods look at as a whole is made as a whole.
        """
        output, units = self.tensors[name], self.units(name)
        if len(self._pieces[name].outputs) > 1 or output.codec is not None:
            self._cut(name, start, end, memory)
            return
        wanted = [
            _trimmed(unit, start, end) for unit in units if start < unit.end > unit.start < end
        ]
        first = wanted[0].start
        made = tuple(u._replace(start=u.start - first, end=u.end - first) for u in wanted)
        rows = made[-1].end
        part = output._replace(file=0, shape=(rows, *output.shape[1:]))
        held = memory if rows == end - start else room(part.nbytes)
        self._run([part], made, {name: held}, None)
        if held is not memory:
            _copy(held, memory, (start - first) * (part.nbytes // rows))

    def _cut(self, name: str, start: int, end: int, memory: Memory) -> None:
        output = self.tensors[name]
        held = room(output.nbytes)
        self.into(name, held)
        _copy(held, memory, start * (output.nbytes // output.shape[0]) if end > start else 0)

    def _run(
        self,
        outputs: Iterable[OutputTensor],
        units: Iterable[Unit],
        memory: Mapping[str, Memory],
        options: RunOptions | None,
    ) -> None:
        outputs = tuple(outputs)
        files = tuple(OutFile(str(at), {}) for at in range(len(outputs)))
        run = replace(self._plan, files=files, outputs=outputs, units=tuple(units), is_folder=True)
        given = self._options if options is None else options
        into = [memory[o.name] if o.name in memory else room(o.nbytes) for o in outputs]
        self._known |= execute_into(run, given, into, dict(self._known))


def _pieces(plan: Plan) -> dict[str, _Piece]:
    """Return what each tensor is made together with."""
    mains = list(range(len(plan.outputs)))
    units: list[list[Unit]] = [[] for _ in plan.outputs]
    for unit in plan.units:
        units[unit.output].append(unit)
        if unit.op == "beside":
            mains[unit.output] = unit.blend.arguments["output"]
    together: dict[int, list[int]] = {}
    for output, main in enumerate(mains):
        together.setdefault(main, []).append(output)
    found: dict[str, _Piece] = {}
    for group in together.values():
        place = {output: at for at, output in enumerate(group)}
        made = [_placed(unit, place) for output in group for unit in units[output]]
        piece = _Piece(tuple(plan.outputs[output] for output in group), tuple(made))
        found |= {plan.outputs[output].name: piece for output in group}
    return {output.name: found[output.name] for output in plan.outputs}


def _placed(unit: Unit, place: Mapping[int, int]) -> Unit:
    """Return a unit whose outputs are counted within a piece."""
    blend = unit.blend
    if unit.op == "beside":
        inside = {**blend.arguments, "output": place[blend.arguments["output"]]}
        blend = replace(blend, arguments=inside)
    return unit._replace(output=place[unit.output], blend=blend)


def _moved(unit: Unit, first: int) -> Unit:
    """Return a unit of a piece whose outputs begin at one of a run."""
    within = max(unit.output, unit.blend.arguments.get("output", 0) if unit.op == "beside" else 0)
    return _placed(unit, {at: first + at for at in range(within + 1)})


def _trimmed(unit: Unit, start: int, end: int) -> Unit:
    """Return a unit with the rows of a range alone, where each row is a matter of its own."""
    if unit.op not in ("copy", "same", "linear") or unit.added:
        return unit
    before, behind = max(0, start - unit.start), max(0, unit.end - end)
    operands = []
    for operand in unit.operands:
        rows = [t for t in operand if isinstance(t, Rows) and t.codec is None]
        if len(rows) < len(operand):
            return unit
        fewer = (t._replace(start=t.start + before, end=t.end - behind) for t in rows)
        operands.append(tuple(fewer))
    cut: tuple[Operand, ...] = tuple(operands)
    return unit._replace(operands=cut, start=unit.start + before, end=unit.end - behind)


def _copy(source: Memory, to: Memory, at: int) -> None:
    wanted = memoryview(to)
    wanted[:] = memoryview(source)[at : at + len(wanted)]


def _is_copy(unit: Unit) -> bool:
    """Tell whether a unit is rows of one file, whose dtype says what they mean."""
    if unit.op != "copy" or unit.added:
        return False
    ((first, *more),) = unit.operands
    return not more and isinstance(first, Rows) and first.codec is None
