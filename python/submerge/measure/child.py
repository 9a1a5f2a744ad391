"""The process that is measured: loads one model, paints every workload, and writes what it saw.

Started by `submerge.measure.measure` as `python -m submerge.measure.child JOB RESULT`, so that the
memory it reaches is one model's own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.errors import SubmergeError
from submerge.files import write_whole
from submerge.measure.workload import Workload
from submerge.profile import environment, profile, span
from submerge.profile.watch import larger

if TYPE_CHECKING:
    from submerge.inference import LoadedModel

__all__ = ["main"]

_LIBRARIES = {
    "torch": (),
    "accelerate": (),
    "transformers": ("CLIPTextModel", "CLIPTokenizer", "T5EncoderModel", "T5TokenizerFast"),
    "diffusers": ("AutoencoderKL", "FluxPipeline", "FluxTransformer2DModel"),
}


def main(job_path: str, result_path: str) -> None:
    """Carry out a job and write its result; an error is a result as well."""
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    result: dict[str, Any]
    try:
        result = _measured(job)
    except (SubmergeError, OSError) as error:
        words = str(error) if not isinstance(error, SubmergeError) else error.message
        hint = getattr(error, "hint", None)
        result = {"error": type(error).__name__, "message": words, "hint": hint}
    write_whole(result_path, json.dumps(result, allow_nan=False))


def _measured(job: dict[str, Any]) -> dict[str, Any]:
    from submerge.inference import load_model

    workloads = [Workload.of(given) for given in job["workloads"]]
    with profile(job["interval"]) as whole:
        begun = time.perf_counter()
        with span("import"):
            _import()
        imported = time.perf_counter()
        with span("load"):
            model = load_model(job["path"], **job["load"])
        loaded = time.perf_counter()
        with model:
            results = [
                _painted(model, workload, number, job["interval"])
                for number, workload in enumerate(workloads)
            ]
            facts = environment(device=str(model.device), dtype=model.plan.dtype)
            plan = model.plan.describe()
    return {
        "import_seconds": imported - begun,
        "load_seconds": loaded - imported,
        "plan": plan,
        "environment": facts,
        "results": results,
        "process": os.getpid(),
        "timeline": whole.to_dict(),
    }


def _import() -> None:
    """Import what loading will import, so that its time is not taken for the model's."""
    import importlib

    for module, names in _LIBRARIES.items():
        try:
            found = importlib.import_module(module)
            for name in names:
                getattr(found, name)  # imported when asked for
        except (ImportError, AttributeError):
            return  # loading says what is missing


def _painted(
    model: LoadedModel, workload: Workload, number: int, interval: float
) -> dict[str, Any]:
    """Paint a workload: one batch to warm up, then what is timed."""
    from submerge.inference import InferenceOptions, run_inference

    options = InferenceOptions.of(workload.options)
    batch, seed = options.batch, options.seed
    seconds, processor, phases = [], [], []
    memory: dict[str, dict[str, int | None]] = {}
    with profile(interval) as seen, span("workload", name=workload.name):
        for turn in range(1 + -(-workload.images // batch)):
            prompt = f"{workload.prompt} {number}-{turn}"
            seeds = tuple(range(seed, seed + batch))
            begun, cpu = time.perf_counter(), time.process_time()
            with span("image" if batch == 1 else "batch", warm_up=turn == 0):
                made = run_inference(model, [prompt], options.with_(seeds=seeds))
            seconds.append((time.perf_counter() - begun) / batch)
            processor.append((time.process_time() - cpu) / batch)
            phases.append({name: value / batch for name, value in made.phases.items()})
            for name, most in made.memory.items():
                memory[name] = larger(memory.get(name, {}), dict(most))
    return {
        "workload": workload.name,
        "first_seconds": seconds[0],
        "seconds": seconds[1:],
        "cpu_seconds": processor[1:],
        "phases": phases[1:],
        "phase_peaks": memory,
        "batch": batch,
        "options": dict(made[0].options),
        "peak": seen.peak,
        "average": seen.average,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
