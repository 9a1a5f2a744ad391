"""How much memory a model takes and how fast it paints, beside its parents.

```python
import submerge as sm

found = sm.measure(
    "merged/",
    parents=["schnell/", "krea/"],
    workloads=["steps=4,size=512x512", "steps=8,size=1024,images=2"],
    load={"memory_budget": "12GB"},
)
print(found.table())
found.save("measure.json")
found.save_trace("trace.json")  # opens in https://ui.perfetto.dev
```

Every model runs in a process of its own, so that a peak is one model's; rounds take the models in
turn, so that a machine that grows slower is slower to all of them.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge import errors
from submerge.errors import SubmergeError
from submerge.given import shown
from submerge.inference import check_loading
from submerge.inference.parts import with_lent
from submerge.inference.request import fetched
from submerge.measure.measurement import Measurement, gathered
from submerge.measure.workload import Workload, WorkloadDict, room
from submerge.merge import MergedModel, named
from submerge.progress import Estimate, time_in_words

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from submerge.documents.painting import ModelRow

    Model = str | os.PathLike[str] | MergedModel

__all__ = ["Measurement", "Workload", "WorkloadDict", "measure"]

_INTERVAL = 0.02


def measure(
    model: str | os.PathLike[str] | MergedModel,
    *,
    parents: Sequence[str | os.PathLike[str]] = (),
    workloads: Sequence[Workload | WorkloadDict | str] = (),
    load: Mapping[str, Any] | None = None,
    rounds: int = 2,
    notify: Callable[[str], object] | None = None,
) -> Measurement:
    """Measure memory and speed of a model and of its parents.

    Args:
        model: what `load_model` takes.
        parents: models to measure beside it.
        workloads: what to paint, see `Workload.of`; by default three images as the model would
            paint them unless told otherwise.
        load: keywords of `load_model`: `device`, `dtype`, `memory_budget`, `components`, ...
        rounds: processes for each model; the models take turns.
        notify: told in words what is being measured, and how long the rest will take at the same
            speed.

    Raises:
        RecipeError: a workload is malformed, or no round is asked for.
        SubmergeError: as `load_model`, from whichever model could not be loaded; or its process
            was killed, which is what happens where memory runs out.
        OSError: a model cannot be read.
    """
    if type(rounds) is not int or rounds < 1:
        raise errors.RecipeError(
            f"rounds: expected a whole number of at least 1, got {shown(rounds)}"
        )
    asked = [Workload.of(given) for given in workloads or ({},)]
    paths = [model.path if isinstance(model, MergedModel) else model, *parents]
    models = named(paths)
    lenders = [fetched(path) for path in models.values()]
    if isinstance(model, MergedModel):
        lenders += [parent.path for parent in model.recipe.models.values()]
    loads = {
        name: room(asked) | with_lent(load or {}, fetched(path), lenders)
        for name, path in models.items()
    }
    jobs = {
        name: {
            "path": path,
            "load": {key: _plain(value) for key, value in loads[name].items()},
            "workloads": [
                dict(w.options) | {"images": w.images, "prompt": w.prompt} for w in asked
            ],
            "interval": _INTERVAL,
        }
        for name, path in models.items()
    }
    for name, path in models.items():
        # Before the first one is measured.
        check_loading(path, **loads[name])
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    told, estimate, total = notify or _silent, Estimate(), rounds * len(jobs)
    for turn in range(rounds):
        for at, (name, job) in enumerate(jobs.items()):
            left = estimate.left(turn * len(jobs) + at, total)
            after = "" if left is None else f", about {time_in_words(left)} left"
            told(f"measuring {name}, round {turn + 1} of {rounds}{after}")
            seen[name].append(_child(name, job))
    about: list[ModelRow] = [
        {"name": name, "path": path, "role": "parent" if at else "merge"}
        for at, (name, path) in enumerate(models.items())
    ]
    return gathered(about, [one.to_dict() for one in asked], seen)


def _silent(_: str) -> None:
    return None


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | dict) else str(value)


def _child(name: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one model in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="submerge-measure-") as folder:
        given, made = Path(folder, "job.json"), Path(folder, "result.json")
        given.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "submerge.measure.child", str(given), str(made)]
        done = subprocess.run(  # noqa: S603 - ourselves
            command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if not made.exists():
            raise _died(name, done)
        result: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
    if "error" in result:
        raise _error(result)
    return result


def _died(name: str, done: subprocess.CompletedProcess[bytes]) -> SubmergeError:
    """Return the error of a process that ended without a result."""
    if done.returncode < 0:
        number = signal.Signals(-done.returncode).name
        return SubmergeError(
            f"{name}: the measured process was killed by {number}",
            hint="where memory ran out, give a smaller `memory_budget`",
        )
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return SubmergeError(
        f"{name}: the measured process ended with code {done.returncode}: {' '.join(last)}"
    )


def _error(result: Mapping[str, Any]) -> Exception:
    """Return the error a process told of, as it was raised there."""
    kind = getattr(errors, result["error"], None)
    if isinstance(kind, type) and issubclass(kind, SubmergeError):
        return kind(result["message"], hint=result["hint"])
    return OSError(result["message"])
