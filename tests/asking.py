"""Ways to ask for painting, judging and exporting that cannot be done, and what must come of them.

All of it is refused before a weight is loaded, so none of it needs torch.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import factory
import reports
import submerge
from factory import KREA
from refusals import Bench
from submerge import inference
from submerge.errors import SubmergeError
from submerge.inference import InferenceOptions
from submerge.measure import Workload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from refusals import Act

# What is asked, the error, how its message begins and what it says, and a part of the hint.
Refusal: TypeAlias = "tuple[Callable[[Bench], Act], type[Exception], str, str | None]"


def refuse(folder: Path, refusal: Refusal) -> None:
    """Ask, and compare what is said; nothing is written."""
    make, error, message, hint = refusal
    bench = Bench(folder)
    act = make(bench)
    with pytest.raises(error) as caught:
        act()
    assert type(caught.value) is error
    said = caught.value.message if isinstance(caught.value, SubmergeError) else str(caught.value)
    assert re.match(message, said), said
    if isinstance(caught.value, SubmergeError):
        assert (caught.value.hint is None) == (hint is None)
        assert hint is None or hint in str(caught.value.hint)
    assert list(bench.folder.iterdir()) == []


def options(**given: Any) -> Callable[[Bench], Act]:
    return lambda _: lambda: InferenceOptions.of(given)


def workload(given: Any) -> Callable[[Bench], Act]:
    return lambda _: lambda: Workload.of(given)


def loading(**how: Any) -> Callable[[Bench], Act]:
    """The plan of loading a whole pipeline."""

    def make(bench: Bench) -> Act:
        folder = factory.save_pipeline(bench.root / "pipeline", KREA)
        return lambda: inference.plan_loading(folder, **({"device": "cpu"} | how))

    return make


def beside(change: Callable[[Path], object]) -> Callable[[Bench], Act]:
    """The plan of loading a transformer alone beside a pipeline that was changed."""

    def make(bench: Bench) -> Act:
        folder = factory.save_pipeline(bench.root / "pipeline", KREA)
        change(folder)
        return lambda: inference.plan_loading(bench.krea, device="cpu", components=folder)

    return make


def judged(prompts: Any = ("a fox",), ground_truth: Any = None, **how: Any) -> Any:
    """The evaluation of a pipeline beside another."""

    def make(bench: Bench) -> Act:
        merge = factory.save_pipeline(bench.root / "merge", KREA)
        truth = ground_truth(bench) if callable(ground_truth) else ground_truth
        parents = {name: str(merge) for name in how.pop("names", ("a",))}
        asked = prompts(bench) if callable(prompts) else list(prompts)
        return lambda: submerge.evaluate_guidance(merge, asked, truth, parents=parents, **how)

    return make


def scorers(*specs: Any) -> Any:
    return judged(scorers=list(specs))


def wrote(name: str, content: bytes) -> Callable[[Bench], Path]:
    def write(bench: Bench) -> Path:
        path = bench.root / name
        path.write_bytes(content)
        return path

    return write


def painted(path: Path, **metadata: Any) -> Path:
    """A PNG as `run_inference` writes it."""
    model = {"name": "m", "fingerprint": "f", "recipe": None, "dtype": "float32"}
    made: dict[str, Any] = {
        "format": "submerge-image/1",
        "version": "0.1.0",
        "model": model,
        "prompt": "a fox",
    }
    made |= {"seed": 0, "options": {}} | metadata
    info = PngInfo()
    info.add_text("submerge", json.dumps(made))
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def repeated(told: Any = None, models: Any = None, **image: Any) -> Callable[[Bench], Act]:
    """Painting an evaluation's only image again."""

    def make(bench: Bench) -> Act:
        painted(bench.root / "x.png", **image.pop("metadata", {}))
        made = reports.evaluation(bench.root, prompts=1)
        row = made["images"][0] | {"model": "m", "path": "x.png", "sha256": None}
        made |= {"images": [row | image], "models": []}
        content = told if isinstance(told, bytes) else json.dumps(made | (told or {})).encode()
        path = bench.root / "evaluation.json"
        path.write_bytes(content)
        return lambda: submerge.reproduce(path, models=models)

    return make


def picture(content: bytes | None = None, **metadata: Any) -> Callable[[Bench], Act]:
    def make(bench: Bench) -> Act:
        path = bench.root / "p.png"
        if content is None:
            painted(path, **metadata)
        else:
            path.write_bytes(content)
        return lambda: inference.read_metadata(path)

    return make


def exported(quantization: str) -> Callable[[Bench], Act]:
    return lambda b: lambda: submerge.export_merged_model(b.krea, b.out, quantization)
