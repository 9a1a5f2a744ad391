"""The forms an adapter is written in: what its tensors are called, and its metadata.

Whatever is written has a scale of 1: alpha is the rank, and strengths are in the factors.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FORMS", "Form", "FormName", "Ranked", "form_metadata"]

FormName: TypeAlias = Literal["peft", "kohya", "comfy"]


class Form(NamedTuple):
    """One form.

    Attributes:
        layout: whose names modules have.
        prefix: what stands before a module's name.
        separator: what stands for a dot in it.
        down: what is put to the module's name for the second factor (rank, columns).
        up: for the first factor (rows, rank).
        bias: for the difference of a bias.
        norm: for the difference of a norm; None where it has none.
        whole: for a whole norm; None where it has none.
        alpha: for the alpha; None where metadata has it.
    """

    layout: str
    prefix: str
    separator: str
    down: str
    up: str
    bias: str
    norm: str | None
    whole: str | None
    alpha: str | None

    @property
    def scales_bias(self) -> bool:
        """Whether readers multiply a bias by the scale, as it is that of a factor."""
        return self.bias.startswith(".lora_B")

    def stem(self, module: str) -> str:
        """Return what the names of a module's tensors begin with."""
        return self.prefix + module.replace(".", self.separator)


# Sources: diffusers 0.42 `loaders/lora_pipeline.py`, kohya-ss/sd-scripts `networks/lora_flux.py`,
# ComfyUI `comfy/lora.py`.
FORMS: Mapping[str, Form] = {
    "peft": Form(
        "diffusers", "transformer.", ".", ".lora_A.weight", ".lora_B.weight", ".lora_B.bias",
        None, ".weight", None,
    ),
    "kohya": Form(
        "bfl", "lora_unet_", "_", ".lora_down.weight", ".lora_up.weight", ".diff_b", ".diff",
        None, ".alpha",
    ),
    "comfy": Form(
        "bfl", "diffusion_model.", ".", ".lora_down.weight", ".lora_up.weight", ".diff_b", ".diff",
        ".scale.set_weight", ".alpha",
    ),
}  # fmt: skip


class Ranked(NamedTuple):
    """A module that is written.

    Attributes:
        name: its name in the form's layout.
        rank: its rank.
        scale: what readers multiply its product by.
    """

    name: str
    rank: int
    scale: float

    @property
    def alpha(self) -> float:
        """The scale times the rank, a whole number as one."""
        alpha = self.scale * self.rank
        return int(alpha) if alpha == int(alpha) else alpha


def form_metadata(
    name: str, modules: Sequence[Ranked], *, biased: bool, longest: bool = False
) -> dict[str, str]:
    """Return what the programs that read a form want to know.

    Args:
        name: the form.
        modules: what is written.
        biased: whether factors have biases beside them.
        longest: write out rank and alpha of every module, as if no two were equal.
    """
    if not modules:  # norms and biases alone
        return {}
    rank, alpha = Counter((m.rank, m.alpha) for m in modules).most_common(1)[0][0]
    if name == "peft":
        # A pattern ends a module's name at a dot: without `^` that of `proj_out` would end others'.
        config = {
            "alpha_pattern": {
                f"^{m.name}": m.alpha for m in modules if longest or m.alpha != alpha
            },
            "lora_alpha": alpha,
            "lora_bias": biased,
            "peft_type": "LORA",
            "r": rank,
            "rank_pattern": {f"^{m.name}": m.rank for m in modules if longest or m.rank != rank},
            "target_modules": [m.name for m in modules],
            "use_dora": False,
            "use_rslora": False,
        }
        named = {f"transformer.{key}": value for key, value in config.items()}
        return {"lora_adapter_metadata": json.dumps(named, separators=(",", ":"))}
    if name == "kohya":
        one = not longest and len({(m.rank, m.alpha) for m in modules}) == 1
        return {
            "ss_base_model_version": "flux1",
            "ss_network_alpha": str(alpha) if one else "Dynamic" + 16 * " " * longest,
            "ss_network_dim": str(rank) if one else "Dynamic",
            "ss_network_module": "networks.lora_flux",
        }
    return {}
