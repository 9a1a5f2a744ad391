"""Nine recipes painted as a grid, against nine merges that are written and loaded one by one.

    python benches/grid.py [--rounds 3]

Two transformers of 0.8 GB in f32; one prompt, one step of 32 pixels, on the CPU with one thread.
Each side is one process, which imports its libraries once and encodes the prompt once; sides take
turns. Needs the oracle group.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OPTIONS: Any = {"width": 32, "height": 32, "steps": 1, "max_sequence_length": 16}
ALPHAS = (0.2, 0.4, 0.6)
SHARES = (0.1, 0.5, 0.9)


def child(side: str, folder: Path) -> dict[str, Any]:
    """Paint the nine images and return what it took."""
    import torch

    import submerge
    from submerge.inference.placing import import_all
    from submerge.profile import read

    torch.set_num_threads(1)
    import_all()
    models = {name: str(folder / f"{name}.safetensors") for name in ("a", "b")}
    recipe = {"models": models, "alpha": 0.5, "output": {"layout": "diffusers"}}
    load: Any = {"device": "cpu", "dtype": "f32", "components": str(folder / "components/pipeline")}
    out = folder / side
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    begun, used = time.perf_counter(), time.process_time()
    if side == "grid":
        made = submerge.grid(
            recipe,
            "a fox",
            output=out,
            x={"alpha": list(ALPHAS)},
            y={"set:single": list(SHARES)},
            options=OPTIONS,
            load=load,
        )
        digests = [cell["sha256"] for cell in made.data["cells"]]
    else:
        digests = []
        texts: dict[Any, Any] = {}
        for at, (alpha, share) in enumerate((a, s) for a in ALPHAS for s in SHARES):
            rules = [{"where": "single", "alpha": share}]
            path = out / f"{at}"
            submerge.merge(recipe | {"alpha": alpha, "rules": rules}, path)
            with submerge.load_model(path, **load) as model:
                model.texts |= texts
                result = submerge.run_inference(model, "a fox", OPTIONS)
                texts = model.texts
                digests.append(str(hash(result[0].image.tobytes())))
            shutil.rmtree(path)
    return {
        "seconds": time.perf_counter() - begun,
        "cpu": time.process_time() - used,
        "peak": read()[1].rss,
        "images": len(set(digests)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "FOLDER"))
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.child[0], Path(given.child[1]))))
        return
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from benches.inference import save_wide
    from factory import KREA, save_folder
    from oracles.pipelines import save_pipeline

    rounds: dict[str, list[dict[str, Any]]] = {"files": [], "grid": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_pipeline(folder / "components", save_folder(folder / "tiny", KREA), dynamic=True)
        for seed, name in enumerate("ab"):
            save_wide(folder / f"{name}.safetensors", seed)
        for _ in range(given.rounds):
            for side, found in rounds.items():
                found.append(_run(side, folder))
    for side, found in rounds.items():
        middle = {k: statistics.median(one[k] for one in found) for k in found[0]}
        print(
            f"| {side} | {middle['seconds']:.1f} s | {middle['cpu']:.1f} s |"
            f" {middle['peak'] / 1e6:.0f} MB | {middle['images']:.0f} |"
        )
    pairs = zip(rounds["grid"], rounds["files"], strict=True)
    print("ratio", round(statistics.median(a["seconds"] / b["seconds"] for a, b in pairs), 3))


def _run(side: str, folder: Path) -> dict[str, Any]:
    paths = os.pathsep.join([str(ROOT / "python"), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, __file__, "--child", side, str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
