"""The model card and the notice that stand beside an output folder.

Both follow from the recipe and the parents; they name no machine path, no date and no person. The
front matter is what the hub reads: parents, relation, licence, tags.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.given import dump_yaml
from submerge.plan.labels import hub_id
from submerge.plan.licence import is_permissive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.plan.about import Applied, Parent
    from submerge.plan.licence import Licence

__all__ = ["Facts", "card", "notice"]

_DEV_LINK = "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md"
_APACHE_LINK = "https://www.apache.org/licenses/LICENSE-2.0"
# Section 3.b of the FLUX.1 [dev] Non-Commercial License v1.1.1, word for word
# (black-forest-labs/flux `model_licenses/LICENSE-FLUX1-dev`).
_ATTRIBUTION = (
    "The FLUX.1 [dev] Model is licensed by Black Forest Labs Inc. under the FLUX.1 [dev] "
    "Non-Commercial License. Copyright Black Forest Labs Inc.\n"
    "IN NO EVENT SHALL BLACK FOREST LABS INC. BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, "
    "WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION "
    "WITH USE OF THIS MODEL."
)

_MODIFIED = (
    "The FLUX.1 [dev] Model was modified: its weights were merged with those of the models named "
    "here. This model is no official product of Black Forest Labs Inc. and is not endorsed, "
    "approved or validated by it."
)
_DERIVATIVE = (
    "It is a Derivative of the FLUX.1 [dev] Model: it may be used and distributed for "
    "non-commercial purposes only, and whoever passes it on passes on the notice below and the "
    "FLUX.1 [dev] Non-Commercial License"
)


class Facts(NamedTuple):
    """What the card tells.

    Attributes:
        formulas: each formula with the selectors of its units.
        paths: where each parent was named, to find its hub id.
        license_file: name of the licence text in the output folder, or None.
        public: the recipe without machine paths.
        folder: name of the output folder.
        adapters: what was added to the models and to the result.
    """

    title: str
    parents: Sequence[Parent]
    paths: Mapping[str, str]
    formulas: Sequence[tuple[str, Sequence[str]]]
    guidance: str
    licence: Licence
    license_file: str | None
    public: Mapping[str, Any]
    folder: str
    adapters: Sequence[Applied] = ()


def card(facts: Facts) -> str:
    """Return the README.md of an output folder."""
    front = dump_yaml(_front_matter(facts))
    parents = [
        f"| `{p.name}` | {hub_id(facts.paths[p.name]) or p.label} | {p.variant} | {p.license} |"
        for p in facts.parents
    ]
    rows = [f"| {', '.join(f'`{w}`' for w in where)} | {f} |" for f, where in facts.formulas]
    return "\n".join(
        [
            f"---\n{front}---",
            f"# {facts.title}\n",
            f"{_parents(facts)}, made with submerge:\n",
            f"{_main_formula(facts)}\n",
            "| model | source | kind | licence |",
            "|---|---|---|---|",
            *parents,
            *_adapters(facts),
            "\n## Blocks\n",
            "| where | result |",
            "|---|---|",
            *rows,
            f"\nGuidance: {facts.guidance}.",
            "\n## Recipe\n",
            f"```yaml\n{dump_yaml(dict(facts.public))}```",
            "\nWith the models' paths filled in, the same version of submerge makes it again:\n",
            f"```\nsubmerge merge recipe.yaml -o {json.dumps(facts.folder)}\n```",
            "\n## Licence\n",
            _terms(facts),
        ]
    )


def _adapters(facts: Facts) -> list[str]:
    """Return the table of the adapters, if there are any."""
    rows = [
        f"| `{a.name}` | {hub_id(facts.paths[a.name]) or a.label} | {a.onto or 'the result'} | "
        f"{a.kind} | {a.license} |"
        for a in facts.adapters
    ]
    head = ["", "| adapter | source | onto | kind | licence |", "|---|---|---|---|---|"]
    return [*head, *rows] if rows else []


def notice(licence: Licence, parents: Sequence[Parent | Applied]) -> str:
    """Return the NOTICE: the attribution the licence asks for and the statement of changes."""
    used = "\n".join(f"- {p.label}: {p.license}" for p in parents if p.contributes)
    parts = [f"This model was made from, and is a modified version of:\n\n{used}"]
    if licence.is_dev:
        parts += [
            _ATTRIBUTION,
            _MODIFIED,
        ]
    others = [name for name in licence.names if not is_permissive(name)]
    if others:
        parts.append(f"Terms that apply to this model: {', '.join(others)}.")
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: Facts) -> dict[str, Any]:
    both: list[Parent | Applied] = [*facts.parents, *facts.adapters]
    used = [parent for parent in both if parent.contributes]
    # What is no id links the hub to nothing, or to somebody else's model of that name.
    ids = [known for p in used if (known := hub_id(facts.paths[p.name])) is not None]
    # One parent in another form is no merge, and the hub should not list it as one.
    merged = len(used) > 1
    data: dict[str, Any] = {"base_model": ids} if ids else {}
    data |= {"base_model_relation": "merge"} if ids and merged else {}
    data |= {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    tags = ["merge", "submerge", "flux"]
    return data | _licence_fields(facts) | {"tags": tags if merged else tags[1:]}


def _licence_fields(facts: Facts) -> dict[str, str]:
    """Return the hub's fields: an id of its own for the usual licences, else a name and a link."""
    names = facts.licence.names
    if len(names) == 1 and is_permissive(names[0]):
        return {"license": names[0]}
    fields = {"license": "other", "license_name": "-and-".join(names)}
    link = facts.license_file or (_DEV_LINK if facts.licence.is_dev else None)
    return fields if link is None else fields | {"license_link": link}


def _parents(facts: Facts) -> str:
    names = [parent.label for parent in facts.parents if parent.contributes]
    added = [adapter.label for adapter in facts.adapters if adapter.contributes]
    if len(names) == 1:
        return f"{names[0]} with {' and '.join(added)}" if added else f"{names[0]} in another form"
    return f"A merge of {', '.join(names[:-1])} and {names[-1]}, block by block"


def _main_formula(facts: Facts) -> str:
    formula, where = facts.formulas[0]
    if len(facts.formulas) == 1:
        return f"    result = {formula}"
    return f"    result = {formula}    ({', '.join(where)}; the rest below)"


def _terms(facts: Facts) -> str:
    licence = facts.licence
    lines = [f"This model is under: {licence.words}."]
    if licence.is_dev:
        link = facts.license_file or _DEV_LINK
        lines += [
            "",
            f"{_DERIVATIVE} ({link})",
            "",
            *(f"> {line}" for line in _ATTRIBUTION.splitlines()),
            "",
            _MODIFIED,
        ]
    elif "apache-2.0" in licence.names:
        lines += ["", f"[Apache License 2.0]({_APACHE_LINK}); the parents' weights were changed."]
    return "\n".join(lines) + "\n"
