"""Objectives with a proven loss, against formulas by hand and against each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust.attacks import PGD
from jaxrobust.bounds import Bounds, IntervalPass, interval_margins, linear_margins
from jaxrobust.networks import Network, Variables, as_network
from jaxrobust.threat import L2Ball, LinfBall
from jaxrobust.training import Phase
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives import (
    IBP,
    MTLIBP,
    SABR,
    Adversarial,
    CrownIBP,
    Dual,
    Standard,
)
from jaxrobust.training.recipe.objectives.certified import activity, tightness
from jaxrobust.training.recipe.schedules import EpsilonSchedule
from tests.training.objectives import linear

EPSILON = 0.1
ATTACK = PGD(num_steps=3, step_size=0.05)


class Normalized(nn.Module):
    """A network whose outputs for an image depend on the other ones in training."""

    @nn.compact
    def __call__(self, images, train=False):
        flat = images.reshape(images.shape[0], -1)
        units = nn.Dense(8)(flat)
        units = nn.relu(nn.BatchNorm(use_running_average=not train)(units))
        return nn.Dense(linear.CLASSES)(units)


def normalized(images):
    network = as_network(Normalized(), linear.CLASSES)
    return Model(network, network.init(jax.random.key(3), images))


def value(objective, images, labels, threat=None, model=None):
    threat = LinfBall(EPSILON) if threat is None else threat
    model = linear.model() if model is None else model
    return objective(linear.KEY, model, threat, images, labels)


class TestIBP:
    def test_loss_and_gradient_of_a_linear_network_are_those_by_hand(self):
        images, labels = linear.batch()
        hand = linear.ByHand(images)
        rows = np.arange(linear.COUNT)
        own = hand.kernel.T[np.asarray(labels)]
        apart = own[:, None] - hand.kernel.T[None]
        logits = hand.flat @ hand.kernel + hand.bias
        margins = logits[rows, labels][:, None] - logits
        # The box is inside [0, 1], so the worst image of a margin is a corner of it.
        margins -= EPSILON * np.abs(apart).sum(axis=2)
        expected = np.log(np.exp(-margins).sum(axis=1))
        loss, gradient = linear.loss_and_gradient(
            IBP(), LinfBall(EPSILON), images, labels
        )
        assert loss == pytest.approx(expected.mean(), rel=1e-5)
        share = np.exp(-margins) / np.exp(-margins).sum(axis=1, keepdims=True)
        errors = share - np.eye(linear.CLASSES)[np.asarray(labels)]
        slope = hand.gradient(errors)["kernel"]
        for i in rows:
            for j in range(linear.CLASSES):
                away = EPSILON * share[i, j] * np.sign(apart[i, j]) / linear.COUNT
                slope[:, labels[i]] += away
                slope[:, j] -= away
        np.testing.assert_allclose(gradient["kernel"], slope, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            gradient["bias"], hand.gradient(errors)["bias"], rtol=1e-4, atol=1e-6
        )

    def test_at_radius_zero_it_is_training_on_clean_images(self):
        images, labels = linear.batch()
        model = normalized(images)
        objective = IBP(regularization=0.0)
        loss, seen = value(objective, images, labels, LinfBall(0.0), model)
        clean, expected = value(Standard(), images, labels, model=model)
        assert loss == pytest.approx(float(clean), rel=1e-5)
        # Batch normalization has moved by the same batch, and only once.
        for one, other in zip(
            *(jax.tree.leaves(each.state) for each in (seen, expected)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-6)

    def test_kappa_is_the_weight_of_the_clean_loss(self):
        images, labels = linear.batch()
        losses = [
            float(value(IBP(kappa=kappa), images, labels)[0]) for kappa in (0, 1, 0.25)
        ]
        clean, _ = value(Standard(), images, labels)
        assert losses[1] == pytest.approx(float(clean), rel=1e-6)
        assert losses[2] == pytest.approx(0.75 * losses[0] + 0.25 * losses[1], rel=1e-6)

    def test_what_is_seen_is_certified_and_no_attack_breaks_it(self):
        images, labels = linear.batch()
        labels = jnp.argmax(linear.model().logits(images), axis=1)
        _, seen = value(IBP(), images, labels)
        _, attacked = value(Adversarial(attack=ATTACK), images, labels)
        assert 0 < np.sum(seen.is_correct) < linear.COUNT
        assert not np.any(seen.is_correct & ~attacked.is_correct)


def passed(*relus, width=0.2):
    """A pass of which only the intervals count."""
    inputs = Bounds(jnp.zeros((2, 3)), jnp.full((2, 3), 2 * width))
    nothing = jnp.zeros((2, 4))
    relus = tuple(Bounds(*map(jnp.asarray, each)) for each in relus)
    return IntervalPass(nothing, Bounds(nothing, nothing), None, inputs, relus)


class TestRegularizers:
    def test_intervals_up_to_twice_as_wide_as_the_pixels_cost_nothing(self):
        narrow = ([[0.0, 1.0]], [[0.6, 1.8]])  # half-widths .3 and .4, mean .35
        assert tightness(passed(narrow)) == 0
        wide = ([[0.0, -4.0]], [[4.0, 0.0]])  # 2 and 2: .2 / 2 = .1, so .4 / .5
        assert tightness(passed(narrow, wide)) == pytest.approx(0.8 / 2)

    def test_active_and_inactive_units_in_balance_cost_nothing(self):
        even = ([[1.0, -2.0]], [[2.0, -1.0]])
        assert activity(passed(even)) == pytest.approx(0, abs=1e-6)

    def test_an_imbalance_is_that_by_hand(self):
        # Centers 4, -1 and, unstable, 0: mean 1; contributions 4 and 1, and 9 and 4.
        uneven = ([[3.0, -2.0, -1.0]], [[5.0, -0.0001, 1.0]])
        centers = np.array([4, -1.00005, 0])
        away = (centers - centers.mean()) ** 2
        expected = [
            max(0.5 - 1.00005 / 4, 0) / 0.5,
            max(0.5 - away[1] / away[0], 0) / 0.5,
        ]
        assert expected[0] > 0 and expected[1] > 0
        assert activity(passed(uneven)) == pytest.approx(sum(expected), rel=1e-4)

    def test_a_layer_without_active_units_has_no_ratio_and_a_finite_gradient(self):
        def of(lower):
            return activity(passed((lower, lower + 0.5)))

        dead = jnp.full((1, 4), -3.0)
        assert of(dead) == 0
        assert np.all(np.isfinite(jax.grad(of)(dead)))

    @pytest.mark.parametrize("kind", [IBP, CrownIBP, MTLIBP, SABR])
    def test_their_weight_falls_to_0_with_the_radius(self, kind):
        schedule = EpsilonSchedule(
            kind="linear", start=0, end=0.4, ramp_epochs=3, every="step"
        )
        objective = kind(regularization=0.8)
        phase = Phase(name="any", epochs=4, epsilon=schedule, objective=objective)
        found = [phase.at(epoch, 2).objective.regularization for epoch in (1, 2, 3)]
        np.testing.assert_allclose(
            np.concatenate(found), [0.8, 0.6, 0.4, 0.2, 0, 0], atol=1e-6
        )


class TestLinearBounds:
    def test_a_linear_network_has_no_tighter_bounds_than_intervals(self):
        images, labels = linear.batch()
        expected, _ = value(IBP(), images, labels)
        for objective in (CrownIBP(beta=0.0), CrownIBP(beta=0.5), Dual()):
            loss, _ = value(objective, images, labels)
            assert loss == pytest.approx(float(expected), rel=1e-5)

    def test_crown_ibp_mixes_the_margins(self):
        images, labels = linear.batch()
        model = normalized(images)
        threat = LinfBall(EPSILON)
        ends = [
            function(
                lambda images: model.train(linear.KEY, images)[0],
                *(threat, images, labels),
                statistics="clean",
                rounding="nearest",
                **options,
            )
            for function, options in (
                (interval_margins, {}),
                (linear_margins, {"intermediate": "interval", "slopes": "zero"}),
            )
        ]
        assert not np.allclose(*ends, rtol=1e-3)
        for beta in (0.0, 0.3, 1.0):
            objective = CrownIBP(beta=beta, slopes="zero", regularization=0.0)
            loss, _ = value(objective, images, labels, threat, model)
            margins = beta * ends[0] + (1 - beta) * ends[1]
            losses = np.log(np.exp(-np.asarray(margins)).sum(axis=1))
            assert loss == pytest.approx(losses.mean(), rel=1e-5)

    def test_its_weight_of_intervals_rises_with_the_radius(self):
        found = [CrownIBP(beta=0.8).at_radius(each, 0.4).beta for each in (0, 0.1, 0.4)]
        assert found == pytest.approx([0, 0.2, 0.8])

    @pytest.mark.slow
    def test_the_dual_loss_is_that_of_the_dual_network(self):
        images, labels = linear.batch()
        rng = np.random.default_rng(2)
        layers = [
            (rng.normal(size=(9, 7)), rng.normal(size=7)),
            (rng.normal(size=(7, 6)), rng.normal(size=6)),
            (rng.normal(size=(6, linear.CLASSES)), rng.normal(size=linear.CLASSES)),
        ]
        arrays = jax.tree.map(lambda each: jnp.asarray(each, jnp.float32), layers)

        def apply(variables, images, *, train, key):
            del train, key
            units = images.reshape(images.shape[0], -1)
            for index, (weights, bias) in enumerate(variables.params):
                units = units @ weights + bias[None]
                units = jax.nn.relu(units) if index < 2 else units
            return units, variables

        model = Model(Network(linear.init, apply), Variables(arrays, {}))
        threat = LinfBall(EPSILON, None)
        loss, _ = value(Dual(), images, labels, threat, model)
        projected = Dual(num_projections=5001)
        estimate, _ = value(projected, images, labels, threat, model)
        assert estimate == pytest.approx(float(loss), rel=0.05)
        expected = [
            by_hand(layers, np.asarray(image, np.float64).reshape(-1), int(label))
            for image, label in zip(images, labels, strict=True)
        ]
        assert loss == pytest.approx(np.mean(expected), rel=1e-4)
        # Slopes depend on the weights, too: all of it is differentiated.
        _, gradient = linear.loss_and_gradient(
            Dual(), LinfBall(EPSILON, None), images, labels, at=model
        )
        for index, shape in ((0, (9, 7)), (1, (7, 6))):
            along = np.random.default_rng(5).normal(size=shape)
            ends = []
            for step in (1e-5, -1e-5):
                moved = list(layers)
                moved[index] = (layers[index][0] + step * along, layers[index][1])
                losses = [
                    by_hand(
                        moved, np.asarray(image, np.float64).reshape(-1), int(label)
                    )
                    for image, label in zip(images, labels, strict=True)
                ]
                ends.append(np.mean(losses))
            slope = (ends[0] - ends[1]) / 2e-5
            assert np.sum(gradient[index][0] * along) == pytest.approx(slope, rel=1e-3)


def by_hand(layers, image, label):
    """The dual loss of one image: the recursion of Wong & Kolter, layer after layer."""

    def least(depth, objective, known):
        """Lower bound of the objective at a layer's results."""
        nu, total = -objective, 0.0
        for index in reversed(range(depth)):
            weights, bias = layers[index]
            total -= nu @ bias
            nu = weights @ nu
            if index == 0:
                break
            low, high = known[index - 1]
            unstable = (low < 0) & (high > 0)
            slope = np.where(
                unstable, high / np.where(unstable, high - low, 1), high > 0
            )
            nu = slope * nu
            total += np.sum(np.where(unstable, low * np.maximum(nu, 0), 0))
        return total - image @ nu - EPSILON * np.abs(nu).sum()

    known = []
    for depth in (1, 2):
        identity = np.eye(len(layers[depth - 1][1]))
        low = np.array([least(depth, each, known) for each in identity])
        high = -np.array([least(depth, -each, known) for each in identity])
        known.append((low, high))
    classes = np.eye(linear.CLASSES)
    margins = [
        0 if each == label else least(3, classes[label] - classes[each], known)
        for each in range(linear.CLASSES)
    ]
    return np.log(np.exp(-np.array(margins)).sum())


class TestWithAnAttack:
    def test_mtl_ibp_lies_between_the_attacked_and_the_proven_loss(self):
        images, labels = linear.batch()
        model = normalized(images)
        ends = [
            float(value(each, images, labels, model=model)[0])
            for each in (Adversarial(attack=ATTACK), IBP(regularization=0.0))
        ]
        for alpha, expected in (
            (0.0, ends[0]),
            (1.0, ends[1]),
            (0.25, 0.75 * ends[0] + 0.25 * ends[1]),
        ):
            objective = MTLIBP(alpha=alpha, regularization=0.0, attack=ATTACK)
            loss, _ = value(objective, images, labels, model=model)
            assert loss == pytest.approx(expected, rel=1e-5)

    def test_sabr_is_ibp_where_the_small_box_is_the_ball(self):
        images, labels = linear.batch()
        whole = SABR(ratio=1.0, attack=ATTACK)
        loss, _ = value(whole, images, labels)
        assert loss == pytest.approx(float(value(IBP(), images, labels)[0]), rel=1e-5)

    def test_sabr_is_adversarial_training_where_the_small_box_is_a_point(self):
        images, labels = linear.batch()
        point = SABR(ratio=0.0, attack=ATTACK)
        expected, _ = value(Adversarial(attack=ATTACK), images, labels)
        loss, _ = value(point, images, labels)
        assert loss == pytest.approx(float(expected), rel=1e-5)

    def test_the_small_box_of_sabr_lies_inside_the_ball(self):
        images, labels = linear.batch()
        # All of the ball is proven, so all of each box inside it is.
        whole, _ = value(IBP(), images, labels)
        for ratio in (0.2, 0.7):
            part, _ = value(SABR(ratio=ratio, attack=ATTACK), images, labels)
            assert part <= whole + 1e-5

    def test_sabr_refuses_another_norm(self):
        images, labels = linear.batch()
        with pytest.raises(ValueError, match=r"must be linf for SABR.*ibp"):
            value(SABR(attack=ATTACK), images, labels, L2Ball(0.1))


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        *((IBP, "kappa"), (IBP, "regularization"), (CrownIBP, "beta")),
        *((MTLIBP, "alpha"), (SABR, "ratio")),
    ],
)
def test_numbers_out_of_range_are_refused(kind, field):
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        kind(**{field: -0.1})
    assert field in {each.name for each in dataclasses.fields(kind)}
