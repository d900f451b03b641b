"""FAB: the smallest perturbation that breaks a model, by following its boundary."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.arguments import require_count, require_in
from jaxrobust.attacks.autopgd import sample_sphere
from jaxrobust.attacks.base import (
    Attack,
    AttackResult,
    checked,
    judge,
    per_example,
    refuse_threat,
)
from jaxrobust.attacks.builders import costs
from jaxrobust.attacks.loops import repeated
from jaxrobust.attacks.nearest import CLEARANCE, Nearest, choose, reported
from jaxrobust.losses import margin, targeted_margin
from jaxrobust.threat import L0Ball, L1Ball, ThreatModel
from jaxrobust.types import (
    Images,
    Labels,
    LogitsFn,
    PerExample,
    PerExampleFlag,
    PRNGKey,
    Scalar,
    widened,
)

__all__ = ["fab", "project_on_hyperplane"]

_TINY = 1e-12

_GROWTHS = (0.0, *(1e-5 * 4.0**turn for turn in range(6)))
"""By how much a perturbation is lengthened until its success is clear."""


def _pixels(images: Images) -> tuple[int, ...]:
    return tuple(range(1, images.ndim))


def project_on_hyperplane(
    threat: ThreatModel, images: Images, normal: Images, offset: PerExample
) -> Images:
    r"""Smallest `d` with `<normal, d> = offset` that keeps `images + d` in range.

    In the norm of the threat. If the hyperplane misses the pixel range, the corner of
    the range that is nearest to it.

    With :math:`w` the normal turned towards the hyperplane, the solution is
    :math:`d_i = \operatorname{sign}(w_i) \min(t s_i, r_i)`, where :math:`s` is the size
    of the steepest direction in pixel :math:`i` and :math:`r_i` the room there. The
    gain :math:`\sum_i |w_i| \min(t s_i, r_i)` is concave and piecewise linear in
    :math:`t`, so Newton's method from 0 rises to the root and is exact after finitely
    many rounds, each of which fixes at least one more pixel at its bound. This needs
    no sorting, which compiled code does slowly.

    Args:
        threat: its norm and pixel range count, its radius does not. Right for l_inf
            and l_p with finite p > 1.
        images: `(batch, *pixels)`, widened, inside the pixel range.
        normal: of the same shape; examples of zeros stay where they are.
        offset: how much `<normal, images>` has to change.

    References:
        Croce & Hein, 2020, arXiv:1907.02044 (there by sorting).
    """
    largest = jnp.max(jnp.abs(normal), axis=_pixels(normal), initial=0.0)
    scale = jnp.where(largest > 0, largest, 1.0)
    normal = normal / per_example(scale, normal)
    offset = offset / scale
    toward = per_example(jnp.where(offset < 0, -1.0, 1.0), normal) * jnp.sign(normal)
    wanted = jnp.abs(offset)
    size = jnp.abs(threat.steepest(normal))
    if threat.bounds is None:
        room = jnp.full_like(images, jnp.inf)
    else:
        lower, upper = threat.bounds
        room = jnp.where(toward > 0, upper - images, images - lower)
    rise = jnp.abs(normal)
    # Pixels with no derivative do not move; infinite room would make them no number.
    room = jnp.where(toward == 0, 0.0, jnp.maximum(room, 0.0))

    def gain(is_full: jax.Array) -> tuple[PerExample, PerExample]:
        full = jnp.sum(jnp.where(is_full, rise * room, 0.0), axis=_pixels(rise))
        slope = jnp.sum(jnp.where(is_full, 0.0, rise * size), axis=_pixels(rise))
        return full, slope

    def body(
        loop: tuple[jax.Array, PerExample, jax.Array],
    ) -> tuple[jax.Array, PerExample, jax.Array]:
        is_full, _, _ = loop
        full, slope = gain(is_full)
        length = jnp.maximum(wanted - full, 0.0) / jnp.maximum(slope, 1e-30)
        length = jnp.minimum(length, 1e30)
        is_full_now = is_full | (per_example(length, size) * size >= room)
        return is_full_now, length, jnp.any(is_full_now != is_full)

    start = toward == 0, jnp.zeros_like(wanted), jnp.asarray(True)
    is_full, length, _ = lax.while_loop(lambda loop: loop[2], body, start)
    return toward * jnp.where(is_full, room, per_example(length, size) * size)


class _Search(NamedTuple):
    """Where the search stands, per example.

    Attributes:
        images: iterate, widened.
        nearest: adversarial image of the smallest perturbation so far, widened.
        norm: of that perturbation; infinite while none is known.
        height: margin at `nearest`, less the clearance asked for.
        is_finite: False once a gradient was not finite.
    """

    images: Images
    nearest: Images
    norm: PerExample
    height: PerExample
    is_finite: PerExampleFlag


def _passes(num_steps: int, targets: object, num_classes: int, **_: object) -> int:
    # The distance to every class needs a gradient for each.
    if targets is None:
        return (2 * num_classes + 2) * num_steps
    return 4 * num_steps + 1


@costs(_passes)
def fab(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 100,
    targets: Labels | None = None,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    random_start: bool = False,
    num_searches: int = 3,
) -> Attack:
    """Fast adaptive boundary attack (Croce & Hein, 2020): smallest perturbations.

    Each step linearizes the boundary, projects the iterate and the clean image on it
    within the pixel range, and goes a little beyond a mean of both. Iterates that are
    adversarial are kept if their perturbation is the smallest so far and are moved back
    towards the clean image. In the end the perturbation found is lengthened by parts of
    1e-5, at most a hundredth, until rounding cannot undo its success, and a final
    search goes along the line to the clean image.

    The image found is projected on the ball of the threat model and judged there. With
    a ball that holds the whole pixel range, `threat.norm(found.images - images)` is the
    smallest perturbation found; where nothing was found, `is_adversarial` is False. In
    `AttackResult.loss` stands minus the norm of the smallest perturbation found, also
    if it is beyond the ball, and -inf where there is none; so `with_restarts` and
    `over_targets` keep the smallest.

    Costs `num_steps` backward passes, or as many times the number of classes without
    targets, and `2 * num_steps + num_searches + 3` forward passes, up to 6 more where
    successes are not clear.

    Args:
        threat: gives the norm, the pixel range and the ball. Any norm whose steepest
            direction moves every value, so neither l1 nor l0.
        num_steps: at least 1; may be traced.
        targets: classes whose boundary with the label is followed, one derivative a
            step (FAB-T); None for the nearest boundary of all, which takes the
            derivatives of all logits. Success is any misclassification in both cases.
        alpha_max: largest weight of the clean image's projection, in [0, 1].
        eta: how far to go beyond the boundary, at least 1.
        beta: share of its perturbation that an adversarial iterate keeps, in (0, 1).
        random_start: start at a random point half a radius from the clean image,
            rather than there; for `with_restarts`.
        num_searches: steps of the final search.

    Returns:
        An attack `(key, logits_fn, images, labels) -> AttackResult`.

    Raises:
        TypeError: for an l1 or l0 ball.
        ValueError: for a number out of range.

    References:
        Croce & Hein, 2020, arXiv:1907.02044, Algorithm 1.

    Differs from the paper: the final search brackets the boundary by the secant of
    the margin.
    """
    remedy = "its steps move every value; take auto_pgd in l1, pgd in l0"
    refuse_threat("fab", threat, (L1Ball, L0Ball), remedy)
    remedy = "leave it out for the paper's choice"
    require_count("num_steps", num_steps, remedy)
    require_in("alpha_max", alpha_max, "[0, 1]", remedy)
    require_in("eta", eta, "[1, inf)", remedy)
    require_in("beta", beta, "(0, 1)", remedy)
    require_count("num_searches", num_searches, remedy, least=0)

    @checked(threat)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        center = widened(images)

        def logits_at(wide: Images) -> jax.Array:
            return logits_fn(wide.astype(images.dtype)).astype(jnp.float32)

        def towards_targets(
            wide: Images, targets: Labels
        ) -> tuple[PerExample, Images, PerExampleFlag]:
            def height(wide: Images) -> PerExample:
                return targeted_margin(targets)(logits_at(wide), labels)

            value, pull = jax.vjp(height, wide)
            normal = pull(jnp.ones_like(value))[0]
            is_finite = jnp.all(jnp.isfinite(normal), axis=_pixels(normal))
            return value, jnp.where(jnp.isfinite(normal), normal, 0.0), is_finite

        def towards_nearest(
            wide: Images,
        ) -> tuple[PerExample, Images, PerExampleFlag]:
            logits, pull = jax.vjp(logits_at, wide)
            classes = logits.shape[-1]

            def gradient_of(row: jax.Array) -> Images:
                return pull(jnp.broadcast_to(row[None], logits.shape))[0]

            # (classes, batch, *pixels)
            slopes = jax.vmap(gradient_of)(jnp.eye(classes, dtype=logits.dtype))
            is_finite = jnp.all(jnp.isfinite(slopes), axis=(0, *range(2, slopes.ndim)))
            slopes = jnp.where(jnp.isfinite(slopes), slopes, 0.0)
            rows = jnp.arange(len(labels))
            slopes = slopes - slopes[labels, rows][None]
            heights = (logits - logits[rows, labels][:, None]).T
            dual = jax.vmap(
                lambda slope: jnp.sum(
                    slope * threat.steepest(slope), axis=_pixels(slope)
                )
            )(slopes)
            is_label = jnp.arange(classes)[:, None] == labels[None]
            far = is_label | (dual <= 0)
            distance = jnp.abs(heights) / jnp.maximum(dual, _TINY)
            nearest = jnp.argmin(jnp.where(far, jnp.inf, distance), axis=0)
            return heights[nearest, rows], slopes[nearest, rows], is_finite

        def judged(wide: Images, clearance: float) -> tuple[PerExampleFlag, PerExample]:
            logits = logits_at(wide)
            largest = jnp.max(jnp.abs(logits), axis=-1)
            height = margin(logits, labels) - clearance * largest
            return judge(logits, labels) & ~(height < 0), height

        def replaced(
            search: _Search, wide: Images, height: PerExample, is_new: PerExampleFlag
        ) -> _Search:
            return search._replace(
                nearest=choose(is_new, wide, search.nearest),
                norm=jnp.where(is_new, threat.norm(wide - center), search.norm),
                height=jnp.where(is_new, height, search.height),
            )

        def keep(
            search: _Search, wide: Images, clearance: float = 0.0
        ) -> tuple[_Search, PerExampleFlag, PerExample]:
            is_adversarial, height = judged(wide, clearance)
            is_nearer = is_adversarial & (threat.norm(wide - center) < search.norm)
            return replaced(search, wide, height, is_nearer), is_adversarial, height

        def body(_: jax.Array, search: _Search) -> _Search:
            wide = search.images
            height, normal, is_finite = (
                towards_nearest(wide)
                if targets is None
                else towards_targets(wide, targets)
            )
            # Both change `<normal, .>` until the linearized height is 0.
            ahead = jnp.sum(normal * (wide - center), axis=_pixels(normal))
            here = project_on_hyperplane(threat, wide, normal, -height)
            clean = project_on_hyperplane(threat, center, normal, ahead - height)
            near, far = threat.norm(here), threat.norm(clean)
            near, far = jnp.maximum(near, 1e-8), jnp.maximum(far, 1e-8)
            alpha = per_example(jnp.minimum(near / (near + far), alpha_max), wide)
            moved = (wide + eta * here) * (1 - alpha) + (center + eta * clean) * alpha
            moved = threat.clip(moved)
            search, is_adversarial, _ = keep(search, moved)
            back = center + beta * (moved - center)
            return search._replace(
                images=choose(is_adversarial, back, moved),
                is_finite=search.is_finite & is_finite,
            )

        start = center
        if random_start:
            start = sample_sphere(threat, key, center, 0.5 * threat.epsilon)
        batch = images.shape[0]
        search = _Search(
            images=start,
            nearest=center,
            norm=jnp.full(batch, jnp.inf, center.dtype),
            height=jnp.zeros(batch, jnp.float32),
            is_finite=jnp.ones(batch, bool),
        )
        search, _, clean_height = keep(search, center)
        search = repeated(num_steps, body, search)

        growths = jnp.asarray(_GROWTHS, center.dtype)

        def is_unclear(settling: tuple[jax.Array, _Search, PerExampleFlag]) -> Scalar:
            turn, _, is_clear = settling
            return (turn < len(_GROWTHS)) & ~jnp.all(is_clear)

        def lengthen(
            settling: tuple[jax.Array, _Search, PerExampleFlag],
        ) -> tuple[jax.Array, _Search, PerExampleFlag]:
            turn, search, is_clear = settling
            moved = center + (1 + growths[turn]) * (closest - center)
            moved = threat.clip(moved)
            is_beyond, height = judged(moved, CLEARANCE)
            search = replaced(search, moved, height, is_beyond & ~is_clear)
            return turn + 1, search, is_clear | is_beyond

        closest, is_lost = search.nearest, search.norm == jnp.inf
        _, search, _ = lax.while_loop(
            is_unclear, lengthen, (jnp.int32(0), search, is_lost)
        )

        def narrow(
            _: jax.Array, bracket: tuple[_Search, PerExample, PerExample]
        ) -> tuple[_Search, PerExample, PerExample]:
            search, inside, inside_height = bracket
            # Shares of the perturbation: `inside` does not break the model, 1 does.
            fall = inside_height / jnp.minimum(inside_height - search.height, -_TINY)
            # A quarter of the way beyond the secant's root, or rounding would decide.
            share = inside + (1 - inside) * jnp.clip(0.75 * fall + 0.25, 0.0, 1.0)
            moved = center + per_example(share, center) * (search.nearest - center)
            search, is_adversarial, height = keep(search, moved, CLEARANCE)
            inside = jnp.where(
                is_adversarial, inside / jnp.maximum(share, _TINY), share
            )
            inside_height = jnp.where(is_adversarial, inside_height, height)
            return search, jnp.minimum(inside, 1.0), inside_height

        bracket = search, jnp.zeros(batch, jnp.float32), clean_height
        search, *_ = repeated(num_searches, narrow, bracket)

        images_found = choose(search.norm < jnp.inf, search.nearest, search.images)
        nearest = Nearest(images_found, search.norm, search.is_finite)
        return reported(threat, logits_fn, images, labels, nearest)

    return attack
