"""Random keys of one generator, whatever `jax_default_prng_impl` says.

What a run or an evaluation draws is then the same in every process: one that was begun
goes on to the bit where another generator is configured. "rbg" would not do: under
`vmap` it draws for the whole batch, so that members of a sweep and items of a bucket
would draw what their neighbors decide.
"""

import jax
import numpy as np

__all__ = ["GENERATOR", "is_data", "seeded", "wrapped"]

GENERATOR = "threefry2x32"

_BY_WORDS = {2: GENERATOR, 4: "rbg"}
"""Generators by the words of a key; runs of older versions may have the second one."""


def seeded(seed: int) -> jax.Array:
    """The key of a seed.

    Args:
        seed: any integer that jax takes.
    """
    return jax.random.key(seed, impl=GENERATOR)


def is_data(array: np.ndarray) -> bool:
    """Whether an array can be the numbers of a key, `(2,)` or `(4,)` of uint32."""
    return array.dtype == np.uint32 and array.shape in {(n,) for n in _BY_WORDS}


def wrapped(data: jax.Array) -> jax.Array:
    """The keys that have these numbers, the inverse of `jax.random.key_data`.

    Args:
        data: `(..., 2)` of uint32; or `(..., 4)`, which an older version wrote where
            "rbg" was configured. (Its sibling "unsafe_rbg" has as many: keys of four
            words are of that one where it is configured.)
    """
    impl = _BY_WORDS[data.shape[-1]]
    configured = str(jax.config.jax_default_prng_impl)  # pyright: ignore
    if impl != GENERATOR and configured == "unsafe_rbg":
        impl = configured
    return jax.random.wrap_key_data(data, impl=impl)
