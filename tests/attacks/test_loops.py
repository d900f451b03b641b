"""The loop over steps, in every form that a platform has, against one of Python."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import export, lax

from jaxrobust.attacks import fab, fmn, noise, pgd
from jaxrobust.attacks import loops as module
from jaxrobust.attacks.loops import CHUNK, repeated
from jaxrobust.threat import LinfBall

COUNTS = [-3, 0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 7, 8, 9, 17]
PLATFORMS = ("cuda", "cpu")


@pytest.fixture(params=PLATFORMS)
def platform(request, monkeypatch):
    """Programs are here what they are on this platform."""

    def choose(*args, default, **branches):
        return branches.get(request.param, default)(*args)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    return request.param


def loop(count, carry):
    """`repeated` as a program with a traced count."""
    return jax.jit(lambda count, carry: repeated(count, body, carry))(count, carry)


def body(index, carry):
    key, number, values = carry
    key = jax.random.fold_in(key, index)
    drawn = jax.random.uniform(key, values.shape)
    # Halves are exact, so that compilers may not differ in what they fuse.
    return key, number * 5 + index.astype(number.dtype), values / 2 + drawn


STEP = jax.jit(body)


def by_python(count, carry):
    for index in range(count):
        carry = STEP(jnp.int32(index), carry)
    return carry


def start(seed=0):
    return jax.random.key(seed), jnp.uint32(3), jnp.linspace(-1.0, 2.0, 12)


def assert_same(found, expected):
    assert jax.random.key_data(found[0]).tolist() == (
        jax.random.key_data(expected[0]).tolist()
    )
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("count", COUNTS)
def test_the_bits_are_those_of_a_loop_of_python(count, platform):
    assert_same(loop(count, start()), by_python(count, start()))


def test_copies_have_numbers_of_their_own(platform):
    carry = jax.vmap(lambda seed: (jax.random.key(seed), *start()[1:]))(
        jnp.arange(len(COUNTS))
    )
    found = jax.jit(jax.vmap(loop))(jnp.asarray(COUNTS), carry)
    for place, count in enumerate(COUNTS):
        one = jax.tree.map(lambda leaf, place=place: leaf[place], found)
        assert_same(one, by_python(count, start(place)))


@given(st.lists(st.integers(-2, 23), min_size=1, max_size=4))
def test_indices_come_in_order_and_once(counts):
    def note(index, carry):
        seen, number = carry
        return seen.at[number].set(index, mode="drop"), number + 1

    nothing = jnp.full(24, -1), jnp.int32(0)
    # Four copies, so that one program does for all.
    counts = np.resize(counts, 4)
    for name in PLATFORMS:
        found, number = _noted(name, note, nothing, jnp.asarray(counts, jnp.int32))
        for place, count in enumerate(np.maximum(counts, 0)):
            assert number[place] == count
            expected = [*range(count), *[-1] * (24 - count)]
            assert found[place].tolist() == expected


_PROGRAMS = {}


def _noted(name, note, nothing, counts):
    if name not in _PROGRAMS:

        def run(counts):
            return jax.vmap(lambda count: repeated(count, note, nothing))(counts)

        def choose(*args, default, **branches):
            return branches.get(name, default)(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lax, "platform_dependent", choose)
            _PROGRAMS[name] = jax.jit(run).lower(counts).compile()
    return _PROGRAMS[name](counts)


def test_passes_beyond_the_number_spoil_nothing(platform):
    # 1 / (2 - index) would be infinite at the third pass, and no number after it.
    def fragile(index, value):
        return value + 1 / (2.0 - index) - jnp.log(2.5 - index)

    def run(count):
        return repeated(count, fragile, jnp.float32(0))

    counts = jnp.asarray([0, 1, 2, CHUNK + 4])
    found = jax.jit(jax.vmap(run))(counts)
    np.testing.assert_allclose(
        found[:3], [0, 0.5 - np.log(2.5), 1.5 - np.log(2.5 * 1.5)], rtol=1e-6
    )
    assert np.isnan(found[3])
    slope = jax.jacfwd(
        lambda scale: repeated(
            counts[2], lambda index, value: value + scale / (2.0 - index), 0.0 * scale
        )
    )
    assert jax.jit(slope)(3.0) == 1.5


@pytest.mark.parametrize("count", [0, 3, CHUNK, 2 * CHUNK + 1])
def test_derivatives_in_forward_mode(count, platform):
    def power(count, base):
        return repeated(count, lambda index, value: value * base, jnp.ones(()))

    value, slope = jax.jit(
        lambda count, base: jax.jvp(lambda base: power(count, base), (base,), (1.0,))
    )(count, 1.5)
    np.testing.assert_allclose(value, 1.5**count, rtol=1e-6)
    np.testing.assert_allclose(slope, count * 1.5 ** (count - 1), rtol=1e-6)


def test_a_number_of_python_makes_a_loop_of_known_length():
    def run(values):
        return repeated(19, lambda index, value: jnp.sin(value) * index, values)

    compiled = jax.jit(run).lower(jnp.ones(4)).compile().as_text()
    assert re.findall(r'"known_trip_count":\{"n":"(\d+)"', compiled) == ["19"]
    # Which reverse mode can follow.
    jax.grad(lambda values: jnp.sum(run(values)))(jnp.ones(4))


@pytest.mark.parametrize("count", [17, np.int32(17), jnp.int32(17)], ids=repr)
def test_the_body_is_traced_once(count):
    traced = []

    def once(index, value):
        traced.append(index)
        return value * 2

    assert (
        jax.jit(lambda count: repeated(count, once, jnp.float32(1)))(count) == 2.0**17
    )
    assert len(traced) == 1


CHUNK_OF_TEST = 13  # as no other loop is long


def loops(program):
    """For every loop of a program over a number whether this is that of a chunk."""
    constant = rf"(%\w+) = stablehlo.constant dense<{CHUNK_OF_TEST}> : tensor<i32>"
    condition = r"cond \{\s*%\w+ = stablehlo.compare LT, %\w+, (%\w+), SIGNED : \("
    found = re.findall(condition + r"tensor<i32>,", program)
    assert found
    return [limit in re.findall(constant, program) for limit in found]


ATTACKS = {
    "pgd": lambda count: pgd(
        LinfBall(0.1), step_size=0.1, num_steps=count, random_start=False
    ),
    "noise": lambda count: noise(LinfBall(0.1), num_samples=count),
    "fmn": lambda count: fmn(LinfBall(0.1), num_steps=count),
    "fab": lambda count: fab(LinfBall(0.1), num_steps=count, num_searches=1),
}


@pytest.mark.parametrize(
    "name", ["pgd", "noise", "fmn", pytest.param("fab", marks=pytest.mark.slow)]
)
def test_attacks_have_chunks_where_a_gpu_computes_and_nowhere_else(name, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", CHUNK_OF_TEST)

    def run(count, key, images):
        labels = jnp.zeros(len(images), jnp.int32)
        attack = ATTACKS[name](count)
        return attack(key, lambda images: images @ jnp.eye(3), images, labels).images

    def found(platform):
        arguments = jnp.int32(7), jax.random.key(0), jnp.full((2, 3), 0.5)
        return loops(
            export.export(jax.jit(run), platforms=[platform])(*arguments).mlir_module()
        )

    plain = found("tpu")
    assert not any(plain) and not any(found("cpu"))
    for platform in ("cuda", "rocm"):
        # A loop of chunks round one of passes, and one over what is left.
        assert sum(found(platform)) == 1
        assert len(found(platform)) == len(plain) + 2
