import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from jaxrobust.data import DataError, load_arrays, subset
from jaxrobust.theory import (
    certified_bound,
    conflicting_pairs,
    optimal_robust_classifier,
)

ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}
METRICS = {"linf": "chebyshev", "l2": "euclidean", "l1": "cityblock"}
norms = st.sampled_from(list(ORDERS))


@st.composite
def problems(draw, max_points=9, max_classes=3):
    """Points on a grid, so that many balls just touch; some of them coincide."""
    count = draw(st.integers(1, max_points))
    coordinates = draw(st.integers(1, 3))
    flat = draw(
        st.lists(
            st.integers(0, 5),
            min_size=count * coordinates,
            max_size=count * coordinates,
        )
    )
    points = np.array(flat, float).reshape(count, coordinates)
    labels = draw(
        st.lists(st.integers(0, max_classes - 1), min_size=count, max_size=count)
    )
    heavy = draw(st.lists(st.integers(0, 7), min_size=count, max_size=count))
    weights = np.array(heavy, float) + (0 if sum(heavy) else 1)
    epsilon = draw(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]))
    return points, np.array(labels), weights / weights.sum(), epsilon


def conflict_table(points, labels, epsilon, norm, slack=1e-9):
    distance = cdist(points, points, METRICS[norm])
    return (labels[:, None] != labels) & (distance <= 2 * epsilon + slack)


def least_error(conflicts, weights):
    """Over all sets of points that could be robust together."""
    count = len(weights)
    chosen = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    is_free = np.einsum("si,ij,sj->s", chosen, conflicts.astype(int), chosen) == 0
    return 1 - (chosen[is_free] @ weights).max()


def solve(problem, norm, **settings):
    points, labels, weights, epsilon = problem
    return optimal_robust_classifier(
        points, labels, weights=weights, norm=norm, epsilon=epsilon, **settings
    )


@given(problem=problems(), norm=norms)
def test_the_error_is_that_of_all_sets_of_points_tried(problem, norm):
    points, labels, weights, epsilon = problem
    table = conflict_table(points, labels, epsilon, norm)
    found = solve(problem, norm)
    assert found.is_optimal
    assert found.robust_error == pytest.approx(least_error(table, weights), abs=1e-9)
    assert found.lower_bound == pytest.approx(found.robust_error, abs=1e-9)
    assert found.num_conflicts == np.triu(table).sum()
    assert not table[np.ix_(found.is_robust, found.is_robust)].any()
    lost = weights[~found.is_robust].sum()
    assert found.robust_error == pytest.approx(lost, abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_error_on_a_line_is_that_of_all_labelings_of_it_tried(seed):
    # A classifier of the real line, as a table of labels for steps of 1/2: closed
    # intervals with ends on these steps meet if and only if they share a step.
    rng = np.random.default_rng(seed)
    places = rng.integers(1, 6, 7)
    labels = rng.integers(0, 2, 7)
    epsilon = [0.5, 1.0][seed % 2]
    steps = np.arange(0, 6.5, 0.5)
    tables = (np.arange(2 ** len(steps))[:, None] >> np.arange(len(steps))) & 1
    is_lost = np.stack(
        [
            (tables[:, np.abs(steps - place) <= epsilon] != label).any(axis=1)
            for place, label in zip(places, labels, strict=True)
        ],
        axis=1,
    )
    found = optimal_robust_classifier(places[:, None], labels, epsilon=epsilon)
    assert found.robust_error == pytest.approx(is_lost.mean(axis=1).min())


@pytest.mark.parametrize("seed", range(6))
def test_an_adversary_on_the_support_is_that_of_all_labelings_tried(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 4, (7, 2)).astype(float)
    labels = rng.integers(0, 3, 7)
    weights = rng.dirichlet(np.ones(7))
    norm, epsilon = list(ORDERS)[seed % 3], [1.0, 2.0][seed % 2]
    places = np.unique(points, axis=0)
    reach = cdist(points, places, METRICS[norm]) <= epsilon
    errors = [
        sum(
            weight
            for weight, label, near in zip(weights, labels, reach, strict=True)
            if (table[near] != label).any()
        )
        for table in map(np.array, itertools.product(range(3), repeat=len(places)))
    ]
    found = solve((points, labels, weights, epsilon), norm, reach="support")
    assert found.is_optimal
    assert found.robust_error == pytest.approx(min(errors), abs=1e-6)
    # The classifier reaches it by its own answers on the support.
    answers = found.classifier(places)
    lost = [(answers[near] != y).any() for near, y in zip(reach, labels, strict=True)]
    assert weights @ lost <= found.robust_error + 1e-12


@given(problem=problems(), norm=norms, seed=st.integers(0, 99))
def test_order_and_names_of_classes_do_not_matter(problem, norm, seed):
    points, labels, weights, epsilon = problem
    order = np.random.default_rng(seed).permutation(len(labels))
    other = points[order], 7 - 3 * labels[order], weights[order], epsilon
    found, again = solve(problem, norm), solve(other, norm)
    assert again.robust_error == pytest.approx(found.robust_error, abs=1e-12)
    assert again.num_conflicts == found.num_conflicts


@given(problem=problems(), norm=norms)
def test_the_error_grows_with_epsilon_up_to_that_of_a_constant(problem, norm):
    points, labels, weights, _ = problem
    errors = [
        solve((points, labels, weights, epsilon), norm).robust_error
        for epsilon in (0.0, 0.5, 1.0, 1.5, 2.0, 20.0)
    ]
    heaviest = np.bincount(labels, weights=weights).max()
    assert np.all(np.diff(errors) >= -1e-12)
    assert errors[-1] == pytest.approx(1 - heaviest, abs=1e-12)


@given(problem=problems(), norm=norms)
def test_without_an_adversary_only_contradictions_are_lost(problem, norm):
    points, labels, weights, _ = problem
    by_place = {}
    for point, label, weight in zip(points.tolist(), labels, weights, strict=True):
        by_place.setdefault(tuple(point), np.zeros(3))[label] += weight
    bayes = sum(masses.sum() - masses.max() for masses in by_place.values())
    found = solve((points, labels, weights, 0.0), norm)
    assert found.robust_error == pytest.approx(bayes, abs=1e-12)


@given(problem=problems(), norm=norms, scale=st.sampled_from([1 / 255, 0.1, 3.7, 1e6]))
def test_scale_does_not_matter_not_even_where_balls_touch(problem, norm, scale):
    points, labels, weights, epsilon = problem
    found = solve(problem, norm)
    for dtype in (np.float64, np.float32):
        scaled = (points * scale).astype(dtype)
        again = solve((scaled, labels, weights, epsilon * scale), norm)
        assert again.num_conflicts == found.num_conflicts
        assert again.robust_error == pytest.approx(found.robust_error, abs=1e-12)


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_certificate_proves_the_bound_by_itself(norm, num_classes):
    rng = np.random.default_rng(num_classes)
    points = rng.uniform(size=(80, 3))
    labels = rng.integers(0, num_classes, 80)
    weights = rng.dirichlet(np.ones(80))
    epsilon = {"linf": 0.08, "l2": 0.1, "l1": 0.13}[norm]
    found = solve((points, labels, weights, epsilon), norm)
    cliques, amounts = found.certificate
    table = conflict_table(points, labels, epsilon, norm)
    load = np.zeros(80)
    for clique, amount in zip(cliques, amounts, strict=True):
        members = clique[clique >= 0]
        assert len(members) > 1 and amount > 0
        assert (
            table[np.ix_(members, members)] | np.eye(len(members), dtype=bool)
        ).all()
        load[members] += amount
    # At most one of a clique is robust, and what no clique holds may be.
    robust = amounts.sum() + np.maximum(weights - load, 0).sum()
    assert 0.05 < found.robust_error < 1 - robust + 0.02
    conflicts = conflicting_pairs(points, labels, norm=norm, epsilon=epsilon)
    bound = certified_bound(found.certificate, conflicts, weights)
    assert bound == pytest.approx(robust)
    assert found.is_optimal and found.robust_error >= 1 - bound - 1e-12
    if num_classes == 2:
        # A matching: no point pays more than it weighs, and all is proven.
        assert cliques.shape[1] == 2 and (load <= weights + 1e-12).all()
        assert amounts.sum() == pytest.approx(found.robust_error, abs=1e-6)
        assert np.all(labels[cliques[:, 0]] != labels[cliques[:, 1]])


def test_out_of_time_the_error_is_not_claimed_to_be_the_least():
    rng = np.random.default_rng(3)
    points, labels = rng.uniform(size=(200, 3)), rng.integers(0, 5, 200)
    problem = points, labels, np.full(200, 1 / 200), 0.1
    short, full = solve(problem, "l2", time_limit=1e-6), solve(problem, "l2")
    assert full.is_optimal and full.lower_bound == full.robust_error
    assert not short.is_optimal
    assert short.lower_bound <= full.robust_error <= short.robust_error
    assert 0.1 < short.lower_bound < short.robust_error - 0.01
    assert short.robust_error == pytest.approx(np.mean(~short.is_robust))


def corners(rng, points, epsilon, norm, targets):
    """Points of each ball's surface: random ones, and those toward the targets."""
    count, size = points.shape
    if norm == "linf":
        step = rng.choice([-1.0, 1.0], (count, size))
    elif norm == "l2":
        step = rng.normal(size=(count, size))
        step /= np.linalg.norm(step, axis=1, keepdims=True)
    else:
        step = np.zeros((count, size))
        step[np.arange(count), rng.integers(0, size, count)] = rng.choice(
            [-1.0, 1.0], count
        )
    toward = targets - points
    length = np.linalg.norm(toward, ORDERS[norm], axis=1, keepdims=True)
    share = np.minimum(1.0, epsilon / np.maximum(length, 1e-12))
    return [points + epsilon * step, points + share * toward]


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_classifier_is_right_on_whole_balls(norm, num_classes):
    rng = np.random.default_rng(7)
    points = rng.uniform(size=(150, 4))
    labels = rng.integers(0, num_classes, 150)
    epsilon = {"linf": 0.1, "l2": 0.14, "l1": 0.2}[norm]
    found = optimal_robust_classifier(points, labels, norm=norm, epsilon=epsilon)
    is_robust = found.is_robust
    assert 0.1 < found.robust_error < 0.7
    inside, wanted = points[is_robust], labels[is_robust]
    np.testing.assert_array_equal(found.classifier(inside), wanted)
    for _ in range(40):
        targets = points[rng.integers(0, 150, len(inside))]
        for moved in corners(rng, inside, epsilon, norm, targets):
            distance = np.linalg.norm(moved - inside, ORDERS[norm], axis=1)
            assert distance.max() <= epsilon + 1e-9
            np.testing.assert_array_equal(found.classifier(moved), wanted)


def test_the_classifier_of_many_points_takes_the_nearest():
    # More points and inputs than a block holds.
    places = np.random.default_rng(0).permutation(2500).astype(float)
    found = optimal_robust_classifier(
        places[:, None], (places % 7).astype(int), epsilon=0.25
    )
    assert found.robust_error == 0 and found.num_conflicts == 0
    inputs = np.random.default_rng(1).uniform(-0.4, 2499.4, 3000)
    expected = np.rint(inputs) % 7
    np.testing.assert_array_equal(found.classifier(inputs[:, None]), expected)


@pytest.mark.parametrize(
    ("places", "labels", "epsilon", "error"),
    [
        ([0, 2], [0, 1], 0.99, 0),
        ([0, 2], [0, 1], 1.0, 1 / 2),  # closed balls that touch
        ([0, 2, 4], [0, 1, 0], 1.0, 1 / 3),
        ([0, 2, 4, 6, 8], [0, 1, 0, 1, 0], 1.0, 2 / 5),
        ([0, 1, 2], [0, 1, 2], 1.0, 2 / 3),  # three meet: edges alone prove 1/2
        ([0, 0, 0, 9], [0, 1, 1, 0], 0.0, 1 / 4),
        ([3, 3], [1, 1], 5.0, 0),
    ],
)
def test_hand_examples_on_a_line(places, labels, epsilon, error):
    points = np.array(places, float)[:, None]
    found = optimal_robust_classifier(points, np.array(labels), epsilon=epsilon)
    assert found.robust_error == pytest.approx(error)
    assert found.lower_bound == pytest.approx(error)
    assert found.is_optimal


def test_weights_choose_who_is_lost():
    points, labels = np.array([[0.0], [1.0], [2.0]]), np.array([0, 1, 0])
    for weights, robust in (
        ([0.2, 0.5, 0.3], None),
        ([0.2, 0.6, 0.2], [False, True, False]),
        ([0.3, 0.4, 0.3], [True, False, True]),
    ):
        found = optimal_robust_classifier(
            points, labels, weights=np.array(weights), epsilon=0.5
        )
        assert found.robust_error == pytest.approx(min(weights[1], 1 - weights[1]))
        if robust:
            assert found.is_robust.tolist() == robust


@pytest.mark.parametrize("norm", ORDERS)
def test_conflicts_of_many_coordinates_are_those_of_all_distances(norm):
    # More coordinates than the first look takes, more points than a block holds, and
    # radii for which it rules out most pairs, or nearly none.
    rng = np.random.default_rng(2)
    points = rng.integers(0, 12, (1300, 90)).astype(np.float32) / 11
    labels = np.arange(1300) % 2
    points[::5] = np.clip(points[1::5] + rng.uniform(-0.1, 0.1, (260, 90)), 0, 1)
    distance = cdist(points, points, METRICS[norm])
    for quantile in (0.001, 0.5):
        radius = np.quantile(distance[::2, 1::2], quantile) + 1e-3
        table = np.triu((labels[:, None] != labels) & (distance <= radius))
        found = conflicting_pairs(
            points, labels, norm=norm, epsilon=radius / 2, tolerance=0.0
        )
        assert len(found) > 100
        np.testing.assert_array_equal(found, np.argwhere(table))


def test_images_on_a_grid_of_bytes_touch_in_spite_of_rounding():
    # 51/255 = 0.2 = 2 epsilon, whatever the floats make of it.
    lower = np.arange(0, 205)
    images = np.stack([lower, lower + 51], axis=1).reshape(-1) / np.float32(255)
    labels = np.arange(len(images)) % 2
    pairs = conflicting_pairs(images[:, None], labels, epsilon=0.1)
    expected = np.argwhere(
        np.triu(
            (labels[:, None] != labels)
            & (np.abs(np.rint(images * 255)[:, None] - np.rint(images * 255)) <= 51)
        )
    )
    np.testing.assert_array_equal(pairs, expected)
    strict = conflicting_pairs(images[:, None], labels, epsilon=0.1, tolerance=0.0)
    assert len(strict) < len(pairs)


def bernoulli(num_coordinates, theta):
    """LP's product distribution: each of +-1 right with probability 1/2 + theta."""
    corners = np.array(list(itertools.product([-1, 1], repeat=num_coordinates)))
    num_right = (corners == 1).sum(axis=1)
    good, bad = 0.5 + theta, 0.5 - theta
    plus = good**num_right * bad ** (num_coordinates - num_right) / 2
    points = np.concatenate([corners, corners]).astype(float)
    labels = np.repeat([1, 0], len(corners))
    weights = np.concatenate([plus, plus[::-1]])
    return points, labels, weights / weights.sum()


@pytest.mark.parametrize(
    ("num_coordinates", "theta", "error"),
    # LP-V2.
    [(1, 0.3, 0.2), (2, 0.3, 0.2), (3, 0.3, 0.104), (4, 0.3, 0.104), (5, 0.1, 0.31744)],
)
def test_a_product_of_coins_has_its_bayes_error_until_corners_touch(
    num_coordinates, theta, error
):
    points, labels, weights = bernoulli(num_coordinates, theta)
    good = 0.5 + theta
    binomial = [
        math.comb(num_coordinates, right)
        * good**right
        * (1 - good) ** (num_coordinates - right)
        * (0.5 if 2 * right == num_coordinates else 1)
        for right in range(num_coordinates // 2 + 1)
    ]
    assert sum(binomial) == pytest.approx(error)
    # LP-V3: corners are 2 apart, so nothing changes below epsilon 1, and all there.
    for epsilon, expected in ((0.0, error), (0.999, error), (1.0, 0.5)):
        found = solve((points, labels, weights, epsilon), "linf")
        assert found.robust_error == pytest.approx(expected)
        assert found.lower_bound == pytest.approx(expected)


@pytest.mark.parametrize("reach", ["space", "support"])
@pytest.mark.parametrize("seed", range(8))
def test_changed_coordinates_are_those_of_all_places_tried(seed, reach):
    rng = np.random.default_rng(seed)
    size, epsilon = 3 + seed % 2, [0.0, 1.0, 1.5, 2.0][seed // 2]
    points = rng.integers(0, 2 + seed % 2, (9, size)).astype(float)
    labels, weights = rng.integers(0, 3, 9), rng.dirichlet(np.ones(9))
    # The value 3 stands for all that no point has.
    everywhere = np.array(list(itertools.product(range(4), repeat=size)), float)
    places = everywhere if reach == "space" else points
    reached = (points[:, None] != places).sum(axis=-1) <= epsilon
    meets = (reached[:, None] & reached).any(axis=-1)
    table = (labels[:, None] != labels) & meets
    found = solve((points, labels, weights, epsilon), "l0", reach=reach)
    pairs = conflicting_pairs(points, labels, norm="l0", epsilon=epsilon, reach=reach)
    np.testing.assert_array_equal(pairs, np.argwhere(np.triu(table)))
    assert found.is_optimal and found.num_conflicts == len(pairs)
    assert found.robust_error == pytest.approx(least_error(table, weights), abs=1e-6)
    # The classifier is right wherever the adversary may go.
    answers = found.classifier(places)
    lost = [(answers[near] != y).any() for near, y in zip(reached, labels, strict=True)]
    assert weights @ lost <= found.robust_error + 1e-12


def test_changed_coordinates_of_many_are_counted():
    # More than the first look takes, of values with and without rounding.
    rng = np.random.default_rng(4)
    base = rng.uniform(size=90).astype(np.float32)
    points = np.where(rng.uniform(size=(400, 90)) < 0.1, rng.uniform(size=90), base)
    points[::7] = rng.uniform(size=(58, 90))
    labels = np.arange(400) % 2
    distance = (points[:, None] != points).sum(axis=-1)
    for epsilon in (4, 8.5):
        table = (labels[:, None] != labels) & (distance <= 2 * math.floor(epsilon))
        found = conflicting_pairs(points, labels, norm="l0", epsilon=epsilon)
        assert 10 < len(found) < 400**2 / 4
        np.testing.assert_array_equal(found, np.argwhere(np.triu(table)))


@pytest.mark.parametrize(
    ("num_coordinates", "theta", "num_flips", "error"),
    # LP-V4, where the first was checked against all 2^16 classifiers.
    [(4, 0.3, 1, 0.3856), (3, 0.3, 1, 0.488), (5, 0.2, 1, 0.47178)],
)
def test_flipping_coins_has_the_error_of_a_threshold(
    num_coordinates, theta, num_flips, error
):
    # A flip moves a coordinate by 2, so it is an adversary of l_1 on the corners.
    points, labels, weights = bernoulli(num_coordinates, theta)
    problem = points, labels, weights, 2.0 * num_flips
    found = solve(problem, "l1", reach="support")
    assert found.robust_error == pytest.approx(error, abs=1e-6)
    # In l0 it may also leave the corners, which does not help it.
    problem = points, labels, weights, num_flips
    for reach in ("support", "space"):
        found = solve(problem, "l0", reach=reach)
        assert found.robust_error == pytest.approx(error, abs=1e-6)


def test_two_classes_of_many_points_are_optimal_whatever_they_weigh():
    rng = np.random.default_rng(0)
    points, labels = rng.uniform(size=(8000, 2)), rng.integers(0, 2, 8000)
    found = solve((points, labels, rng.dirichlet(np.ones(8000)), 0.01), "l2")
    assert found.is_optimal and 0.3 < found.robust_error < 0.5
    assert 0 <= found.robust_error - found.lower_bound < 1e-8


POINTS, LABELS = np.zeros((3, 2)), np.array([0, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": np.zeros(3)}, r"\(points, ...\), got \(3,\)"),
        ({"points": np.zeros((0, 2))}, "non-empty"),
        ({"points": np.zeros((3, 2), complex)}, "got 'complex128'"),
        (
            {"points": np.array([[0], [1], [math.nan]])},
            r"`points` must be in \(-inf, inf\), got nan",
        ),
        ({"labels": np.zeros(3)}, "`labels` must be of integers, got .float64"),
        ({"labels": np.array([0, 1])}, r"of shape \(3,\), got \(2,\)"),
        ({"epsilon": -0.1}, r"`epsilon` must be in \[0, inf\), got -0.1"),
        ({"epsilon": math.inf}, r"`epsilon` must be in \[0, inf\), got inf"),
        ({"tolerance": -1.0}, r"`tolerance` must be in \[0, inf\)"),
        ({"norm": "l7"}, "`norm` must be one of linf, l2, l1, l0, got 'l7'"),
        ({"reach": "moon"}, "`reach` must be one of space, support, got 'moon'"),
        ({"weights": np.ones(3)}, r"must be of the sum 1, got 3\.0; divide them by"),
        (
            {"weights": np.zeros(3)},
            r"must be of the sum 1, got 0\.0; give some point a",
        ),
        (
            {"weights": np.array([1.1, -0.1, 0.0])},
            r"must be in \[0, inf\), got -0.1; give a point",
        ),
        ({"weights": np.array([0.5, 0.5, math.nan])}, "got nan;"),
        ({"weights": np.array([math.inf, 0.5, 0.5])}, "got inf;"),
        ({"weights": np.array([0.5, 0.5])}, r"of shape \(3,\), got \(2,\); give one"),
        ({"time_limit": 0}, r"`time_limit` must be in \(0, inf\], got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    usual = {"points": POINTS, "labels": LABELS, "epsilon": 0.1}
    with pytest.raises(ValueError, match=message):
        optimal_robust_classifier(**{**usual, **arguments})


def test_inputs_of_another_size_are_refused():
    found = optimal_robust_classifier(POINTS, LABELS, epsilon=0.0)
    with pytest.raises(ValueError, match=r"be of 2 coordinates each, got \(4, 3\)"):
        found.classifier(np.zeros((4, 3)))
    assert found.classifier(np.zeros((4, 2, 1))).tolist() == [1] * 4


@pytest.mark.mnist
def test_a_sample_of_mnist_can_be_robust_at_the_usual_radii():
    try:
        test = subset(load_arrays("mnist", "test"), 200)
    except DataError as error:
        pytest.skip(str(error))
    images = test.images.astype(np.float32) / 255
    errors = []
    for norm, epsilons in (("linf", (0.1, 0.3, 0.499, 0.5)), ("l2", (1.5, 3.5))):
        found = [
            optimal_robust_classifier(images, test.labels, norm=norm, epsilon=epsilon)
            for epsilon in epsilons
        ]
        assert all(each.is_optimal for each in found)
        assert np.all(np.diff([each.num_conflicts for each in found]) >= 0)
        errors.append([each.robust_error for each in found])
        assert np.all(np.diff(errors[-1]) >= 0)
    assert errors[0][:2] == [0, 0] and errors[1][0] == 0
    # From 1/2 on a gray image lies in all balls, and one class is all that is left.
    share = np.bincount(test.labels).max() / 200
    assert errors[0][-1] == pytest.approx(1 - share)
    assert errors[1][-1] > 0
