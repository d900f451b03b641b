"""Coins by the word: random words as booleans, as places and as sets of pixels."""

import jax
import jax.numpy as jnp

__all__ = ["bits", "bits_between", "draw_below", "packed", "words_for"]


def draw_below(word: jax.Array, limit: jax.Array) -> jax.Array:
    """A number, uniform below `limit`, from the lower half of each word.

    A multiplication in place of a division; the bias is below limit / 2^16.
    """
    return (((word & 0xFFFF) * limit.astype(jnp.uint32)) >> 16).astype(jnp.int32)


def bits(words: jax.Array, count: int) -> jax.Array:
    """The first `count` bits of words, `(..., words)` to booleans `(..., count)`."""
    shifts = jnp.arange(32, dtype=jnp.uint32).reshape((1,) * words.ndim + (32,))
    flags = (words[..., None] >> shifts) & 1
    return flags.reshape(*words.shape[:-1], -1)[..., :count].astype(bool)


def packed(flags: jax.Array) -> jax.Array:
    """Booleans as bits of words, the inverse of `bits`."""
    count = flags.shape[-1]
    empty = [(0, 0)] * (flags.ndim - 1) + [(0, 32 * words_for(count) - count)]
    flags = jnp.pad(flags, empty).astype(jnp.uint32)
    flags = flags.reshape(*flags.shape[:-1], -1, 32)
    shifts = jnp.arange(32, dtype=jnp.uint32).reshape((1,) * (flags.ndim - 1) + (32,))
    return jnp.sum(flags << shifts, axis=-1, dtype=jnp.uint32)


def bits_between(first: jax.Array, end: jax.Array, count: int) -> jax.Array:
    """Words of `count` bits, of which those from `first` to before `end` are set."""
    offsets = 32 * jnp.arange(words_for(count))
    offsets = offsets.reshape((1,) * first.ndim + (-1,))

    def below(limit: jax.Array) -> jax.Array:
        limit = jnp.clip(limit[..., None] - offsets, 0, 32)
        some = (jnp.uint32(1) << jnp.minimum(limit, 31).astype(jnp.uint32)) - 1
        return jnp.where(limit == 32, jnp.uint32(0xFFFFFFFF), some)

    return below(end) & ~below(first)


def words_for(count: int) -> int:
    """How many words hold so many bits."""
    return -(-count // 32)
