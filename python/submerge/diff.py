"""How two models differ, block by block; reads both once and writes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from submerge.checkpoint import open_checkpoint
from submerge.layout import identify
from submerge.merge import named
from submerge.pairs import unrelated
from submerge.plan.comparison import comparison_plan
from submerge.recipe import sources_of
from submerge.report import Run
from submerge.rows import Row, grouped, lines_of, rows_of, summed, table
from submerge.run import RunArguments, RunOptions, execute, expect_finite_adapters

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Unpack

__all__ = ["Difference", "diff"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two models side by side.

    Attributes:
        models: the two names and the paths they stand for, first and second.
        rows: one for each part of each block both models have; `changed` counts the elements whose
            value differs, and the pair holds cosine and relative L2 of second against first.
        notes: what only one of the two has, what is compared rounded (F64, as the nearest F32), and
            whether they look like relatives at all.
        run: time, memory and speed.
    """

    models: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    run: Run

    def __repr__(self) -> str:
        outcome = "equal" if self.equal else f"{self.total().changed:,} elements differ"
        return f"<Difference {' and '.join(self.models)}: {outcome}>"

    @property
    def equal(self) -> bool:
        """Whether every element of every unit both models have is the same."""
        return not any(row.changed for row in self.rows)

    def total(self) -> Row:
        """Return the sum of all rows."""
        return summed(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, ready for JSON."""
        total = {
            k: v for k, v in self.total().to_dict().items() if k not in ("block", "stream", "part")
        }
        return {
            "format": "submerge-difference/1",
            "models": self.models,
            "equal": self.equal,
            "notes": list(self.notes),
            "total": total,
            "rows": [row.to_dict() for row in self.rows],
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the comparison as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def text(self, by: Literal["part", "block"] = "part") -> str:
        """Return a table, a line for each part of each stack or for each block, and a summary."""
        names = [f"{name}: {path}" for name, path in self.models.items()]
        lines = [*names, table(grouped(self.rows, by), formulas=False), *self.notes]
        return "\n".join([*lines, self._outcome(), self.run.line()])

    def _outcome(self) -> str:
        total = self.total()
        changed = f"{total.changed:,} of {total.elements:,} elements differ"
        return "equal" if self.equal else changed

    def _repr_html_(self) -> str:
        """Return the comparison as a notebook shows it, a line for each part of each stack."""
        from submerge.pictures.notebook import card, cells, unordered

        rows = cells(lines_of(grouped(self.rows, "part"), formulas=False))
        facts = {**self.models, "outcome": self._outcome(), "run": self.run.line()}
        return card(f"{' and '.join(self.models)}", facts, rows, unordered(self.notes))


def diff(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    layout: str = "auto",
    nvfp4: str = "auto",
    adapters: Sequence[str | Mapping[str, Any]] = (),
    **run: Unpack[RunArguments],
) -> Difference:
    """Compare two models unit by unit, whatever their layouts, shards and dtypes.

    Args:
        first: a checkpoint file or folder.
        second: the model measured against it.
        layout: what to expect of both: `auto`, or `generic` to compare any tensors of equal names.
        nvfp4: whose NVFP4 codes both have, where a file does not say: `comfy` or `bfl`.
        adapters: LoRAs and others, onto the second model unless they say another: paths, or
            `{"path", "onto", "scale", ...}` as in a recipe.
        **run: how to run, see `RunOptions`.

    Raises:
        CheckpointError, LayoutError, PlanError: a model is damaged, unknown, or does not fit.
        RecipeError, AdapterError: an adapter is malformed, or does not fit its model.
        Cancelled, OSError: as `merge`.
    """
    options = RunOptions.of(run).with_(stats=True)
    paths = named([first, second])
    models = {
        name: identify(open_checkpoint(path), layout=layout, nvfp4=nvfp4)
        for name, path in paths.items()
    }
    made = comparison_plan(models, adapters=sources_of(adapters, list(models)))
    expect_finite_adapters(made.factors, options)
    figures = execute(made, options, "measure")
    rows = rows_of(made, figures)
    return Difference(
        paths, rows, (*made.about.notes, *unrelated(summed(rows).pairs, models)), Run.of(figures)
    )
