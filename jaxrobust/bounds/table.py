"""Every primitive that has bounds, and how a step finds its rule.

Another primitive is one more entry: in `AFFINE` if it is affine in what depends on the
image, in `CURVES` if it is a function of one variable, and else in `CHOICES` or
`PRODUCTS` or a table of its own, joined here.
"""

from collections.abc import Callable

from jaxrobust.bounds.affine import AFFINE, is_product_with_constant
from jaxrobust.bounds.choices import CHOICES, is_choice_of_constants
from jaxrobust.bounds.curves import CURVES
from jaxrobust.bounds.products import PRODUCTS
from jaxrobust.bounds.program import Known, Step, refused
from jaxrobust.bounds.rules import Affine, Nonlinear, Rule

__all__ = ["NONLINEAR", "PRIMITIVES", "rule_of"]

NONLINEAR: dict[str, Nonlinear] = CHOICES | CURVES | PRODUCTS

PRIMITIVES = tuple(sorted({*AFFINE, *NONLINEAR}))
"""Names of all primitives of JAX that have bounds; calls are inlined besides."""

_IS_AFFINE: dict[str, Callable[[Step], bool]] = {
    "select_n": is_choice_of_constants,
    **dict.fromkeys(
        ("conv_general_dilated", "div", "dot_general", "mul"), is_product_with_constant
    ),
}
"""Of primitives that are affine for some operands only."""

_FIXED_OPERANDS = {"dynamic_slice": 1, "dynamic_update_slice": 2, "gather": 1}
"""From which operand on the places stand that a primitive looks at."""


def rule_of(step: Step) -> Rule:
    """The rule of a step.

    Raises:
        UnboundedError: for a primitive without one, or operands that it is not for.
    """
    name = step.primitive
    affine: Affine | None = AFFINE.get(name)
    if affine is not None and _IS_AFFINE.get(name, lambda step: True)(step):
        places = step.operands[_FIXED_OPERANDS.get(name, len(step.operands)) :]
        if name == "scatter":
            places = step.operands[1:2]
        if any(not isinstance(each, Known) for each in places):
            why = "at places that depend on the image"
            raise refused(name, step.source, why, "use places that are constant")
        return affine
    if name in NONLINEAR:
        return NONLINEAR[name]
    raise refused(
        name,
        step.source,
        "which has no rule",
        "write the function without it, or add a rule to the tables of "
        "`jaxrobust.bounds` (CONTRIBUTING.md)",
    )
