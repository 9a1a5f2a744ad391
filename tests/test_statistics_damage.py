"""Damaged, foreign and hostile statistics: the merge looks again, and gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import factory
import submerge
from factory import KREA, SCHNELL
from shop import Shop, random, settle, trusting
from submerge import statistics

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    trusting(monkeypatch)
    return Shop(tmp_path)


def signed(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def with_numbers(content: bytes, change: Callable[[list[int]], object]) -> bytes:
    """The file with every unit's numbers changed, and the right checksum."""
    found = json.loads(content.partition(b"\n")[2])
    return signed(json.dumps({key: change(list(found[key])) for key in found}).encode())


NAN = 0x7FF8_0000_0000_0000
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "cut short": lambda c: c[:-1],
    "cut in the checksum": lambda c: c[:20],
    "one bit": lambda c: c[:100] + bytes([c[100] ^ 1]) + c[101:],
    "one digit": lambda c: c[:-4] + (b"1" if c[-4:-3] != b"1" else b"2") + c[-3:],
    "foreign": lambda _: b"\x89PNG\r\n" + bytes(range(256)),
    "not text": lambda _: signed(b"\xff\xfe{}"),
    "not JSON": lambda _: signed(b"{"),
    "a list": lambda _: signed(b"[1, 2]"),
    "deep": lambda _: signed(b"[" * 100_000),
    "long digits": lambda _: signed(b'{"a": [' + b"9" * 5000 + b"]}"),
    "too long": lambda c: signed(c.partition(b"\n")[2] + b" " * statistics._FILE_LIMIT),
    "not a list": lambda c: with_numbers(c, lambda _: {}),
    "text": lambda c: with_numbers(c, lambda n: [str(x) for x in n]),
    "floats": lambda c: with_numbers(c, lambda n: [float(x) for x in n]),
    "booleans": lambda c: with_numbers(c, lambda n: [True for _ in n]),
    "negative": lambda c: with_numbers(c, lambda n: [-x - 1 for x in n]),
    "more than 64 bits": lambda c: with_numbers(c, lambda n: [x + 2**64 for x in n]),
    # These pass the checksum; the core does not believe them.
    "too few": lambda c: with_numbers(c, lambda n: n[1:]),
    "too many": lambda c: with_numbers(c, lambda n: [*n, 0]),
    "NaN": lambda c: with_numbers(c, lambda n: [NAN, *n[1:]]),
    "none": lambda c: with_numbers(c, lambda _: []),
}
METHODS_DAMAGED = {
    "slerp": "slerp",
    "ties": {"ties": {"density": 0.4}},
    "sce": {"sce": {"select_topk": 0.5}},
}


@pytest.mark.parametrize("method", METHODS_DAMAGED)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_met_by_looking_again(shop: Shop, damage: str, method: str) -> None:
    count = 2 if method == "slerp" else 3
    made: dict[str, Any] = {"models": shop.models(*(random(i, (40, 60)) for i in range(count)))}
    made["method"] = METHODS_DAMAGED[method]
    made |= {} if method == "slerp" else {"base": "m0"}
    whole, _ = shop.merge(made)
    (file,) = shop.files()
    content = file.read_bytes()
    file.write_bytes(DAMAGE[damage](content))
    again, report = shop.merge(made)
    assert again == whole
    assert (report.run.statistics_computed, report.run.statistics_reused) == (1, 0)
    # It is made anew, beside the entries that are only foreign to this merge.
    assert shop.merge(made)[1].run.statistics_reused == 1


def test_a_pipe_and_a_folder_in_its_place_are_passed_over(shop: Shop) -> None:
    made = {"models": shop.models(random(1, (9, 9)), random(2, (9, 9))), "method": "slerp"}
    whole, _ = shop.merge(made)
    (file,) = shop.files()
    for make in filter(None, (getattr(os, "mkfifo", None), os.mkdir)):
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink()
        make(file)
        again, report = shop.merge(made)
        assert again == whole
        assert report.run.statistics_computed == 1


def test_a_folder_that_cannot_be_written_is_reported(shop: Shop) -> None:
    (shop.folder / "file").write_text("in the way")
    made = {"models": shop.models(random(1, (9, 9)), random(2, (9, 9))), "method": "slerp"}
    folder = shop.folder / "file" / "cache"
    _, report = shop.merge(made, statistics_cache=folder)
    assert report.run.statistics_cache == f"unused: `{folder}` cannot be written"
    assert report.to_dict()["run"]["statistics_cache"] == report.run.statistics_cache


def test_a_merge_that_fails_keeps_nothing(shop: Shop) -> None:
    made = {"models": shop.models(random(1, (90, 90)), random(2, (90, 90))), "method": "slerp"}
    cancel = submerge.CancelToken()
    cancel.cancel()
    with pytest.raises(submerge.Cancelled):
        shop.merge(made, cancel=cancel)
    assert shop.files() == []


def test_who_verifies_looks(shop: Shop) -> None:
    paths = {
        name: factory.save_file(shop.folder / f"{name}.safetensors", flux)
        for name, flux in (("schnell", SCHNELL), ("krea", KREA))
    }
    settle()
    made = {"models": {k: str(path) for k, path in paths.items()}, "method": "slerp"}
    shop.merge(made)
    (file,) = shop.files()
    file.write_bytes(with_numbers(file.read_bytes(), lambda n: [n[0], 0, n[2]]))
    _, report = shop.merge(made)
    assert report.run.statistics_computed == 0  # the checksum is right: somebody meant it
    out = shop.folder / "out.safetensors"
    assert not submerge.verify(out, recipe=made, statistics_cache=shop.cache).passed


def test_jobs_side_by_side_leave_a_whole_file(shop: Shop) -> None:
    models = shop.models(random(1, (90, 90)), random(2, (90, 90)))
    made = {"models": models, "method": "slerp"}
    outputs = []

    def job(i: int) -> None:
        out = shop.folder / f"out{i}.safetensors"
        submerge.merge(made, out, statistics_cache=shop.cache)
        outputs.append(out.read_bytes())

    threads = [threading.Thread(target=job, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(outputs)) == 1
    assert len(outputs) == 8
    assert [path.suffix for path in shop.files()] == [".statistics"]
    assert shop.merge(made)[1].run.statistics_reused == 1


@settings(max_examples=200)
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(signed),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda made: signed(json.dumps(made).encode())),
    )
)
def test_only_numbers_by_name_are_ever_read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.statistics")
        path.write_bytes(content)
        found = statistics._read(path)
    assert all(type(x) is int and 0 <= x < 2**64 for numbers in found.values() for x in numbers)
