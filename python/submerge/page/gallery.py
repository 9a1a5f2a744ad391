"""The images of an evaluation: a row for each prompt and seed, the parents beside the merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.page.charts import seconds_in_words
from submerge.page.content import Details, Table
from submerge.page.images import Thumbnail, inside, thumbnails
from submerge.page.inputs import items, number, text
from submerge.page.markup import Markup, join, markdown, tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Gallery", "gallery"]


class Shot(NamedTuple):
    """One image: whose it is, the picture where there is one, and what is known of it."""

    model: str
    picture: Thumbnail | None
    path: str
    facts: tuple[tuple[str, str], ...]


class Row(NamedTuple):
    """A prompt with a seed, and an image of each model."""

    prompt: str
    words: str
    tags: tuple[str, ...]
    seed: str
    shots: tuple[Shot, ...]


def gallery(evaluation: Mapping[str, Any], folder: Path, budget: int) -> Gallery:
    """Return the images of an evaluation; see `thumbnails` for the budget and the errors."""
    models = [text(model.get("name")) for model in ordered(items(evaluation, "models"))]
    images = {
        (text(i.get("prompt")), text(i.get("seed")), text(i.get("model"))): i
        for i in items(evaluation, "images")
    }
    files = {key: inside(folder, text(image.get("path"))) for key, image in images.items()}
    pictures = thumbnails((path for path in files.values() if path is not None), budget)
    scores = _scores(evaluation)
    prompts = {text(prompt.get("id")): prompt for prompt in items(evaluation, "prompts")}

    def shot(prompt: str, seed: str, model: str) -> Shot:
        image = images.get((prompt, seed, model), {})
        path = files.get((prompt, seed, model))
        picture = None if path is None else pictures[path]
        known = (*_made(image), *scores.get((prompt, seed, model), ()))
        return Shot(model, picture, text(image.get("path")), known)

    rows = [
        Row(
            prompt,
            text(prompts.get(prompt, {}).get("text")),
            tuple(map(text, prompts.get(prompt, {}).get("tags") or ())),
            seed,
            tuple(shot(prompt, seed, model) for model in models),
        )
        for prompt, seed in dict.fromkeys((prompt, seed) for prompt, seed, _ in images)
    ]
    return Gallery(models, sorted(rows, key=lambda row: _place(row, list(prompts))))


def ordered(models: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the models as the eye compares them: a parent, the merge, the other parents."""
    parents = [model for model in models if model.get("role") != "merge"]
    merges = [model for model in models if model.get("role") == "merge"]
    return [*parents[:1], *merges, *parents[1:]]


def _place(row: Row, prompts: Sequence[str]) -> int:
    return prompts.index(row.prompt) if row.prompt in prompts else len(prompts)


def _made(image: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the time an image took and its hash."""
    facts = []
    if (seconds := number(image.get("seconds"))) is not None:
        facts.append(("time", seconds_in_words(seconds)))
    phases = image.get("phases")
    for name, value in phases.items() if isinstance(phases, dict) else ():
        if (seconds := number(value)) is not None:
            facts.append((f"{name} time", seconds_in_words(seconds)))
    if image.get("sha256"):
        facts.append(("sha256", text(image["sha256"])[:7]))
    return facts


def _scores(evaluation: Mapping[str, Any]) -> dict[tuple[str, str, str], list[tuple[str, str]]]:
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for score in items(evaluation, "scores"):
        value = number(score.get("value"))
        if value is not None:
            key = (text(score.get("prompt")), text(score.get("seed")), text(score.get("model")))
            found.setdefault(key, []).append((text(score.get("scorer")), f"{value:.4g}"))
    return found


@dataclass(frozen=True, slots=True)
class Gallery:
    """A grid of images.

    Attributes:
        models: the columns.
        rows: one for each prompt and seed.
    """

    models: Sequence[str]
    rows: Sequence[Row]

    @property
    def tags(self) -> list[str]:
        """Every tag of a prompt, each once."""
        return list(dict.fromkeys(word for row in self.rows for word in row.tags))

    def html(self) -> Markup:
        """Return the grid; the filter and the enlarging work without a script."""
        tags = self.tags
        grid = (self._row(row, tags) for row in self.rows)
        return join(_filter(tags), tag("div", *grid, class_="gallery"))

    def _row(self, row: Row, tags: Sequence[str]) -> Markup:
        classes = " ".join(["row", *(f"t{tags.index(word)}" for word in row.tags)])
        words = tag("bdi", row.words) if row.words.strip() else tag("em", "empty prompt")
        labels = [tag("span", word, class_="tag") for word in row.tags]
        head = tag("p", words, Markup(" "), tag("span", f"seed {row.seed}", class_="seed"), *labels)
        shots = tag("div", *(_figure(row, shot) for shot in row.shots), class_="shots")
        return tag("article", head, shots, self._details(row), class_=classes)

    def _details(self, row: Row) -> Markup:
        names = list(dict.fromkeys(name for shot in row.shots for name, _ in shot.facts))
        known = [dict(shot.facts) for shot in row.shots]
        rows = [[name, *(facts.get(name, "-") for facts in known)] for name in names]
        table = Table(["", *self.models], rows, figures=1, narrow=len(self.models) < 4)
        return Details(f"prompt {row.prompt}: times and scores", [table]).html()

    def markdown(self) -> str:
        """Return a list of the prompts with their images' paths."""
        lines = []
        for row in self.rows:
            paths = ", ".join(f"{s.model}: {s.path or 'no image'}" for s in row.shots)
            words = markdown(row.words or "empty prompt")
            lines.append(f"- {words} (seed {markdown(row.seed)}): {markdown(paths)}")
        return "\n".join(lines)


def _figure(row: Row, shot: Shot) -> Markup:
    facts = dict(shot.facts)
    time = facts.get("time")
    caption = tag("figcaption", tag("strong", shot.model), f" {time}" if time else None)
    if shot.picture is None:
        return tag("figure", tag("div", "no image", class_="missing"), caption)
    label = f"{shot.model}: {row.words or 'empty prompt'}, seed {row.seed}"
    picture = tag(
        "img",
        src=shot.picture.address,
        alt=label,
        width=str(shot.picture.width),
        height=str(shot.picture.height),
        decoding="async",
    )
    box = tag("input", type="checkbox", aria_label=f"enlarge {label}")
    return tag("figure", tag("label", box, picture), caption)


def _filter(tags: Sequence[str]) -> Markup | None:
    """Return radio buttons that hide the rows without a tag, and the rules that do it."""
    if len(tags) < 2:
        return None
    choices = [
        tag("label", tag("input", type="radio", name="tag", id="t-all", checked=True), "all")
    ]
    choices += [
        tag("label", tag("input", type="radio", name="tag", id=f"t-{i}"), word)
        for i, word in enumerate(tags)
    ]
    rules = "".join(
        f"section:has(#t-{i}:checked) .row:not(.t{i}){{display:none}}" for i in range(len(tags))
    )
    legend = tag("legend", "show prompts about")
    return join(tag("style", Markup(rules)), tag("fieldset", legend, *choices, class_="choices"))
