"""What becomes of guidance when a parent has none."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
from factory import KREA, SCHNELL, Flux
from planning import interpret, planned
from submerge.errors import RecipeError
from submerge.layout import FAMILIES

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.plan import Plan

S, K, D = SCHNELL, KREA, Flux(guidance=True, seed=2)
GUIDANCE = (
    "guidance.in.bias",
    "guidance.in.weight",
    "guidance.out.bias",
    "guidance.out.weight",
)
# In the diffusers layout; `in` is linear_1 and `out` linear_2.
NAMES = {
    unit: unit.replace("guidance.", "time_text_embed.guidance_embedder.")
    .replace(".in.", ".linear_1.")
    .replace(".out.", ".linear_2.")
    for unit in GUIDANCE
}


NETWORK = FAMILIES["flux1"].guidance


def mixtures(plan: Plan) -> dict[str, dict[str, float]]:
    """Weights by model of each guidance unit of the output."""
    found = {}
    for unit in plan.units:
        if unit.name.startswith("guidance."):
            weights = unit.weights or (1.0,)
            found[unit.name] = dict(zip(unit.models, weights, strict=True))
    return found


def test_the_sinusoid_is_cos_then_sin_of_a_thousand_times_the_value() -> None:
    assert NETWORK is not None
    found = NETWORK.sinusoid(3.5, 256)
    frequencies = [10_000 ** (-i / 128) for i in range(128)]
    assert len(found) == 256
    assert found[0] == math.cos(3500.0)
    assert found[128] == math.sin(3500.0)
    expected = [f(3500.0 * w) for f in (math.cos, math.sin) for w in frequencies]
    assert np.allclose(found, expected, rtol=0, atol=1e-9)
    assert NETWORK.sinusoid(1.0, 5) == (*NETWORK.sinusoid(1.0, 4), 0.0)
    assert NETWORK.sinusoid(0.0, 4) == (1.0, 1.0, 0.0, 0.0)


W = {"weight": {"s": 1, "k": 1, "d": 2}}
ONE = {"k": 1.0}


@pytest.mark.parametrize(
    ("models", "recipe", "inner", "outer"),
    [
        ("sk", {"alpha": 0.3}, ONE, ONE),
        ("ks", {"alpha": 0.3}, ONE, ONE),
        ("sk", {"alpha": 0.0}, None, None),
        ("sk", {"alpha": 1.0}, ONE, ONE),
        ("sk", {"take": "s"}, None, None),
        ("sk", {"alpha": {"single": 0.5, "default": 0}}, ONE, ONE),
        ("kd", {"alpha": 0.25}, {"k": 0.75, "d": 0.25}, {"k": 0.75, "d": 0.25}),
        ("skd", W, {"k": 1 / 3, "d": 2 / 3}, {"k": 1 / 3, "d": 2 / 3}),
        ("sk", {"alpha": 0.3, "guidance": "scale"}, ONE, {"k": 0.3}),
        ("sk", {"alpha": 0.3, "guidance": {"scale": 0.8}}, ONE, {"k": 0.8}),
        ("sk", {"alpha": 1.0, "guidance": "scale"}, ONE, ONE),
        (
            "kd",
            {"alpha": 0.25, "guidance": "scale"},
            {"k": 0.75, "d": 0.25},
            {"k": 0.75, "d": 0.25},
        ),
        ("skd", {**W, "guidance": "scale"}, {"k": 1 / 3, "d": 2 / 3}, {"k": 0.25, "d": 0.5}),
        ("sk", {"alpha": 0.3, "guidance": "drop"}, None, None),
        ("kd", {"alpha": 0.3, "guidance": "drop"}, None, None),
        ("sk", {"alpha": 0.3, "guidance": {"bake": 3.5}}, None, None),
        # A rule that names guidance wins over the policy.
        ("skd", {**W, "rules": [{"where": "guidance", "take": "k"}]}, ONE, ONE),
        (
            "sk",
            {"alpha": 0.3, "guidance": "scale", "rules": [{"where": "guidance", "take": "k"}]},
            ONE,
            ONE,
        ),
        (
            "sk",
            {"alpha": 0.3, "guidance": "drop", "rules": [{"where": "guidance", "take": "k"}]},
            ONE,
            ONE,
        ),
        ("sk", {"alpha": 0.3, "rules": [{"where": "guidance", "take": "s"}]}, None, None),
        (
            "sk",
            {"alpha": 0.3, "guidance": "scale", "rules": [{"where": "guidance", "alpha": 0.6}]},
            ONE,
            {"k": 0.6},
        ),
        # One that reaches it by a wildcard gives weights, and the policy stands.
        ("sk", {"guidance": "drop", "rules": [{"where": "**", "alpha": 0.6}]}, None, None),
        # What is shut out stays as in the first model, which may have none.
        ("sk", {"alpha": 0.3, "exclude": ["guidance"]}, None, None),
        ("ks", {"alpha": 0.3, "exclude": ["guidance"]}, ONE, ONE),
        ("sk", {"alpha": 0.3, "include": ["double", "guidance"]}, ONE, ONE),
        ("sk", {"alpha": 0.3, "include": ["double"]}, None, None),
        ("ss", {"alpha": 0.3}, None, None),
        ("ss", {"alpha": 0.3, "guidance": "scale"}, None, None),
        ("ss", {"alpha": 0.3, "guidance": "drop"}, None, None),
    ],
)
def test_policies(
    tmp_path: Path,
    models: str,
    recipe: dict[str, Any],
    inner: dict[str, float] | None,
    outer: dict[str, float] | None,
) -> None:
    kinds: dict[str, Flux] = {"s": S, "k": K, "d": D, "t": Flux(seed=5)}
    named = models.replace("ss", "st")
    plan = planned(tmp_path, {name: kinds[name] for name in named}, recipe, "out")
    found = mixtures(plan)
    config = json.loads(next(t.text for t in plan.texts if t.path == "config.json"))
    assert config["guidance_embeds"] is (inner is not None)
    arch = plan.files[0].metadata["modelspec.architecture"]
    assert arch == ("flux-1-dev" if inner is not None else "flux-1-schnell")
    if inner is None or outer is None:
        assert found == {}
        assert "guidance_embeds true" not in plan.about.guidance
        return
    assert set(found) == set(GUIDANCE)
    for unit, mixture in found.items():
        expected = inner if ".in." in unit else outer
        assert mixture == pytest.approx(expected)
    assert "guidance_embeds true" in plan.about.guidance


def test_baking_adds_the_embedding_to_the_time_embedder(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"weight": {"s": 1, "k": 1, "d": 2}, "guidance": {"bake": 3.5}}
    models = {"s": S, "k": K, "d": D}
    plan = planned(tmp_path, models, recipe)
    plain = planned(tmp_path, models, recipe | {"guidance": "drop"})
    k, d = (factory.tensors(model) for model in (K, D))

    def mixed(unit: str) -> Any:
        name = NAMES[unit]
        return k[name].astype(np.float64) / 3 + d[name].astype(np.float64) * 2 / 3

    angles = 3500.0 * 10_000.0 ** (-np.arange(128) / 128)
    embedded = np.concatenate([np.cos(angles), np.sin(angles)])
    hidden = mixed("guidance.in.weight") @ embedded + mixed("guidance.in.bias")
    added = mixed("guidance.out.weight") @ (hidden / (1 + np.exp(-hidden)))
    added += mixed("guidance.out.bias")
    before, after = interpret(plain), interpret(plan)
    name = "time_text_embed.timestep_embedder.linear_2.bias"
    sum_before = sum(
        weight * factory.tensors(model)[name].astype(np.float64)
        for weight, model in ((0.25, S), (0.25, K), (0.5, D))
    )
    # One rounding to BF16, 8 bits of precision.
    assert np.allclose(after[name].astype(np.float64), sum_before + added, rtol=2**-8, atol=1e-6)
    assert np.abs(added).max() > 0.05
    assert not set(NAMES.values()) & set(after)
    for other in set(before) - {name}:
        assert np.array_equal(before[other], after[other])
    unused = {(u.model, name) for u in plan.about.unused for name in u.tensors}
    assert unused == {(model, name) for model in "kd" for name in NAMES.values()}
    assert all("baked" in u.reason or "folded" in u.reason for u in plan.about.unused)


def test_baking_a_lone_guided_parent_keeps_the_whole_mlp(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"s": S, "k": K}, {"alpha": 0.25, "guidance": {"bake": 0}})
    (unit,) = (u for u in plan.units if u.name == "embed.time.out.bias")
    assert unit.models == ("k", "s")
    assert unit.weights == (0.25, 0.75)
    mlp = unit.plain()["added"][0]["network"]
    assert mlp["input"] == [1.0] * 128 + [0.0] * 128
    assert all(
        layer[part]["weights"] == [1.0] for layer in mlp["layers"] for part in ("weight", "bias")
    )
    assert [layer["weight"]["operands"][0]["tensor"] for layer in mlp["layers"]] == [
        NAMES["guidance.in.weight"],
        NAMES["guidance.out.weight"],
    ]


@pytest.mark.parametrize(
    ("models", "recipe", "message"),
    [
        ("st", {"alpha": 0.3, "guidance": {"bake": 3.5}}, "nothing to bake at 3.5, no model has"),
        ("sk", {"alpha": 0.0, "guidance": {"bake": 3.5}}, "nothing to bake at 3.5"),
        (
            "sk",
            {"alpha": 0.3, "guidance": {"bake": 1}, "exclude": ["guidance"]},
            "exclude takes `s`, which has none",
        ),
        (
            "sk",
            {"alpha": 0.3, "rules": [{"where": "guidance.in", "take": "s"}]},
            "2 units: `guidance.in.bias`, `guidance.in.weight` left without a source",
        ),
        (
            "sk",
            {"guidance": "drop", "rules": [{"where": "guidance.out", "take": "k"}]},
            "expected all 4 guidance units or none",
        ),
        (
            "skd",
            {
                "weight": {"s": 1, "k": 1},
                "rules": [
                    {"where": "guidance", "take": "s"},
                    {"where": "double", "weight": {"d": 1}},
                ],
            },
            None,
        ),
        (
            "skd",
            {
                "method": {"linear": {"weight": {"s": 1}, "normalize": False}},
                "rules": [{"where": "double", "weight": {"k": 1, "d": 1}}],
            },
            "2 guided models: `k`, `d` in `guidance.in.bias` sum to 0",
        ),
    ],
)
def test_refusals(tmp_path: Path, models: str, recipe: dict[str, Any], message: str | None) -> None:
    kinds = {"s": S, "k": K, "d": D, "t": Flux(seed=5)}
    parents = {name: kinds[name] for name in models}
    if message is None:
        assert mixtures(planned(tmp_path, parents, recipe)) == {}
        return
    with pytest.raises(RecipeError) as caught:
        planned(tmp_path, parents, recipe)
    assert message in caught.value.message
    assert caught.value.hint
