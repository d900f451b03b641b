"""Bounds on the generalization error, by margins, robustness and covering numbers."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxrobust.arguments import require
from jaxrobust.theory.arguments import real, vector

__all__ = [
    "covering_number",
    "margin_bound",
    "perturbation_growth",
    "robustness_bound",
]


def _failure(value: ArrayLike) -> jax.Array:
    fix = "it is the probability that the bound fails, such as .05"
    return real("failure", value, "(0, 1)", fix=fix)


def _num_examples(value: ArrayLike) -> jax.Array:
    return real("num_examples", value, "[1, inf)", fix="count the training examples")


def _deviation(
    num_cells: jax.Array, num_examples: jax.Array, failure: jax.Array
) -> jax.Array:
    total = num_cells * math.log(2) - jnp.log(failure)
    return jnp.sqrt(2 * total / num_examples)


def covering_number(
    radius: ArrayLike,
    *,
    constant: ArrayLike,
    dimension: ArrayLike,
    is_rigorous: bool = False,
) -> jax.Array:
    r"""How many balls cover the data, :math:`(C / \epsilon)^k`, but at least 1.

    Args:
        radius: :math:`\epsilon`, how far a sample's neighborhood reaches, in (0, inf).
        constant: :math:`C`, in (0, inf), in the units of the radius.
        dimension: :math:`k`, of the manifold of the data, in (0, inf).
        is_rigorous: cover by balls of half the radius. Two points of a ball of radius
            :math:`\epsilon` may be :math:`2 \epsilon` apart, while robustness round a
            sample says something up to :math:`\epsilon`; this makes
            :math:`2^k` times as many.

    Returns:
        The number, in [1, inf]; infinite where it overflows.

    Raises:
        ValueError: for a number out of range.

    References:
        Wen et al., 2020, arXiv:2011.07478, Section 4.

    Differs from the paper: its formula is below 1 where the radius is above :math:`C`,
    but there is no cover of less than one ball.
    """
    fix = "give it in the units of the points"
    radius = real("radius", radius, "(0, inf)", fix=fix)
    constant = real("constant", constant, "(0, inf)", fix=fix)
    fix = "give the dimension of the manifold"
    dimension = real("dimension", dimension, "(0, inf)", fix=fix)
    if is_rigorous:
        radius = radius / 2
    return jnp.maximum((constant / radius) ** dimension, 1.0)


def robustness_bound(
    robustness: ArrayLike,
    num_cells: ArrayLike,
    *,
    num_examples: ArrayLike,
    failure: ArrayLike,
    largest_loss: ArrayLike = 1.0,
) -> jax.Array:
    r"""Generalization error of an algorithm that is robust on a partition.

    With probability at least 1 - `failure` it is at most
    :math:`\epsilon(S) + M \sqrt{(2 K \log 2 + 2 \log(1 / \eta)) / m}`.

    Args:
        robustness: :math:`\epsilon(S)`, how much the loss differs within a cell that
            has a sample, in [0, inf).
        num_cells: :math:`K`, in (0, inf); from `covering_number` with `is_rigorous` if
            robustness is that in balls round the samples.
        num_examples: :math:`m`, at least 1.
        failure: :math:`\eta`, in (0, 1).
        largest_loss: :math:`M`, in [0, inf).

    Raises:
        ValueError: for a number out of range.

    References:
        Xu & Mannor, 2012, Machine Learning 86, Theorem 3.

    Differs from the paper: it takes cells of the radius of the balls round samples,
    see `covering_number`.
    """
    fix = "give the largest difference of the loss"
    robustness = real("robustness", robustness, "[0, inf)", fix=fix)
    num_cells = real("num_cells", num_cells, "(0, inf]", fix="count the cells")
    fix = "give an upper bound of the loss"
    largest_loss = real("largest_loss", largest_loss, "[0, inf)", fix=fix)
    deviation = _deviation(num_cells, _num_examples(num_examples), _failure(failure))
    return robustness + largest_loss * deviation


def margin_bound(
    smallest_margin: ArrayLike,
    width: ArrayLike,
    radius: ArrayLike,
    *,
    num_examples: ArrayLike,
    failure: ArrayLike,
    constant: ArrayLike,
    dimension: ArrayLike,
    factor: float = 2.0,
    is_rigorous: bool = False,
) -> jax.Array:
    r"""Generalization error of the ramp loss by the margins round training examples.

    With probability at least 1 - `failure` it is at most
    :math:`\max(0, f (1 - u / g)) + \sqrt{(2 \log 2 (C / \epsilon)^k +
    2 \log(1 / \eta)) / m}`, with :math:`f` the `factor`.

    Args:
        smallest_margin: :math:`u`, the smallest positive margin in balls round training
            examples, in (0, inf).
        width: :math:`g` of the ramp loss, in (0, inf).
        radius: :math:`\epsilon` of the balls, in (0, inf).
        num_examples: :math:`m`, at least 1.
        failure: :math:`\eta`, in (0, 1).
        constant: :math:`C` of the covering number, in the units of the radius.
        dimension: :math:`k` of the manifold of the data, in (0, inf).
        factor: 2 as in the paper, or 1, which is enough: both losses lie in
            :math:`[0, 1 - u / g]`, and so their difference does.
        is_rigorous: cover by balls of half the radius, see `covering_number`.

    Raises:
        ValueError: for a number out of range.

    References:
        Wen et al., 2020, arXiv:2011.07478, Theorem 4.1.

    Differs from the paper: the last line of its proof has 2^(k + 1) before the covering
    number and g in place of the radius; this is the statement.
    """
    remedy = "2 is the paper's, 1 enough"
    require(factor in (1, 2), "factor", "1 or 2", factor, remedy)
    fix = "give a margin of examples that are right"
    margin = real("smallest_margin", smallest_margin, "(0, inf)", fix=fix)
    width = real("width", width, "(0, inf)", fix="give the width of the ramp loss")
    num_cells = covering_number(
        radius, constant=constant, dimension=dimension, is_rigorous=is_rigorous
    )
    deviation = _deviation(num_cells, _num_examples(num_examples), _failure(failure))
    return jnp.maximum(factor * (1 - margin / width), 0.0) + deviation


def perturbation_growth(
    spectral_norms: ArrayLike, perturbation_norm: ArrayLike = 1.0
) -> jax.Array:
    r"""How far the output of layers moves at most when the input does, in [0, inf).

    :math:`\|T(x + \delta) - T(x)\| \le \prod_l \|W_l\|_2 \, \|\delta\|` in Euclidean
    norms, for layers with weights :math:`W_l` and activations that are 1-Lipschitz.

    Args:
        spectral_norms: `(layers,)`, in [0, inf), one for each of the layers that
            :math:`T` is made of.
        perturbation_norm: Euclidean norm of the perturbation, in [0, inf).

    Raises:
        ValueError: for a number out of range, or norms that are not a vector.

    References:
        Wen et al., 2020, arXiv:2011.07478, Section 4.

    Differs from the paper: there T is the network without its last layer, and the
    product runs over the last layer too, where its norm does not belong.
    """
    fix = "give the largest singular value of each layer"
    norms = vector("spectral_norms", spectral_norms, "[0, inf)", fix=fix)
    fix = "give a Euclidean norm"
    moved = real("perturbation_norm", perturbation_norm, "[0, inf)", fix=fix)
    return jnp.prod(norms) * moved
