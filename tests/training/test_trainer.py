"""Steps against formulas worked out by hand, and what a compiled epoch promises."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import PGD
from jaxrobust.networks import Linear, Network, as_network
from jaxrobust.networks.resnet import ResNet
from jaxrobust.training import Adversarial, OptimizerConfig, adversarial, make_trainer

NUM_IMAGES, SHAPE, CLASSES = 10, (4, 4, 1), 3


def steps(
    *,
    epsilon=0.0,
    step_size=0.05,
    num_steps=0,
    batch_norm="eval",
    is_bounded=True,
    num_batches=10,
    **optimizer,
):
    attack = PGD(step_size=step_size, num_steps=num_steps)
    fields = {"name": "sgd", "momentum": 0.9, "learning_rate": 0.5} | optimizer
    phase = adversarial(
        epsilon,
        1,
        objective=Adversarial(attack=attack, batch_norm=batch_norm),
        optimizer=OptimizerConfig(**fields),
        is_bounded=is_bounded,
    )
    return phase.at(1, num_batches)


def data(seed=0, count=NUM_IMAGES, shape=SHAPE):
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.3, 0.7, size=(count, *shape)).astype("float32")
    return jnp.asarray(images), jnp.asarray(rng.integers(0, CLASSES, size=count))


def trainer_of(network=None, batch_size=NUM_IMAGES):
    network = as_network(network or Linear(CLASSES), CLASSES)
    return make_trainer(network, batch_size=batch_size)


def first_of(trainer, images, **optimizer):
    return trainer.init(jax.random.key(0), images, steps(**optimizer).optimizer)


def train(trainer, state, settings, images, labels, stop=1):
    state = trainer.begin_epoch(state)
    return jax.jit(trainer.run)(state, settings, images, labels, jnp.int32(stop))


def gradient_by_hand(kernel, bias, images, labels):
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    logits = flat @ kernel + bias
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    error = (share - np.eye(CLASSES)[np.asarray(labels)]) / len(images)
    return flat.T @ error, error.sum(axis=0)


def head(state):
    layer = state.weights.params["head"]
    return np.asarray(layer["kernel"]), np.asarray(layer["bias"])


def test_steps_of_sgd_are_pytorchs_with_momentum_and_weight_decay():
    images, labels = data()
    trainer = trainer_of()
    state = first_of(trainer, images)
    kernel, bias = (part.astype(np.float64) for part in head(state))
    speed = [np.zeros_like(kernel), np.zeros_like(bias)]
    for _ in range(3):
        state = train(trainer, state, steps(weight_decay=0.1), images, labels)
        gradients = gradient_by_hand(kernel, bias, images, labels)
        decayed = (gradients[0] + 0.1 * kernel, gradients[1] + 0.1 * bias)
        speed = [0.9 * old + new for old, new in zip(speed, decayed, strict=True)]
        kernel, bias = kernel - 0.5 * speed[0], bias - 0.5 * speed[1]
    np.testing.assert_allclose(head(state)[0], kernel, atol=1e-5)
    np.testing.assert_allclose(head(state)[1], bias, atol=1e-5)


def test_a_clipped_gradient_has_the_norm_of_the_clip():
    images, labels = data()
    trainer = trainer_of()
    state = first_of(trainer, images, clip_norm=0.01)
    after = train(trainer, state, steps(clip_norm=0.01), images, labels)
    moved = [new - old for new, old in zip(head(after), head(state), strict=True)]
    length = np.sqrt(sum(np.sum(part**2) for part in moved))
    assert length == pytest.approx(0.5 * 0.01, rel=1e-4)


def test_an_adversarial_step_trains_on_the_worst_case():
    images, labels = data()
    trainer = trainer_of()
    state = first_of(trainer, images)
    state = train(trainer, state, steps(learning_rate=2.0), images, labels)
    kernel, bias = (part.astype(np.float64) for part in head(state))
    gradients = gradient_by_hand(kernel, bias, images, labels)
    # Steps longer than the ball end at its corners; in so small a ball the signs of the
    # input gradient are those at its center, so that corner is the worst case.
    attacked = steps(epsilon=0.01, step_size=1.0, num_steps=2, is_bounded=False)
    flat = np.asarray(images, np.float64).reshape(NUM_IMAGES, -1)
    logits = flat @ kernel + bias
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    input_gradient = (share - np.eye(CLASSES)[np.asarray(labels)]) @ kernel.T
    worst = flat + 0.01 * np.sign(input_gradient)
    expected = gradient_by_hand(kernel, bias, worst, labels)
    assert not np.allclose(expected[0], gradients[0], atol=1e-4)
    speed = jax.tree.leaves(state.weights.opt_state)
    before = {part.shape: np.asarray(part) for part in speed if part.ndim}
    after = train(trainer, state, attacked, images, labels)
    for now, then, gradient in zip(head(after), (kernel, bias), expected, strict=True):
        step = 0.9 * before[gradient.shape] + gradient
        np.testing.assert_allclose(now, then - 0.5 * step, atol=2e-5)


def test_metrics_are_sums_over_the_examples_seen():
    images, labels = data()
    trainer = trainer_of(batch_size=3)
    state = first_of(trainer, images)
    numbers = steps()
    still = numbers._replace(optimizer=jax.tree.map(np.zeros_like, numbers.optimizer))
    after = train(trainer, state, still, images, labels, stop=3)
    assert int(after.metrics.num_examples) == 9
    assert int(after.step) == 3 and int(after.batch) == 3
    # Weights of 0 give every class a third, and class 0 the first place.
    assert float(after.metrics.loss) == pytest.approx(9 * np.log(3), rel=1e-5)
    assert 0 <= int(after.metrics.num_correct) <= int(np.sum(np.asarray(labels) == 0))


class Recorder(nn.Module):
    """Sums one-hot codes of the images it is trained on into its gradient."""

    @nn.compact
    def __call__(self, images, train=False):
        del train
        weight = self.param("weight", nn.initializers.zeros_init(), (images[0].size,))
        total = images.reshape(images.shape[0], -1) @ weight
        return jnp.stack([total, jnp.zeros_like(total)], axis=1)


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_sees_no_example_twice(epoch):
    # Image i is 1 at pixel i. Each seen once moves its own weight by the same amount
    # (the others do not matter to it), those dropped not at all.
    images = jnp.eye(11, dtype=jnp.float32).reshape(11, 11, 1, 1)
    labels = jnp.zeros(11, jnp.int32)
    trainer = trainer_of(Recorder(), batch_size=4)
    state = first_of(trainer, images)
    state = state._replace(epoch=jnp.int32(epoch))
    state = train(trainer, state, steps(momentum=0.0), images, labels, stop=2)
    weight = np.asarray(state.weights.params["weight"])
    assert sorted(np.round(weight / weight.max(), 5)) == [0.0] * 3 + [1.0] * 8


def test_epochs_are_shuffled_differently():
    images = jnp.eye(11, dtype=jnp.float32).reshape(11, 11, 1, 1)
    labels = jnp.zeros(11, jnp.int32)
    trainer = trainer_of(Recorder(), batch_size=4)
    first = first_of(trainer, images)
    seen = []
    for epoch in range(3):
        state = first._replace(epoch=jnp.int32(epoch))
        state = train(trainer, state, steps(momentum=0.0), images, labels)
        seen.append(tuple(np.flatnonzero(np.asarray(state.weights.params["weight"]))))
    assert len(set(seen)) == 3


def test_a_network_draws_from_a_key_of_its_own_in_every_step():
    def init(key, images):
        del key
        zeros = jnp.zeros((images[0].size, CLASSES))
        return {"weight": zeros}, {"drawn": jnp.zeros(2, jnp.uint32)}

    def apply(variables, images, *, train, key):
        params, state = variables
        if train:
            state = {"drawn": jax.random.key_data(key)}
        return images.reshape(images.shape[0], -1) @ params["weight"], (params, state)

    images, labels = data()
    trainer = trainer_of(Network(init, apply))
    first = state = first_of(trainer, images)
    for step in range(2):
        state = train(trainer, state, steps(), images, labels)
        step_key = jax.random.fold_in(jax.random.fold_in(first.key, 1), step)
        key = jax.random.split(step_key)[1]  # the other one is that of augmentation
        expected = jax.random.key_data(jax.random.fold_in(key, 2))
        np.testing.assert_array_equal(state.weights.state["drawn"], expected)
        # Not one of the two into which the attack splits it.
        others = jax.random.key_data(jax.random.split(key))
        assert not np.any(np.all(np.asarray(others) == expected[None], axis=1))


@pytest.fixture(scope="module")
def sliced():
    images, labels = data(count=21)
    trainer = trainer_of(batch_size=2)
    run = jax.jit(trainer.run)
    numbers = steps(epsilon=0.1, num_steps=3, learning_rate=0.01, name="adam")
    first = trainer.begin_epoch(first_of(trainer, images, name="adam"))
    whole = run(first, numbers, images, labels, jnp.int32(10))
    return first, lambda state, stop: run(state, numbers, images, labels, stop), whole


@pytest.mark.exact
@given(st.lists(st.integers(0, 10), max_size=4))
@settings(max_examples=15)
def test_an_epoch_in_slices_is_the_same_to_the_bit(sliced, stops):
    state, run, whole = sliced
    for stop in sorted(stops):
        state = run(state, jnp.int32(stop))
    state = run(state, jnp.int32(10))
    chex.assert_trees_all_equal(
        state._replace(key=jax.random.key_data(state.key)),
        whole._replace(key=jax.random.key_data(whole.key)),
    )


def test_a_loss_that_is_not_finite_stops_the_epoch():
    images, labels = data()
    trainer = trainer_of(batch_size=2)
    state = first_of(trainer, images)
    after = train(trainer, state, steps(learning_rate=3e38), images, labels, stop=5)
    assert not np.isfinite(after.metrics.loss) and int(after.batch) < 5


def test_changing_any_number_needs_no_new_trace():
    images, labels = data()
    trainer = trainer_of()
    run = jax.jit(chex.assert_max_traces(trainer.run, n=1))
    state = first_of(trainer, images)
    for numbers in (
        steps(),
        steps(epsilon=0.3, num_steps=7, step_size=0.1),
        steps(learning_rate=0.01, weight_decay=0.3),
    ):
        state = run(state, numbers, images, labels, jnp.int32(1))


def test_what_an_index_would_run_over_is_refused():
    images, labels = data()
    trainer = trainer_of(batch_size=2)
    state = first_of(trainer, images)
    with pytest.raises(AssertionError, match="assert_equal_shape_prefix"):
        train(trainer, state, steps(), images, labels[:-1])
    shorter = steps()._replace(optimizer=steps(num_batches=1).optimizer)
    with pytest.raises(AssertionError, match="assert_equal_shape_prefix"):
        train(trainer, state, shorter, images, labels)


def test_the_distance_of_an_epoch_is_that_of_its_parameters():
    images, labels = data()
    trainer = trainer_of()
    first = first_of(trainer, images)
    state = train(trainer, first, steps(), images, labels)
    ended, distance = trainer.end_epoch(state)
    parts = [new - old for new, old in zip(head(state), head(first), strict=True)]
    expected = np.sqrt(sum(np.sum(part**2) for part in parts))
    assert float(distance) == pytest.approx(expected, rel=1e-5)
    assert int(ended.epoch) == 1 and int(ended.batch) == 0


@pytest.mark.parametrize("parts", [2, 5])
def test_micro_batches_have_the_gradient_of_the_whole(parts):
    images, labels = data()
    network = as_network(Linear(CLASSES), CLASSES)
    divided = make_trainer(network, batch_size=NUM_IMAGES, micro_batches=parts)
    one, other = (
        train(trainer, first_of(trainer, images), steps(), images, labels)
        for trainer in (trainer_of(), divided)
    )
    chex.assert_trees_all_close(
        one.weights.params, other.weights.params, rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(one.metrics.loss, other.metrics.loss, rtol=1e-6)
    assert one.metrics._replace(loss=0) == other.metrics._replace(loss=0)
    assert one.metrics.num_examples == NUM_IMAGES


class TestBatchNorm:
    network = ResNet(block_counts=(1,), is_bottleneck=False, widen_factor=0.0625)

    def after(self, batch_norm, **changes):
        images, labels = data(count=4, shape=(6, 6, 3))
        trainer = trainer_of(self.network, 4)
        state = first_of(trainer, images)
        numbers = steps(batch_norm=batch_norm, **changes)
        return state, train(trainer, state, numbers, images, labels)

    @pytest.mark.slow
    def test_training_moves_the_running_statistics_by_a_tenth(self):
        before, after = self.after("eval")
        images, _ = data(count=4, shape=(6, 6, 3))
        variables = {
            "params": before.weights.params,
            **before.weights.state,
        }
        _, once = self.network.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        chex.assert_trees_all_close(
            after.weights.state["batch_stats"], once["batch_stats"], atol=1e-5
        )

    @pytest.mark.slow
    def test_micro_batches_move_the_statistics_one_after_another(self):
        images, labels = data(count=4, shape=(6, 6, 3))
        network = as_network(self.network, CLASSES)
        trainer = make_trainer(network, batch_size=4, micro_batches=2)
        before = first_of(trainer, images)
        order = np.asarray(trainer.order(before.key, before.epoch, 4))
        after = train(trainer, before, steps(), images, labels)
        state = before.weights.state
        for part in (order[0::2], order[1::2]):
            variables = {"params": before.weights.params, **state}
            _, state = self.network.apply(
                variables, images[part], train=True, mutable=["batch_stats"]
            )
        chex.assert_trees_all_close(after.weights.state, dict(state), atol=1e-5)

    @pytest.mark.slow
    def test_attacking_in_training_mode_finds_other_images(self):
        changes = {"epsilon": 0.3, "num_steps": 3, "step_size": 0.2}
        _, one = self.after("eval", **changes)
        _, other = self.after("train", **changes)
        assert float(one.metrics.loss) != float(other.metrics.loss)

    @pytest.mark.slow
    def test_without_an_attack_the_mode_does_not_matter(self):
        _, one = self.after("eval")
        _, other = self.after("train")
        chex.assert_trees_all_close(one.weights, other.weights, atol=1e-6)
