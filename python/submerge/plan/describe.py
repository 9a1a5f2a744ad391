"""A plan in words: the formula of every block, what is written, what it takes, what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from submerge.errors import counted, listing
from submerge.plan.matrices import matrix_bytes
from submerge.plan.sizes import bytes_in_words
from submerge.plan.words import formulas

if TYPE_CHECKING:
    from submerge.plan.form import Plan

__all__ = ["Running", "describe", "working_bytes"]

# Selectors shown for one formula; a gradient has few, a scattered rule many.
_SHOWN = 6
# One decoded block of 1,024 f32 per stream and thread, as the core keeps.
_SCRATCH = 4096


class Running(NamedTuple):
    """How the plan would be run: worker threads, bytes per chunk, bytes of working memory.

    `matrix_budget` is what the last grow to for formulas of whole matrices.
    """

    threads: int
    chunk: int
    memory_budget: int
    matrix_budget: int


def describe(plan: Plan, running: Running) -> str:
    """Return the plan as lines of text, a section for each question it answers."""
    about = plan.about
    lines = [f"{about.title}", ""]
    for parent in about.parents:
        unused = "" if parent.contributes else ", contributes nothing"
        lines.append(f"model     {parent.name}: {parent.label}, {parent.variant}{unused}")
    lines += ["", *_formula_lines(plan), f"guidance  {about.guidance}", ""]
    lines += _output_lines(plan)
    lines += _cost_lines(plan, running)
    lines += [f"licence   {about.license}"]
    lines += [f"note      {note}" for note in about.notes]
    for gone in about.unused:
        lines.append(f"unused    {gone.model}: {gone.reason}, {listing(gone.tensors)}")
    return "\n".join(lines)


def working_bytes(plan: Plan, running: Running) -> int:
    """Return the memory of windows and buffers: threads * (operands + 1) * chunk, in the budget.

    Beside them every thread holds a whole matrix, if there are formulas of such; if too few fit,
    there are fewer threads.
    """
    streams = max((len(unit.operands) for unit in plan.units), default=0) + 1
    chunk = running.chunk * 3 // max(3, streams)  # many operands share the room of two
    windows = streams * (chunk + _SCRATCH)
    whole = max((matrix_bytes(plan, unit) for unit in plan.units), default=0)
    if not whole:
        return min(running.memory_budget, running.threads * windows)
    budget = max(running.memory_budget, running.matrix_budget)
    threads = max(1, min(running.threads, budget // (whole + windows)))
    return threads * (whole + windows)


def _formula_lines(plan: Plan) -> list[str]:
    found = formulas(plan.units)
    if len(found) == 1:
        return [f"result = {found[0][0]}"]
    lines = []
    for formula, where in found:
        more = f" and {len(where) - _SHOWN} more" if len(where) > _SHOWN else ""
        lines.append((", ".join(where[:_SHOWN]) + more, formula))
    width = min(48, max(len(where) for where, _ in lines))
    return [f"{where:<{width}}  result = {formula}" for where, formula in lines]


def _output_lines(plan: Plan) -> list[str]:
    about = plan.about
    kind = "folder" if plan.is_folder else "file"
    tensors = counted(len(plan.outputs), "tensor")
    lines = [f"output    {kind} {plan.target}: layout {about.layout}, {about.dtype}, {tensors}"]
    for file, size in zip(plan.files, plan.file_sizes, strict=True):
        lines.append(f"          {file.path or plan.target.name}  {bytes_in_words(size)}")
    lines += [f"          {text.path}" for text in plan.texts]
    if plan.copies:
        taken = bytes_in_words(plan.copied_bytes)
        lines.append(f"          {counted(len(plan.copies), 'file')} taken over, {taken}")
    extras = [unit for unit in plan.units if unit.reason == "extras"]
    if extras:
        names = listing([unit.name for unit in extras])
        lines.append(f"extras    carried from {extras[0].models[0]}: {names}")
    return lines


def _cost_lines(plan: Plan, how: Running) -> list[str]:
    streams = max((len(unit.operands) for unit in plan.units), default=0)
    memory = bytes_in_words(working_bytes(plan, how))
    operands = counted(streams, "operand")
    running = f"{counted(how.threads, 'thread')}, up to {operands} at a time"
    whole = any(unit.op == "matrix" for unit in plan.units)
    held = "whole matrices, windows and buffers" if whole else "windows and buffers"
    return [
        f"reads     {bytes_in_words(plan.read_bytes)}",
        f"disk      {bytes_in_words(plan.disk_bytes)} free space needed at most",
        f"memory    {memory} of {held} ({running}), whatever the models' size",
    ]
