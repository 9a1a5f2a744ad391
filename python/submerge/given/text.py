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
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import RecipeError, quoted
from submerge.given.faults import inside, shown
from submerge.given.kinds import clean, mapping, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ruamel.yaml.error import MarkedYAMLError

__all__ = [
    "DOCUMENT",
    "PROMPTS",
    "RECIPE",
    "Bounds",
    "dump_yaml",
    "load_document",
    "load_file",
    "load_json",
    "load_text",
    "plain_copy",
    "read_document",
    "read_text",
    "unique",
]

MAX_ALIASES = 100


class Bounds(NamedTuple):
    """How large a text and what stands in it may be.

    Attributes:
        what: what the text should be, for messages.
        hint: where a file that is something else belongs.
        text: bytes.
        depth: of lists and mappings within each other.
        values: a few aliases of aliases can stand for billions; this bounds what they expand to.
        finite: whether numbers that are not finite are refused wherever they stand.
    """

    what: str
    hint: str | None
    text: int
    depth: int
    values: int
    finite: bool = False


RECIPE = Bounds(
    "a recipe", "a checkpoint belongs under `models:` of a recipe", 1 << 20, 32, 100_000
)
PROMPTS = Bounds("prompts as text", None, 1 << 26, 32, 1_000_000)
# What submerge itself writes: an evaluation of thousands of images takes megabytes.
DOCUMENT = Bounds("a JSON document of submerge", None, 1 << 28, 32, 10_000_000, finite=True)


def load_file(path: str | os.PathLike[str]) -> Any:
    """Read a recipe file: `.json` as JSON, everything else as YAML 1.2.

    Raises:
        RecipeError: not text, too large, or malformed; located by line and column.
        OSError: the file cannot be read.
    """
    text, name = read_text(path), os.fspath(path)
    return load_json(text, name) if name.lower().endswith(".json") else load_text(text, name)


def read_document(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file of those submerge writes, as `load_document` reads its text.

    Raises:
        RecipeError: not text, too large, malformed, or with numbers that are not finite.
        OSError: the file cannot be read.
    """
    return load_document(read_text(path, DOCUMENT), os.fspath(path))


def load_document(text: str, name: str) -> Any:
    """Read JSON that submerge writes, as plain data; `name` stands for the text in errors."""
    return plain_copy(load_json(text, name, DOCUMENT), name, DOCUMENT)


def read_text(path: str | os.PathLike[str], bounds: Bounds = RECIPE) -> str:
    """Read a text file.

    Raises:
        RecipeError: not UTF-8, too large, or a name that no file can have.
        OSError: the file cannot be read.
    """
    name: object = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise RecipeError(f"expected the path of {bounds.what}, got {shown(name)}")
    try:
        with Path(name).open("rb") as stream:
            data = stream.read(bounds.text + 1)
    except ValueError:  # NUL, or what the file system's encoding does not have
        raise RecipeError(f"{quoted(name)}: no file can have this name, expected a path") from None
    if len(data) > bounds.text:
        raise _too_large(name, bounds)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{name}: byte {error.start} is not UTF-8, expected {bounds.what}", hint=bounds.hint
        ) from None


def load_text(text: str, name: str) -> Any:
    """Read YAML 1.2, of which JSON is a part; `name` stands for the text in errors."""
    if len(text) > RECIPE.text:
        raise _too_large(name, RECIPE)
    # JSON's own reader knows its escapes better; YAML's flow style opens with a brace as well.
    if text.lstrip().startswith("{"):
        found = _json(text, name)
        if not isinstance(found, _NotJson):
            return found
    return _yaml(text, name)


def load_json(text: str, name: str, bounds: Bounds = RECIPE, *, line: int = 1) -> Any:
    """Read JSON; `name` stands for the text in errors, which begins on this line of it."""
    if len(text) > bounds.text:
        raise _too_large(name, bounds)
    found = _json(text, name, bounds)
    if isinstance(found, _NotJson):
        raise RecipeError(f"{name}:{found.line + line - 1}:{found.column}: not JSON: {found.why}")
    return found


class _NotJson(NamedTuple):
    """Where and why a text is no JSON."""

    line: int
    column: int
    why: str


class DuplicateKeyError(ValueError):
    """A key that stands twice in one object."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {quoted(key)} occurs twice")
        self.key = key


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object for `object_pairs_hook`; raises `DuplicateKeyError`."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DuplicateKeyError(key)
        found[key] = value
    return found


def _json(text: str, name: str, bounds: Bounds = RECIPE) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        return _NotJson(error.lineno, error.colno, error.msg.lower())
    except DuplicateKeyError as error:
        message = f"{name}: {quoted(error.key)} is given twice, expected each name once"
        raise RecipeError(message) from None
    except ValueError as error:  # a number with thousands of digits
        raise RecipeError(f"{name}: not JSON: {error}") from None
    except RecursionError:
        raise _too_deep(name, bounds) from None


def _yaml(text: str, name: str) -> Any:
    # Imported here: a recipe that is a dict has no use for the tenth of a second this takes.
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    class Constructor(SafeConstructor):
        """Says where a value stands that its tag cannot be made of, or a key that is no name."""

        def construct_object(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
            return _placed(super().construct_object, node, name, deep=deep)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
            return _placed(super().construct_mapping, node, name, deep=deep)

    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    try:
        _bound(yaml.parse(text), name)
        return yaml.load(text)
    except MarkedYAMLError as error:
        raise _marked(error, name) from None
    except RecipeError:
        raise
    except (YAMLError, ValueError) as error:
        first = str(error).strip().splitlines()
        raise RecipeError(f"{name}: not YAML: {first[0] if first else 'unreadable'}") from None


def _placed(make: Callable[..., Any], node: Any, name: str, *, deep: bool) -> Any:
    from ruamel.yaml.error import YAMLError

    try:
        return make(node, deep=deep)
    except (YAMLError, RecipeError):
        raise
    except Exception:  # noqa: BLE001 - KeyError, IndexError, TypeError, ... as it comes
        at, tag = node.start_mark, quoted(str(node.tag).rpartition(":")[2])
        raise RecipeError(
            f"{name}:{at.line + 1}:{at.column + 1}: not YAML: no {tag} can be made of this",
            hint="write names and values plain, without tags, and names as text",
        ) from None


def _bound(events: Iterator[Any], name: str) -> None:
    """Refuse what would be costly to build, before it is built."""
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

    aliases = depth = values = 0
    for event in events:
        values += isinstance(event, ScalarEvent | CollectionStartEvent)
        aliases += isinstance(event, AliasEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if aliases > MAX_ALIASES:
            raise RecipeError(f"{name}: more than {MAX_ALIASES} aliases, expected {RECIPE.what}")
        if depth > RECIPE.depth:
            raise _too_deep(name, RECIPE)
        if values > RECIPE.values:
            raise _too_many(name, RECIPE)


def _marked(error: MarkedYAMLError, name: str) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    at = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
    problem = " ".join(str(error.problem or error.context or "unreadable").split())
    if problem.startswith("found duplicate key"):
        key = problem.split('"')[1] if '"' in problem else problem.rsplit(maxsplit=1)[-1]
        return RecipeError(f"{name}{at}: {quoted(key)} is given twice, expected each name once")
    hint = "indent with spaces" if "\\t" in problem or "tab" in problem else None
    return RecipeError(f"{name}{at}: not YAML: {problem}", hint=hint)


def _too_large(name: str, bounds: Bounds) -> RecipeError:
    return RecipeError(
        f"{name}: larger than {bounds.text:,} bytes, expected {bounds.what}", hint=bounds.hint
    )


def _too_many(name: str, bounds: Bounds) -> RecipeError:
    return RecipeError(f"{name}: more than {bounds.values:,} values, expected {bounds.what}")


def _too_deep(name: str, bounds: Bounds) -> RecipeError:
    return RecipeError(f"{name}: nested deeper than {bounds.depth} levels, expected {bounds.what}")


def plain_copy(raw: object, where: str, bounds: Bounds = RECIPE) -> Any:
    """Return a copy as dicts with text keys, lists and scalars, with paths as text.

    Raises:
        RecipeError: a key that is not text, text with NUL or half a surrogate pair, too deep (or
            cyclic), too many values.
    """
    return _Copier(where, bounds).copy(raw, where, 0)


class _Copier:
    def __init__(self, name: str, bounds: Bounds) -> None:
        self.name = name
        self.bounds = bounds
        self.values = 0

    def copy(self, raw: object, where: str, depth: int) -> Any:
        self.values += 1
        if self.values > self.bounds.values:
            raise _too_many(self.name, self.bounds)
        if depth > self.bounds.depth:
            raise _too_deep(self.name, self.bounds)
        match raw:
            case Mapping():
                return {
                    clean(key, where): self.copy(item, inside(where, key), depth + 1)
                    for key, item in mapping(raw, where).items()
                }
            case list() | tuple():
                return [self.copy(item, inside(where, i), depth + 1) for i, item in enumerate(raw)]
            case os.PathLike():
                return self.text(os.fspath(raw), where)
            case str():
                return clean(raw, where)
            case float() if self.bounds.finite:
                return number(raw, where)
            case _:
                return raw

    def text(self, text: object, where: str) -> str:
        if not isinstance(text, str):
            raise RecipeError(f"{where}: expected text, got {shown(text)}")
        return clean(text, where)


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
