"""What a plan and a report say unasked, and how results look at a prompt."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import submerge
from factory import KREA, SCHNELL, Flux
from submerge import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def saved(folder: Path, **models: Flux) -> dict[str, str]:
    paths = {n: factory.save_file(folder / f"{n}.safetensors", flux) for n, flux in models.items()}
    return {name: str(path) for name, path in paths.items()}


def notes(folder: Path, models: dict[str, Flux], **recipe: Any) -> list[str]:
    made = {"models": saved(folder, **models), **recipe}
    return list(submerge.plan(made, folder / "o.safetensors").about.notes)


# Precision and size.


@pytest.mark.parametrize(
    ("dtypes", "recipe", "rounded"),
    [
        (("F8_E4M3", "F8_E4M3"), {}, []),
        (("BF16", "BF16"), {}, []),
        (("BF16", "F32"), {"output": {"dtype": "f32"}}, []),
        (("F32", "F32"), {"output": {"dtype": "bf16"}}, []),  # asked for
        (("F8_E4M3", "F32"), {"take": "a"}, []),  # b gives nothing
    ],
)
def test_nothing_is_said_of_precision_that_is_kept_or_asked_for(
    tmp_path: Path, dtypes: tuple[str, str], recipe: dict[str, Any], rounded: list[str]
) -> None:
    models = {"a": replace(KREA, dtype=dtypes[0]), "b": replace(KREA, dtype=dtypes[1], seed=2)}
    found = notes(tmp_path, models, **recipe)
    assert [note for note in found if "rounded" in note or "times its bytes" in note] == rounded


BITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8, "F8_E4M3": 4, "F8_E5M2": 3}


@pytest.mark.parametrize("one", BITS)
@pytest.mark.parametrize("other", BITS)
def test_a_precision_that_the_output_lowers_is_said(tmp_path: Path, one: str, other: str) -> None:
    """For each pair of dtypes, as often as a merge of arrays loses bits of one of them."""
    values = np.ones((3, 2), np.float32)
    models = {
        name: {
            "path": str(factory.write(tmp_path / f"{name}.safetensors", {"x": held, "y": held})),
            "layout": "generic",
        }
        for name, held in (
            ("a", values.astype(factory.DTYPES[one][0])),
            ("b", values.astype(factory.DTYPES[other][0])),
        )
    }
    report = submerge.merge({"models": models}, tmp_path / "o.safetensors")
    written = factory.header(tmp_path / "o.safetensors")["x"]["dtype"]
    expected = [
        f"`{name}`: 2 units in {own} ({BITS[own]} significant bits) rounded to {written} "
        f"({BITS[written]}); `output.dtype` chooses another"
        for name, own in (("a", one), ("b", other))
        if BITS[own] > BITS[written]
    ]
    assert [n for n in report.summary["notes"] if "significant bits" in n] == expected
    # F64 is merged in F32; of two that hold different numbers, BF16 has the range.
    assert bool(expected) == ("F64" in (one, other) or {one, other} == {"F16", "BF16"})


def test_an_output_larger_than_a_parent_is_said(tmp_path: Path) -> None:
    models = {"small": replace(KREA, dtype="F8_E4M3"), "krea": replace(KREA, seed=2)}
    found = notes(tmp_path, models)
    (note,) = [note for note in found if "times its bytes" in note]
    assert note == (
        "`small`: the output takes 2.0 times its bytes, F8_E4M3 there and BF16 here; "
        "`output.dtype` chooses another"
    )
    # Said by the plan and by the merge alike.
    recipe = {"models": saved(tmp_path, **models)}
    report = submerge.merge(recipe, tmp_path / "o.safetensors")
    assert note in report.summary["notes"]


# Half a download.


def holes(path: Path, *, without: Callable[[str], bool]) -> None:
    """Punch holes over the tensors a rule picks: their bytes are never written."""
    written, header = path.read_bytes(), factory.header(path)
    start = 8 + int.from_bytes(written[:8], "little")
    path.unlink()
    with path.open("wb") as file:
        file.truncate(len(written))
        file.write(written[:start])
        for name, entry in header.items():
            if name == "__metadata__" or without(name):
                continue
            begin, end = entry["data_offsets"]
            file.seek(start + begin)
            file.write(written[start + begin : start + end])


def has_holes(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < path.stat().st_size
        except (AttributeError, OSError):
            return False


def test_half_a_download_is_said_by_the_plan_and_by_the_report(tmp_path: Path) -> None:
    models = saved(tmp_path, a=Flux(2, 3, 256, 64), b=Flux(2, 3, 256, 64, seed=1))
    recipe = {"models": models, "alpha": 0.5}
    lost = "single_transformer_blocks.1."
    holes(tmp_path / "b.safetensors", without=lambda n: n.startswith(lost))
    report = submerge.merge(recipe, tmp_path / "o.safetensors")
    assert "`b`: half a download, perhaps: all zeros in 1 block: `single.1`" in report.remarks
    if not has_holes(tmp_path / "b.safetensors"):
        pytest.skip("this file system does not tell its holes")
    (note,) = [n for n in submerge.plan(recipe, tmp_path / "p").about.notes if "download" in n]
    where = "never written to the disk, in 1 block: `single.1`"
    assert note == f"`b`: half a download, perhaps: all zeros, {where}"


def test_a_block_of_zeros_that_was_written_is_said_by_the_report_alone(tmp_path: Path) -> None:
    models = saved(tmp_path, a=SCHNELL, b=replace(SCHNELL, seed=1))
    arrays = factory.read(tmp_path / "b.safetensors")
    empty = {
        n: np.zeros_like(x) if n.startswith("transformer_blocks.0.") else x
        for n, x in arrays.items()
    }
    factory.write(tmp_path / "b.safetensors", empty)
    report = submerge.merge({"models": models}, tmp_path / "o.safetensors")
    assert [note for note in report.remarks if "all zeros" in note] == [
        "`b`: half a download, perhaps: all zeros in 1 block: `double.0`"
    ]
    # What is tiny is there.
    tiny = {
        n: np.full_like(x, 1e-30) if n.startswith("transformer_blocks.0.") else x
        for n, x in arrays.items()
    }
    factory.write(tmp_path / "b.safetensors", tiny)
    report = submerge.merge({"models": models}, tmp_path / "q.safetensors")
    assert not any("all zeros" in note for note in report.remarks)
    # One tensor of zeros in a block is a choice that training makes.
    one = {
        n: np.zeros_like(x) if n.endswith("0.norm1.linear.bias") else x for n, x in arrays.items()
    }
    factory.write(tmp_path / "b.safetensors", one)
    report = submerge.merge({"models": models}, tmp_path / "p.safetensors")
    assert not any("all zeros" in note for note in report.remarks)


# At a prompt.


def test_results_are_one_short_line_at_a_prompt(tmp_path: Path) -> None:
    models = saved(tmp_path, schnell=SCHNELL, krea=KREA)
    a, b = models.values()
    recipe = {"models": models, "alpha": {"from": 0.2, "to": 0.8}}
    results = [
        submerge.plan(recipe, tmp_path / "o"),
        submerge.merge(recipe, tmp_path / "o"),
        submerge.merge_flux_models(a, b, {"output_path": str(tmp_path / "p")}),
        submerge.diff(a, b),
        submerge.verify(tmp_path / "o"),
        submerge.inspect(tmp_path / "o"),
        submerge.analyze(a, b),
    ]
    for result in results:
        text = repr(result).replace(str(tmp_path), "")
        assert text.startswith(f"<{type(result).__name__} ")
        assert "\n" not in text
        assert len(text) < 200


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_progress_ends_where_all_is_done(tmp_path: Path, method: str) -> None:
    seen: list[tuple[int, int]] = []
    recipe = {"models": saved(tmp_path, a=SCHNELL, b=KREA), "method": method}
    submerge.merge(recipe, tmp_path / "o", progress=lambda done, total: seen.append((done, total)))
    (begun, _), (done, total) = seen[0], seen[-1]
    assert begun == 0
    assert done == total > 0
    assert seen == sorted(seen)


@pytest.mark.parametrize("last", [False, True])
def test_a_callback_may_cancel_at_the_first_and_at_the_last_call(
    tmp_path: Path,
    last: bool,  # noqa: FBT001
) -> None:
    recipe = {"models": saved(tmp_path, a=SCHNELL, b=KREA)}
    with pytest.raises(submerge.Cancelled, match="nothing was written"):
        submerge.merge(recipe, tmp_path / "o", progress=lambda done, total: (done == total) != last)
    assert not (tmp_path / "o").exists()


def test_diff_and_merge_name_two_models_in_one_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = saved(tmp_path, schnell=replace(SCHNELL, guidance=True), krea=KREA)
    for first, second in (models.values(), reversed(models.values())):
        difference = submerge.diff(first, second)
        report = submerge.merge_flux_models(
            first, second, {"output_path": str(tmp_path / "o")}, overwrite=True
        )
        for ours, theirs in zip(report.report.rows, difference.rows, strict=True):
            assert ours.pairs == theirs.pairs != ()
    with pytest.raises(SystemExit):
        cli.main(["diff", first, second])
    head = next(line for line in capsys.readouterr().out.splitlines() if "cosine" in line)
    assert "cosine schnell:krea" in head
