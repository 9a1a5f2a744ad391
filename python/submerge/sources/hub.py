"""Models of the hub, through its own library: its cache, tokens, endpoint and offline mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from submerge.errors import SubmergeError

if TYPE_CHECKING:
    from submerge.sources.names import Hub

__all__ = ["download"]

# The repositories of FLUX.1 hold every weight a second time, as single files at the top.
_PIPELINE = ("model_index.json", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model")


def download(name: Hub, given: str) -> Path:
    """Return where a model lies in the hub library's cache, fetching what is not there yet.

    A whole repository is fetched as a pipeline: its components, not what lies at the top; a folder
    whole; a file alone.

    Args:
        name: what to fetch.
        given: how the user named it, for messages.

    Raises:
        SubmergeError: the library is missing, there is nothing of that name, a gate is closed, or
            the hub cannot be reached.
    """
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError as error:
        raise SubmergeError(
            f"huggingface_hub: cannot be imported, expected to be installed: {error}",
            hint="pip install 'submerge[hub]'",
        ) from error
    try:
        if name.is_file:
            return Path(hf_hub_download(name.repository, name.path, revision=name.revision))
        wanted = [f"{name.path}/*"] if name.path else list(_PIPELINE)
        found = snapshot_download(name.repository, revision=name.revision, allow_patterns=wanted)
    except (OSError, ValueError) as error:
        raise SubmergeError(
            f"{given}: no such file or folder, and not fetched from the hub: {error}",
            hint="check the path, or log in with `hf auth login` for a gated model",
        ) from error
    folder = Path(found) / name.path
    if not folder.is_dir():
        raise SubmergeError(
            f"{given}: the repository has nothing below `{name.path}`, expected a folder or file",
            hint="look up the path on the model's page",
        )
    return folder
