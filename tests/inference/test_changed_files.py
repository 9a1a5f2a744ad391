"""A model's files change while it is painted with: an error, never a mixture, never a signal."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from factory import KREA, save_file
from inference.plans import alone, on_a_gpu
from submerge.errors import CheckpointError
from submerge.inference import load_model, loading, run_inference
from submerge.inference.placing import Placed
from test_reading import CHANGES, posix, replace, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = posix

SMALL: Any = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
TEXT = "a fox in snow"
CHANGED = r"changed while|not the file that|can no longer be read|was replaced"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_file(tmp_path / "krea.safetensors", KREA, "bfl")


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "plan_load", on_a_gpu("disk"))


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("change", CHANGES)
def test_a_transformer_that_changes_before_it_is_streamed(
    pipelines: dict[str, Path], model: Path, change: Callable[[Path], None]
) -> None:
    with load_model(model, device="cpu", components=pipelines["krea"]) as loaded:
        change(model)
        with pytest.raises(CheckpointError, match=CHANGED):
            run_inference(loaded, TEXT, SMALL)


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("change", CHANGES)
def test_a_transformer_that_changes_between_two_steps(
    pipelines: dict[str, Path], model: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    def stepped(done: int, _total: int) -> None:
        if done == 1:
            change(model)

    with load_model(model, device="cpu", components=pipelines["krea"]) as loaded:
        with pytest.raises(CheckpointError, match=CHANGED):
            run_inference(loaded, TEXT, SMALL, output=tmp_path / "out", callback=stepped)
        assert list((tmp_path / "out").iterdir()) == []
        # Nor does it paint afterwards, whatever was read before.
        with pytest.raises(CheckpointError, match=CHANGED):
            run_inference(loaded, TEXT, SMALL)


@pytest.mark.parametrize("change", [rewrite, replace])
@pytest.mark.parametrize("candidate", ["resident", "disk"])
def test_files_that_change_between_planning_and_loading(
    pipelines: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    candidate: str,
    change: Callable[[Path], None],
) -> None:
    """Of the transformer, a text encoder and the VAE alike."""
    monkeypatch.setattr(loading, "plan_load", on_a_gpu(candidate))
    begin = Placed.__init__
    for part in ("transformer", "text_encoder_2", "vae"):
        folder = shutil.copytree(pipelines["krea"], tmp_path / part)
        (file,) = (folder / part).glob("*.safetensors")

        def late(placed: Placed, *how: Any, file: Path = file, **more: Any) -> None:
            change(file)
            begin(placed, *how, **more)

        monkeypatch.setattr(Placed, "__init__", late)
        with pytest.raises(CheckpointError, match=rf"{file.name}.*({CHANGED})"):
            load_model(folder, device="cpu")


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_a_text_encoder_that_changes_before_it_is_streamed(
    pipelines: dict[str, Path], tmp_path: Path, part: str, change: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(pipelines["krea"], tmp_path / "p")
    (file,) = (folder / part).glob("*.safetensors")
    with load_model(folder, device="cpu") as loaded:
        change(file)
        with pytest.raises(CheckpointError, match=rf"{part}/{file.name}.*({CHANGED})") as caught:
            run_inference(loaded, TEXT, SMALL)
        assert caught.value.hint


PARTS = ("text_encoder", "text_encoder_2", "transformer", "vae")


def test_what_was_loaded_whole_needs_its_files_no_more(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    """In a process of its own: a part mapped into memory would end it with a signal."""
    program = """
        import os, sys
        from pathlib import Path
        from submerge.inference import load_model, run_inference

        options = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
        folder, parts, dtype = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3]

        def painted(model):
            model.texts.clear()
            return run_inference(model, "a fox", options)[0].image.tobytes()

        with load_model(folder, device="cpu", dtype=dtype) as model:
            before = painted(model)
            for part in parts:
                for file in (folder / part).glob("*.safetensors"):
                    os.truncate(file, 0)
            assert painted(model) == before
            print("the same image")
    """
    # As they are stored, whatever the libraries would map: the transformer bf16, the others f32.
    for dtype in ("bf16", "f32"):
        folder = shutil.copytree(pipelines["krea"], tmp_path / dtype)
        assert alone(program, folder, " ".join(PARTS), dtype) == "the same image\n"


@pytest.mark.parametrize("part", PARTS[:3])
def test_the_host_outlives_a_file_cut_short_while_it_paints(
    pipelines: dict[str, Path], tmp_path: Path, part: str
) -> None:
    """In a process of its own: a signal would end it."""
    program = """
        import os, sys
        from inference.plans import on_a_gpu
        from submerge.errors import CheckpointError
        from submerge.inference import load_model, loading, run_inference

        loading.plan_load = on_a_gpu("disk")
        folder, cut = sys.argv[1:]
        options = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}

        def truncate(*_):
            os.truncate(cut, 4096)

        with load_model(folder, device="cpu", dtype="f32") as model:
            if "text_encoder" in cut:  # some layers have computed, others are yet to be read
                for encoder in (model.pipe.text_encoder, model.pipe.text_encoder_2):
                    for name, layer in encoder.named_modules():
                        if name.endswith(("token_embedding", "embed_tokens")):
                            layer.register_forward_pre_hook(truncate)
            try:
                run_inference(model, "a fox", options, callback=truncate)
            except CheckpointError as error:
                print(error)
    """
    folder = shutil.copytree(pipelines["krea"], tmp_path / "p")
    (file,) = (folder / part).glob("*.safetensors")
    said = alone(program, folder, file)
    assert str(file) in said
    assert "can no longer be read" in said
