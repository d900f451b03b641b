"""Exact answers, against a search over all pieces of small networks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxrobust.bounds import UnboundedError, interval_margins, is_certified
from jaxrobust.bounds.exact import exact
from jaxrobust.threat import L2Ball, LinfBall

SIZES = (3, 4, 3, 3)


def network(seed):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(rows, columns)), 0.3 * rng.normal(size=columns))
        for rows, columns in itertools.pairwise(SIZES)
    ]


def logits_of(layers):
    arrays = [[jnp.asarray(each, jnp.float32) for each in layer] for layer in layers]

    def logits_fn(images):
        units = images.reshape(images.shape[0], -1)
        for index, (weights, bias) in enumerate(arrays):
            units = units @ weights + bias[None]
            if index + 1 < len(arrays):
                units = jax.nn.relu(units)
        return units

    return logits_fn


def least_margin(layers, image, label, epsilon):
    """The least margin over the ball: a linear program for each pattern of relus."""
    box = [(max(x - epsilon, 0), min(x + epsilon, 1)) for x in image]
    best = np.inf
    for pattern in itertools.product((0, 1), repeat=sum(SIZES[1:-1])):
        on = np.split(np.array(pattern), np.cumsum(SIZES[1:-1])[:-1])
        slope, offset = np.eye(len(image)), np.zeros(len(image))
        rows, limits = [], []
        for (weights, bias), is_on in zip(layers, [*on, None], strict=True):
            slope, offset = slope @ weights, offset @ weights + bias
            if is_on is not None:
                signs = np.where(is_on, -1.0, 1.0)
                rows.append((slope * signs).T)
                limits.append(-offset * signs)
                slope, offset = slope * is_on, offset * is_on
        for rival in set(range(SIZES[-1])) - {label}:
            found = optimize.linprog(
                slope[:, label] - slope[:, rival],
                A_ub=np.concatenate(rows),
                b_ub=np.concatenate(limits),
                bounds=box,
            )
            if found.status == 0:
                best = min(best, found.fun + offset[label] - offset[rival])
    return best


@pytest.mark.slow
def test_answers_are_those_of_all_patterns_of_relus():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 0.8, size=(3, 3, 1, 1)).astype(np.float32)
    told = set()
    for seed in range(2):
        layers = network(seed)
        logits_fn = logits_of(layers)
        labels = jnp.argmax(logits_fn(jnp.asarray(images)), axis=1)
        for epsilon in (0.02, 0.3):
            threat = LinfBall(epsilon)
            found = exact(logits_fn, threat, images, labels)
            for number, answer in enumerate(found.answers):
                image, label = images[number].reshape(-1), int(labels[number])
                margin = least_margin(layers, image, label, epsilon)
                assert abs(margin) > 1e-3, "too near to tell"
                assert answer == ("robust" if margin > 0 else "broken")
                told.add(answer)
                moved = found.images[number : number + 1]
                assert np.all(np.isnan(moved)) == (answer == "robust")
                if answer == "broken":
                    assert np.all(threat.contains(moved, images[number : number + 1]))
                    assert np.argmax(logits_fn(moved)) != label
    assert told == {"robust", "broken"}


def test_it_proves_all_that_intervals_prove():
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.uniform(size=(6, 3, 1, 1)), jnp.float32)
    logits_fn, threat = logits_of(network(3)), LinfBall(0.02)
    labels = jnp.argmax(logits_fn(images), axis=1)
    proven = is_certified(interval_margins(logits_fn, threat, images, labels), labels)
    found = exact(logits_fn, threat, images, labels)
    assert np.any(proven)
    assert {found.answers[each] for each in np.flatnonzero(proven)} == {"robust"}


def test_a_wrong_image_is_broken_by_itself():
    images = jnp.full((1, 3, 1, 1), 0.5)
    logits_fn = logits_of(network(0))
    wrong = 1 + jnp.argmax(logits_fn(images), axis=1)
    found = exact(logits_fn, LinfBall(0.0), images, wrong % 3)
    assert found.answers == ("broken",)
    np.testing.assert_array_equal(found.images, images)


def test_a_tie_is_not_robust():
    def logits_fn(images):
        return 0 * images.reshape(images.shape[0], -1)

    found = exact(logits_fn, LinfBall(0.1), jnp.full((1, 2, 1, 1), 0.5), jnp.array([0]))
    assert found.answers == ("broken",)


def test_what_cannot_be_solved_is_refused():
    images, labels = jnp.full((1, 3, 1, 1), 0.5), jnp.array([0])
    plain = logits_of(network(0))
    with pytest.raises(TypeError, match="must be a LinfBall"):
        exact(plain, L2Ball(0.1), images, labels)  # type: ignore
    with pytest.raises(UnboundedError, match="relus and affine steps"):
        exact(lambda x: jnp.tanh(plain(x)), LinfBall(0.1), images, labels)
    with pytest.raises(ValueError, match="`time_limit` must be in"):
        exact(plain, LinfBall(0.1), images, labels, time_limit=0)
