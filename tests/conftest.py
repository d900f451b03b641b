"""Settings and fixtures that all tests share."""

import os
import signal
import tempfile
from importlib.metadata import version
from typing import NamedTuple

# Many tests compile the same small programs, in this process and in others they start:
# the workers of xdist, too, which inherit the directory.
if "JAXROBUST_TESTS_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="jaxrobust-tests-")
    os.environ["JAXROBUST_TESTS_CACHE"] = _cache.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["JAXROBUST_TESTS_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
# Programs here are compiled often and run briefly; at level 0 those that train would
# take longer than they save. Without fusion emitters they are compiled in two thirds
# of the time; XLA ends the process for a flag that it does not know. Splitting programs
# for a compilation in threads costs up to a tenth more, and all cores are busy anyway.
_flags = [
    "--xla_backend_optimization_level=1",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if version("jaxlib").startswith("0.10."):
    _flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_flags])

# A shell's background job ignores Ctrl-C, and so would the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import chex
import jax
import jax.numpy as jnp
import pytest
from hypothesis import settings

from jaxrobust.types import Images, Labels, LogitsFn

# Labels (batch, 1) against (batch,) must be an error, not a silent table.
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=12)
settings.load_profile("ci")


class Problem(NamedTuple):
    logits_fn: LogitsFn
    weights: jax.Array
    images: Images
    labels: Labels


@pytest.fixture(autouse=True)
def _fresh_trace_counter():
    chex.clear_trace_counter()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(20)


@pytest.fixture(scope="session")
def linear_problem() -> Problem:
    """A linear classifier of three classes that is right on all its images."""
    weights = jax.random.normal(jax.random.key(1), (36, 3))

    def logits_fn(images: Images) -> jax.Array:
        flat = images.reshape(images.shape[0], -1)
        return flat @ weights.astype(images.dtype)

    images = jax.random.uniform(jax.random.key(2), (16, 6, 6, 1))
    labels = jnp.argmax(logits_fn(images), axis=-1)
    return Problem(logits_fn, weights, images, labels)
