"""MC-A2 against a literal implementation, MC-A3, and both against the Gaussian."""

import json
import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxrobust.concentration import (
    balls,
    candidate_balls,
    estimate_half_space,
    estimate_l2,
    gaussian_concentration,
    greedy_balls,
)
from jaxrobust.concentration.half_spaces import (
    longer_tails,
    principal_directions,
    projections,
)
from jaxrobust.data.points import unit_values


def literal_balls(points, epsilon, alpha, num_balls, slack, centers):
    """Facts MC-A2, word by word, with every set written out."""
    values = points.astype(float)
    distances = (cdist(values, values) / 255).astype(np.float32).astype(float)
    size = len(points)
    target = math.ceil(round(size * alpha * (1 + slack), 9))
    length = min(size, 2 * math.ceil(round(size * alpha, 9)))
    covered, near, balls = set(), set(), []
    for t in range(1, num_balls + 1):
        if len(covered) >= target:
            break
        low = math.ceil((target - len(covered)) / (num_balls - t + 1))
        high = target - len(covered)
        best = None
        for u in centers:
            order = sorted(range(size), key=lambda j: (distances[u, j], j))[:length]
            fresh = [j for j in order if j not in covered]
            for m in range(low, high + 1):
                if m > len(fresh):
                    continue
                r = distances[u, fresh[m - 1]]
                init = [j for j in range(size) if j not in covered]
                init = [j for j in init if distances[u, j] <= r]
                exp = [j for j in range(size) if j not in near]
                exp = [j for j in exp if distances[u, j] <= r + epsilon]
                cost = len(exp) - len(init)
                if best is None or cost < best[0]:
                    best = cost, u, r
        _, u, r = best
        covered |= {j for j in range(size) if distances[u, j] <= r}
        near |= {j for j in range(size) if distances[u, j] <= r + epsilon}
        balls.append((u, r))
    return balls


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.15, 0.4, 5.0])
@pytest.mark.parametrize("step", [1, 86, 128])
def test_balls_are_those_of_the_literal_algorithm(epsilon, step):
    # In steps of 86 or 128 there are 9 or 4 places for 30 points: ties beyond any list.
    for seed in range(8):
        rng = np.random.default_rng(seed)
        points = (rng.integers(0, 256, (30, 2)) // step * step).astype(np.uint8)
        alpha = float(rng.choice([0.1, 0.2, 0.45]))
        num_balls = int(rng.integers(1, 6))
        slack = float(rng.choice([0.0, 0.25]))
        max_centers = [None, 12][rng.integers(2)]
        candidates = candidate_balls(points, alpha, max_centers=max_centers, seed=seed)
        assert len(candidates.centers) == (max_centers or 30)
        assert candidates.lists.indices.shape[1] == 2 * math.ceil(30 * alpha - 1e-9)
        found = greedy_balls(
            candidates, epsilon, alpha, num_balls=num_balls, slack=slack
        )
        expected = literal_balls(
            points, epsilon, alpha, num_balls, slack, candidates.centers
        )
        which = [center for center, _ in expected]
        radii = [radius for _, radius in expected]
        np.testing.assert_array_equal(found.centers, unit_values(points[which]))
        np.testing.assert_allclose(found.radii, radii)
        assert found.risks(points, 0.0).risk >= alpha - 1e-9


def test_points_that_tie_beyond_a_list_count_for_its_ball():
    # Lists hold 6 of 10 points. The first ball is that of radius 0 at 51: 2 points, and
    # all but one are near it. One more is missing. The ball of radius 51 there adds all
    # at 0 and at 102, 7 near points, and brings 153 near: 1 - 7. By its list it adds 4,
    # so that the ball of radius 0 at 0, which adds 5, would seem the best.
    points = np.array([51, 0, 0, 102, 0, 51, 153, 0, 102, 0], np.uint8)[:, None]
    candidates = candidate_balls(points, 0.3)
    found = greedy_balls(candidates, 0.2, 0.3, num_balls=2)
    np.testing.assert_allclose(found.centers, [[0.2], [0.2]])
    np.testing.assert_allclose(found.radii, [0.0, 0.2])
    expected = literal_balls(points, 0.2, 0.3, 2, 0.0, candidates.centers)
    assert expected == [(0, 0.0), (0, found.radii[1])]


def test_shares_that_rounding_makes_larger_are_no_point_more():
    points = np.arange(100, dtype=np.uint8)[:, None]
    assert 100 * 0.07 > 7
    candidates = candidate_balls(points, 0.07)
    assert candidates.lists.indices.shape[1] == 14
    found = greedy_balls(candidates, 0.0, 0.07, num_balls=1)
    assert found.risks(points, 0.0).risk == 0.07


def gaussian(size, dimensions, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, dimensions)).astype(np.float32)


TRAIN, TEST = gaussian(3000, 3, 0), gaussian(3000, 3, 1)


@pytest.mark.parametrize("num_balls", [1, 4])
@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_no_union_of_balls_beats_the_gaussian_bound(num_balls, epsilon):
    found = estimate_l2(
        TRAIN, TEST, epsilon=epsilon, alpha=0.05, num_balls=num_balls, max_centers=400
    )
    (train,), (test,) = found.train, found.test
    assert train.risk == pytest.approx(0.05, abs=2e-3)
    # Four standard deviations of a share of that many points.
    bound = gaussian_concentration(test.risk, epsilon)
    assert test.adversarial_risk >= bound - 4 * math.sqrt(bound / len(TEST))
    # Nor is it far from it in so few dimensions.
    assert test.adversarial_risk <= 2 * bound + 0.05


def test_separated_clusters_do_not_grow():
    rng = np.random.default_rng(0)

    def draw(size):
        near = rng.normal(scale=0.01, size=(size, 2))
        return (near + (rng.random((size, 1)) < 0.1) * 5).astype(np.float32)

    train, test = draw(400), draw(400)
    share = float((train[:, 0] > 2).mean())
    found = estimate_l2(train, test, epsilon=1.0, alpha=share, num_balls=2)
    assert found.train[0] == pytest.approx((share, share))
    expected = float((test[:, 0] > 2).mean())
    assert found.test[0].adversarial_risk == pytest.approx(expected)


def test_the_best_number_of_balls_is_taken():
    estimates = [
        estimate_l2(TRAIN, TEST, epsilon=0.3, alpha=0.05, num_balls=n, max_centers=200)
        for n in (1, 3, (1, 3))
    ]
    best = min(estimates[:2], key=lambda each: each.train[0].adversarial_risk)
    assert estimates[2].train == best.train and best.num_feasible == 1
    assert estimates[2].num_regions == best.num_regions
    row = json.loads(json.dumps(estimates[2].as_row()))
    assert row["settings"]["num_centers"] == 200 and row["guarantee"]["is_vacuous"]
    # The choice was among unions of up to three, whichever was best.
    assert row["guarantee"]["num_regions"] == 3
    other = estimate_l2(TRAIN, TEST, epsilon=0, alpha=0.01, num_balls=(1, 5, 2),
        max_centers=20)  # fmt: skip
    assert other.num_regions < 5 and other.guarantee is not None
    assert other.guarantee.num_regions == 5
    candidates = candidate_balls(TRAIN, 0.05, max_centers=200)
    shared = estimate_l2(candidates, TEST, epsilon=0.3, alpha=0.05, num_balls=3)
    assert shared.test == estimates[1].test


def test_a_ball_of_radius_zero_has_the_risk_of_its_center():
    rng = np.random.default_rng(1)
    for _ in range(3):
        images = rng.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
        found = estimate_l2(images, images, epsilon=0.1, alpha=0.05, num_balls=1)
        assert found.regions[0].radii.tolist() == [0.0]
        assert found.train == found.test == ((0.05, 0.05),)


def test_candidates_for_another_risk_are_refused():
    candidates = candidate_balls(TRAIN[:100], 0.05)
    with pytest.raises(
        ValueError, match=r"got lists of 10 neighbors, and 0\.1 takes 20"
    ):
        estimate_l2(candidates, TEST, epsilon=0.1, alpha=0.1)


@pytest.mark.parametrize("max_centers", [None, 60])
def test_lists_that_no_memory_holds_are_refused(max_centers, tmp_path, monkeypatch):
    # At alpha 1/2 and above each list is of all 200 points: 8 bytes for each, and 2 for
    # the search.
    number = max_centers or 200
    never = {"progress": lambda *_: pytest.fail("searched first")}
    options = {"epsilon": 0.1, "alpha": 0.6, "num_balls": 1, "max_centers": max_centers}
    for cache, needed in ((None, number * 200 * 10), (tmp_path, number * 200 * 2)):
        monkeypatch.setattr(balls, "free_memory", lambda needed=needed: needed - 1)
        message = f"got 0.6: {number} lists of 200 .*`max_centers`, a smaller `alpha`"
        with pytest.raises(ValueError, match=message):
            estimate_l2(TRAIN[:200], TEST, **options, cache=cache, **never)
        monkeypatch.setattr(balls, "free_memory", lambda needed=needed: needed)
        estimate_l2(TRAIN[:200], TEST, **options, cache=cache)
    monkeypatch.setattr(balls, "free_memory", lambda: None)
    candidates = candidate_balls(TRAIN[:200], 0.6)
    # What is counted beside the lists.
    assert balls._reach(candidates.lists.distances, 0.1).nbytes == 200 * 200


def test_the_first_principal_component_is_the_baseline():
    rng = np.random.default_rng(3)
    scales = np.array([1.0, 4.0, 2.0])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    train = (rng.exponential(size=(4000, 3)) * scales @ turn).astype(np.float32)
    first, second = principal_directions(train, 2)
    _, _, vectors = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)
    assert abs(first @ vectors[0]) == pytest.approx(1, abs=1e-5)
    assert abs(second @ vectors[1]) == pytest.approx(1, abs=1e-5)
    # The long tail is on one side, and that side is found.
    found = estimate_half_space(train, train, epsilon=1.0, alpha=0.05)
    direction = found.regions[0].direction
    assert direction @ (turn[1]) > 0.99
    projection = np.sort(train.astype(float) @ direction)[::-1]
    assert found.regions[0].offset == pytest.approx(projection[200])
    assert found.train[0].risk == pytest.approx(200 / 4000)
    reached = np.mean(projection > projection[200] - 1.0)
    assert found.train[0].adversarial_risk == pytest.approx(reached)


def test_half_spaces_reach_the_gaussian_bound():
    train, test = gaussian(20_000, 4, 2), gaussian(20_000, 4, 3)
    for search in ("principal", "best"):
        found = estimate_half_space(
            train, test, epsilon=1.0, alpha=0.05, search=search, num_random=5
        )
        assert found.train[0].risk == 0.05 and found.guarantee is None
        bound = gaussian_concentration(found.test[0].risk, 1.0)
        assert found.test[0].adversarial_risk == pytest.approx(bound, abs=0.012)


def test_the_search_finds_a_tail_that_does_not_vary_most():
    # A tenth of the points is far out in a direction of little variance.
    rng = np.random.default_rng(4)

    def draw(size):
        points = rng.normal(size=(size, 8), scale=[4.0] + [0.1] * 7)
        points[: size // 10, 5] += 5
        return rng.permutation(points).astype(np.float32)

    train, test = draw(3000), draw(3000)
    options = {"epsilon": 1.0, "alpha": 0.09}
    baseline = estimate_half_space(train, test, **options)
    best = estimate_half_space(train, test, **options, search="best", num_directions=2)
    assert baseline.test[0].adversarial_risk > 0.12
    assert best.train[0].adversarial_risk == pytest.approx(0.1, abs=0.002)
    assert best.test[0].adversarial_risk == pytest.approx(0.1, abs=0.01)
    assert best.settings["num_tried"] > baseline.settings["num_tried"] == 2


def test_a_half_space_of_too_little_risk_is_not_the_best():
    # Half of the points tie as the furthest in one direction: none is beyond them.
    rng = np.random.default_rng(6)
    other = rng.normal(size=500)
    points = np.stack([np.repeat([4.0, -4.0], 500), np.tile(other, 2)], axis=1)
    options = {"epsilon": 0.0, "alpha": 0.1, "search": "best", "num_random": 3}
    found = estimate_half_space(points, points, **options)
    assert found.train[0].risk == 0.1
    baseline = estimate_half_space(points, points, epsilon=0.0, alpha=0.1)
    assert baseline.train[0].risk == 0.0
    assert (found.num_feasible, baseline.num_feasible) == (1, 0)
    assert baseline.as_row()["num_feasible"] == 0


def test_each_step_leads_to_a_longer_tail():
    rng = np.random.default_rng(5)
    points = (rng.exponential(size=(500, 6)) ** 2).astype(np.float32)
    directions = rng.normal(size=(4, 6))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def tails(directions):
        projected = np.sort(projections(points, directions), axis=1)
        return projected[:, -25:].mean(axis=1)

    middle = points.mean(axis=0, dtype=np.float64)
    before = tails(directions) - directions @ middle
    for _ in range(5):
        directions = longer_tails(points, projections(points, directions), 0.05)
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
        # How far the furthest are out on average, beyond the mean of all.
        now = tails(directions) - directions @ middle
        assert np.all(now >= before - 1e-9)
        before = now


@pytest.mark.parametrize("method", [estimate_l2, estimate_half_space])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1.5}, r"`alpha` must be in \(0, 1\), got 1.5"),
        ({"epsilon": -1.0}, r"`epsilon` must be in \[0, inf\), got -1.0"),
        ({"test": TEST[:, :1]}, r"of shape \(images, 3\), got \(\d+, 1\)"),
    ],
)
def test_what_neither_method_can_estimate_is_refused(method, changes, message):
    arguments = {"train": TRAIN[:40], "test": TEST, "epsilon": 0.1, "alpha": 0.1}
    if method is estimate_l2:
        arguments["progress"] = lambda *_: pytest.fail("searched first")
    with pytest.raises(ValueError, match=message):
        method(**arguments | changes)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        (estimate_l2, {"num_balls": 0}, "`num_balls` must be at least 1, got 0"),
        (estimate_l2, {"max_centers": 0}, "`max_centers` must be at least 1, got 0"),
        (estimate_l2, {"slack": -0.1}, r"`slack` must be in \[0, inf\)"),
        (estimate_l2, {"slack": 1.5}, "no more than 8 points, .* asks for 10"),
        (estimate_half_space, {"search": "all"}, "must be one of principal, best"),
        (estimate_half_space, {"num_directions": 0}, "`num_directions` must be at"),
    ],
)
def test_what_a_method_cannot_estimate_is_refused(method, changes, message):
    arguments = {"train": TRAIN[:40], "test": TEST, "epsilon": 0.1, "alpha": 0.1}
    if method is estimate_l2:
        arguments["progress"] = lambda *_: pytest.fail("searched first")
    with pytest.raises(ValueError, match=message):
        method(**arguments | changes)
