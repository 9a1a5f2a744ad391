"""What the page can ask for, as plain data in and out; it knows no HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.errors import RecipeError, SubmergeError
from submerge.files import path_of
from submerge.given import shown
from submerge.merge import named
from submerge.recipe import Recipe
from submerge.run import __version__
from submerge.sources import Hub, download, read_name
from submerge.studio.jobs import Jobs
from submerge.studio.painting import painter
from submerge.studio.planning import Planner, summary
from submerge.studio.presets import PRESETS, shares_of
from submerge.studio.shares import moved
from submerge.studio.work import work_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.studio.events import Events
    from submerge.studio.jobs import Job
    from submerge.studio.places import Places
    from submerge.studio.store import Store

__all__ = ["Desk"]

_EMPTY: dict[str, Any] = {"models": {}}
_NAME = 200


class Desk:
    """Projects, plans and tries of one store.

    A method that takes `given`, what a page sent, raises a SubmergeError of what is wrong in it.
    """

    def __init__(self, store: Store, places: Places, events: Events) -> None:
        self.store, self.places, self.events = store, places, events
        self.jobs = Jobs(store, events)
        self._planner = Planner()
        for path in store.fetched():
            places.admit(Path(path))
        if not store.projects():
            store.new_project("first merge", _EMPTY, {})

    def close(self) -> None:
        """Stop all jobs and give the file back."""
        self.jobs.close()
        self.events.close()
        self.store.close()

    # -- what there is -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what does not depend on a project."""
        return {
            "version": __version__,
            "file": str(self.store.path),
            "folder": str(self.places.roots[0]),
            "projects": self.store.projects(),
            "presets": [preset.name for preset in PRESETS],
            "painter": painter(),
        }

    def project(self, ident: int) -> dict[str, Any]:
        """Return a project with its plan and its tries."""
        found = self.store.project(ident)
        tries = self.store.tries(ident)
        for one in tries:
            one["progress"] = self.jobs.progress_of(one["id"])
        return found | self._told(found["recipe"], found["settings"]) | {"tries": tries}

    def browse(self, path: str | None) -> dict[str, Any]:
        """Return what lies in a folder."""
        return self.places.listing(path)

    def inspect(self, path: str) -> dict[str, Any]:
        """Return what a model is."""
        from submerge.inspection import inspect

        found = inspect(self.places.inside(path, "path"))
        return {"text": found.text(), "variant": found.variant, "problem": found.problem}

    # -- projects ----------------------------------------------------------------------------------

    def new_project(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a project: empty, or with the recipe of another project or of a try."""
        recipe, settings = _EMPTY, dict[str, Any]()
        if (source := given.get("project")) is not None:
            found = self.store.project(_whole(source, "project"))
            recipe, settings = found["recipe"], found["settings"]
        if (tried := given.get("try")) is not None:
            recipe = self.store.one_try(_whole(tried, "try"))["recipe"]
        made = self.store.new_project(_name(given), recipe, settings)
        self.events.say("projects")
        return {"id": made}

    def rename(self, ident: int, given: Mapping[str, Any]) -> None:
        """Give a project another name."""
        self.store.rename(ident, _name(given))
        self.events.say("projects")

    def delete(self, ident: int) -> None:
        """Forget a project; the last one makes room for an empty one."""
        self.store.delete(ident)
        if not self.store.projects():
            self.store.new_project("first merge", _EMPTY, {})
        self.events.say("projects")

    def settings(self, ident: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what is set beside the recipe and return the plan."""
        kept = self.store.project(ident)["settings"] | dict(given)
        self.store.set_settings(ident, kept)
        return {"settings": kept} | self._told(self.store.project(ident)["recipe"], kept)

    # -- the recipe --------------------------------------------------------------------------------

    def change(self, ident: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Change the recipe of a project and return it with its plan.

        Args:
            ident: the project.
            given: one of `recipe`, `text`, `add` (a path), `fields`, `shares` (with `everywhere`),
                `preset`; `after`, the step it is made from; `what` was done; `keep`, False for a
                slider that still moves.
        """
        found = self.store.project(ident)
        if isinstance(hub := read_name(str(given.get("add", "."))), Hub):
            return self._fetch(found, hub, str(given["add"]))
        after = _whole(given.get("after", found["step"]), "after")
        recipe = self._changed(found["recipe"], given)
        if given.get("keep", True) is False:
            return {"recipe": recipe} | self._told(recipe, found["settings"])
        if self.store.step(ident, after, recipe, str(given.get("what", "changed"))[:_NAME]) is None:
            return self.project(ident) | {"stale": True}
        self.events.say("project", id=ident, by=given.get("by"))
        return self.project(ident)

    def _fetch(self, found: Mapping[str, Any], hub: Hub, name: str) -> dict[str, Any]:
        """Fetch a model of the hub, and add it when it is there."""
        ident = found["id"]

        def fetch(job: Job) -> dict[str, Any]:
            job.say(f"fetching {name}")
            path = download(hub, name)
            self.places.admit(path)
            self.change(ident, {"add": str(path), "what": f"{name} fetched"})
            return {"path": str(path)}

        made = self.store.new_try(ident, "fetch", found["recipe"], {"name": name})
        self.jobs.start(made, ident, fetch)
        return self.project(ident)

    def go(self, ident: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Undo or redo a step."""
        self.store.go(ident, back=given.get("back") is True)
        self.events.say("project", id=ident, by=given.get("by"))
        return self.project(ident)

    def _changed(self, recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe after what was asked for."""
        if "text" in given:
            return Recipe.load(_written(given["text"])).to_dict()
        if "recipe" in given:
            return _mapping(given["recipe"], "recipe")
        if "add" in given:
            return self._with_model(recipe, given["add"])
        if "fields" in given:
            fields = _mapping(given["fields"], "fields")
            return {n: v for n, v in {**recipe, **fields}.items() if v is not None}
        groups = [slider["group"] for slider in self._sliders(recipe)]
        if "preset" in given:
            names = {preset.name: preset for preset in PRESETS}
            if given["preset"] not in names:
                raise RecipeError(f"preset: expected one of {', '.join(names)}")
            shares = shares_of(names[given["preset"]], groups)
            usual = max(shares.values(), key=list(shares.values()).count, default=0.5)
            plain = {name: value for name, value in recipe.items() if name != "rules"}
            return moved(plain, shares, usual, groups)
        shares = _mapping(given.get("shares", {}), "shares")
        return moved(recipe, shares, given.get("everywhere"), groups)

    def _with_model(self, recipe: Mapping[str, Any], raw: object) -> dict[str, Any]:
        """Return a recipe with one more model; the second makes it a merge half and half."""
        path = self.places.inside(raw, "add")
        models = dict(recipe.get("models", {}))
        paths = [m["path"] if isinstance(m, dict) else m for m in models.values()]
        name = list(named([*paths, path]))[-1]
        while name in models:
            name = f"{name}_{len(models) + 1}"
        data = {n: v for n, v in recipe.items() if n != "take"} | {
            "models": models | {name: str(path)}
        }
        if len(models) == 1 and not data.keys() & {"alpha", "method", "weight"}:
            data["alpha"] = 0.5
        elif len(models) == 2 and "alpha" in data:
            # A share of the second says nothing about three.
            data = {n: v for n, v in data.items() if n not in ("alpha", "rules")}
            data["weight"] = dict.fromkeys(data["models"], 1)
        return data

    # -- plans -------------------------------------------------------------------------------------

    def target(self, settings: Mapping[str, Any]) -> Path:
        """Return the path that a model would be saved to."""
        folder = settings.get("folder") or str(self.places.roots[0])
        name = path_of(settings.get("name") or "merged.safetensors", "name")
        return self.places.inside(str(Path(folder) / name), "name")

    def _sliders(self, recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
        told = self._told(recipe, {})
        return [] if told["plan"] is None else list(told["plan"]["sliders"])

    def _told(self, recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plan of a recipe and the recipe as text, or what is wrong with it."""
        if not recipe.get("models"):
            return {"plan": None, "yaml": "", "error": None, "target": None}
        yaml = ""
        try:
            read = Recipe.load(recipe)
            yaml = read.to_yaml()
            self.places.check(read)
            target = self.target(settings)
            plan = summary(self._planner.plan(read, target))
        except (SubmergeError, OSError) as error:
            return {"plan": None, "yaml": yaml, "error": str(error), "target": None}
        return {"plan": plan, "yaml": yaml, "error": None, "target": str(target)}

    # -- tries -------------------------------------------------------------------------------------

    def start(self, ident: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a merge, an analysis or images of what the recipe is now."""
        found = self.store.project(ident)
        recipe = Recipe.load(found["recipe"])
        kind = str(given.get("kind"))
        asked = {**found["settings"], **_mapping(given.get("asked", {}), "asked")}
        if kind == "merge":
            asked["target"] = str(self.target(found["settings"]))
        work_of(kind, recipe, asked, self.places, Path())
        made = self.store.new_try(ident, kind, found["recipe"], asked)
        self.jobs.start(made, ident, work_of(kind, recipe, asked, self.places, self.folder(made)))
        self.events.say("try", id=made, project=ident)
        return {"id": made}

    def cancel(self, ident: int) -> dict[str, Any]:
        """Stop what runs or waits."""
        return {"cancelled": self.jobs.cancel(ident)}

    def restore(self, ident: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Make the recipe of a try that of its project again."""
        found = self.store.one_try(ident)
        what = {"recipe": found["recipe"], "what": f"back to try {ident}"}
        return self.change(found["project"], what | {"by": given.get("by")})

    def forget(self, ident: int) -> None:
        """Forget a try that is over."""
        found = self.store.one_try(ident)
        self.jobs.cancel(ident)
        self.store.forget_try(ident)
        self.events.say("try", id=ident, project=found["project"])

    def folder(self, ident: int) -> Path:
        """Return where what comes of a try lies: pictures and figures, not models."""
        return self.store.path.with_suffix("") / f"try-{ident}"


def _mapping(raw: object, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RecipeError(f"{where}: expected a mapping, got {shown(raw)}")
    return raw


def _whole(raw: object, where: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise RecipeError(f"{where}: expected a whole number, got {shown(raw)}")
    return raw


def _name(given: Mapping[str, Any]) -> str:
    name = given.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > _NAME:
        raise RecipeError(f"name: expected 1 to {_NAME} characters, got {shown(name)}")
    return name.strip()


def _written(raw: object) -> str:
    """Return a recipe's text, which is never taken for the name of a file."""
    if not isinstance(raw, str) or not raw.strip():
        raise RecipeError(f"text: expected a recipe in YAML or JSON, got {shown(raw)}")
    return f"{raw}\n"
