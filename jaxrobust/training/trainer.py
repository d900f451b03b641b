"""The compiled half of training: an explicit state and pure functions that move it.

One program serves a whole run. Radius, step size, number of attack steps, learning
rate and weight decay are traced (`Controls`), so that a standard, an adversarial, an
extended and an iterative phase differ in numbers only, and an epoch is one loop over
data that stays on the device. The loop takes the batch to stop at as an argument: the
host may run an epoch in one call or in slices, with the same numbers to the bit.

Nothing here knows how many devices share a batch: `share` lays the examples out over
them, and the compiler divides the work. So whatever a network or an attack does with
its batch (statistics, dropout, random starts) has the numbers of one device.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from jaxrobust.attacks import judge, pgd
from jaxrobust.data import Pixels, as_float, pad_crop_flip
from jaxrobust.losses import cross_entropy
from jaxrobust.networks import Network, Variables
from jaxrobust.training.phases import AttackConfig, OptimizerConfig, Precision
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey

__all__ = [
    "Controls",
    "Metrics",
    "TrainState",
    "Trainer",
    "Weights",
    "applied",
    "bind",
    "make_trainer",
]


class Controls(NamedTuple):
    """The numbers of an epoch; all traced, none of them ever recompiles.

    Attributes:
        epsilon: radius, in units of [0, 1] pixels.
        step_size: of the attack, same unit.
        num_steps: of the attack.
        learning_rate: of the optimizer.
        weight_decay: of the optimizer.
    """

    epsilon: Float[Array, ""]
    step_size: Float[Array, ""]
    num_steps: Int[Array, ""]
    learning_rate: Float[Array, ""]
    weight_decay: Float[Array, ""]

    @classmethod
    def of(
        cls,
        *,
        epsilon: float,
        step_size: float,
        num_steps: int,
        learning_rate: float,
        weight_decay: float,
    ) -> "Controls":
        """Python numbers as scalars of the types that the program wants.

        They are NumPy's: those of JAX would cost a call to the device each.
        """
        rates = (epsilon, step_size, learning_rate, weight_decay)
        numbers: Any = [np.float32(rate) for rate in rates]
        numbers.insert(2, np.int32(num_steps))
        return cls(*numbers)


class Metrics(NamedTuple):
    """Sums over the training examples seen so far in an epoch.

    Attributes:
        loss: sum of the losses trained on (adversarial ones, in nats).
        num_correct: examples classified rightly under the training attack.
        num_bad_gradients: examples whose attack met a gradient that is not finite.
        num_examples: examples seen.
    """

    loss: Float[Array, ""]
    num_correct: Int[Array, ""]
    num_bad_gradients: Int[Array, ""]
    num_examples: Int[Array, ""]

    @classmethod
    def zero(cls) -> "Metrics":
        """Nothing seen yet."""
        count = jnp.int32(0)
        return cls(jnp.float32(0), count, count, count)

    def merge(self, other: "Metrics") -> "Metrics":
        """Sums over both."""
        return jax.tree.map(jnp.add, self, other)


class Weights(NamedTuple):
    """What training changes for good.

    Attributes:
        params: parameters of the network.
        state: what else the network holds, such as running batch-norm statistics.
        opt_state: state of the optimizer.
    """

    params: Any
    state: Any
    opt_state: Any

    @property
    def variables(self) -> Variables:
        """What the network computes with."""
        return Variables(self.params, self.state)


class TrainState(NamedTuple):
    """All there is to know of a run between two steps; arrays only.

    Attributes:
        step: optimizer steps done, over all phases.
        epoch: epochs completed, over all phases.
        batch: batches done in the epoch under way.
        weights: parameters, the network's other state, the optimizer's state.
        epoch_weights: the same at the start of the epoch, so that an epoch can be
            taken back, and its length measured, even after a resume in its middle.
        key: base of all randomness; never changes, since every use folds a counter in.
        epsilon: radius of the epoch under way, in units of [0, 1] pixels.
        metrics: sums of the epoch under way.
    """

    step: Int[Array, ""]
    epoch: Int[Array, ""]
    batch: Int[Array, ""]
    weights: Weights
    epoch_weights: Weights
    key: PRNGKey
    epsilon: Float[Array, ""]
    metrics: Metrics


class Trainer(NamedTuple):
    """Pure functions that make and move a `TrainState`.

    Attributes:
        init: `(key, images) -> state`, with fresh weights; `images` lend their shape.
        init_optimizer: `(params) -> opt_state`.
        begin_epoch: `(state, epsilon) -> state`, with sums at zero.
        run: `(state, controls, images, labels, stop_batch, first_batch=None) -> state`,
            up to a batch of the epoch, or sooner where a loss or gradient is not
            finite. With `first_batch` the images are a stretch of the epoch, in its
            order, that begins with this batch; otherwise they are all there are.
        order: `(state, num_examples) -> indices`, the order of the epoch under way.
        end_epoch: `(state) -> (state, weight_distance)`, the Euclidean distance that
            the parameters moved in the epoch (LP-F10).
    """

    init: Callable[[PRNGKey, Array], TrainState]
    init_optimizer: Callable[[Any], Any]
    begin_epoch: Callable[[TrainState, Array], TrainState]
    run: Callable[..., TrainState]
    order: Callable[[TrainState, int], Array]
    end_epoch: Callable[[TrainState], tuple[TrainState, Array]]


def _lowered(tree: Any, precision: Precision) -> Any:
    """Parameters or images as the network computes with them."""
    if precision == "float32":
        return tree
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)


def _applied(
    network: Network,
    variables: Variables,
    images: Images,
    precision: Precision,
    **mode: Any,
) -> tuple[Array, Any]:
    """Logits of float32, and the state after them, whose types stay what they were."""
    params, state = variables
    lowered = Variables(_lowered(params, precision), state)
    logits, (_, moved) = network.apply(lowered, _lowered(images, precision), **mode)
    if precision != "float32":
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, state)
    return logits.astype(jnp.promote_types(images.dtype, jnp.float32)), moved


def bind(
    network: Network, variables: Variables, precision: Precision = "float32"
) -> LogitsFn:
    """A network with its variables, in evaluation mode, as a logits function.

    Logits are float32 whatever the precision, and so are gradients with respect to
    float32 images: only what lies between is rounded.
    """

    def logits_fn(images: Images) -> Array:
        return _applied(network, variables, images, precision, train=False, key=None)[0]

    return logits_fn


@lru_cache(maxsize=16)
def applied(
    network: Network, precision: Precision = "float32"
) -> Callable[[Variables], LogitsFn]:
    """From variables to the network in evaluation mode, by `bind`.

    Equal networks have one function, so that what is compiled for it serves them all.
    """
    return lambda variables: bind(network, variables, precision)


def _optimizer(
    config: OptimizerConfig, learning_rate: Array, weight_decay: Array
) -> optax.GradientTransformation:
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )
    decay = optax.add_decayed_weights(weight_decay)
    if config.name == "adam":
        rule = optax.adam(learning_rate)
    else:
        rule = optax.sgd(learning_rate, momentum=config.momentum)
    return optax.chain(clip, decay, rule)


def _copy(tree: Any) -> Any:
    # Donated buffers must not be shared, hence a copy rather than a second reference.
    return jax.tree.map(jnp.copy, tree)


def make_trainer(
    network: Network,
    *,
    attack: AttackConfig,
    optimizer: OptimizerConfig,
    batch_size: int,
    augment: bool = False,
    precision: Precision = "float32",
    share: Callable[[Any], Any] = lambda batch: batch,
) -> Trainer:
    """The trainer of a network under one attack; only the kinds of things are fixed.

    Of the two configurations only what is not in `Controls` is used: norm, direction,
    loss and start of the attack, name, momentum and clipping of the optimizer.

    Args:
        network: to be trained.
        attack: inside training.
        optimizer: of the weights.
        batch_size: examples of a step.
        augment: whether to crop and flip.
        precision: of the forward pass and of the gradients through it. Parameters,
            their gradients' sums, the optimizer and the projection stay float32.
        share: lays arrays of examples out over the devices that share a batch, by
            `jax.lax.with_sharding_constraint`; by default one device has them all.
    """
    zero = jnp.float32(0)

    def init_optimizer(params: Any) -> Any:
        return _optimizer(optimizer, zero, zero).init(params)

    def init(key: PRNGKey, images: Shaped[Array, "_ height width channels"]):
        init_key, run_key = jax.random.split(key)
        params, network_state = network.init(init_key, as_float(images[:1]))
        weights = Weights(params, network_state, init_optimizer(params))
        count = jnp.int32(0)
        return TrainState(
            step=count,
            epoch=count,
            batch=count,
            weights=weights,
            epoch_weights=_copy(weights),
            key=run_key,
            epsilon=zero,
            metrics=Metrics.zero(),
        )

    def order_of(state: TrainState, num_examples: int) -> Int[Array, " examples"]:
        shuffle_key = jax.random.fold_in(jax.random.fold_in(state.key, 0), state.epoch)
        return jax.random.permutation(shuffle_key, num_examples)

    def begin_epoch(state: TrainState, epsilon: Float[Array, ""]) -> TrainState:
        return state._replace(
            batch=jnp.int32(0),
            epoch_weights=_copy(state.weights),
            epsilon=epsilon,
            metrics=Metrics.zero(),
        )

    def end_epoch(state: TrainState) -> tuple[TrainState, Float[Array, ""]]:
        moved = optax.tree.sub(state.weights.params, state.epoch_weights.params)
        state = state._replace(epoch=state.epoch + 1, batch=jnp.int32(0))
        return state, optax.tree.norm(moved)

    def step(
        state: TrainState, controls: Controls, pixels: Pixels, labels: Labels
    ) -> TrainState:
        params, network_state, opt_state = state.weights
        # The key of a step depends on the step alone, so resuming repeats it exactly.
        step_key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
        augment_key, attack_key = jax.random.split(step_key)
        # One for the step: the attack sees the network that is trained, units dropped.
        network_key = jax.random.fold_in(step_key, 2)
        pixels = pad_crop_flip(augment_key, pixels) if augment else pixels
        images = as_float(pixels)

        def trained(params: Any, images: Images) -> tuple[Array, Any]:
            variables = Variables(params, network_state)
            mode = {"train": True, "key": network_key}
            return _applied(network, variables, images, precision, **mode)

        def attacked(images: Images) -> Array:
            if attack.batch_norm == "train":
                return trained(params, images)[0]
            return bind(network, Variables(params, network_state), precision)(images)

        search = pgd(
            attack.threat().with_epsilon(controls.epsilon),
            step_size=controls.step_size,
            num_steps=controls.num_steps,
            direction=attack.direction,
            loss=attack.loss,
            random_start=attack.random_start,
            keep=attack.keep,
        )
        found = search(attack_key, attacked, images, labels)

        def objective(params: Any) -> tuple[Array, tuple[Array, Any]]:
            logits, moved = trained(params, found.images)
            return jnp.mean(cross_entropy(logits, labels)), (logits, moved)

        value_and_grad = jax.value_and_grad(objective, has_aux=True)
        (loss, (logits, moved)), gradient = value_and_grad(params)
        rule = _optimizer(optimizer, controls.learning_rate, controls.weight_decay)
        updates, opt_state = rule.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        # A gradient that is not finite ruins the weights, though this loss may still be
        # fine: it poisons the sum, which stops the loop.
        loss = loss + 0 * optax.tree.norm(gradient)
        seen = Metrics(
            loss=loss * batch_size,
            num_correct=jnp.sum(~judge(logits, labels), dtype=jnp.int32),
            num_bad_gradients=jnp.sum(~found.is_gradient_finite, dtype=jnp.int32),
            num_examples=jnp.int32(batch_size),
        )
        return state._replace(
            step=state.step + 1,
            batch=state.batch + 1,
            weights=Weights(params, moved, opt_state),
            metrics=state.metrics.merge(seen),
        )

    def run(
        state: TrainState,
        controls: Controls,
        images: Shaped[Array, "examples height width channels"],
        labels: Int[Array, " examples"],
        stop_batch: Int[Array, ""],
        first_batch: Int[Array, ""] | None = None,
    ) -> TrainState:
        # Not touched by a step: kept out of the loop, whose state may be copied.
        kept = state.epoch_weights
        state = state._replace(epoch_weights=())
        order = order_of(state, images.shape[0])

        def batch_of(state: TrainState) -> tuple[Array, Array]:
            chosen = lax.dynamic_slice_in_dim(
                order, state.batch * batch_size, batch_size
            )
            return images[chosen], labels[chosen]

        def next_of_stretch(state: TrainState) -> tuple[Array, Array]:
            start = (state.batch - cast(Array, first_batch)) * batch_size
            return (
                lax.dynamic_slice_in_dim(images, start, batch_size),
                lax.dynamic_slice_in_dim(labels, start, batch_size),
            )

        take = batch_of if first_batch is None else next_of_stretch

        def is_running(state: TrainState) -> Array:
            return (state.batch < stop_batch) & jnp.isfinite(state.metrics.loss)

        def one_batch(state: TrainState) -> TrainState:
            return step(state, controls, *share(take(state)))

        state = lax.while_loop(is_running, one_batch, state)
        return state._replace(epoch_weights=kept)

    return Trainer(init, init_optimizer, begin_epoch, run, order_of, end_epoch)
