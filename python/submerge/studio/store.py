"""What the studio keeps: projects, each step of their recipes, and tries, in one SQLite file.

Every change is a transaction of its own, on the disk before the page is told; a server that is
killed loses nothing that was shown as kept. A step is a recipe as plain data, perhaps not finished.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.errors import RecipeError, SubmergeError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

__all__ = ["ENDED", "Store"]

ENDED = ("done", "failed", "cancelled", "interrupted")
_VERSION = 1
_TABLES = """
CREATE TABLE projects (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, at INTEGER NOT NULL,
    settings TEXT NOT NULL, made REAL NOT NULL
);
CREATE TABLE steps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project INTEGER NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
    recipe TEXT NOT NULL, what TEXT NOT NULL, made REAL NOT NULL
);
CREATE INDEX steps_of ON steps(project, id);
CREATE TABLE tries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project INTEGER NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
    kind TEXT NOT NULL, recipe TEXT NOT NULL, asked TEXT NOT NULL, state TEXT NOT NULL,
    result TEXT NOT NULL, made REAL NOT NULL, ended REAL
);
CREATE INDEX tries_of ON tries(project, id);
"""


class Store:
    """One file; any thread may use it.

    Raises:
        SubmergeError: the file is none of the studio's, or another studio holds it.
        OSError: its folder cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        with self._told():
            self._held = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self._held.row_factory = sqlite3.Row
            # Held as long as the server lives: two servers would not hear of each other's changes.
            self._held.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._held.execute("PRAGMA foreign_keys=ON")
            self._held.execute("PRAGMA busy_timeout=500")
            self._begin()

    def _begin(self) -> None:
        with self._changes() as held:
            (version,) = held.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise SubmergeError(
                    f"{self.path}: a newer submerge wrote this file, expected version {_VERSION}, "
                    f"got {version}",
                    hint="upgrade, or name another file with `--file`",
                )
            if version == 0:
                for statement in filter(str.strip, _TABLES.split(";")):
                    held.execute(statement)
                held.execute(f"PRAGMA user_version={_VERSION}")
            held.execute(
                "UPDATE tries SET state='interrupted', ended=? "
                "WHERE state IN ('queued', 'running')",
                (time.time(),),
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in words what SQLite complains of."""
        try:
            yield
        except sqlite3.Error as error:
            raise SubmergeError(
                f"{self.path}: {error}, expected a file of the studio that can be written",
                hint="is another studio open, or the disk full? `--file` names another file",
            ) from error

    @contextmanager
    def _changes(self) -> Iterator[sqlite3.Connection]:
        """Give the connection in a transaction: all of it is kept, or nothing."""
        with self._lock, self._told():
            self._held.execute("BEGIN IMMEDIATE")
            try:
                yield self._held
                self._held.execute("COMMIT")
            except BaseException:
                if self._held.in_transaction:
                    self._held.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with self._lock, self._told():
            return [dict(row) for row in self._held.execute(query, values)]

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._held.close()

    # -- projects ----------------------------------------------------------------------------------

    def projects(self) -> list[dict[str, Any]]:
        """Return id and name of every project, the oldest first."""
        return self._rows("SELECT id, name FROM projects ORDER BY id")

    def project(self, ident: int) -> dict[str, Any]:
        """Return a project: `name`, `step`, `recipe`, `settings`, `undo` and `redo` in words.

        Raises:
            RecipeError: there is no such project.
        """
        found = self._rows(
            "SELECT p.id, p.name, p.at AS step, p.settings, s.recipe, s.what AS undo "
            "FROM projects p JOIN steps s ON s.id = p.at WHERE p.id=?",
            ident,
        )
        if not found:
            raise RecipeError(f"project: there is no number {ident}, expected one that is listed")
        (project,) = found
        first = self._rows("SELECT min(id) AS id FROM steps WHERE project=?", ident)
        after = self._rows(
            "SELECT what FROM steps WHERE project=? AND id>? ORDER BY id LIMIT 1",
            *(ident, project["step"]),
        )
        return project | {
            "recipe": json.loads(project["recipe"]),
            "settings": json.loads(project["settings"]),
            "undo": project["undo"] if project["step"] != first[0]["id"] else None,
            "redo": after[0]["what"] if after else None,
        }

    def new_project(self, name: str, recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
        """Begin a project with a recipe and return its number."""
        now = time.time()
        with self._changes() as held:
            made = held.execute(
                "INSERT INTO projects(name, at, settings, made) VALUES (?, 0, ?, ?)",
                (name, json.dumps(settings), now),
            ).lastrowid
            step = held.execute(
                "INSERT INTO steps(project, recipe, what, made) VALUES (?, ?, 'begun', ?)",
                (made, json.dumps(recipe), now),
            ).lastrowid
            held.execute("UPDATE projects SET at=? WHERE id=?", (step, made))
        assert made is not None  # noqa: S101 - it was inserted
        return made

    def rename(self, ident: int, name: str) -> None:
        """Give a project another name."""
        with self._changes() as held:
            held.execute("UPDATE projects SET name=? WHERE id=?", (name, ident))

    def delete(self, ident: int) -> None:
        """Forget a project with its steps and tries; what tries wrote stays."""
        with self._changes() as held:
            held.execute("DELETE FROM projects WHERE id=?", (ident,))

    def set_settings(self, ident: int, settings: Mapping[str, Any]) -> None:
        """Keep what is set beside the recipe: the name of the output, prompts and seeds."""
        with self._changes() as held:
            held.execute("UPDATE projects SET settings=? WHERE id=?", (json.dumps(settings), ident))

    # -- steps -------------------------------------------------------------------------------------

    def step(self, ident: int, after: int, recipe: Mapping[str, Any], what: str) -> int | None:
        """Add a step and return its number, or None where the project went on meanwhile.

        Args:
            ident: the project.
            after: the step that it follows; steps that were undone are forgotten.
            recipe: what it is now.
            what: what was done, in a few words.
        """
        with self._changes() as held:
            at = held.execute("SELECT at FROM projects WHERE id=?", (ident,)).fetchone()
            if at is None or at["at"] != after:
                return None
            held.execute("DELETE FROM steps WHERE project=? AND id>?", (ident, after))
            made = held.execute(
                "INSERT INTO steps(project, recipe, what, made) VALUES (?, ?, ?, ?)",
                (ident, json.dumps(recipe), what, time.time()),
            ).lastrowid
            held.execute("UPDATE projects SET at=? WHERE id=?", (made, ident))
        return made

    def go(self, ident: int, *, back: bool) -> None:
        """Undo a step, or do the one again that was undone; nothing where there is none."""
        order = "id<p.at ORDER BY id DESC" if back else "id>p.at ORDER BY id"
        with self._changes() as held:
            held.execute(
                "UPDATE projects AS p SET at = coalesce("  # noqa: S608 - both are ours
                f"(SELECT id FROM steps WHERE project=p.id AND {order} LIMIT 1), at) WHERE id=?",
                (ident,),
            )

    # -- tries -------------------------------------------------------------------------------------

    def new_try(self, project: int, kind: str, recipe: object, asked: Mapping[str, Any]) -> int:
        """Note that something is about to be done with a recipe and return its number."""
        with self._changes() as held:
            made = held.execute(
                "INSERT INTO tries(project, kind, recipe, asked, state, result, made) "
                "VALUES (?, ?, ?, ?, 'queued', '{}', ?)",
                (project, kind, json.dumps(recipe), json.dumps(asked), time.time()),
            ).lastrowid
        assert made is not None  # noqa: S101 - it was inserted
        return made

    def set_try(self, ident: int, state: str, result: Mapping[str, Any] | None = None) -> None:
        """Note how far a try is, and what came of it."""
        ended = time.time() if state in ENDED else None
        with self._changes() as held:
            held.execute(
                "UPDATE tries SET state=?, ended=?, result=coalesce(?, result) WHERE id=?",
                (state, ended, None if result is None else json.dumps(result), ident),
            )

    def one_try(self, ident: int) -> dict[str, Any]:
        """Return a try.

        Raises:
            RecipeError: there is no such try.
        """
        found = self._rows("SELECT * FROM tries WHERE id=?", ident)
        if not found:
            raise RecipeError(f"try: there is no number {ident}, expected one that is listed")
        return _read(found[0])

    def tries(self, project: int) -> list[dict[str, Any]]:
        """Return the tries of a project, the latest first."""
        rows = self._rows("SELECT * FROM tries WHERE project=? ORDER BY id DESC LIMIT 200", project)
        return [_read(row) for row in rows]

    def fetched(self) -> list[str]:
        """Return the paths of the models that were fetched from the hub."""
        rows = self._rows("SELECT result FROM tries WHERE kind='fetch' AND state='done'")
        return [json.loads(row["result"])["path"] for row in rows]

    def forget_try(self, ident: int) -> None:
        """Forget a try; what it wrote stays."""
        with self._changes() as held:
            held.execute("DELETE FROM tries WHERE id=?", (ident,))


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    return dict(row) | {name: json.loads(row[name]) for name in ("recipe", "asked", "result")}
