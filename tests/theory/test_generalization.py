import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxrobust.theory.generalization import (
    covering_number,
    margin_bound,
    perturbation_growth,
    robustness_bound,
)

FIRST = {
    "width": 1.0,
    "radius": 0.5,
    "num_examples": 60_000,
    "failure": 0.05,
    "constant": 2.0,
    "dimension": 3,
}


def test_the_deviation_is_where_the_tail_of_the_histogram_ends():
    # The inequality of Bretagnolle, Huber and Carol, 2^K exp(-m x^2 / 2) = eta, solved.
    num_cells, num_examples, failure = 7, 500, 0.05

    def log_excess(x):
        return num_cells * math.log(2) - num_examples * x**2 / 2 - math.log(failure)

    expected = optimize.brentq(log_excess, 0, 5)
    found = robustness_bound(0.0, num_cells, num_examples=num_examples, failure=failure)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_histograms_and_losses_of_a_sample_deviate_less():
    # Losses that differ by at most `robustness` within a cell; test loss minus training
    # loss, for the worst loss of the cells seen so far: those with too few examples.
    rng = np.random.default_rng(0)
    num_cells, num_examples, failure, robustness = 7, 500, 0.05, 0.2
    shares = rng.dirichlet(np.ones(num_cells))
    counts = rng.multinomial(num_examples, shares, size=2000) / num_examples
    # The loss in [0, 1] that gains most: 1 in each cell whose share is underrated, and
    # `robustness` more away from the examples.
    gaps = np.maximum(shares - counts, 0).sum(axis=1)
    bound = float(
        robustness_bound(
            robustness, num_cells, num_examples=num_examples, failure=failure
        )
    )
    assert np.mean(gaps + robustness > bound) <= failure
    # It is two-sided: the sum of all differences stays below it as well.
    totals = np.abs(counts - shares).sum(axis=1)
    assert np.mean(totals + robustness > bound) <= failure
    assert np.mean(totals + robustness > 0.5 * bound) > failure


def test_cells_of_the_radius_of_a_ball_may_hold_points_too_far_apart():
    # A loss that is 0 within epsilon of the only example, and 1 further away: robust in
    # the ball round it, with epsilon(S) = 0.
    epsilon, example = 0.25, 0.0

    def loss(x):
        return np.where(np.abs(x - example) <= epsilon, 0.0, 1.0)

    points = np.linspace(0, 1, 1001)
    differences = []
    for radius in (epsilon, epsilon / 2):
        cell = points[points <= 2 * radius]  # a ball of that radius, the example in it
        differences.append(np.max(np.abs(loss(cell) - loss(example))))
    assert differences == [1.0, 0.0]
    # So the interval of length 1 takes twice as many.
    numbers = [
        float(covering_number(epsilon, constant=0.5, dimension=1, is_rigorous=each))
        for each in (False, True)
    ]
    assert numbers == [2.0, 4.0]


@pytest.mark.parametrize("is_rigorous", [False, True])
def test_no_cover_has_less_than_one_ball(is_rigorous):
    settings = {"dimension": 3, "is_rigorous": is_rigorous}
    radii = np.array([10.0, 2.0, 1.0])
    found = covering_number(radii, constant=1.0, **settings)
    np.testing.assert_allclose(found, [1, 1, 8 if is_rigorous else 1])


@settings(max_examples=10)
@given(dimension=st.integers(1, 6), radius=st.floats(0.1, 1))
def test_the_rigorous_cover_has_two_to_the_dimension_times_as_many(dimension, radius):
    plain, rigorous = (
        float(
            covering_number(
                radius, constant=1.0, dimension=dimension, is_rigorous=is_rigorous
            )
        )
        for is_rigorous in (False, True)
    )
    assert rigorous == pytest.approx(2**dimension * plain, rel=1e-5)
    # As many boxes as a grid has that covers the unit cube, up to a cell at each end.
    side = math.ceil(1 / radius)
    assert (side - 1) ** dimension <= plain * (1 + 1e-5)
    assert plain <= side**dimension * (1 + 1e-5)


def test_the_margin_bound_is_the_robustness_bound_of_the_ramp_loss():
    for is_rigorous in (False, True):
        cover = {"constant": 2.0, "dimension": 3, "is_rigorous": is_rigorous}
        num_cells = covering_number(0.5, **cover)
        for margin, factor in ((0.8, 2), (0.8, 1), (1.2, 1)):
            # What the loss can differ by: the ramp at that margin, and 0.
            robustness = factor * max(0.0, 1 - margin)
            expected = robustness_bound(
                robustness, num_cells, num_examples=60_000, failure=0.05
            )
            found = margin_bound(
                margin, **FIRST, factor=factor, is_rigorous=is_rigorous
            )
            assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_factor_of_one_is_enough_for_losses_of_the_ramp():
    # Margins of at least u have losses in [0, 1 - u / g], so no two differ by more.
    margins = np.random.default_rng(1).uniform(0.3, 2, size=300)
    losses = np.clip(1 - margins, 0, 1)
    largest = np.max(np.abs(losses[:, None] - losses[None]))
    deviation = float(margin_bound(5.0, **FIRST))
    one, two = (
        float(margin_bound(0.3, **FIRST, factor=factor)) - deviation
        for factor in (1, 2)
    )
    assert one * (1 - 1e-6) >= largest > 0.9 * one
    assert two == pytest.approx(2 * one, rel=1e-4)


def test_the_last_line_of_the_proof_is_not_the_statement():
    # 2^(k + 1) and the width in place of the radius: no balls, so no effect of them.
    found = [
        float(margin_bound(1.2, **FIRST | {"radius": radius})) for radius in (0.5, 0.25)
    ]
    cells = [(2 / radius) ** 3 for radius in (0.5, 0.25)]
    expected = [
        math.sqrt(2 * (count * math.log(2) - math.log(0.05)) / 60_000)
        for count in cells
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    printed = math.sqrt(
        2 * (2**4 * (2 / 1.0) ** 3 * math.log(2) - math.log(0.05)) / 60_000
    )
    assert printed != pytest.approx(found[0], rel=0.1)
    assert found[1] > 2 * found[0]


def test_more_dimensions_than_a_float_holds_give_an_infinite_bound():
    found = margin_bound(0.5, **FIRST | {"radius": 0.01, "dimension": 100})
    assert math.isinf(float(found))


def network(weights, inputs):
    for matrix in weights:
        inputs = np.maximum(inputs @ matrix.T, 0)
    return inputs


def test_no_network_grows_a_perturbation_more():
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=shape) for shape in ((6, 5), (6, 6), (4, 6))]
    norms = np.array([np.linalg.norm(each, 2) for each in weights])
    inputs, moves = rng.normal(size=(2, 500, 5))
    moved = np.linalg.norm(
        network(weights, inputs + moves) - network(weights, inputs), axis=1
    )
    sizes = np.linalg.norm(moves, axis=1)
    bounds = np.array([float(perturbation_growth(norms, size)) for size in sizes[:50]])
    assert np.all(moved[:50] <= bounds)
    assert np.all(moved <= float(perturbation_growth(norms)) * sizes)


def test_layers_in_line_attain_the_growth_and_the_last_does_not_belong_to_it():
    # Diagonal layers whose largest entry is at the same place.
    weights = [np.diag([3.0, 1.0]), np.diag([0.5, 0.25]), np.diag([0.1, 0.1])]
    norms = np.array([np.linalg.norm(each, 2) for each in weights])
    start, move = np.ones(2), np.array([2.0, 0.0])
    inner = weights[:-1]
    moved = np.linalg.norm(network(inner, start + move) - network(inner, start))
    assert float(perturbation_growth(norms[:-1], 2.0)) == pytest.approx(moved)
    # Printed with the last layer's norm, it would be less than what happens.
    assert float(perturbation_growth(norms, 2.0)) < 0.2 * moved
