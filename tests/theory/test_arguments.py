import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.theory import bernoulli, bounds, gaussian, generalization, no_free_lunch
from jaxrobust.theory import ramp as ramps
from jaxrobust.theory.arguments import count, real, vector, whole

NAN = float("nan")
KEY = jax.random.key(0)
GENERAL = {"num_examples": 100, "failure": 0.05, "constant": 1.0, "dimension": 2}


def gaussian_sample(**changed):
    return gaussian.sample(
        KEY, **{"num_examples": 3, "mean": np.ones(2), "sigma": 1} | changed
    )


def margin_bound(**changed):
    usual = {"smallest_margin": 0.5, "width": 1.0, "radius": 0.5} | GENERAL
    return generalization.margin_bound(**usual | changed)


def hinge_loss(**changed):
    usual = {"weights": np.ones(3), "eta": 0.4}
    return no_free_lunch.hinge_loss(**usual | changed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gaussian.optimal_error(-1, 1),
            r"`distance` must be in \[0, inf\), got -1",
        ),
        (lambda: gaussian.optimal_error(1, 0), r"`sigma` must be in \(0, inf\), got 0"),
        (lambda: gaussian.optimal_error(1, 1, NAN), "`epsilon` must be in .*, got nan"),
        (lambda: gaussian_sample(num_examples=0), "`num_examples` must be .*, got 0"),
        (
            lambda: gaussian_sample(mean=np.array([1, np.inf])),
            "`mean` must be .*, got inf",
        ),
        (
            lambda: bernoulli.bayes_error(0, 0.3),
            r"`num_features` must be in \[1, inf\)",
        ),
        (
            lambda: bernoulli.bayes_error(3, 0.5),
            r"`advantage` must be in \(0, 0.5\), got 0.5",
        ),
        (
            lambda: bernoulli.l0_error(3, 0.0, 1),
            "`advantage` must be .*, got 0; it is p - 1/2",
        ),
        (
            lambda: bernoulli.l0_error(3, 0.3, -1),
            r"`budget` must be in \[0, inf\), got -1",
        ),
        (lambda: bernoulli.linf_error(3, 0.3, -0.1), "`epsilon` must be .*, got -0.1"),
        (lambda: hinge_loss(eta=0), r"`eta` must be in \(0, inf\), got 0"),
        (
            lambda: hinge_loss(reliability=1),
            r"`reliability` must be in \[0.5, 1\), got 1",
        ),
        (lambda: hinge_loss(epsilon=-1), "`epsilon` must be .*, got -1"),
        (
            lambda: no_free_lunch.averaging_accuracy(0, 1),
            "`dimension` must be .*, got 0",
        ),
        (
            lambda: no_free_lunch.adversarial_accuracy_bound(1.1),
            "`standard_error` must be",
        ),
        (lambda: no_free_lunch.positive_part_mean(0, -1), "`sigma` must be .*, got -1"),
        (
            lambda: no_free_lunch.descend(jnp.sum, np.ones(2), step_size=0),
            "`step_size`",
        ),
        (lambda: bounds.coordinate_robust_error(-1), "`epsilon` must be .*, got -1"),
        (
            lambda: bounds.sum_vulnerable_fraction(9, 1, variance=0.05),
            "`variance` must be",
        ),
        (
            lambda: bounds.cube_expansion(1, 0.1),
            r"`measure` must be in \(0, 1\), got 1",
        ),
        (
            lambda: bounds.ball_expansion(0.5, 2.1, 9),
            r"`epsilon` must be in \[0, 2\], got 2.1",
        ),
        (
            lambda: bounds.ball_expansion_exponential(0.5, 1, 9, constant=0.2),
            "BEST_BALL",
        ),
        (
            lambda: bounds.cube_vulnerable_fraction(1, 0.1),
            "`num_classes` must be .*, got 1",
        ),
        (
            lambda: bounds.sum_vulnerable_fraction_exact(0, 0.1),
            r"`dimension` must be in \[1, inf\), got 0",
        ),
        (
            lambda: bounds.sum_vulnerable_fraction_exact(9, -0.1),
            r"`epsilon` must be in \[0, inf\), got -0.1",
        ),
        (
            lambda: bounds.facets_bound(9, 0.9),
            r"`distance` must be in \[1, inf\), got 0.9",
        ),
        (lambda: margin_bound(failure=1), r"`failure` must be in \(0, 1\), got 1"),
        (
            lambda: margin_bound(smallest_margin=0),
            "`smallest_margin` must be .*, got 0",
        ),
        (lambda: margin_bound(num_examples=0), "`num_examples` must be .*, got 0"),
        (lambda: margin_bound(radius=0), "`radius` must be .*, got 0"),
        (lambda: margin_bound(factor=3), "`factor` must be 1 or 2, got 3"),
        (lambda: generalization.perturbation_growth(np.array([1, -2])), ".* got -2"),
        (lambda: ramps.ramp_loss(0, 0), r"`width` must be in \(0, inf\), got 0"),
        (lambda: ramps.logistic_loss(np.array([NAN])), "`margins` must be .*, got nan"),
        # In the interval, but not once they are of the type that is computed with.
        (
            lambda: no_free_lunch.adversarial_accuracy_bound(0, 0.99999999),
            r"`reliability` must be in \[0.5, 1\), got 1 in float32; it is",
        ),
        (
            lambda: gaussian.optimal_error(0, 1e-50),
            r"`sigma` must be in \(0, inf\), got 0 in float32; give",
        ),
        (lambda: gaussian.optimal_error(0, 1e-40), "`sigma` .*, got 0 in float32"),
        (lambda: gaussian.optimal_error(1e39, 1), "`distance` .*, got inf in float32"),
    ],
)
def test_numbers_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_another_norm_is_refused():
    with pytest.raises(ValueError, match="`norm` must be one of l2, linf, got 'l1'"):
        gaussian.linear_error(np.ones(2), mean=np.ones(2), sigma=1, norm="l1")


@pytest.mark.parametrize("value", [2.5, "3", jnp.asarray(3)])
def test_what_decides_shapes_is_an_integer_of_python(value):
    with pytest.raises(TypeError, match="`n` must be an integer known to Python"):
        count("n", value, fix="count")


def test_counts_of_python_and_numpy_are_taken():
    assert count("n", np.int64(3), fix="count") == count("n", 3, fix="count") == 3


@pytest.mark.parametrize("value", [2.5, jnp.asarray(2.5)])
def test_a_budget_is_a_whole_number(value):
    with pytest.raises(TypeError, match="`budget` must be of integers"):
        bernoulli.l0_error(3, 0.3, value)


def test_the_first_bad_value_of_an_array_is_named():
    with pytest.raises(ValueError, match=r"`x` must be in \(0, 1\), got 7; scale it"):
        real("x", np.array([0.5, 7.0, -3.0]), "(0, 1)", fix="scale it")


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", 0, 1),
        ("(0, 1]", 1, 0),
        ("[0, inf)", 1e30, np.inf),
        ("(0, inf]", np.inf, 0),
    ],
)
def test_ends_of_an_interval_are_in_it_or_not(interval, inside, outside):
    assert real("x", inside, interval, fix="change it") == inside
    with pytest.raises(ValueError, match="`x` must be"):
        real("x", outside, interval, fix="change it")


def test_arrays_of_jax_may_be_traced_and_are_not_checked():
    assert real("x", jnp.asarray(7.0), "(0, 1)", fix="scale it") == 7
    assert whole("x", jnp.asarray(-7), "[0, inf)", fix="count") == -7
    jax.jit(lambda x: real("x", x, "(0, 1)", fix="scale it"))(7.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gaussian_sample(mean=1.0),
            r"`mean` must be a vector with a length of at least 1, got \(\)",
        ),
        (
            lambda: gaussian.linear_error(np.ones(2), mean=np.ones((2, 1)), sigma=1),
            r"`mean` must be a vector with a length of 2, got \(2, 1\); give",
        ),
        (
            lambda: gaussian.linear_error(np.ones(2), mean=np.ones(3), sigma=1),
            r"`mean` must be .* of 2, got \(3,\)",
        ),
        (
            lambda: gaussian.linear_error(np.ones((1, 2)), mean=np.ones(2), sigma=1),
            r"`weights` must be a vector .*, got \(1, 2\)",
        ),
        (
            lambda: hinge_loss(weights=np.ones((2, 3))),
            r"`weights` must be .* at least 2, got \(2, 3\); give finite",
        ),
        (
            lambda: no_free_lunch.accuracy(np.ones(1), eta=1),
            r"`weights` must be .* at least 2, got \(1,\)",
        ),
        (lambda: no_free_lunch.error(1.0, eta=1), "`weights` must be a vector"),
        (
            lambda: no_free_lunch.descend(jnp.sum, np.ones((2, 2))),
            "`weights` must be a vector",
        ),
        (
            lambda: ramps.logistic_loss(np.ones((3, 2))),
            r"`margins` must be a vector .*, got \(3, 2\); give the finite",
        ),
        (lambda: ramps.logistic_slopes(1.0), "`margins` must be a vector"),
        (
            lambda: ramps.ramp_width(np.ones(0)),
            r"`margins` must be .* at least 1, got \(0,\)",
        ),
        (
            lambda: generalization.perturbation_growth(np.ones((2, 2))),
            "`spectral_norms` must be a vector",
        ),
    ],
)
def test_other_shapes_than_vectors_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_shape_of_a_vector_is_known_to_a_trace():
    def total(x):
        return jnp.sum(vector("x", x, length=3, fix="give three"))

    assert jax.jit(jax.vmap(total))(jnp.ones((2, 3))).tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"`x` must be .* of 3, got \(2,\)"):
        jax.jit(jax.vmap(total))(jnp.ones((3, 2)))
    assert vector("x", [1.0, 2.0], fix="give some").shape == (2,)
    with pytest.raises(ValueError, match=r"`x` must be in \[0, 1\], got 2; give less"):
        vector("x", np.array([1.0, 2.0]), "[0, 1]", fix="give less")


def test_an_end_that_rounds_stays_in_its_interval():
    # 0.3 is more in float32 than in float64.
    assert real("x", 0.3, "[0, 0.3]", fix="change it") == np.float32(0.3)


def test_numbers_are_of_the_default_float_type():
    for value in (1, 1.0, np.float64(1), np.ones(2), jnp.ones(2, jnp.bfloat16)):
        assert real("x", value, fix="change it").dtype == jnp.float32
