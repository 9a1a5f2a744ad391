"""Text to plain data: YAML 1.2, JSON, bounded in size, aliases, depth and expansion.

What comes out is dicts with text keys, lists, texts, numbers, booleans and None, whatever went in.
Names given twice are errors: of two values for one field, one would be dropped in silence.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.errors import RecipeError, quoted
from submerge.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ruamel.yaml.error import MarkedYAMLError

__all__ = ["dump_yaml", "load_file", "load_json", "load_text", "plain", "read_text"]

MAX_TEXT = 1 << 20
MAX_ALIASES = 100
MAX_DEPTH = 32
# A few aliases of aliases can stand for billions of values; this bounds what they expand to.
MAX_VALUES = 100_000


def load_file(path: str | os.PathLike[str]) -> Any:
    """Read a recipe file: `.json` as JSON, everything else as YAML 1.2.

    Raises:
        RecipeError: not text, too large, or malformed; located by line and column.
        OSError: the file cannot be read.
    """
    text, name = read_text(path), os.fspath(path)
    return load_json(text, name) if name.lower().endswith(".json") else load_text(text, name)


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a small text file.

    Raises:
        RecipeError: not UTF-8, or too large.
        OSError: the file cannot be read.
    """
    name = os.fspath(path)
    with Path(path).open("rb") as stream:
        data = stream.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise _too_large(name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{name}: byte {error.start} is not UTF-8, expected a recipe in YAML or JSON",
            hint="a checkpoint belongs under `models:` of a recipe",
        ) from None


def load_text(text: str, name: str) -> Any:
    """Read YAML 1.2, of which JSON is a part; `name` stands for the text in errors."""
    if len(text) > MAX_TEXT:
        raise _too_large(name)
    # JSON's own reader knows its escapes better; YAML's flow style opens with a brace as well.
    if text.lstrip().startswith("{"):
        try:
            return load_json(text, name)
        except _NotJsonError:
            pass
    return _load_yaml(text, name)


def _load_yaml(text: str, name: str) -> Any:
    # Imported here: a recipe that is a dict has no use for the tenth of a second this takes.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        _bound(yaml.parse(text), name)
        return yaml.load(text)
    except MarkedYAMLError as error:
        raise _marked(error, name) from None
    except (YAMLError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        first = str(error).strip().splitlines()
        raise RecipeError(f"{name}: not YAML: {first[0] if first else 'unreadable'}") from None


class _NotJsonError(RecipeError):
    """The text is not JSON at all, as opposed to JSON with a name given twice."""


def load_json(text: str, name: str) -> Any:
    """Read JSON; `name` stands for the text in errors."""
    if len(text) > MAX_TEXT:
        raise _too_large(name)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise RecipeError(f"{name}: {quoted(key)} is given twice, expected each name once")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        message = f"{name}:{error.lineno}:{error.colno}: not JSON: {error.msg.lower()}"
        raise _NotJsonError(message) from None
    except RecipeError:
        raise
    except ValueError as error:  # a number with thousands of digits
        raise RecipeError(f"{name}: not JSON: {error}") from None
    except RecursionError:
        raise _too_deep(name) from None


def _bound(events: Iterator[Any], name: str) -> None:
    """Refuse what would be costly to build, before it is built."""
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    aliases = depth = 0
    for event in events:
        aliases += isinstance(event, AliasEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if aliases > MAX_ALIASES:
            raise RecipeError(f"{name}: more than {MAX_ALIASES} aliases, expected a recipe")
        if depth > MAX_DEPTH:
            raise _too_deep(name)


def _marked(error: MarkedYAMLError, name: str) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    at = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
    problem = " ".join(str(error.problem or error.context or "unreadable").split())
    if problem.startswith("found duplicate key"):
        key = problem.split('"')[1] if '"' in problem else problem.rsplit(maxsplit=1)[-1]
        return RecipeError(f"{name}{at}: {quoted(key)} is given twice, expected each name once")
    hint = "indent with spaces" if "\\t" in problem or "tab" in problem else None
    return RecipeError(f"{name}{at}: not YAML: {problem}", hint=hint)


def _too_large(name: str) -> RecipeError:
    return RecipeError(
        f"{name}: larger than {MAX_TEXT:,} bytes, expected a recipe",
        hint="a checkpoint belongs under `models:` of a recipe",
    )


def _too_deep(name: str) -> RecipeError:
    return RecipeError(f"{name}: nested deeper than {MAX_DEPTH} levels, expected a recipe")


def plain(raw: object, where: str) -> Any:
    """Return a copy as dicts with text keys, lists and scalars, with paths as text.

    Raises:
        RecipeError: a key that is not text, text with NUL or half a surrogate pair, too deep (or
            cyclic), too many values.
    """
    return _Copier(where).copy(raw, where, 0)


class _Copier:
    def __init__(self, name: str) -> None:
        self.name = name
        self.values = 0

    def copy(self, raw: object, where: str, depth: int) -> Any:
        self.values += 1
        if self.values > MAX_VALUES:
            raise RecipeError(f"{self.name}: more than {MAX_VALUES:,} values, expected a recipe")
        if depth > MAX_DEPTH:
            raise _too_deep(self.name)
        match raw:
            case Mapping():
                return {
                    self.key(key, where): self.copy(item, f"{where}.{key}", depth + 1)
                    for key, item in raw.items()
                }
            case list() | tuple():
                return [self.copy(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(raw)]
            case os.PathLike():
                return self.text(os.fspath(raw), where)
            case str():
                return self.text(raw, where)
            case _:
                return raw

    def key(self, key: object, where: str) -> str:
        if not isinstance(key, str):
            raise RecipeError(
                f"{where}: the key {shown(key)} is not text, expected names as keys",
                hint=f'quote it: "{key}"' if isinstance(key, int | float) else None,
            )
        return self.text(key, where)

    def text(self, text: object, where: str) -> str:
        if not isinstance(text, str):
            raise RecipeError(f"{where}: expected text, got {shown(text)}")
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise RecipeError(f"{where}: {shown(text)} holds NUL or half a surrogate pair")
        return text


def dump_yaml(data: Any) -> str:
    """Return plain data as YAML 1.2 in block style, in the given order, ending with a newline."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 100
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment] # annotated None
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()
