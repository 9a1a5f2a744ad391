"""How models are named: by path, by hub id, by address; what each name is taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from submerge.errors import RecipeError
from submerge.sources import Bucket, Hub, Local, Web, read_name

if TYPE_CHECKING:
    from pathlib import Path

ID = "acme/FLUX.1-x"
PAGE = f"https://huggingface.co/{ID}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ID, Hub(ID)),
        (f"{ID}@v1.0", Hub(ID, "v1.0")),
        (f"{ID}@{COMMIT}", Hub(ID, COMMIT)),
        (f"{ID}@refs/pr/3", Hub(ID, "refs/pr/3")),
        (f"hf://{ID}", Hub(ID)),
        (f"hf://{ID}/", Hub(ID)),
        (f"hf://{ID}@v1", Hub(ID, "v1")),
        (f"hf://{ID}@v1/transformer", Hub(ID, "v1", "transformer")),
        (f"hf://{ID}/a/b.safetensors", Hub(ID, None, "a/b.safetensors")),
        (f"hf://{ID}@refs/pr/3/b.gguf", Hub(ID, "refs/pr/3", "b.gguf")),
        (f"hf://{ID}@refs%2Fpr%2F3/b.gguf", Hub(ID, "refs/pr/3", "b.gguf")),
        (PAGE, Hub(ID)),
        (f"{PAGE}/", Hub(ID)),
        (f"{PAGE}?library=diffusers#files", Hub(ID)),
        (f"{PAGE}/tree/main", Hub(ID, "main")),
        (f"{PAGE}/tree/main/transformer", Hub(ID, "main", "transformer")),
        (f"{PAGE}/blob/{COMMIT}/x.safetensors", Hub(ID, COMMIT, "x.safetensors")),
        (f"{PAGE}/resolve/main/x.gguf?download=true", Hub(ID, "main", "x.gguf")),
        (f"{PAGE}/blob/refs%2Fpr%2F3/a%20b.gguf", Hub(ID, "refs/pr/3", "a b.gguf")),
        (f"https://hf.co/{ID}", Hub(ID)),
        ("https://cdn.example/w.safetensors?sig=1", Web("https://cdn.example/w.safetensors?sig=1")),
        ("http://127.0.0.1:8000/w.SFT", Web("http://127.0.0.1:8000/w.SFT")),
        ("s3://bucket/key/w.safetensors", Bucket("s3://bucket/key/w.safetensors")),
        ("gs://bucket/w.gguf", Bucket("gs://bucket/w.gguf")),
        ("az://container/w.sft", Bucket("az://container/w.sft")),
        # Names of files and folders that are not there, which no hub is asked for.
        ("out/merged.safetensors", Local("out/merged.safetensors")),
        ("models/w.GGUF", Local("models/w.GGUF")),
        ("./acme/x", Local("./acme/x")),
        ("../acme", Local("../acme")),
        ("~/models", Local("~/models")),
        ("/models/x", Local("/models/x")),
        ("acme", Local("acme")),
        ("a/b/c", Local("a/b/c")),
        ("acme/", Local("acme/")),
        ("C:/models", Local("C:/models")),
        ("C:\\models\\x", Local("C:\\models\\x")),
        ("acme/x@", Local("acme/x@")),
        ("acme/x@v1/w.safetensors", Local("acme/x@v1/w.safetensors")),
    ],
)
def test_a_name_is_taken_for(text: str, expected: object) -> None:
    assert read_name(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hf://acme", "no repository"),
        ("hf://", "no repository"),
        ("hf://datasets/acme/x", "datasets"),
        ("hf://ac me/x", "repository"),
        ("hf://acme/x@/w.gguf", "revision"),
        ("hf://acme/x@a..b/w.gguf", "revision"),
        ("hf://acme/x@..%2F..%2Fy/w.gguf", "revision"),
        ("hf://acme/x/../y", "path"),
        ("hf://acme/x//y", "path"),
        ("hf://acme/x/*", "path"),
        ("hf://acme/x/a\\b", "path"),
        ("hf://acme/x/a\0b", "path"),
        ("https://huggingface.co/acme", "no repository"),
        ("https://huggingface.co/spaces/acme/x", "spaces"),
        (f"{PAGE}/discussions/3", "page"),
        (f"{PAGE}/blob/main/..%2F..%2Fx.gguf", "path"),
        (f"{PAGE}/blob", "page"),
        ("https://cdn.example/model", "ends in"),
        ("https://cdn.example/x?file=w.safetensors", "ends in"),
        ("https://[cdn/w.safetensors", "damaged"),
        ("https://cdn.example:x/w.safetensors", "damaged"),
        ("http://cdn.example/w.safetensors", "https"),
        ("s3://bucket/key", "ends in"),
        ("ftp://cdn.example/w.safetensors", "`ftp`"),
    ],
)
def test_an_address_that_leads_to_no_model_is_refused(text: str, named: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_name(text, "recipe.models.a.path")
    assert caught.value.message.startswith("recipe.models.a.path: ")
    assert named in caught.value.message


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(RecipeError, match="user or password") as caught:
        read_name("https://me:secret@cdn.example/w.safetensors")
    assert "secret" not in str(caught.value)


def test_what_exists_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_name(ID) == Hub(ID)
    (tmp_path / ID).mkdir(parents=True)
    assert read_name(ID) == Local(ID)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (Hub(ID), f"hf://{ID}"),
        (Hub(ID, "v1"), f"hf://{ID}@v1"),
        (Hub(ID, "refs/pr/3", "a/b.gguf"), f"hf://{ID}@refs/pr/3/a/b.gguf"),
        (Hub(ID, None, "transformer"), f"hf://{ID}/transformer"),
    ],
)
def test_a_hub_name_reads_back_as_written(name: Hub, text: str) -> None:
    assert str(name) == text
    assert read_name(text) == name
