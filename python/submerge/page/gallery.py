"""The images of an evaluation: a row for each prompt and seed, the parents beside the merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from submerge.documents import beside
from submerge.page.charts import seconds_in_words
from submerge.page.content import Details, Table
from submerge.page.images import Thumbnail, thumbnails
from submerge.page.inputs import known
from submerge.pictures.markup import Markup, join, markdown, tag

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from submerge.documents import EvaluationDocument
    from submerge.documents.evaluation import ImageRow
    from submerge.documents.painting import ModelRow

    Key = tuple[str, int, str]

__all__ = ["Gallery", "gallery", "ordered"]


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
    seed: int
    shots: tuple[Shot, ...]


def gallery(evaluation: EvaluationDocument, folder: Path, budget: int) -> Gallery:
    """Return the images of an evaluation; see `thumbnails` for the budget and the errors."""
    models = [model["name"] for model in ordered(evaluation["models"])]
    images = {(i["prompt"], i["seed"], i["model"]): i for i in evaluation["images"]}
    files = {key: _file(image, folder) for key, image in images.items()}
    pictures = thumbnails((path for path in files.values() if path is not None), budget)
    scores = _scores(evaluation)
    prompts = {prompt["id"]: prompt for prompt in evaluation["prompts"]}

    def shot(prompt: str, seed: int, model: str) -> Shot:
        image = images.get((prompt, seed, model))
        path = files.get((prompt, seed, model))
        picture = None if path is None else pictures[path]
        made = [] if image is None else _made(image)
        name = "" if image is None else image["path"] or ""
        return Shot(model, picture, name, (*made, *scores.get((prompt, seed, model), ())))

    rows = [
        Row(
            prompt,
            prompts[prompt]["text"] if prompt in prompts else "",
            tuple(prompts[prompt]["tags"]) if prompt in prompts else (),
            seed,
            tuple(shot(prompt, seed, model) for model in models),
        )
        for prompt, seed in dict.fromkeys((prompt, seed) for prompt, seed, _ in images)
    ]
    order = list(prompts)
    return Gallery(
        models,
        sorted(rows, key=lambda r: order.index(r.prompt) if r.prompt in prompts else len(order)),
    )


def ordered(models: Sequence[ModelRow]) -> list[ModelRow]:
    """Return the models as the eye compares them: a parent, the merge, the other parents."""
    parents = [model for model in models if model["role"] != "merge"]
    merges = [model for model in models if model["role"] == "merge"]
    return [*parents[:1], *merges, *parents[1:]]


def _file(image: ImageRow, folder: Path) -> Path | None:
    path = None if image["path"] is None else beside(folder, image["path"])
    return path if path is not None and path.is_file() else None


def _made(image: ImageRow) -> list[tuple[str, str]]:
    """Return the time an image took and its hash."""
    times = {"time": image["seconds"]} | {f"{n} time": s for n, s in image["phases"].items()}
    facts = [(name, seconds_in_words(seconds)) for name, seconds in times.items()]
    return [*facts, ("sha256", image["sha256"][:7])] if image["sha256"] else facts


def _scores(evaluation: EvaluationDocument) -> dict[Key, list[tuple[str, str]]]:
    found: dict[Key, list[tuple[str, str]]] = {}
    for score in evaluation["scores"]:
        if (value := known(score["value"])) is not None:
            key = (score["prompt"], score["seed"], score["model"])
            found.setdefault(key, []).append((score["scorer"], f"{value:.4g}"))
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
        facts = [dict(shot.facts) for shot in row.shots]
        rows = [[name, *(of.get(name, "-") for of in facts)] for name in names]
        table = Table(["", *self.models], rows, figures=1, narrow=len(self.models) < 4)
        return Details(f"prompt {row.prompt}: times and scores", [table]).html()

    def markdown(self) -> str:
        """Return a list of the prompts with their images' paths."""
        lines = []
        for row in self.rows:
            paths = ", ".join(f"{s.model}: {s.path or 'no image'}" for s in row.shots)
            words = markdown(row.words or "empty prompt")
            lines.append(f"- {words} (seed {row.seed}): {markdown(paths)}")
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
