"""Settings and fixtures that all tests share."""

import os
import signal
import tempfile
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
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
# No user has these flags; JAXROBUST_TESTS_DEFAULT_FLAGS=1 leaves the compiler its own.
_flags = [
    "--xla_backend_optimization_level=1",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if version("jaxlib").startswith("0.10."):
    _flags.append("--xla_cpu_use_fusion_emitters=false")
_given = os.environ.get("XLA_FLAGS", "").split()
_given = [flag for flag in _given if flag not in _flags]  # a test's child inherits them
if not os.environ.get("JAXROBUST_TESTS_DEFAULT_FLAGS"):
    _given += _flags
os.environ["XLA_FLAGS"] = " ".join(_given)

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

# The file that tells which tests this process ran, in their order: one in each line, so
# that pytest runs the same tests in the same company again if given `@` and the file.
_order = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    cache = getattr(config, "cache", None)
    named = os.environ.get("JAXROBUST_TESTS_ORDER")
    if config.option.collectonly or (named is None and cache is None):
        return
    directory = Path(named or cache.mkdir("order"))
    directory.mkdir(parents=True, exist_ok=True)
    worker = getattr(config, "workerinput", {}).get("workerid", "alone")
    config.stash[_order] = directory / f"{worker}.txt"
    if worker == "alone":
        # A replay has no workers, and leaves the files of those that it replays.
        has_workers = config.getoption("dist", "no") != "no"
        for path in directory.glob("gw*.txt" if has_workers else "alone.txt"):
            path.unlink()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    path = item.config.stash.get(_order, None)
    if path is not None:
        # Before the test runs, which may be the last thing that the process does.
        with path.open("a", encoding="utf-8") as lines:
            lines.write(f"{item.nodeid}\n")
    return (yield)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    path = config.stash.get(_order, None)
    if path is not None:
        terminalreporter.write_line(
            f"Tests of each process, in order: {os.path.relpath(path.parent)}/*.txt "
            "(to replay them, see CONTRIBUTING.md)"
        )


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
