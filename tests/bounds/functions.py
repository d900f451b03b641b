"""Small networks, at least one for each primitive that has bounds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

WIDTH = 6
PIXELS = 5
CLASSES = 3
Hidden = jax.Array
Weights = tuple[Any, Any, Any]

TABLE = np.random.default_rng(3).normal(size=(WIDTH, WIDTH)).astype(np.float32)
ROW = TABLE[:1]
FLAGS = TABLE[:1] > 0


def maps(hidden: Hidden) -> jax.Array:
    """As images of 3x2 pixels and one channel."""
    return hidden.reshape(-1, 3, 2, 1)


def attention(hidden: Hidden) -> jax.Array:
    tokens = hidden.reshape(-1, 3, 2)
    scores = jnp.einsum("bij,bkj->bik", tokens, tokens)
    return jnp.einsum("bik,bkj->bij", jax.nn.softmax(scores), tokens)


def batch_norm(hidden: Hidden) -> jax.Array:
    """In evaluation mode."""
    return (hidden - ROW) / jnp.sqrt(jnp.square(ROW) + 0.1) * (ROW + 1) - 0.2


def standardized(hidden: Hidden) -> jax.Array:
    mean = jnp.mean(hidden, axis=1, keepdims=True)
    variance = jnp.mean((hidden - mean) ** 2, axis=1, keepdims=True)
    return (hidden - mean) / jnp.sqrt(jnp.maximum(variance, 0.1))


def windowed(hidden: Hidden, start: float, combine: Callable) -> jax.Array:
    window, strides = (1, 2, 2, 1), (1, 2, 1, 1)
    return lax.reduce_window(maps(hidden), start, combine, window, strides, "SAME")


@jax.custom_vjp
def _doubled(values: jax.Array) -> jax.Array:
    return 2 * values


_doubled.defvjp(lambda values: (2 * values, None), lambda _, rows: (2 * rows,))


def called(hidden: Hidden) -> jax.Array:
    """Calls of every kind, which are inlined."""
    inner = jax.checkpoint(jax.jit(jax.nn.relu))(hidden)
    inner = lax.stop_gradient(lax.optimization_barrier(_doubled(inner)))
    inner = lax.platform_dependent(
        inner, cpu=lambda each: 3 * each - 2 * each, default=lambda each: each
    )
    return lax.cond(True, jnp.abs, jnp.negative, inner - 1)


FUNCTIONS: dict[str, Callable[[Hidden], jax.Array]] = {
    "abs": jnp.abs,
    "add": lambda hidden: (hidden + ROW) + hidden[:, ::-1],
    "attention": attention,
    "batch_norm": batch_norm,
    "broadcast_in_dim": lambda hidden: hidden[:, :1] * jnp.ones((1, 4)),
    "called": called,
    "ceil": jnp.ceil,
    "clamp": lambda hidden: lax.clamp(-0.5, hidden, 0.75),
    "clip": lambda hidden: jnp.clip(hidden, -0.5, 0.75),
    "stack": lambda hidden: jnp.stack([hidden, ROW, -hidden], axis=1).reshape(1, -1),
    "concatenate": lambda hidden: jnp.concatenate([hidden, -hidden, ROW[:1]], axis=1),
    "conv": lambda hidden: lax.conv_general_dilated(
        maps(hidden),
        TABLE[:2, :4].reshape(2, 2, 1, 2),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ),
    "conv_of_both": lambda hidden: lax.conv_general_dilated(
        maps(hidden),
        hidden[0, :2].reshape(2, 1, 1, 1),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ),
    "cumsum": lambda hidden: jnp.cumsum(hidden, axis=1),
    "div": lambda hidden: hidden / (ROW + 3) + ROW / (jnp.abs(hidden) + 1),
    "div_of_both": lambda hidden: hidden / (jnp.square(hidden[:, ::-1]) + 0.5),
    "dynamic_slice": lambda hidden: lax.dynamic_slice(hidden, (0, 1), (1, 3)),
    "dynamic_update_slice": lambda hidden: lax.dynamic_update_slice(
        hidden, ROW[:, :2], (0, 1)
    ),
    "elu": jax.nn.elu,
    "erf": lax.erf,
    "erfc": lax.erfc,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "flags": lambda hidden: jnp.where(
        ((hidden > 0) & (hidden <= 1)) | ~(hidden >= -1) | (hidden < -2), hidden, ROW
    ),
    "flags_equal": lambda hidden: jnp.where(
        (hidden == jnp.maximum(hidden, 0)) | (hidden != hidden), hidden, ROW
    ),
    "floor": jnp.floor,
    "gather": lambda hidden: hidden[:, jnp.array([3, 0, 0, 5])],
    "gelu": lambda hidden: jax.nn.gelu(hidden, approximate=False),
    "half": lambda hidden: hidden.astype(jnp.bfloat16).astype(jnp.float32),
    "integer_pow": lambda hidden: hidden**3 + hidden**4,
    "inverse_powers": lambda hidden: (
        1 / (jnp.abs(hidden) + 1) ** 2 + lax.integer_pow(-1 - jnp.abs(hidden), -3)
    ),
    "leaky_relu": jax.nn.leaky_relu,
    "log": lambda hidden: jnp.log(jnp.abs(hidden) + 0.2),
    "log1p": lambda hidden: jnp.log1p(jnp.abs(hidden)),
    "logistic": jax.nn.sigmoid,
    "max": lambda hidden: jnp.maximum(hidden, ROW),
    "max_of_both": lambda hidden: jnp.maximum(hidden, hidden[:, ::-1]),
    "min": lambda hidden: jnp.minimum(hidden, ROW),
    "min_of_both": lambda hidden: jnp.minimum(hidden, hidden[:, ::-1]),
    "mul_of_both": lambda hidden: hidden * hidden[:, ::-1] + hidden * hidden,
    "norm": lambda hidden: jnp.sqrt(
        jnp.sum(jnp.square(hidden), axis=1, keepdims=True) + 1
    ),
    "pad": lambda hidden: jnp.pad(hidden, ((0, 0), (1, 2)), constant_values=2.0),
    "reduce_max": lambda hidden: jnp.max(maps(hidden), axis=(1, 3)),
    "reduce_min": lambda hidden: jnp.min(maps(hidden), axis=(1, 3)),
    "reduce_window_max": lambda hidden: windowed(hidden, -jnp.inf, lax.max),
    "reduce_window_min": lambda hidden: windowed(hidden, jnp.inf, lax.min),
    "reduce_window_sum": lambda hidden: windowed(hidden, 0.0, lax.add),
    "relu": jax.nn.relu,
    "relu6": lambda hidden: jax.nn.relu6(4 * hidden),
    "residual": lambda hidden: hidden + jax.nn.relu(hidden @ TABLE) @ TABLE.T,
    "round": jnp.round,
    "rsqrt": lambda hidden: lax.rsqrt(jnp.abs(hidden) + 0.2),
    "scatter": lambda hidden: hidden.at[:, 2].set(ROW[:, 0]),
    "select_n": lambda hidden: jnp.where(FLAGS, hidden, ROW),
    "sign": jnp.sign,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "split": lambda hidden: jnp.subtract(*jnp.split(hidden, 2, axis=1)),
    "standardized": standardized,
    "sub": lambda hidden: (ROW - hidden) - hidden[:, ::-1],
    "tanh": jnp.tanh,
    "tanh_gelu": jax.nn.gelu,
    "transpose": lambda hidden: maps(hidden).transpose(0, 2, 1, 3)[:, :, ::2],
}
"""Of hidden values `(batch, 6)`, both positive and negative."""


def network(name: str) -> Callable[[Weights, jax.Array], jax.Array]:
    """A function `(weights, images (batch, 5)) -> logits (batch, 3)`."""
    inner = FUNCTIONS[name]

    def logits_fn(weights: Weights, images: jax.Array) -> jax.Array:
        first, bias, last = weights
        found = inner((images - 0.5) @ first + bias)
        found = found.reshape(images.shape[0], -1)
        return found @ last[: found.shape[1]]

    return logits_fn


def weights(seed: int, count: int) -> Weights:
    """Random weights of so many networks."""
    rng = np.random.default_rng(seed)
    shapes = (PIXELS, WIDTH), (1, WIDTH), (4 * WIDTH, CLASSES)
    first, bias, last = (
        rng.normal(size=(count, *shape)).astype(np.float32) for shape in shapes
    )
    return first, bias / 2, last
