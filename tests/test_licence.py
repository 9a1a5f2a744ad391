"""The licence that follows from the parents, and what the card says of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

import factory
from factory import KREA, SCHNELL, Flux
from planning import opened, planned
from submerge.errors import RecipeError
from submerge.plan import Plan, compile_plan
from submerge.plan.labels import hub_id, label
from submerge.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

DEV = "flux-1-dev-non-commercial-license"
NOTICE = (
    "The FLUX.1 [dev] Model is licensed by Black Forest Labs Inc. under the FLUX.1 [dev] "
    "Non-Commercial License. Copyright Black Forest Labs Inc.\nIN NO EVENT SHALL BLACK FOREST "
    "LABS INC. BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF "
    "CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH USE OF THIS MODEL."
)


def stated(folder: Path, name: str, flux: Flux, facts: dict[str, str]) -> Path:
    return factory.write(folder / f"{name}.safetensors", factory.tensors(flux), facts)


def licensed(
    folder: Path, models: dict[str, Path], recipe: dict[str, Any], **licences: str
) -> Plan:
    sources = {n: {"path": str(p), "license": licences.get(n)} for n, p in models.items()}
    sources = {n: {k: v for k, v in s.items() if v} for n, s in sources.items()}
    loaded = Recipe.load({"models": sources} | recipe)
    return compile_plan(loaded, opened(models), folder / "out")


def front(plan: Plan) -> dict[str, Any]:
    card = next(text.text for text in plan.texts if text.path == "README.md")
    _, matter, _ = card.split("---\n", 2)
    data: dict[str, Any] = YAML(typ="safe").load(matter)
    return data


@pytest.mark.parametrize(
    ("a", "b", "recipe", "expected"),
    [
        ((SCHNELL, {}), (SCHNELL, {}), {"alpha": 0.5}, ["apache-2.0"]),
        ((SCHNELL, {}), (KREA, {}), {"alpha": 0.5}, [DEV]),
        ((KREA, {}), (SCHNELL, {}), {"alpha": 0.01}, [DEV]),
        ((SCHNELL, {}), (KREA, {}), {"alpha": 0.0}, ["apache-2.0"]),
        ((SCHNELL, {}), (KREA, {}), {"alpha": 1.0}, [DEV]),
        ((SCHNELL, {}), (KREA, {}), {"alpha": 0.5, "guidance": "drop"}, [DEV]),
        # Only the guidance of a parent, baked.
        (
            (SCHNELL, {}),
            (KREA, {}),
            {
                "alpha": 0,
                "rules": [{"where": "guidance", "take": "b"}],
                "guidance": {"bake": 3.5},
            },
            [DEV],
        ),
        # An output of ours without guidance remembers.
        ((SCHNELL, {}), (SCHNELL, {"modelspec.license": DEV}), {"alpha": 0.5}, [DEV]),
        ((SCHNELL, {}), (SCHNELL, {"submerge.license": DEV}), {"alpha": 0.5}, [DEV]),
        (
            (SCHNELL, {"modelspec.license": "FLUX.1 [dev] Non-Commercial License"}),
            (SCHNELL, {}),
            {"alpha": 0.5},
            [DEV],
        ),
        (
            (SCHNELL, {"modelspec.license": "Apache License 2.0"}),
            (SCHNELL, {}),
            {"alpha": 0.5},
            ["apache-2.0"],
        ),
        # A permissive statement does not free a [dev] model.
        ((SCHNELL, {}), (KREA, {"modelspec.license": "apache-2.0"}), {"alpha": 0.5}, [DEV]),
        (
            (SCHNELL, {"modelspec.license": "cc-by-nc-4.0"}),
            (KREA, {}),
            {"alpha": 0.5},
            [DEV, "cc-by-nc-4.0"],
        ),
        (
            (SCHNELL, {"submerge.license": f"{DEV} AND cc-by-nc-4.0"}),
            (SCHNELL, {}),
            {"alpha": 0.5},
            [DEV, "cc-by-nc-4.0"],
        ),
    ],
)
def test_an_output_has_the_restrictions_of_its_parents(
    tmp_path: Path,
    a: tuple[Flux, dict[str, str]],
    b: tuple[Flux, dict[str, str]],
    recipe: dict[str, Any],
    expected: list[str],
) -> None:
    paths: dict[str, Flux | Path] = {
        name: stated(tmp_path, name, flux, facts)
        for name, (flux, facts) in zip("ab", (a, b), strict=True)
    }
    plan = planned(tmp_path, paths, recipe | {"output": {"layout": "diffusers"}}, "out")
    facts = plan.files[0].metadata
    assert facts["submerge.license"] == facts["modelspec.license"] == " AND ".join(expected)
    card = front(plan)
    notice = next(text.text for text in plan.texts if text.path == "NOTICE")
    readme = next(text.text for text in plan.texts if text.path == "README.md")
    assert (NOTICE in notice) == (DEV in expected)
    assert ("was modified" in readme) == (DEV in expected)
    if expected == ["apache-2.0"]:
        assert card["license"] == "apache-2.0"
        assert "license_name" not in card
    else:
        assert card["license"] == "other"
        assert card["license_name"] == "-and-".join(expected)
        assert "license_link" in card
        assert any("licence text" in note for note in plan.about.notes)
    assert all(name in plan.describe() for name in expected)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("cc-by-nc-4.0", [DEV, "cc-by-nc-4.0"]),
        (DEV, [DEV]),
        ("apache-2.0 (granted)", ["apache-2.0"]),
        ("acme-license (granted)", ["acme-license"]),
    ],
)
def test_a_recipe_adds_to_a_licence_or_says_that_it_was_granted(
    tmp_path: Path, declared: str, expected: list[str]
) -> None:
    path = factory.save_file(tmp_path / "k.safetensors", KREA)
    plan = licensed(tmp_path, {"k": path}, {"take": "k"}, k=declared)
    assert plan.files[0].metadata["submerge.license"] == " AND ".join(expected)
    assert any("says the recipe" in note for note in plan.about.notes) == (declared != DEV)


@pytest.mark.parametrize("declared", ["apache-2.0", "mit", "Apache 2.0"])
def test_a_recipe_does_not_loosen_a_licence(tmp_path: Path, declared: str) -> None:
    path = factory.save_file(tmp_path / "k.safetensors", KREA)
    with pytest.raises(RecipeError) as caught:
        licensed(tmp_path, {"k": path}, {"take": "k"}, k=declared)
    assert f"recipe.models.k.license: `{declared}` is less restrictive" in caught.value.message
    assert f"license: {declared} (granted)" in (caught.value.hint or "")


def test_the_models_own_card_counts_and_its_licence_text_is_taken_over(tmp_path: Path) -> None:
    for name, matter, text in (
        ("plain", "license: apache-2.0", None),
        ("named", "license: other\nlicense_name: acme-1.0", "LICENSE.txt"),
        ("krea", "license: other\nlicense_name: flux-1-dev-non-commercial-license", "LICENSE.md"),
    ):
        folder = factory.save_folder(tmp_path / name, SCHNELL)
        (folder / "README.md").write_text(f"---\n{matter}\ntags: [a]\n---\n# x\n", encoding="utf-8")
        if text:
            (folder / text).write_text("terms", encoding="utf-8")
    paths = {name: tmp_path / name for name in ("plain", "named", "krea")}
    equal = {"weight": dict.fromkeys(paths, 1)}
    plan = licensed(tmp_path, paths, equal)
    assert plan.files[0].metadata["submerge.license"] == f"{DEV} AND acme-1.0"
    copies = {copy.path: copy.source for copy in plan.copies}
    assert copies == {
        "LICENSE.md": tmp_path / "krea" / "LICENSE.md",
        "LICENSE-named.txt": tmp_path / "named" / "LICENSE.txt",
    }
    assert front(plan)["license_link"] == "LICENSE.md"
    assert not any("licence text" in note for note in plan.about.notes)


def test_models_nobody_knows_have_an_unknown_licence(tmp_path: Path) -> None:
    model = factory.save_file(tmp_path / "m.safetensors", SCHNELL)
    plan = planned(tmp_path, {"m": model}, {"take": "m"}, layout="generic")
    assert plan.files[0].metadata["submerge.license"] == "unknown"


def test_a_card_tells_the_hub_of_the_parents(tmp_path: Path) -> None:
    cache = tmp_path / "models--black-forest-labs--FLUX.1-schnell" / "snapshots" / "abc"
    schnell = factory.save_pipeline(cache, SCHNELL)
    krea = factory.save_file(tmp_path / "secret" / "my-krea.safetensors", KREA)
    recipe = {
        "alpha": 0.3,
        "rules": [{"where": "double[0]", "take": "k"}],
        "output": {"title": "Fox"},
    }
    plan = planned(tmp_path, {"s": schnell, "k": krea}, recipe, "merged")
    card = front(plan)
    assert card["base_model"] == ["black-forest-labs/FLUX.1-schnell"]
    assert card["base_model_relation"] == "merge"
    assert card["library_name"] == "diffusers"
    assert card["pipeline_tag"] == "text-to-image"
    assert card["tags"] == ["merge", "submerge", "flux"]
    text = next(text.text for text in plan.texts if text.path == "README.md")
    assert "# Fox\n" in text
    assert "| `double[0]`, `guidance` | k |" in text or "| `guidance`, `double[0]` | k |" in text
    assert "0.70 * s + 0.30 * k" in text
    body = text.split("```yaml\n")[1].split("```")[0]
    again = Recipe.load(body).to_dict()
    assert list(again["models"]) == ["s", "k"]
    assert again["method"] == {"linear": {"alpha": 0.3}}
    everything = json.dumps(plan.plain()["texts"]) + json.dumps(plan.plain()["files"])
    assert "secret" not in everything
    assert str(tmp_path) not in everything
    assert dict(plan.files[0].metadata)["modelspec.title"] == "Fox"


def test_a_conversion_is_no_merge(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"k": KREA}, {"take": "k"}, "out")
    card = front(plan)
    assert "base_model_relation" not in card
    assert "merge" not in card["tags"]
    assert plan.files[0].metadata["modelspec.tags"] == "submerge, flux"


def test_no_card_on_request_and_none_beside_a_file(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"k": KREA}, {"take": "k", "output": {"card": False}}, "out")
    assert [text.path for text in plan.texts] == ["config.json"]
    assert any("NOTICE" in note for note in plan.about.notes)
    plan = planned(tmp_path, {"k": KREA}, {"take": "k"})
    assert plan.texts == ()
    assert any("metadata only" in note for note in plan.about.notes)


@pytest.mark.parametrize(
    ("path", "name", "hub"),
    [
        ("/m/schnell.safetensors", "schnell", None),
        ("/m/schnell/", "schnell", None),
        ("/m/schnell/transformer", "schnell", None),
        ("/m/schnell/model_index.json", "schnell", None),
        ("/m/a/transformer/diffusion_pytorch_model.safetensors.index.json", "a", None),
        ("/m/a/diffusion_pytorch_model-00001-of-00003.safetensors", "a", None),
        ("/m/a/diffusion_pytorch_model.fp16.safetensors", "a", None),
        ("/m/FLUX.1-dev", "FLUX.1-dev", None),
        (
            "/c/models--black-forest-labs--FLUX.1-dev/snapshots/0a1/transformer",
            "black-forest-labs/FLUX.1-dev",
            "black-forest-labs/FLUX.1-dev",
        ),
        (
            "/m/black-forest-labs/FLUX.1-dev/transformer",
            "black-forest-labs/FLUX.1-dev",
            "black-forest-labs/FLUX.1-dev",
        ),
        ("hf://acme/model@v1/file.safetensors", "acme/model", "acme/model"),
    ],
)
def test_labels_say_which_model_and_not_where(path: str, name: str, hub: str | None) -> None:
    assert label(path) == name
    assert hub_id(path) == hub
