"""Arguments are refused by one sentence; what has no value yet is let through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.arguments import (
    require,
    require_choice,
    require_count,
    require_in,
    require_shape,
)


def refused(refuse, *arguments, **options):
    with pytest.raises(ValueError) as caught:
        refuse(*arguments, **options)
    return str(caught.value)


def test_a_refusal_names_argument_rule_value_and_remedy():
    said = refused(require, False, "ratio", "above 1", 0.5, "try 1.5")
    assert said == "`ratio` must be above 1, got 0.5; try 1.5."


def test_what_is_right_is_let_through():
    require(True, "ratio", "above 1", 2, "try 1.5")
    require_choice("norm", "l2", ("linf", "l2"))
    require_shape("images", np.zeros((2, 3)), ("batch", 3), "reshape")
    require_shape("epsilon", 0.1, (), "give one")


def test_words_are_listed():
    said = refused(require_choice, "norm", "l7", ("linf", "l2"))
    assert said == "`norm` must be one of linf, l2, got 'l7'; choose one of these."
    said = refused(require_choice, "loss", "a", ("b",), "or give a function")
    assert said == "`loss` must be one of b, got 'a'; or give a function."


@pytest.mark.parametrize(
    "interval, inside, outside",
    [
        ("[0, 1]", (0, 1, 0.5), (-1e-9, 1 + 1e-9)),
        ("(0, 1)", (1e-9, 0.5), (0, 1)),
        ("[0, inf)", (0, 1e300, 10**400), (-1, np.inf, np.nan)),
        ("(0, inf]", (1, np.inf), (0, np.nan, -np.inf)),
        ("(-inf, inf)", (0, -1e300), (np.nan, np.inf, -np.inf)),
    ],
)
def test_ends_of_an_interval_belong_to_it_in_brackets_only(interval, inside, outside):
    for value in inside:
        require_in("x", value, interval, "change it")
    for value in outside:
        said = refused(require_in, "x", value, interval, "change it")
        assert said == f"`x` must be in {interval}, got {value!r}; change it."


def test_of_several_numbers_the_first_wrong_one_is_named():
    said = refused(require_in, "x", np.array([0.5, 2.0, 3.0]), "[0, 1]", "change it")
    assert said == "`x` must be in [0, 1], got 2.0; change it."
    said = refused(require_count, "x", (3, 0, -1), "change it")
    assert said == "`x` must be at least 1, got 0; change it."


@pytest.mark.parametrize("value", ["1", None, 1j, object()])
@pytest.mark.parametrize(
    "refuse",
    [
        lambda value: require_in("x", value, "[0, 1]", "change it"),
        lambda value: require_count("x", value, "change it"),
    ],
)
def test_what_is_no_number_is_of_the_wrong_type(refuse, value):
    with pytest.raises(TypeError, match=r"`x` must be a number, got .*; change it"):
        refuse(value)


def test_counts_are_whole_and_large_enough():
    for value in (1, np.int8(1), jnp.asarray(7), 10**400):
        require_count("n", value, "add one")
    require_count("n", 0, "add one", least=0)
    require_count("n", 3, "add one", least=2, most=3)
    said = refused(require_count, "n", 2.5, "add one")
    assert said == "`n` must be a whole number, got 2.5; add one."
    said = refused(require_count, "n", 0, "add one")
    assert said == "`n` must be at least 1, got 0; add one."
    said = refused(require_count, "n", 4, "take one", least=2, most=3)
    assert said == "`n` must be in [2, 3], got 4; take one."


@pytest.mark.parametrize(
    "value, shape, said",
    [
        ((3,), (2,), "(2,), got (3,)"),
        ((3, 2), ("batch",), "(batch,), got (3, 2)"),
        ((4, 2), ("edges", 3), "(edges, 3), got (4, 2)"),
        ((4,), (), "(), got (4,)"),
    ],
)
def test_a_shape_is_refused_by_number_and_length_of_its_axes(value, shape, said):
    found = refused(require_shape, "x", np.zeros(value), shape, "change it")
    assert found == f"`x` must be of shape {said}; change it."


def test_only_the_shape_of_an_array_of_jax_is_looked_at():
    @jax.jit
    def refuse(value):
        require_in("x", value, "[0, 1]", "change it")
        require_count("x", value, "change it")
        require_shape("x", value, (2,), "change it")
        return value

    assert refuse(jnp.full(2, -0.5)).tolist() == [-0.5, -0.5]
    require_in("x", jnp.float32(-0.5), "[0, 1]", "change it")
    with pytest.raises(ValueError, match=r"of shape \(2,\), got \(3,\)"):
        refuse(jnp.zeros(3))
