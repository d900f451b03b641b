"""What a checklist may spend, and what it takes for a small difference."""

import dataclasses

from jaxrobust.arguments import require, require_choice, require_count, require_in
from jaxrobust.attacks import PGD, AttackBuilder
from jaxrobust.evaluation.norms import instead
from jaxrobust.precision import MatmulPrecision, require_precision
from jaxrobust.threat import ThreatModel, norm_name, threat_of

__all__ = ["NORMS", "ChecklistConfig"]

NORMS = ("linf", "l2")
"""Norms that all attacks of the checklist have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChecklistConfig:
    """The attack to be judged and the budgets; the defaults take minutes on MNIST.

    Raises:
        ValueError: for an attack that is no builder, or a radius, share or count out of
            range.
    """

    attack: AttackBuilder = PGD(num_steps=100)
    """Builds the attack that is judged, such as `with_restarts(PGD(num_steps=100), 2)`;
    `checklist` says what it asks of one that is no PGD. The steps of every PGD in it
    are those at `epsilon`, and grow in proportion at other radii."""
    reference: PGD | None = None
    """The PGD beside an attack that is none: transferred from other models, going on
    from its images, and in its place where it has no setting for a question. None takes
    the attack if it is a PGD, else 100 steps that add up to 2.5 radii."""
    epsilon: float = 0.3
    """Radius the model is checked at, in units of [0, 1] pixels."""
    norm: str | type[ThreatModel] = "linf"
    """Norm of the ball: linf or l2 (`NORMS`), which all attacks of the checklist
    have."""
    num_images: int = 200
    """First images of every class, in proportion; fewer if there are fewer."""
    batch_size: int = 100
    """Images attacked at once."""
    many_restarts: int = 10
    """Starts in item 4."""
    long_steps: int = 2000
    """Steps in item 5."""
    num_radii: int = 5
    """Radii between 0 and the whole pixel range in item 6."""
    brute_force_samples: int = 10_000
    """Corners of the ball tried for each image in item 8; the paper's is 1e8."""
    zoo_steps: int = 40
    """Steps of ZOO in item 10; the default of the paper's toolbox is 10."""
    num_queries: int = 1000
    """Queries of the Square attack."""
    tolerance: float = 0.02
    """Share of the images (at least one) that a weaker attack may break alone."""
    change: float = 0.05
    """Share of the images (at least two) that "changes little" may mean."""
    seed: int = 0
    """Of everything random."""
    matmul_precision: MatmulPrecision = "default"
    """Of the attacks; their images are judged at highest."""

    def __post_init__(self):
        counts = (
            *("num_images", "batch_size", "many_restarts", "long_steps"),
            *("brute_force_samples", "zoo_steps", "num_queries"),
        )
        units = "radii and steps are in units of [0, 1] pixels, so 8/255 rather than 8"
        default = "leave it out for its default"
        object.__setattr__(self, "norm", norm_name(self.norm))
        if self.norm not in NORMS:
            remedy = (
                "ZOO, Square and the corners, which the checklist holds against an "
                f"attack, have no other norms; {instead(self.norm)}"
            )
            require_choice("norm", self.norm, NORMS, remedy)
        threat = threat_of(self.norm)
        radii = f"(0, {threat.diameter(None):g})"
        require_in("epsilon", self.epsilon, radii, units)
        require_precision(self.matmul_precision)
        builder = "a function from a threat model to an attack"
        remedy = "give a builder such as PGD(num_steps=100) or partial(auto_pgd)"
        require(callable(self.attack), "attack", builder, self.attack, remedy)
        is_known = self.reference is None or isinstance(self.reference, PGD)
        remedy = "what is judged is `attack`"
        require(is_known, "reference", "a PGD, or None", self.reference, remedy)
        for name in counts:
            require_count(name, getattr(self, name), default)
        require_count("num_radii", self.num_radii, default, least=2)
        require_in("tolerance", self.tolerance, "[0, 1)", default)
        require_in("change", self.change, "[0, 1)", default)
