"""The results as a page: what is claimed, what was measured, how to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["figures", "render"]

Data = dict[str, Any]

_READ = """## How to read this

- Whole processes, started one after another and interleaved: every job once a round, each round
  from another start. Medians, and the extremes in brackets. Ratios are ratios of medians.
- Before each run the output is deleted and the disk synced. Warm: the inputs were just read. Cold:
  the page cache was emptied. Nobody has to wait for the disk at the end; submerge does, because its
  output is on disk before it gets its name.
- Peak memory counts mapped file pages. `cached` is what the job leaves of its output in the page
  cache, where it pushes other programs' data out.
- `wrong` is the share of elements that differ from the exact sum rounded once, and the
  largest difference in units in the last place, over up to 2^20 elements from each tensor. At
  0.5/0.5 no peer can be wrong, for halving is exact.
- The values are synthetic: real layer widths, few blocks, deltas of white noise.
"""


def figures(results: Data) -> list[tuple[str, float, float]]:
    """Return the figures submerge promises: what, measured, at most; those that were measured."""
    warm, cold = (_named(results.get(state, ())) for state in ("warm", "cold"))
    found: list[tuple[str, float, float]] = []

    def ratio(what: str, rows: Mapping[str, Data], one: str, other: str, most: float) -> None:
        if all("median" in rows.get(name, {}) for name in (one, other)):
            value = rows[one]["median"]["wall"] / rows[other]["median"]["wall"]
            found.append((what, value, most))

    ratio("wall / floor, warm", warm, "submerge", "floor", 0.75)
    ratio("wall / floor, cold", cold, "submerge", "floor", 1.1)
    ratio("wall / torch fp32 with huge pages", warm, "submerge", "torch fp32 huge", 1 / 8)
    ratio("wall / torch bf16 mean", warm, "submerge", "torch mean", 1 / 6)
    ratio("conversion: wall / cp, warm", warm, "convert", "copy", 1.0)
    if "median" in (own := warm.get("submerge", {})):
        found += [
            ("peak memory, MB", own["median"]["rss"] / 1e6, 120),
            ("output left in the page cache, MB", own["median"]["cached"] / 1e6, 256),
            ("wrongly rounded, %", 100 * own["numerics"]["share"], 0.02),
            ("largest error, units in the last place", own["numerics"]["ulp"], 1),
        ]
    if times := results.get("import"):
        found.append(("import submerge / pass", times["import submerge"] / times["pass"], 4))
    if rss := [row["rss"] for row in results.get("memory", ()) if not row["error"]]:
        found.append(("largest peak memory over sizes and counts, MB", max(rss) / 1e6, 120))
    return found


def render(results: Data) -> str:
    """Return the page."""
    return "\n".join(_page(results)).rstrip() + "\n"


def _page(results: Data) -> Iterator[str]:
    yield from ("# Measured", "", *_setting(results), "")
    if found := figures(results):
        yield from ("| promise | measured | at most | |", "|---|---:|---:|---|")
        for what, value, most in found:
            yield f"| {what} | {value:.3g} | {most:.3g} | {'yes' if value <= most else '**no**'} |"
        yield ""
    for state, words in (("warm", "Warm page cache"), ("cold", "Cold page cache")):
        if rows := results.get(state):
            yield from (f"## {words}, {results['rounds']} rounds", "", *_rows(rows), "")
    if memory := results.get("memory"):
        yield from ("## Peak memory of the whole process", "", *_memory(memory), "")
    if times := results.get("import"):
        times = {name: f"{1000 * seconds:.1f} ms" for name, seconds in times.items()}
        yield from ("## Import", "", "; ".join(f"`{k}` {v}" for k, v in times.items()), "")
    yield _READ


def _setting(results: Data) -> Iterator[str]:
    machine, pair = results["machine"], results["pair"]
    own = machine["submerge"]
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory'] / 1e9:.0f} GB RAM, "
        f"{machine['filesystem']}, {machine['system']}, Python {machine['python']}. "
        f"submerge {own['version']} ({own['profile']} build), {results['date']}."
    )
    if versions := results.get("rivals"):
        yield (
            "Rivals: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
        )
    if error := results.get("rivals_error"):
        yield f"Rivals could not be installed: {error}"
    sizes = " and ".join(f"{size / 1e9:.2f} GB" for size in pair)
    yield f"Inputs: two models of FLUX.1's widths, {sizes}, bf16, merged 0.3/0.7."


def _named(rows: Sequence[Data]) -> dict[str, Data]:
    return {row["name"]: row for row in rows}


def _rows(rows: Sequence[Data]) -> Iterator[str]:
    yield "| | wall s | CPU s (system) | peak MB | cached MB | wrong | x floor |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    floors = {name: row["median"]["wall"] for name, row in _named(rows).items() if "median" in row}
    for row in rows:
        if "median" not in row:
            yield f"| {row['label']} | failed: {row['error']} | | | | | |"
            continue
        median, (low, high) = row["median"], row["wall_range"]
        floor = floors.get(row["floor"])
        times = f"{median['wall'] / floor:.2f}" if floor else "-"
        note = f" ({row['error']})" if row["error"] else ""
        yield (
            f"| {row['label']}{note} | {median['wall']:.2f} [{low:.2f}-{high:.2f}] "
            f"| {median['cpu']:.1f} ({median['system']:.1f}) | {median['rss'] / 1e6:,.0f} "
            f"| {median['cached'] / 1e6:,.0f} | {_wrong(row)} | {times} |"
        )


def _wrong(row: Data) -> str:
    numerics = row.get("numerics")
    if numerics is None:
        return "-"
    words = (
        f"{100 * numerics['share']:.3g} %, {numerics['ulp']:.3g} ulp" if numerics["wrong"] else "0"
    )
    problems = numerics["problems"]
    return f"{words}; {len(problems)} problems: {problems[0]}" if problems else words


def _memory(rows: Sequence[Data]) -> Iterator[str]:
    yield "| models | size of each | peak MB | wall s |"
    yield "|---:|---:|---:|---:|"
    for row in rows:
        if row["error"]:
            yield f"| {row['models']} | {row['bytes'] / 1e9:.1f} GB | {row['error']} | |"
        else:
            peak = f"{row['rss'] / 1e6:.0f} | {row['wall']:.1f}"
            yield f"| {row['models']} | {row['bytes'] / 1e9:.1f} GB | {peak} |"
