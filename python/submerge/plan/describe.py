"""A plan in words: the formula of every block, what is written, what it takes, what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from submerge.errors import counted, listing
from submerge.plan.sizes import bytes_in_words
from submerge.plan.words import formulas

if TYPE_CHECKING:
    from submerge.plan.form import Plan

__all__ = ["Running", "describe"]

# Selectors shown for one formula; a gradient has few, a scattered rule many.
_SHOWN = 6


class Running(NamedTuple):
    """How the core would run a plan: worker threads, and bytes of memory for its buffers."""

    threads: int
    working_bytes: int


def describe(plan: Plan, running: Running | None) -> str:
    """Return the plan as lines of text, a section for each question it answers.

    What memory it takes follows from how it is run; without that there is no such line.
    """
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


def _cost_lines(plan: Plan, running: Running | None) -> list[str]:
    lines = [
        f"reads     {bytes_in_words(plan.read_bytes)}",
        f"disk      {bytes_in_words(plan.disk_bytes)} free space needed at most",
    ]
    if running is not None:
        streams = max((len(unit.operands) for unit in plan.units), default=0)
        how = f"{counted(running.threads, 'thread')}, up to {counted(streams, 'operand')} at a time"
        whole = any(unit.op == "matrix" for unit in plan.units)
        held = "whole matrices, windows and buffers" if whole else "windows and buffers"
        memory = f"{bytes_in_words(running.working_bytes)} of {held} ({how})"
        lines.append(f"memory    {memory}, whatever the models' size")
    return lines
