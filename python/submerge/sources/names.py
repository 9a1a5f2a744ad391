"""Names of models as users write them: a path, a hub id, an address pasted from a browser.

A name is told by its form alone, but for one question: what exists on this machine under that name
is that, so that no folder `owner/name` is ever taken for the repository of the same name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from submerge.errors import RecipeError, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

__all__ = ["Bucket", "Hub", "Local", "Name", "Web", "read_name"]

_PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_ID = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_REVISION = re.compile(r"\w[\w.+-]*(?:/[\w.+-]*\w[\w.+-]*)*", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WEIGHTS = (".safetensors", ".sft", ".gguf")
_FILES = (*_WEIGHTS, ".json", ".yaml", ".yml", ".ckpt", ".pt", ".pth", ".bin")
_HUBS = ("huggingface.co", "www.huggingface.co", "hf.co")
_VIEWS = ("blob", "resolve", "tree", "raw")
_BUCKETS = ("s3", "gs", "az")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EXPECTED = "`owner/name`, `hf://owner/name@revision/path`, or an address of a weights file"


@dataclass(frozen=True, slots=True)
class Local:
    """A path of this machine, there or not."""

    path: str


@dataclass(frozen=True, slots=True)
class Hub:
    """A model repository of the hub, or something in it.

    Attributes:
        repository: `owner/name`.
        revision: a branch, tag, commit or `refs/pr/N`; None is the default branch.
        path: a file or folder in the repository; empty is the whole.
    """

    repository: str
    revision: str | None = None
    path: str = ""

    @property
    def is_file(self) -> bool:
        """Tell whether a file is named, by its ending."""
        return self.path.lower().endswith(_FILES)

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"hf://{self.repository}{at}{'/' * bool(self.path)}{self.path}"


@dataclass(frozen=True, slots=True)
class Web:
    """A file of weights on a web server."""

    url: str


@dataclass(frozen=True, slots=True)
class Bucket:
    """A file of weights in an object store."""

    url: str


if TYPE_CHECKING:
    Name: TypeAlias = Local | Hub | Web | Bucket
else:
    Name = Local | Hub | Web | Bucket


def read_name(text: str, where: str = "model") -> Name:
    """Return what a name means; nothing is asked of any server.

    Args:
        text: a path, `owner/name[@revision]`, `hf://owner/name[@revision][/path]`, the address of a
            model's page or file on the hub, `https://` to a weights file, `s3://`, `gs://`, `az://`.
        where: the field it was given in, for messages.

    Raises:
        RecipeError: an address of a form that is not known, or that leads to no model.
    """
    if os.path.lexists(text):
        return Local(text)
    scheme, separator, rest = text.partition("://")
    if not separator or not _SCHEME.match(text):
        return _bare(text)
    scheme = scheme.lower()
    if scheme == "hf":
        return _hub_address(rest, text, where)
    if scheme in _BUCKETS:
        return Bucket(_weights(text, rest, text, where))
    if scheme in ("http", "https"):
        return _web(scheme, text, where)
    raise _malformed(text, where, f"an address of `{scheme}`")


def _bare(text: str) -> Local | Hub:
    """Return a hub id where a name can be one; a file's name with its ending is a missing file."""
    repository, at, revision = text.partition("@")
    is_id = _ID.fullmatch(repository) and not repository.lower().endswith(_FILES)
    if is_id and not at:
        return Hub(repository)
    if is_id and _REVISION.fullmatch(revision) and not revision.lower().endswith(_FILES):
        return Hub(repository, revision)
    return Local(text)


def _hub_address(rest: str, text: str, where: str) -> Hub:
    parts = rest.rstrip("/").split("/")
    if len(parts) > 2 and parts[0] in ("datasets", "spaces"):
        raise _malformed(text, where, f"one of the hub's {parts[0]}")
    if len(parts) < 2:
        raise _malformed(text, where, "no repository")
    name, at, revision = parts[1].partition("@")
    inside = parts[2:]
    if at and revision == "refs" and len(inside) > 1:  # the only revisions with slashes
        revision, inside = "/".join(["refs", *inside[:2]]), inside[2:]
    return _hub(f"{parts[0]}/{name}", unquote(revision) if at else None, inside, (text, where))


def _web(scheme: str, text: str, where: str) -> Hub | Web:
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        secret = url.username is not None or url.password is not None
        _ = url.port
    except ValueError as error:
        raise _malformed(text, where, f"a damaged address ({error})") from error
    if secret:
        # The address is not shown: it would put the password into logs.
        raise RecipeError(
            f"{where}: an address of {quoted(host)} with a user or password, expected none",
            hint="an address ends up in recipes and reports; fetch the file another way",
        )
    if host in _HUBS:
        return _page([unquote(part) for part in url.path.strip("/").split("/")], text, where)
    if scheme == "http" and host not in _LOOPBACK:
        raise RecipeError(
            f"{where}: {quoted(text)}: unprotected, expected `https://`",
            hint="whoever passes the bytes on could change them",
        )
    return Web(_weights(text, url.path, text, where))


def _page(parts: Sequence[str], text: str, where: str) -> Hub:
    """Return what a page of the hub shows: `/owner/name`, `/owner/name/blob/revision/path`."""
    if parts[0] in ("datasets", "spaces", "collections", "papers"):
        raise _malformed(text, where, f"one of the hub's {parts[0]}")
    if len(parts) < 2:
        raise _malformed(text, where, "no repository")
    repository, view, rest = "/".join(parts[:2]), parts[2:3], list(parts[3:])
    if not view:
        return _hub(repository, None, (), (text, where))
    if view[0] not in _VIEWS or not rest:
        raise _malformed(text, where, f"its page `{'/'.join(parts[2:])}`")
    count = 3 if rest[0] == "refs" and len(rest) > 2 else 1
    return _hub(repository, "/".join(rest[:count]), rest[count:], (text, where))


def _hub(
    repository: str, revision: str | None, inside: Sequence[str], given: tuple[str, str]
) -> Hub:
    """Return a place in a repository, every part of which is checked: it becomes a path here."""
    if not _ID.fullmatch(repository):
        raise _malformed(*given, f"the repository {quoted(repository)}")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _malformed(*given, f"the revision {quoted(revision)}")
    for part in inside:
        if part in ("", ".", "..") or not part.isprintable() or set(part) & set("\\/:*?[]"):
            raise _malformed(*given, f"the path {quoted('/'.join(inside))}")
    return Hub(repository, revision, "/".join(inside))


def _weights(found: str, path: str, text: str, where: str) -> str:
    if not path.lower().endswith(_WEIGHTS):
        raise RecipeError(
            f"{where}: {quoted(text)}: expected an address that ends in "
            f"{', '.join(_WEIGHTS[:-1])} or {_WEIGHTS[-1]}",
            hint="name the file itself, not the page about it",
        )
    return found


def _malformed(text: str, where: str, got: str) -> RecipeError:
    return RecipeError(f"{where}: {quoted(text)}: expected {_EXPECTED}, got {got}")
