"""The compiled half of training: an explicit state and pure functions that move it.

What a step does is an argument (`Settings`): its words are structure, for which a
program is compiled, its numbers are traced, with one value for each batch. So the
phases of a run whose words are alike share a program, and an epoch is one loop over
data that stays on the device. The loop takes the batch to stop at as an argument: the
host may run an epoch in one call or in slices, with the same numbers to the bit.

Nothing here knows how many devices share a batch: `share` lays the examples out over
them, and the compiler divides the work. So whatever a network or an attack does with
its batch (statistics, dropout, random starts) has the numbers of one device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from jaxrobust.data import Augmentation, Pixels, as_float
from jaxrobust.keys import wrapped
from jaxrobust.networks import Network, Variables
from jaxrobust.precision import MatmulPrecision, at_precision
from jaxrobust.training.recipe.config import TrainConfig
from jaxrobust.training.recipe.model import Model, Precision
from jaxrobust.training.recipe.objectives import Seen
from jaxrobust.training.recipe.optimizers import OptimizerConfig
from jaxrobust.training.recipe.phases import Settings
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["Metrics", "TrainState", "Trainer", "Weights", "make_trainer"]


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
        average: of parameters and other state over steps, `Variables`; None where none
            is kept.
    """

    params: Any
    state: Any
    opt_state: Any
    average: Variables | None = None

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
        metrics: sums of the epoch under way.
    """

    step: Int[Array, ""]
    epoch: Int[Array, ""]
    batch: Int[Array, ""]
    weights: Weights
    epoch_weights: Weights
    key: PRNGKey
    metrics: Metrics


class Trainer(NamedTuple):
    """Pure functions that make and move a `TrainState`.

    Attributes:
        init: `(key, images, optimizer, is_averaged=False) -> state`, with fresh
            weights; `images` lend their shape.
        begin_epoch: `(state) -> state`, with sums at zero.
        run: `(state, settings, images, labels, stop_batch, first_batch=None) -> state`,
            up to a batch of the epoch, or sooner where a loss or gradient is not
            finite. With `first_batch` the images are a stretch of the epoch, in its
            order, that begins with this batch; otherwise they are all there are.
        order: `(key, epoch, num_examples) -> indices`, the order of an epoch, from the
            key of a state.
        end_epoch: `(state) -> (state, weight_distance)`, the Euclidean distance that
            the parameters moved in the epoch.
    """

    init: Callable[..., TrainState]
    begin_epoch: Callable[[TrainState], TrainState]
    run: Callable[..., TrainState]
    order: Callable[[PRNGKey, Any, int], Array]
    end_epoch: Callable[[TrainState], tuple[TrainState, Array]]


def _copy(tree: Any) -> Any:
    # Donated buffers must not be shared, hence a copy rather than a second reference.
    return jax.tree.map(jnp.copy, tree)


def _averaged(average: Any, new: Variables, share: Any) -> Any:
    """The average with a share of new weights in it; counters are the new ones."""
    if average is None:
        return None

    def mixed(old: Array, new: Array) -> Array:
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return new
        return ((1 - share) * old + share * new).astype(new.dtype)

    return jax.tree.map(mixed, average, new)


def make_trainer(
    network: Network,
    *,
    batch_size: int,
    micro_batches: int = 1,
    augmentation: Augmentation | None = None,
    precision: Precision = "float32",
    matmul_precision: MatmulPrecision = "default",
    share: Callable[[Any], Any] = lambda batch: batch,
) -> Trainer:
    """The trainer of a network.

    Args:
        network: to be trained.
        batch_size: examples of a step.
        micro_batches: parts of a batch that are computed one after another.
        augmentation: of the pixels, in every step; None for none.
        precision: of the forward pass and of the gradients through it. Parameters,
            their gradients' sums, the optimizer and the projection stay float32.
        matmul_precision: of the products of all that `run` computes.
        share: lays arrays of examples out over the devices that share a batch, by
            `jax.lax.with_sharding_constraint`; by default one device has them all.
    """

    def init(
        key: PRNGKey,
        images: Shaped[Array, "_ height width channels"],
        optimizer: OptimizerConfig,
        is_averaged: bool = False,
    ) -> TrainState:
        init_key, run_key = jax.random.split(key)
        params, others = network.init(init_key, as_float(images[:1]))
        opt_state = optimizer.build().init(params)
        average = _copy(Variables(params, others)) if is_averaged else None
        weights = Weights(params, others, opt_state, average)
        count = jnp.int32(0)
        return TrainState(
            step=count,
            epoch=count,
            batch=count,
            weights=weights,
            epoch_weights=_copy(weights),
            key=run_key,
            metrics=Metrics.zero(),
        )

    def order_of(
        key: PRNGKey, epoch: Any, num_examples: int
    ) -> Int[Array, " examples"]:
        shuffle_key = jax.random.fold_in(jax.random.fold_in(key, 0), epoch)
        return jax.random.permutation(shuffle_key, num_examples)

    def begin_epoch(state: TrainState) -> TrainState:
        return state._replace(
            batch=jnp.int32(0),
            epoch_weights=_copy(state.weights),
            metrics=Metrics.zero(),
        )

    def end_epoch(state: TrainState) -> tuple[TrainState, Float[Array, ""]]:
        moved = optax.tree.sub(state.weights.params, state.epoch_weights.params)
        state = state._replace(epoch=state.epoch + 1, batch=jnp.int32(0))
        return state, optax.tree.norm(moved)

    def gradient_of_part(
        key: PRNGKey,
        settings: Settings,
        variables: Variables,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen, Any]:
        def loss_of(params: Any) -> tuple[Array, Seen]:
            model = Model(network, Variables(params, variables.state), precision)
            return settings.objective(key, model, settings.threat, images, labels)

        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, seen), gradient = value_and_grad(variables.params)
        chex.assert_equal_shape((labels, seen.is_correct, seen.is_gradient_finite))
        return loss, seen._replace(logits=None), gradient

    def gradient_of(
        key: PRNGKey,
        settings: Settings,
        variables: Variables,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen, Any]:
        if micro_batches == 1:
            return gradient_of_part(key, settings, variables, images, labels)

        def parts_of(batch: Array) -> Array:
            # Every so many-th example: each device has its share of every part.
            shape = (-1, micro_batches, *batch.shape[1:])
            return jnp.moveaxis(batch.reshape(shape), 1, 0)

        def add(sums: Any, part: Any) -> tuple[Any, Any]:
            part_key, *batch = part
            state, *before = sums
            loss, seen, gradient = gradient_of_part(
                part_key, settings, variables._replace(state=state), *share(batch)
            )
            now = jax.tree.map(jnp.add, before, [loss, gradient])
            return [seen.state, *now], seen._replace(state=None)

        zeros = [jnp.float32(0), jax.tree.map(jnp.zeros_like, variables.params)]
        keys = jax.random.split(key, micro_batches)
        parts = (keys, parts_of(images), parts_of(labels))
        (state, *sums), seen = lax.scan(add, [variables.state, *zeros], parts)
        loss, gradient = jax.tree.map(lambda total: total / micro_batches, sums)
        return loss, seen._replace(state=state), gradient

    def step(
        state: TrainState, settings: Settings, pixels: Pixels, labels: Labels
    ) -> TrainState:
        optimizer, weights = settings.optimizer, state.weights
        # The key of a step depends on the step alone, so resuming repeats it exactly.
        step_key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
        augment_key, objective_key = jax.random.split(step_key)
        if settings.variant is not None:
            pixels = settings.variant(pixels)
        if augmentation is not None:
            pixels = augmentation(augment_key, pixels)
        images = as_float(pixels)

        loss, seen, gradient = gradient_of(
            objective_key, settings, weights.variables, images, labels
        )
        rule = optimizer.build()
        updates, opt_state = rule.update(gradient, weights.opt_state, weights.params)
        params = optax.apply_updates(weights.params, updates)
        average = _averaged(
            weights.average, Variables(params, seen.state), settings.average_share
        )
        # A gradient that is not finite ruins the weights, though this loss may still be
        # fine: it poisons the sum, which stops the loop.
        loss = loss + 0 * optax.tree.norm(gradient)
        metrics = Metrics(
            loss=loss * batch_size,
            num_correct=jnp.sum(seen.is_correct, dtype=jnp.int32),
            num_bad_gradients=jnp.sum(~seen.is_gradient_finite, dtype=jnp.int32),
            num_examples=jnp.int32(batch_size),
        )
        return state._replace(
            step=state.step + 1,
            batch=state.batch + 1,
            weights=Weights(params, seen.state, opt_state, average),
            metrics=state.metrics.merge(metrics),
        )

    def run(
        state: TrainState,
        settings: Settings,
        images: Shaped[Array, "examples height width channels"],
        labels: Int[Array, " examples"],
        stop_batch: Int[Array, ""],
        first_batch: Int[Array, ""] | None = None,
    ) -> TrainState:
        # An index beyond the end is no error in jax: it gives the last value.
        chex.assert_equal_shape_prefix((images, labels), 1)
        chex.assert_equal_shape_prefix(jax.tree.leaves(settings), 1)
        # Not touched by a step: kept out of the loop, whose state may be copied.
        kept = state.epoch_weights
        state = state._replace(epoch_weights=())
        order = order_of(state.key, state.epoch, images.shape[0])

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
            now = jax.tree.map(lambda values: values[state.batch], settings)
            return step(state, now, *share(take(state)))

        state = lax.while_loop(is_running, one_batch, state)
        return state._replace(epoch_weights=kept)

    run = at_precision(matmul_precision, run)
    return Trainer(init, begin_epoch, run, order_of, end_epoch)


def trainer_for(config: TrainConfig, network: Network, **options: Any) -> Trainer:
    """The trainer of a run."""
    return make_trainer(
        network,
        batch_size=config.batch_size,
        micro_batches=config.micro_batches,
        precision=config.precision,
        matmul_precision=config.matmul_precision,
        **options,
    )


def to_arrays(state: TrainState) -> TrainState:
    """The state with its random key as plain numbers."""
    return state._replace(key=jax.random.key_data(state.key))


def from_arrays(state: TrainState) -> TrainState:
    """The inverse of `to_arrays`."""
    return state._replace(key=wrapped(state.key))
