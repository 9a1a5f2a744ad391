"""Models of the hub, fetched by huggingface_hub from a stand-in on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from inference.hub_server import COMMIT, HubServer, hub_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ID = "acme/x"
FILES = {
    "flux-x.safetensors": b"the whole again",
    "model_index.json": b"{}",
    "transformer/config.json": b"{1}",
    "transformer/model.safetensors": b"weights",
    "vae/config.json": b"{2}",
    "images/fox.png": b"a picture",
}
SCRIPT = """
import sys
from submerge.errors import SubmergeError
from submerge.inference.request import fetched
try:
    print(fetched(sys.argv[1]))
except SubmergeError as error:
    print("refused", error.message.splitlines()[0], error.hint, sep="|")
"""


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server(ID, FILES) as server:
        yield server


def fetch(server: HubServer, cache: Path, name: str, **more: str) -> str:
    """Return what a new process prints: huggingface_hub reads its surroundings once."""
    surroundings = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "no_proxy": "127.0.0.1",
        **more,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name],
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def held(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("name", "wanted", "beside"),
    [
        (ID, "", {"transformer/config.json", "vae/config.json", "model_index.json"}),
        (f"hf://{ID}@v1/transformer", "transformer", set()),
        (f"https://huggingface.co/{ID}/tree/main/transformer", "transformer", set()),
    ],
)
def test_only_what_is_needed_is_fetched_at_one_commit(
    server: HubServer, tmp_path: Path, name: str, wanted: str, beside: set[str]
) -> None:
    snapshot = tmp_path / f"hub/models--acme--x/snapshots/{COMMIT}"
    assert fetch(server, tmp_path, name) == str(snapshot / wanted)
    expected = {"transformer/config.json", "transformer/model.safetensors"} | beside
    assert held(snapshot) == expected


def test_a_file_is_fetched_alone_and_once(server: HubServer, tmp_path: Path) -> None:
    name = f"https://huggingface.co/{ID}/blob/main/flux-x.safetensors"
    path = fetch(server, tmp_path, name)
    snapshot = tmp_path / f"hub/models--acme--x/snapshots/{COMMIT}"
    assert path == str(snapshot / "flux-x.safetensors")
    assert held(snapshot) == {"flux-x.safetensors"}
    assert (snapshot / "flux-x.safetensors").read_bytes() == FILES["flux-x.safetensors"]
    assert fetch(server, tmp_path, name) == path
    assert sum(asked.startswith("GET") and "/resolve/" in asked for asked in server.asked) == 1
    asked = len(server.asked)
    assert fetch(server, tmp_path, name, HF_HUB_OFFLINE="1") == path
    assert len(server.asked) == asked


@pytest.mark.parametrize("token", ["", "hf_nobody"])
def test_a_closed_gate_is_told(server: HubServer, tmp_path: Path, token: str) -> None:
    server.gate = "closed"
    name = f"hf://{ID}/flux-x.safetensors"
    told = fetch(server, tmp_path, name, **({"HF_TOKEN": token} if token else {}))
    assert told.startswith(f"refused|{name}: no such file or folder, and not fetched from the hub")
    assert f"{403 if token else 401}" in told
    assert told.endswith("|check the path, or log in with `hf auth login` for a gated model")


@pytest.mark.parametrize(
    "name",
    ["acme/other", f"{ID}@v2", f"hf://{ID}/none.safetensors", f"hf://{ID}/none"],
)
def test_what_the_hub_does_not_have_is_told(server: HubServer, tmp_path: Path, name: str) -> None:
    assert fetch(server, tmp_path, name).startswith(f"refused|{name}: ")


def test_offline_and_not_there_is_told(server: HubServer, tmp_path: Path) -> None:
    assert fetch(server, tmp_path, ID, HF_HUB_OFFLINE="1").startswith(f"refused|{ID}: ")
    assert server.asked == []


def test_an_address_elsewhere_is_not_fetched(server: HubServer, tmp_path: Path) -> None:
    told = fetch(server, tmp_path, f"{server.url}/w.safetensors")
    assert "expected a path or a model of the hub, got an address" in told
    assert server.asked == []


def test_nothing_is_asked_for_names_of_files(server: HubServer, tmp_path: Path) -> None:
    assert fetch(server, tmp_path, "out/w.safetensors") == "out/w.safetensors"
    assert server.asked == []
