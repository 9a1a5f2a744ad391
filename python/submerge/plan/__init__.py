"""Plans: what a recipe and opened models come to, as data the core executes.

`compile_plan` makes one; converting is a recipe with one model and `take`. `comparison_plan`, in a
module of its own, is for measuring two models against each other.
"""

from submerge.plan.about import About, Parent, Unused
from submerge.plan.compile import compile_plan
from submerge.plan.form import OutputTensor, Plan, Unit

__all__ = [
    "About",
    "OutputTensor",
    "Parent",
    "Plan",
    "Unit",
    "Unused",
    "compile_plan",
]
