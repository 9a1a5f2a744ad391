"""`python -m benches.peers`: measure submerge and its rivals, and write the tables."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from benches.make_pair import make_pair
from benches.peers.environment import cache_folder, machine, rivals
from benches.peers.jobs import Job, Pair, own_jobs, rival_jobs
from benches.peers.measure import can_drop, files_of
from benches.peers.memory import import_times, peaks
from benches.peers.rounds import run_rounds
from benches.peers.table import render
from factory import KREA, SCHNELL, save_file, save_folder

_SECTIONS = ("warm", "cold", "memory", "import")


def main() -> int:
    given = _arguments()
    work: Path = given.work
    out = work / "out"
    out.mkdir(parents=True, exist_ok=True)
    pair = Pair(given.pair or work / ("tiny" if given.quick else "pair"))
    _make(pair, quick=given.quick)
    results: dict[str, Any] = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "rounds": given.rounds,
        "machine": machine(work),
        "pair": [path.stat().st_size for path in pair.bfl()],
    }
    jobs = _jobs(given, pair, out, results)
    sample = 1 << (14 if given.quick else 20)
    if "warm" in given.sections:
        outcomes = run_rounds(jobs, given.rounds, cold=False, sample=sample)
        results["warm"] = [outcome.plain() for outcome in outcomes]
    if "cold" in given.sections and can_drop():
        chosen = [job for job in jobs if job.cold]
        outcomes = run_rounds(chosen, given.rounds, cold=True, sample=sample)
        results["cold"] = [outcome.plain() for outcome in outcomes]
    if "memory" in given.sections:
        results["memory"] = peaks(out, quick=given.quick)
    if "import" in given.sections:
        results["import"] = import_times(out, 1 if given.quick else 21)
    return _write(results, given.results or (work if given.quick else Path(__file__).parents[1]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benches.peers", description=__doc__)
    add = parser.add_argument
    add("--work", type=Path, default=cache_folder(), help="inputs, outputs and rivals go here")
    add("--pair", type=Path, help="an existing pair, as benches.make_pair writes it")
    add("--rivals", type=Path, help="the rivals' environment")
    add("--rounds", type=int, default=5)
    add("--sections", default=",".join(_SECTIONS), help=f"of {','.join(_SECTIONS)}")
    add("--only", help="only these jobs, comma-separated")
    add("--results", type=Path, help="where RESULTS.md and results.json go")
    add("--quick", action="store_true", help="tiny models, one round, no rivals: a smoke test")
    given = parser.parse_args()
    given.sections = given.sections.split(",")
    if unknown := set(given.sections) - set(_SECTIONS):
        parser.error(f"--sections: expected {', '.join(_SECTIONS)}, got {', '.join(unknown)}")
    if given.quick:
        given.rounds = 1
    return given


def _make(pair: Pair, *, quick: bool) -> None:
    """Write the pair unless it is there already; a marker says that it was finished."""
    done = pair.folder / "complete"
    if done.exists() or all(files_of(path) for path in (*pair.bfl(), *pair.diffusers())):
        return
    if quick:
        for flux, file, folder in zip((SCHNELL, KREA), pair.bfl(), pair.diffusers(), strict=True):
            save_file(file, flux, "bfl")
            save_folder(folder, flux, shards=2)
    else:
        make_pair(pair.folder)
    done.touch()


def _jobs(given: argparse.Namespace, pair: Pair, out: Path, results: dict[str, Any]) -> list[Job]:
    jobs = own_jobs(pair, out)
    if not given.quick:
        try:
            python, results["rivals"] = rivals(given.rivals or given.work / "rivals")
            jobs += rival_jobs(pair, out, python)
        except RuntimeError as error:
            results["rivals_error"] = str(error)
    if given.only:
        names = given.only.split(",")
        jobs = [job for job in jobs if job.name in names]
    return jobs


def _write(results: dict[str, Any], folder: Path) -> int:
    """Write the page and the data behind it; fails when one of submerge's own jobs did."""
    page = render(results)
    folder.joinpath("RESULTS.md").write_text(page, encoding="utf-8")
    text = json.dumps(results, indent=1) + "\n"
    folder.joinpath("results.json").write_text(text, encoding="utf-8")
    print(page)
    rows = [row for state in ("warm", "cold") for row in results.get(state, ())]
    failed = [row["name"] for row in rows if row["error"] and not row["rival"]]
    if failed := failed + [str(row) for row in results.get("memory", ()) if row["error"]]:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
