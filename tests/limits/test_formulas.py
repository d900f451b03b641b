"""The tables of the closed forms: the numbers by hand, the axis as it was asked for."""

import math
import re

import numpy as np
import pytest
from scipy.stats import binom, norm

from jaxrobust.limits import formulas


def test_gaussians():
    table = formulas.Gaussians(distance=3.0, sigma=0.5, epsilons=(0.0, 1.0, 2.0))
    (errors,) = table.table().columns.values()
    np.testing.assert_allclose(errors, [norm.cdf(-3), norm.cdf(-1), 0.5], rtol=1e-4)


def test_bernoulli():
    settings = {"num_features": 11, "advantage": 0.2}
    flips = formulas.Bernoulli(**settings, epsilons=(0.0, 1.0, 6.0)).table()
    bayes = binom.cdf(5, 11, 0.7)
    # One flip: at most 6 of 11 agree; of the thresholds the middle one, by symmetry
    # one of its two neighbors.
    robust = min(
        0.5 * (binom.cdf(s + 1, 11, 0.7) + binom.cdf(11 - s + 1 - 1, 11, 0.7))
        for s in range(11)
    )
    expected = [bayes, robust, 0.5]
    np.testing.assert_allclose(flips.columns["robust error"], expected, rtol=1e-4)
    moves = formulas.Bernoulli(**settings, norm="linf", epsilons=(0.5, 1.0)).table()
    np.testing.assert_allclose(moves.columns["robust error"], [bayes, 0.5], rtol=1e-4)
    assert moves.source.endswith("Theorems 3, 5")
    assert flips.source.endswith("Theorems 3, 4")


def test_errors_below_all_floats_have_logarithms():
    settings = {"num_features": 10_000, "epsilons": (0.0, 1000.0, 2000.0)}
    table = formulas.Bernoulli(**settings).table()
    assert table.columns["robust error"] == (0.0, 0.0, 0.0)
    # -2236.45 is the sum in float64.
    bayes, robust = table.logarithms["Bayes error"], table.logarithms["robust error"]
    assert bayes == pytest.approx([-2236.45] * 3, abs=0.02)
    assert robust[0] == pytest.approx(bayes[0], rel=1e-6)
    assert robust[0] < robust[1] < robust[2] < math.log(0.5)
    header, first, *_ = table.cells()
    assert header[3:] == ["log of robust error", "log of Bayes error"]
    assert first[1:3] == ["0", "0"] and first[4].startswith("-2236.4")
    assert table.as_record()["logarithms"] == table.logarithms
    moves = formulas.Bernoulli(num_features=10_000, norm="linf", epsilons=(0.5, 1.0))
    logs = moves.table().logarithms["robust error"]
    assert logs == pytest.approx([-2236.45, math.log(0.5)], rel=1e-5)


def test_the_logarithms_are_those_of_the_columns():
    table = formulas.Bernoulli(num_features=11, epsilons=(0.0, 3.0, 1e300)).table()
    for name, column in table.columns.items():
        np.testing.assert_allclose(np.exp(table.logarithms[name]), column, rtol=1e-5)
    assert table.columns["robust error"][-1] == pytest.approx(0.5)


def test_no_free_lunch():
    table = formulas.NoFreeLunch(dimension=100, ratios=(0.0, 1.0, 2.0)).table()
    averaging = norm.cdf([4, 0, -4])
    np.testing.assert_allclose(table.columns["averaging"], averaging, rtol=1e-3)
    # From eta on the first feature alone, which is the label 7 times in 10.
    np.testing.assert_allclose(table.columns["least robust loss"][1:], 0.7, rtol=1e-5)


@pytest.mark.parametrize("strength", [8.0, 20.0])
def test_the_bound_by_a_tiny_error_is_not_zero(strength):
    ratios = (0.0, 2.0)
    table = formulas.NoFreeLunch(strength=strength, ratios=ratios).table()
    (note,) = table.notes
    error, bound = map(float, re.findall(r"\d\.?\d*e-\d+", note))
    assert bound == pytest.approx(7 / 3 * error, rel=0.01)
    attacked = table.columns["least standard loss"][1]
    assert 0 <= attacked <= bound and bound > 0


def test_cube_ball_and_facets():
    cube = formulas.Cube(num_classes=2, dimension=100, epsilons=(0.1, 0.6)).table()
    any_classes, one, of_sum = cube.columns.values()
    shares = 2 * norm.cdf(np.array([0.1, 0.6]) * math.sqrt(2 * math.pi)) - 1
    np.testing.assert_allclose(any_classes, shares, rtol=1e-4)
    np.testing.assert_allclose(one, [0.2, 1.0], rtol=1e-6)
    np.testing.assert_allclose(of_sum, [1 - 1 / 12, 1 - 1 / 12 / 36], rtol=1e-5)
    ball = formulas.Ball(num_classes=2, dimension=10, epsilons=(1.0,)).table()
    (shares,) = ball.columns.values()
    # Of either half of the ball at most 2 * (1 - 1/4)^10 of it all stands.
    np.testing.assert_allclose(shares, [1 - 2 * 2 * 0.75**10], rtol=1e-4)
    facets = formulas.Facets(dimension=8, distances=(2.0,)).table()
    np.testing.assert_allclose(facets.columns["log of facets, at least"], [1.0])


def test_graph():
    # A path of 5 vertices packs two: its ends, or vertices three steps apart.
    table = formulas.Graph().table()
    assert table.columns["least robust error"] == (pytest.approx(0.6),)
    assert table.columns["packed vertices"] == (2.0,)
    assert table.cells()[0][0] == "vertices"


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (
            formulas.Graph(edges=("0-0",)),
            "`edges` must be pairs of two different vertices",
        ),
        (formulas.Graph(edges=("zero-1",)), "`edges` must be pairs of vertices"),
        (formulas.Graph(edges=("0-9",)), "9"),
        (formulas.Bernoulli(advantage=0.5), r"`advantage` must be in \(0, 0.5\)"),
        (formulas.Bernoulli(epsilons=(0.5,)), "`epsilons` must be whole numbers"),
        (
            formulas.Bernoulli(epsilons=(0.0, math.inf)),
            r"`epsilons` must be whole numbers in \[0, inf\) with norm l0, got inf",
        ),
        (formulas.Bernoulli(epsilons=(math.nan,)), "`epsilons` must be .*, got nan"),
        (formulas.Bernoulli(epsilons=(-1.0,)), "`epsilons` must be .*, got -1"),
        (
            formulas.Bernoulli(norm="linf", epsilons=(math.inf,)),
            r"`epsilon` must be in \[0, inf\), got inf",
        ),
        (
            formulas.Bernoulli(norm="l2"),
            "`norm` must be one of l0, linf, got 'l2'; choose one of these",
        ),
        (formulas.Gaussians(epsilons=(-0.1,)), "`epsilon` must be in"),
        (formulas.NoFreeLunch(dimension=0), r"`dimension` must be in .*, got 0; count"),
        (
            formulas.NoFreeLunch(dimension=-4),
            "`dimension` must be .*, got -4; count",
        ),
        (formulas.NoFreeLunch(strength=-1.0), "`strength` must be in .*, got -1; give"),
        (formulas.NoFreeLunch(ratios=(-1.0,)), "`ratios` must be in .*, got -1; give"),
        (formulas.Ball(epsilons=(3.0,)), "`epsilon` must be in"),
    ],
)
def test_numbers_out_of_range_are_refused(formula, message):
    with pytest.raises(ValueError, match=message):
        formula.table()
