"""What is public travels: errors and results go through pickle and copy, into other processes."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import factory
import submerge
from factory import KREA, SCHNELL
from submerge import errors
from submerge.errors import RecipeError, SubmergeError
from submerge.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

ERRORS = [name for name in submerge.__all__ if hasattr(errors, name)]
# A loaded model holds the memory of a device, a view what a run needs; a protocol has no objects
# of its own.
STAY = {"LoadedModel", "Scorer", "CancelToken", "View"}
WAYS: tuple[Callable[[Any], Any], ...] = (
    *(partial(lambda p, x: pickle.loads(pickle.dumps(x, p)), p) for p in (2, 5)),  # noqa: S301
    copy.copy,
    copy.deepcopy,
)


def wrong(field: str = "alpha") -> Any:
    return Recipe.load({"models": {"a": 1}, field: "x"})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ERRORS)
def test_errors_travel(name: str, way: Callable[[Any], Any]) -> None:
    made = getattr(submerge, name)("`x`: is wrong, expected right", hint="write y")
    made.add_note("seen at noon")
    found = way(made)
    assert type(found) is type(made)
    assert (found.message, found.hint, str(found)) == (made.message, made.hint, str(made))
    assert found.__notes__ == ["seen at noon"]


@pytest.mark.parametrize("way", WAYS)
def test_everything_wrong_travels(way: Callable[[Any], Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        wrong()
    found = way(caught.value)
    assert type(found) is RecipeError
    assert str(found) == str(caught.value)
    assert [str(fault) for fault in found.faults] == [str(fault) for fault in caught.value.faults]
    assert len(found.faults) == 2


def test_every_error_has_a_public_name() -> None:
    made = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    kinds = {kind.__name__ for kind in made if issubclass(kind, SubmergeError)}
    assert kinds == set(ERRORS)
    found = list(SubmergeError.__subclasses__())
    for kind in found:
        found += kind.__subclasses__()
    assert {kind.__name__ for kind in found if kind.__module__.startswith("submerge")} <= kinds


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One of each public class, by name."""
    folder = tmp_path_factory.mktemp("travel")
    schnell = factory.save_pipeline(folder / "schnell", SCHNELL)
    krea = factory.save_file(folder / "krea.safetensors", KREA, "bfl")
    config = {"alpha": 0.3, "output_path": str(folder / "out")}
    merged = submerge.merge_flux_models(schnell, krea, config)
    analysis = submerge.analyze(schnell, krea)
    with submerge.profile() as profile:
        pass
    return {
        "Analysis": analysis,
        "Difference": submerge.diff(schnell, krea),
        "Inspection": submerge.inspect(krea),
        "LoadPlan": submerge.inference.plan_loading(schnell, device="cpu"),
        "MergedModel": merged,
        "Plan": submerge.plan(merged.recipe, folder / "other.safetensors"),
        "Profile": profile,
        "Recipe": merged.recipe,
        "Report": merged.report,
        "Suggestion": submerge.suggest(analysis),
        "Verification": submerge.verify(merged.path),
    }


# Results of painting, which needs torch; what they hold is plain data and pictures.
MADE = ("Evaluation", "GeneratedImage", "Grid", "InferenceResult", "Measurement", "Reproduction")
OPTIONS = ("EvaluateOptions", "InferenceOptions", "RunOptions", "Workload")
CLASSES = [
    name
    for name in submerge.__all__
    if isinstance(getattr(submerge, name), type) and name not in {*ERRORS, *STAY}
    and not issubclass(getattr(submerge, name), dict)  # arguments: plain dicts
]  # fmt: skip


def example(name: str, results: dict[str, Any]) -> Any:
    kind = getattr(submerge, name)
    if name in OPTIONS:
        return kind()
    if name in MADE:
        return kind(**{f.name: {f.name: [1, "a", None]} for f in fields(kind) if f.init})
    return results[name]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CLASSES)
def test_results_travel(name: str, way: Callable[[Any], Any], results: dict[str, Any]) -> None:
    made = example(name, results)
    assert type(made).__name__ == name
    found = way(made)
    assert type(found) is type(made)
    told = next((how for how in ("to_dict", "to_json") if hasattr(made, how)), None)
    if told is None or name in {*MADE, *OPTIONS}:
        assert vars(found) == vars(made) if hasattr(made, "__dict__") else found == made
    else:
        assert getattr(found, told)() == getattr(made, told)()


def test_what_every_class_is_made_of_is_in_the_table(results: dict[str, Any]) -> None:
    assert set(CLASSES) == {*results, *MADE, *OPTIONS}


def test_a_token_is_of_one_process() -> None:
    token = submerge.CancelToken()
    assert copy.copy(token) is copy.deepcopy(token) is token
    assert copy.deepcopy(submerge.RunOptions(cancel=token)).cancel is token
    with pytest.raises(TypeError, match="belongs to one process, it cannot be pickled"):
        pickle.dumps(submerge.RunOptions(cancel=token))


@pytest.mark.parametrize("way", WAYS)
def test_a_view_stays_but_its_recipe_travels(way: Callable[[Any], Any], tmp_path: Path) -> None:
    models = {name: str(factory.save_file(tmp_path / f"{name}.safetensors", KREA)) for name in "ab"}
    view = submerge.open({"models": models, "alpha": 0.5})
    with pytest.raises(TypeError, match="a View belongs to one process, it cannot be pickled or"):
        way(view)
    again = submerge.open(way(view.recipe))
    assert {name: again.bytes(name) for name in again} == {name: view.bytes(name) for name in view}


def test_a_process_pool_goes_on_after_a_wrong_recipe(tmp_path: Path) -> None:
    models = {name: str(factory.save_file(tmp_path / f"{name}.safetensors", KREA)) for name in "ab"}
    good = {"models": models, "alpha": 0.5}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for wrong in ({**good, "alpha": "x", "seed": -1}, {**good, "rules": [{"where": "dubble"}]}):
            with pytest.raises(RecipeError) as caught:
                pool.submit(submerge.plan, wrong, "out").result(60)
            assert caught.value.message.startswith("recipe.")
        with pytest.raises(FileNotFoundError):
            pool.submit(submerge.inspect, tmp_path / "nowhere").result(60)
        made = pool.submit(submerge.merge, good, str(tmp_path / "out.safetensors")).result(60)
    assert made.path == Path(tmp_path / "out.safetensors")
