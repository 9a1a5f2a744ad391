"""Selectors against an independent matcher, and the names of blocks and parts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from submerge.blocks import Selector, block_of, blocks_of, part_of, position, select
from submerge.errors import RecipeError

STREAM = ("mod", "attn.q", "attn.k", "attn.v", "attn.out", "norm.q", "norm.k", "mlp.in", "mlp.out")
SINGLE = ("mod", "attn.q", "attn.k", "attn.v", "norm.q", "norm.k", "mlp.in", "out")
NAMES = [
    *("embed.img.weight", "embed.time.in.bias", "guidance.in.weight", "guidance.out.bias"),
    *(f"double.{i}.{s}.{u}.weight" for i in range(19) for s in ("img", "txt") for u in STREAM),
    *(f"single.{i}.{u}.bias" for i in range(38) for u in SINGLE),
    *("final.mod.shift.weight", "final.linear.bias"),
]


def matched(text: str) -> list[str]:
    return select(Selector.parse(text, "recipe"), NAMES)


def expected(pattern: str) -> list[str]:
    return [name for name in NAMES if re.fullmatch(rf"(?:{pattern})(?:\..*)?", name)]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("double[0:8].img.attn", r"double\.[0-7]\.img\.attn"),
        ("double[3]", r"double\.3"),
        ("double[0,5,7]", r"double\.[057]"),
        ("double[ 0 , 17: ].img", r"double\.(0|17|18)\.img"),
        ("double[:2].*.mlp.out", r"double\.[01]\.(img|txt)\.mlp\.out"),
        ("double[0:8:3]", r"double\.[036]"),
        ("double[1]", r"double\.1"),
        ("double", r"double\.\d+"),
        ("double[*]", r"double\.\d+"),
        ("double.txt.norm", r"double\.\d+\.txt\.norm"),
        ("double.7.img.attn.q.weight", r"double\.7\.img\.attn\.q\.weight"),
        ("single[*].mlp", r"single\.\d+\.mlp"),
        ("single[37].out.bias", r"single\.37\.out\.bias"),
        ("*[3]", r"(double|single)\.3"),
        ("guidance", r"guidance"),
        ("final", r"final"),
        ("final.mod.shift", r"final\.mod\.shift"),
        ("embed.*", r"embed\.\w+"),
        ("sing*.attn.?", r"single\.\d+\.attn\.[qkv]"),
        ("**", r".*"),
        ("**.attn.q", r"(double\.\d+\.(img|txt)|single\.\d+)\.attn\.q"),
        ("**.bias", r".*\.bias"),
        ("double[0].**.weight", r"double\.0\..*\.weight"),
        ("*.attn", r"single\.\d+\.attn"),
    ],
)
def test_selectors(text: str, pattern: str) -> None:
    assert matched(text) == expected(pattern) != []


@pytest.mark.parametrize(
    "text", ["attn.q", "dou", "double[0:8].im", "ouble", "embed.im", "final.mod.s"]
)
def test_selectors_are_no_substrings(text: str) -> None:
    with pytest.raises(RecipeError, match="matches nothing"):
        matched(text)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "the selector is empty", "`**`"),
        ("  ", "the selector is empty", "`**`"),
        ("double..img", "`double..img` has an empty segment", ""),
        (".img", "has an empty segment", ""),
        ("double[1", "malformed segment `double[1`", "double[3]"),
        ("double]1[", "malformed segment `double]1[`", "double[3]"),
        ("[3]", "malformed segment `[3]`", "double[3]"),
        ("double.**x", "malformed segment `**x`", "double[3]"),
        ("double[-1]", "has the indices `-1`, expected numbers", "double[0:8]"),
        ("double[]", "has the indices ``", "double[0:8]"),
        ("double[1,]", "has the indices ``", "double[0:8]"),
        ("double[a]", "has the indices `a`", "double[0:8]"),
        ("double[1.5]", "has the indices `1.5`", "double[0:8]"),
        ("double[٣]", "has the indices `٣`", "double[0:8]"),
        ("double[3:3]", "has the slice `3:3`, which is empty", "`[3:4]`"),
        ("double[8:0]", "has the slice `8:0`, which is empty", "`[3:4]`"),
        ("double[0:8:0]", "has the slice `0:8:0`, which is empty", "`[3:4]`"),
        ("double[99]", "matches nothing", "`double` has the indices 0 to 18"),
        ("single[38:].attn", "matches nothing", "`single` has the indices 0 to 37"),
        ("doulbe[0:3].img", "matches nothing", "did you mean `double[*].img`"),
        ("single[*].mpl", "matches nothing", "`single[*].mlp`"),
        ("guidence", "matches nothing", "`guidance`"),
        ("layers.1", "at least one of 652 units", "names begin with `double[*]`, `embed`, `final`"),
    ],
)
def test_refusals(text: str, message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        select(Selector.parse(text, "recipe.rules[2].where"), NAMES)
    assert caught.value.message.startswith("recipe.rules[2].where: ")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_generic_name_has_its_indices_too() -> None:
    names = [f"model.layers.{i}.mlp.0.weight" for i in range(12)] + ["lm_head.weight"]
    chosen = select(Selector.parse("model.layers[1]", "w"), names)
    assert chosen == ["model.layers.1.mlp.0.weight"]
    assert len(select(Selector.parse("model.layers[0:4].mlp[0]", "w"), names)) == 4


@given(st.slices(25), st.sampled_from(["double", "single"]))
def test_slices_are_pythons(chosen: slice, stack: str) -> None:
    depth = {"double": 19, "single": 38}[stack]
    start, stop, step = chosen.start or 0, chosen.stop, chosen.step or 1
    if start < 0 or step < 0 or (stop is not None and stop <= start) or start >= depth:
        return
    text = f"{stack}[{start}:{'' if stop is None else stop}:{step}]"
    blocks = {index for _, index in blocks_of(matched(text))}
    assert blocks == set(range(depth)[start:stop:step])


SEGMENTS = st.sampled_from(
    ["double", "single", "img", "attn", "q", "*", "**", "?", "mlp", "weight"]
)
NAME_SEGMENTS = st.sampled_from(["double", "img", "attn", "q", "k", "mlp", "weight"])


@given(st.lists(SEGMENTS, min_size=1, max_size=5), st.lists(NAME_SEGMENTS, min_size=1, max_size=6))
def test_globs_agree_with_a_regular_expression(parts: list[str], name: list[str]) -> None:
    # Every segment is written with a dot in front, so that `**` can stand for none.
    pattern = "".join(
        r"(?:\.[^.]+)*"
        if part == "**"
        else r"\." + re.escape(part).replace(r"\*", "[^.]*").replace(r"\?", "[^.]")
        for part in parts
    )
    oracle = re.fullmatch(pattern + r"(?:\.[^.]+)*", "." + ".".join(name)) is not None
    assert Selector.parse(".".join(parts), "w").matches(".".join(name)) == oracle


@given(st.text(max_size=30))
def test_any_text_is_a_selector_or_a_recipe_error(text: str) -> None:
    try:
        parsed = Selector.parse(text, "recipe")
    except RecipeError:
        return
    for name in NAMES[::50]:
        parsed.matches(name)


@given(st.sampled_from(NAMES))
def test_every_name_selects_itself_alone(name: str) -> None:
    assert matched(name) == [name]


@pytest.mark.parametrize(
    ("name", "block", "part"),
    [
        ("embed.time.in.bias", None, "embed"),
        ("guidance.in.weight", None, "guidance"),
        ("final.mod.shift.weight", None, "final"),
        ("double.7.img.attn.q.weight", ("double", 7), "attn.q"),
        ("double.7.txt.attn.out.bias", ("double", 7), "attn.out"),
        ("double.18.txt.mlp.in.bias", ("double", 18), "mlp"),
        ("double.0.img.mod.bias", ("double", 0), "mod"),
        ("double.0.txt.norm.k.weight", ("double", 0), "norm"),
        ("single.37.attn.v.bias", ("single", 37), "attn.v"),
        ("single.37.mlp.in.bias", ("single", 37), "mlp"),
        ("single.37.out.weight", ("single", 37), "out"),
        ("double_blocks.0.img_attn.qkv.weight", None, "other"),
        ("vae.decoder.weight", None, "other"),
        ("double.weight", None, "other"),
        ("double.3", ("double", 3), "other"),
    ],
)
def test_blocks_and_parts(name: str, block: tuple[str, int] | None, part: str) -> None:
    assert block_of(name) == block
    assert part_of(name) == part


def test_blocks_come_in_execution_order() -> None:
    names = [
        "single.1.out.bias",
        "double.10.img.mod.bias",
        "final.linear.bias",
        "double.2.x",
        "double.2.y",
    ]
    assert blocks_of(names) == [("double", 2), ("double", 10), ("single", 1)]


def test_positions_run_from_the_first_to_the_last_block() -> None:
    blocks = [("double", 4), ("double", 5), ("single", 0), ("single", 9), ("single", 10)]
    names = [f"{stack}.{index}.mod.bias" for stack, index in blocks]
    assert [position(name, blocks) for name in names] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert position("embed.img.weight", blocks) == position("guidance.in.bias", blocks) == 0.0
    assert position("final.linear.bias", blocks) == 1.0
    assert position("double.4.x", blocks[:1]) == 0.0
    with pytest.raises(ValueError, match="not in"):
        position("double.3.img.mod.bias", blocks)
