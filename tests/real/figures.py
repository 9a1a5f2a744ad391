"""Writes the tables of docs/real-checkpoints.md: `PYTHONPATH=tests python -m real.figures`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

import submerge
from real.potential import CRYSTALS, Prediction, predict
from real.published import convert
from real.test_behaviour import shaken

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "real-checkpoints.md"
PAIRS = (
    ("chgnet-0.3.0", "chgnet-r2scan"),
    ("chgnet-0.3.0", "chgnet-0.2.0"),
    ("sevennet-11Jul2024", "sevennet-MF_0"),
    ("sevennet-11Jul2024", "sevennet-22May2024"),
    ("pocketnet-fold0", "pocketnet-fold1"),
    ("pocketnet-fold2", "pocketnet-fold3"),
    ("lpips-v0.0-alex", "lpips-v0.1-alex"),
    ("lpips-v0.0-vgg", "lpips-v0.1-vgg"),
    ("lpips-v0.0-squeeze", "lpips-v0.1-squeeze"),
)
METHODS: dict[str, Any] = {
    "linear, `alpha` 0.25": {"linear": {"alpha": 0.25}},
    "linear, 0.5": "linear",
    "linear, 0.75": {"linear": {"alpha": 0.75}},
    "slerp, 0.25": {"slerp": {"alpha": 0.25}},
    "slerp, 0.5": "slerp",
    "slerp, 0.75": {"slerp": {"alpha": 0.75}},
    "task arithmetic, `lambda` 1.5": {"task_arithmetic": {"base": "a", "lambda": 1.5}},
    "TIES, `density` 0.1": {"ties": {"base": "a", "density": 0.1}},
    "TIES, 0.3": {"ties": {"base": "a", "density": 0.3}},
    "TIES, 0.6": {"ties": {"base": "a", "density": 0.6}},
    "DARE, `density` 0.9": {"dare_linear": {"base": "a", "density": 0.9}},
    "DARE, 0.5": {"dare_linear": {"base": "a", "density": 0.5}},
}


def relations(folder: Path) -> Iterator[str]:
    """Yield the lines of the table of pairs."""
    yield "| first | second | tensors | comparable | equal | cosine | relative L2 |"
    yield "|---|---|---|---|---|---|---|"
    for pair in PAIRS:
        a, b = (convert(name, folder) for name in pair)
        found = submerge.diff(a, b, layout="generic")
        one, two = load_file(a), load_file(b)
        both = [key for key in one if key in two and one[key].shape == two[key].shape]
        equal = sum(bool((one[key] == two[key]).all()) for key in both)
        (measured,) = found.total().pairs
        yield (
            f"| {pair[0]} | {pair[1]} | {len(one)} | {len(both)} | {equal} "
            f"| {measured.cosine:.3f} | {measured.relative_l2:.3f} |"
        )


def behaviour(folder: Path) -> Iterator[str]:
    """Yield the lines of the table of merges."""
    parents = {"a": convert("chgnet-0.3.0", folder), "b": convert("chgnet-r2scan", folder)}
    first, second = (predict(path) for path in parents.values())
    yield f"| | {' | '.join(CRYSTALS)} | from first | from second |"
    yield "|---|---|---|---|---|---|---|"

    def line(name: str, found: Prediction) -> str:
        energies = " | ".join(f"{energy:.3f}" for energy in found.energies)
        apart = f"{found.distance(first):.3f} | {found.distance(second):.3f}"
        return f"| {name} | {energies} | {apart} |"

    yield line("0.3.0, the first", first)
    models = {name: {"path": str(path), "layout": "generic"} for name, path in parents.items()}
    for name, method in METHODS.items():
        out = folder / "merged.safetensors"
        submerge.merge({"models": models, "method": method}, out, overwrite=True)
        yield line(name, predict(out))
    yield line("r2scan, the second", second)
    noise = predict(shaken(parents, folder / "noise.safetensors"))
    yield line("first + noise, half the difference in each tensor", noise)


def main() -> None:
    """Measure and put the tables in place of those in the page."""
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        for table in (relations, behaviour):
            head, mark, rest = text.partition(f"<!-- {table.__name__} -->\n")
            _, end, tail = rest.partition("<!-- end -->")
            text = head + mark + "\n".join(table(Path(name))) + "\n" + end + tail
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
