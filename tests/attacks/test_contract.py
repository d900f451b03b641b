"""What every attack promises, under every threat model."""

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxrobust.attacks
from jaxrobust.attacks import (
    PGD,
    Attack,
    aimed,
    auto_pgd,
    brute_force,
    carlini_wagner,
    ddn,
    fab,
    fgsm,
    fmn,
    hop_skip_jump,
    mi_fgsm,
    noise,
    num_steps_for,
    over_targets,
    pdpgd,
    pgd,
    sigma_zero,
    spsa,
    square,
    transferred_from,
    with_restarts,
    worst_of,
    zoo,
)
from jaxrobust.threat import THREATS, LinfBall, ThreatModel

DENSE, SPARSE = ("linf", "l2"), ("l1", "l0")
"""Norms in which steps move every value, and those in which they do not."""

EVERY, CONVEX = tuple(THREATS), ("linf", "l2", "l1")

ORDERS = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}
DUALS = {"linf": 1, "l2": 2, "l1": np.inf}

WIDTHS = {"linf": 1.0, "l2": 1.0, "l1": 4.0, "l0": 12.0}
"""What a test calls a radius of 1, as far as images of 36 values go."""


def ball(kind, width, *bounds):
    """The ball of a norm whose radius is that many widths."""
    return THREATS[kind](width * WIDTHS[kind], *bounds)


class Case(NamedTuple):
    """One row: an attack and what it may be asked.

    Attributes:
        name: of the row.
        build: from a threat model to the attack, with few steps.
        is_steepest: finds the optimum of a linear classifier of two classes.
        is_targeted: takes the labels as targets.
        uses_gradient: False if no gradient of the model is taken.
        kinds: threat models it supports.
        is_mapped: also built for many radii at once, which compiles it twice more.
        is_narrow: also run in bfloat16 and in float64, which compiles it twice more.
        has_fixed_length: its loops have a number of steps known to the compiler, so
            that reverse mode can differentiate it.
    """

    name: str
    build: Callable[[ThreatModel], Attack]
    is_steepest: bool = True
    is_targeted: bool = False
    uses_gradient: bool = True
    kinds: tuple[str, ...] = EVERY
    is_mapped: bool = False
    is_narrow: bool = False
    has_fixed_length: bool = True


def _pgd(**settings):
    return lambda threat: pgd(threat, **{"step_size": 0.2, "num_steps": 6} | settings)


def _auto_pgd(**settings):
    return lambda threat: auto_pgd(threat, num_steps=10, **settings)


def _aimed_to_hit(threat):
    """Takes the labels as targets."""

    def attack(key, logits_fn, images, labels):
        search = _pgd(targets=labels, must_hit=True)(threat)
        return search(key, logits_fn, images, labels)

    return attack


def _blind(name, builder, kinds, **settings):
    """A row for an attack that takes no gradient."""
    return Case(
        name,
        lambda threat: builder(threat, **settings),
        False,
        uses_gradient=False,
        kinds=kinds,
        is_narrow=True,
        has_fixed_length=builder is noise,
    )


def _least(name, builder, kinds=EVERY, **settings):
    """A row for a minimum-norm attack."""
    return Case(
        name,
        lambda threat: builder(threat, **{"num_steps": 5} | settings),
        False,
        kinds=kinds,
        has_fixed_length=False,
    )


def _three_pixels(images):
    return images.reshape(images.shape[0], -1)[:, :3]


ATTACKS = [
    Case("fgsm", fgsm, is_mapped=True, is_narrow=True),
    Case("fgsm-start", lambda threat: fgsm(threat, random_start=True), False),
    Case("pgd", _pgd(), is_narrow=True),
    Case("pgd-center", _pgd(random_start=False)),
    Case("pgd-sign", _pgd(direction="sign"), False),
    Case("pgd-l2", _pgd(direction="l2"), False, is_mapped=True),
    Case("pgd-raw", _pgd(direction="raw", step_size=5e4), False, is_narrow=True),
    Case("pgd-margin", _pgd(loss="margin")),
    Case("pgd-best", _pgd(keep="best")),
    Case("pgd-must-hit", _aimed_to_hit, False, True),
    Case("mi-fgsm", mi_fgsm, is_narrow=True),
    Case("pgd-restarts", with_restarts(_pgd(), 3), is_mapped=True),
    Case(
        "auto-pgd",
        _auto_pgd(),
        is_mapped=True,
        is_narrow=True,
        has_fixed_length=False,
        kinds=CONVEX,
    ),
    Case(
        "auto-pgd-mean-of-draws",
        _auto_pgd(loss="dlr", num_samples=2),
        has_fixed_length=False,
        kinds=CONVEX,
    ),
    Case(
        "auto-pgd-targets",
        over_targets(partial(auto_pgd, num_steps=10, loss="dlr"), 2),
        has_fixed_length=False,
        kinds=CONVEX,
    ),
    Case(
        "fab",
        lambda threat: fab(threat, num_steps=5),
        False,
        is_mapped=True,
        is_narrow=True,
        has_fixed_length=False,
        kinds=DENSE,
    ),
    Case(
        "fab-targets",
        over_targets(partial(fab, num_steps=5, random_start=True), 2),
        False,
        has_fixed_length=False,
        kinds=DENSE,
    ),
    _least("fmn", fmn)._replace(is_narrow=True),
    _least("ddn", ddn, ("l2",)),
    _least("pdpgd", pdpgd),
    _least("sigma-zero", sigma_zero, ("l0",)),
    _least("carlini-wagner", carlini_wagner, ("l2",), num_searches=2),
    Case("pgd-aimed", aimed(PGD(step_size=0.2, num_steps=6), 0)),
    Case("worst-of", worst_of(fgsm, _pgd(keep="best"))),
    # The other model's gradients are finite where those of the attacked one are not.
    Case(
        "transferred",
        transferred_from(_pgd(), _three_pixels),
        False,
        uses_gradient=False,
    ),
    _blind("square", square, DENSE, num_queries=20),
    _blind("zoo", zoo, EVERY, num_steps=3, num_coordinates=10, spacing=0.01),
    _blind("spsa", spsa, EVERY, num_steps=3, num_directions=5, batch_size=3),
    _blind("brute-force", brute_force, DENSE, num_samples=20, batch_size=8),
    _blind("noise", noise, EVERY, num_samples=3),
    _blind("noise-gaussian", noise, DENSE, kind="gaussian"),
    _blind(
        "hop-skip-jump",
        hop_skip_jump,
        DENSE,
        num_steps=2,
        num_samples=10,
        batch_size=10,
    ),
]


SLOW = ("pdpgd", "carlini-wagner")
"""What these promise follows from `least_norm`, which others go through, too."""


def each_threat(cases, exact=(), fast=(), quick=DENSE):
    """The test runs for each case under each threat model that the case supports.

    The cases named in `exact` run with the compiler's default flags, too. In the norms
    of sparse steps, those named in `fast` are not slow tests; those in `SLOW` are, and
    those in other norms than the `quick` ones.
    """

    def marks(case, kind):
        is_fast = (kind in quick and case.name not in SLOW) or case.name in fast
        chosen = [] if is_fast else [pytest.mark.slow]
        return chosen + [pytest.mark.exact] * (case.name in exact)

    pairs = [
        pytest.param(
            case,
            kind,
            id=f"{case.name}-{kind}",
            marks=marks(case, kind),
        )
        for case in cases
        for kind in case.kinds
    ]
    return pytest.mark.parametrize(("case", "kind"), pairs)


def assert_in_ball(threat, moved, center):
    wide, start = (np.asarray(each).astype(np.float64) for each in (moved, center))
    flat = np.abs(wide - start).reshape(len(wide), -1)
    norm = np.linalg.norm(flat, ORDERS[threat.name], axis=1)
    assert np.all(norm <= np.float64(np.float32(threat.epsilon)))


def assert_inside(threat, moved, center):
    assert_in_ball(threat, moved, center)
    wide = np.asarray(moved).astype(np.float64)
    assert wide.min() >= 0 and wide.max() <= 1


@pytest.fixture(scope="module")
def run(linear_problem):
    """Every attack under every threat, compiled once for all radii."""
    compiled = {}

    def attacked(case, key, threat, images, num_bad):
        def logits_fn(images):
            flat = images.reshape(images.shape[0], -1)
            # The gradient of a square root at 0, times 0, is not a number.
            is_bad = jnp.arange(len(images)) < num_bad
            bad = jnp.sqrt(jnp.where(is_bad, 0 * flat.sum(axis=1), 1.0))
            return linear_problem.logits_fn(images) + bad[:, None]

        return case.build(threat)(key, logits_fn, images, linear_problem.labels)

    def run(case: Case, kind: str, epsilon, images, num_bad=0):
        name = (case.name, kind, images.dtype)
        if name not in compiled:
            compiled[name] = jax.jit(partial(attacked, case))
        threat = ball(kind, jnp.float32(epsilon))
        return compiled[name](jax.random.key(0), threat, images, num_bad)

    return run


def assert_stays_inside(case, kind, epsilon, run, images):
    images = images.at[0].set(0.0).at[1].set(1.0).at[2].set(0.5)
    found = run(case, kind, epsilon, images)
    assert found.images.dtype == images.dtype
    assert_inside(ball(kind, epsilon), found.images, images)


radii = st.one_of(st.just(0.0), st.floats(0.0, 2.0))


@each_threat((case for case in ATTACKS if case.is_narrow), exact=("fgsm",))
@given(epsilon=radii)
@settings(max_examples=8)
@pytest.mark.slow
def test_stays_in_the_ball_and_the_pixel_range_in_bfloat16(
    case, kind, epsilon, run, linear_problem
):
    images = linear_problem.images.astype(jnp.bfloat16)
    assert_stays_inside(case, kind, epsilon, run, images)


@each_threat(ATTACKS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_global_x64_leaves_types_as_they_are(case, kind, dtype, linear_problem):
    # Traced only: what goes wrong here is the type of something that a loop carries.
    def attack(key, epsilon, images, labels):
        search = case.build(ball(kind, epsilon))
        return search(key, linear_problem.logits_fn, images, labels)

    with jax.enable_x64(True):
        images = jax.ShapeDtypeStruct((4, 6, 6, 1), dtype)
        labels = jax.ShapeDtypeStruct((4,), jnp.int64)
        epsilon = 0.3 if dtype == "float32" else jnp.float32(0.3)
        found = jax.eval_shape(attack, jax.random.key(0), epsilon, images, labels)
    assert found.images == images
    assert found.loss == jax.ShapeDtypeStruct((4,), jnp.float32)


@each_threat(case for case in ATTACKS if case.is_narrow)
@pytest.mark.slow
def test_float64_images_stay_in_the_ball_and_the_pixel_range(
    case, kind, linear_problem
):
    with jax.enable_x64(True):
        weights = np.asarray(linear_problem.weights)
        images = np.random.default_rng(0).uniform(size=(3, 6, 6, 1))
        images[0, 0], images[1, 0] = 0, 1
        labels = np.argmax(images.reshape(3, -1) @ weights, axis=1)

        @jax.jit
        def attack(threat, images):
            return case.build(threat)(
                jax.random.key(0),
                lambda images: images.reshape(len(images), -1) @ weights,
                images,
                labels,
            )

        for epsilon in (0.0, 0.1, 0.7):
            moved = np.asarray(attack(ball(kind, epsilon), images).images)
            assert moved.dtype == np.float64
            flat = np.abs(moved - images).reshape(3, -1)
            norm = np.linalg.norm(flat, ORDERS[kind], axis=1)
            # The difference itself is rounded to float64 here.
            assert np.all(norm <= epsilon * WIDTHS[kind] * (1 + 1e-15))
            assert moved.min() >= 0 and moved.max() <= 1


# One of each family: what moves its images compiles to programs of their own.
@each_threat(
    ATTACKS,
    exact=("fgsm", "pgd", "pgd-raw", "auto-pgd", "fab", "square", "noise"),
    fast=("pgd",),
)
class TestEveryAttack:
    @given(epsilon=radii)
    @settings(max_examples=8)
    def test_stays_in_the_ball_and_the_pixel_range(
        self, case, kind, epsilon, run, linear_problem
    ):
        assert_stays_inside(case, kind, epsilon, run, linear_problem.images)

    def test_radius_zero_returns_the_clean_images(
        self, case, kind, run, linear_problem
    ):
        found = run(case, kind, 0.0, linear_problem.images)
        np.testing.assert_array_equal(found.images, linear_problem.images)

    def test_the_result_describes_its_own_images(self, case, kind, run, linear_problem):
        found = run(case, kind, 0.3, linear_problem.images)
        logits = linear_problem.logits_fn(found.images)
        is_label = np.argmax(logits, axis=1) == np.asarray(linear_problem.labels)
        expected = is_label if case.is_targeted else ~is_label
        np.testing.assert_array_equal(found.is_adversarial, expected)
        assert np.all(np.asarray(found.is_gradient_finite))

    def test_images_outside_the_range_never_leave_the_ball(
        self, case, kind, run, linear_problem
    ):
        # Traced, so that nothing tells that these are not in [0, 1].
        images = jnp.round(255 * linear_problem.images)
        found = run(case, kind, 0.25, images)
        assert_in_ball(ball(kind, 0.25), found.images, images)

    def test_same_key_gives_the_same_images(self, case, kind, run, linear_problem):
        one, other = (run(case, kind, 0.3, linear_problem.images) for _ in range(2))
        np.testing.assert_array_equal(one.images, other.images)

    def test_nan_gradients_are_reported_and_make_no_nan_images(
        self, case, kind, run, linear_problem
    ):
        images = linear_problem.images
        found = run(case, kind, 0.2, images, num_bad=2)
        assert_inside(ball(kind, 0.2), found.images, images)
        expected = np.arange(len(images)) >= (2 if case.uses_gradient else 0)
        np.testing.assert_array_equal(found.is_gradient_finite, expected)


IMAGES = jax.ShapeDtypeStruct((16, 6, 6, 1), jnp.float32)
LABELS = jax.ShapeDtypeStruct((16,), jnp.int32)


def _known(shape, value, dtype=np.float32):
    return np.full(shape, value, dtype)


WRONG_ARGUMENTS = {
    "labels in a column": (
        (IMAGES, jax.ShapeDtypeStruct((16, 1), jnp.int32)),
        (ValueError, r"`labels` must be one class for each .* got \(16, 1\)"),
    ),
    "one label for all": (
        (IMAGES, jax.ShapeDtypeStruct((1,), jnp.int32)),
        (ValueError, r"`labels` must be one class for each image, .* got \(1,\)"),
    ),
    "one-hot labels": (
        (IMAGES, jax.ShapeDtypeStruct((16, 3), jnp.int32)),
        (ValueError, r"`labels` must be one class for each .* one-hot rows"),
    ),
    "labels that are no integers": (
        (IMAGES, jax.ShapeDtypeStruct((16,), jnp.float32)),
        (TypeError, "`labels` must be integers, got float32"),
    ),
    "a negative label": (
        (IMAGES, _known(16, -1, np.int32)),
        (ValueError, "`labels` must be classes of the model, from 0 to 2, got -1"),
    ),
    "a label beyond the classes": (
        (IMAGES, _known(16, 3, np.uint8)),
        (ValueError, "`labels` must be classes of the model, from 0 to 2, got 3"),
    ),
    "a label beyond 32 bits": (
        (IMAGES, _known(16, 2**32 + 1, np.int64)),
        (
            ValueError,
            "`labels` must be classes of the model, .* got (4294967297|2147483647)",
        ),
    ),
    "bytes": (
        (jax.ShapeDtypeStruct((16, 6, 6, 1), jnp.uint8), LABELS),
        (TypeError, "`images` must be floating point, got uint8; divide bytes by 255"),
    ),
    "images in [0, 255]": (
        (_known((16, 6, 6, 1), 200.0), LABELS),
        (ValueError, r"`images` must be in \[0, 1\], got \[200\.0, 200\.0\]"),
    ),
    "images that are no numbers": (
        (_known((16, 6, 6, 1), np.nan), LABELS),
        (ValueError, r"`images` must be in \[0, 1\], got \[nan, nan\]"),
    ),
}


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
class TestWrongArguments:
    @pytest.mark.parametrize("mistake", WRONG_ARGUMENTS)
    def test_are_refused_before_anything_is_computed(
        self, case, mistake, linear_problem
    ):
        arguments, (error, message) = WRONG_ARGUMENTS[mistake]
        # Arrays are known though the function is traced; shapes are not.
        traced = [each for each in arguments if not isinstance(each, np.ndarray)]

        def attack(*traced):
            given = iter(traced)
            images, labels = (
                each if isinstance(each, np.ndarray) else next(given)
                for each in arguments
            )
            search = case.build(THREATS[case.kinds[0]](0.3))
            return search(jax.random.key(0), linear_problem.logits_fn, images, labels)

        with pytest.raises(error, match=message):
            jax.eval_shape(attack, *traced)

    def test_logits_that_are_no_rows_of_classes_are_refused(self, case):
        def attack(images, labels):
            def logits_fn(images):
                return jnp.sum(images, axis=(1, 2, 3))

            return case.build(THREATS[case.kinds[0]](0.3))(
                jax.random.key(0), logits_fn, images, labels
            )

        with pytest.raises(ValueError, match=r"`logits_fn` must return \(images, cla"):
            jax.eval_shape(attack, IMAGES, LABELS)

    def test_a_radius_that_is_none_is_refused_where_known(self, case, linear_problem):
        search = case.build(THREATS[case.kinds[0]](jnp.float32(-0.1)))
        with pytest.raises(ValueError, match=r"`epsilon` must be in \[0, inf\)"):
            search(jax.random.key(0), *linear_problem[::2], linear_problem.labels)


def test_every_search_of_the_package_is_checked():
    # By its four arguments; an attack that a later module adds is found here, too.
    arguments = ["key", "logits_fn", "images", "labels"]
    count = 0
    for path in Path(jaxrobust.attacks.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            returns = ast.unparse(node.returns) if node.returns else ""
            names = [each.arg for each in node.args.args]
            if names == arguments and returns != "AttackState":
                decorators = " ".join(map(ast.unparse, node.decorator_list))
                assert decorators.startswith(("checked(", "wraps(search)")), (
                    f"{path.name}:{node.lineno} is an attack without `checked`"
                )
                count += 1
    assert count >= 14


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
@pytest.mark.slow
def test_reverse_mode_by_the_radius_is_defined_or_refused(case, linear_problem):
    def loss(epsilon):
        search = case.build(THREATS[case.kinds[0]](epsilon))
        found = search(jax.random.key(0), linear_problem.logits_fn, *linear_problem[2:])
        return jnp.sum(found.images)

    # In l_0 nothing changes smoothly with the radius, so nothing is asked for.
    if case.has_fixed_length or case.kinds == ("l0",):
        assert jax.eval_shape(jax.grad(loss), 0.3).shape == ()
    else:
        with pytest.raises(TypeError, match=r"`jax.grad` must not go through this att"):
            jax.eval_shape(jax.grad(loss), 0.3)
        # Forward mode is defined for these, too.
        assert jax.eval_shape(jax.jacfwd(loss), 0.3).shape == ()


@pytest.mark.parametrize(
    "case",
    [each for each in ATTACKS if each.name in ("fgsm", "pgd-center")],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("kind", DUALS)
@pytest.mark.slow
def test_the_derivative_by_the_radius_is_that_of_a_linear_classifier(case, kind, key):
    # The margin grows by the dual norm of the weights, without a pixel range.
    weights = jax.random.normal(key, (9,))

    def logits_fn(images):
        score = images.reshape(images.shape[0], -1) @ weights
        return jnp.stack([score, jnp.zeros_like(score)], axis=1)

    images = jax.random.uniform(key, (5, 3, 3, 1))

    def height(epsilon):
        search = case.build(ball(kind, epsilon, None))
        found = search(key, logits_fn, images, jnp.zeros(5, jnp.int32))
        return -jnp.sum(logits_fn(found.images)[:, 0])

    dual = WIDTHS[kind] * np.linalg.norm(np.asarray(weights), DUALS[kind])
    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(derivative(height)(0.25), 5 * dual, rtol=1e-3)


@each_threat(case._replace(kinds=DENSE) for case in ATTACKS if case.is_steepest)
def test_the_optimum_of_a_linear_classifier_is_found(case, kind, key):
    # Two classes, no pixel range: the margin w.x + b changes by epsilon times the dual
    # norm of w, and by no attack more.
    weights = jax.random.normal(key, (9,))

    def logits_fn(images):
        score = images.reshape(images.shape[0], -1) @ weights
        return jnp.stack([score, jnp.zeros_like(score)], axis=1)

    images = jax.random.uniform(key, (5, 3, 3, 1))
    labels = jnp.zeros(5, jnp.int32)
    threat = ball(kind, 0.25, None)
    attack = jax.jit(case.build(threat), static_argnums=1)
    found = attack(key, logits_fn, images, labels)
    change = logits_fn(found.images)[:, 0] - logits_fn(images)[:, 0]
    dual = WIDTHS[kind] * np.linalg.norm(np.asarray(weights), DUALS[kind])
    np.testing.assert_allclose(change, -0.25 * dual, rtol=2e-3)


@each_threat((case for case in ATTACKS if case.is_mapped), quick=("linf",))
def test_many_radii_need_one_trace_and_may_be_mapped(case, kind, linear_problem):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def attack(threat):
        found = case.build(threat)
        return found(jax.random.key(0), linear_problem.logits_fn, *linear_problem[2:])

    radii = jnp.asarray([0.0, 0.1, 0.4])
    rows = [attack(ball(kind, epsilon)) for epsilon in radii]
    alone = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    mapped = jax.vmap(
        lambda epsilon: case.build(ball(kind, epsilon))(
            jax.random.key(0), linear_problem.logits_fn, *linear_problem[2:]
        )
    )(radii)
    np.testing.assert_array_equal(mapped.is_adversarial, alone.is_adversarial)
    # Rounding decides when an attack halves its step size and, in sparse norms, which
    # of two values that climb alike a step moves.
    tolerance = 1e-2 if kind in DENSE else 1e-1
    np.testing.assert_allclose(mapped.loss, alone.loss, rtol=tolerance, atol=1e-3)
    if kind in DENSE:
        np.testing.assert_allclose(mapped.images, alone.images, atol=1e-3)


@each_threat(case for case in ATTACKS if case.name in ("auto-pgd", "fab-targets"))
@pytest.mark.slow
def test_mapped_examples_get_what_they_get_alone(case, kind, linear_problem):
    def alone(key, image, label):
        attack = case.build(ball(kind, 0.1))
        found = attack(key, linear_problem.logits_fn, image[None], label[None])
        return jax.tree.map(lambda leaf: leaf[0], found)

    keys = jax.random.split(jax.random.key(5), 4)
    items = keys, linear_problem.images[:4], linear_problem.labels[:4]
    mapped = jax.jit(jax.vmap(alone))(*items)
    single = jax.jit(alone)
    rows = [single(*(part[row] for part in items)) for row in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    np.testing.assert_array_equal(mapped.is_adversarial, stacked.is_adversarial)
    np.testing.assert_allclose(mapped.images, stacked.images, atol=1e-3)
    np.testing.assert_allclose(mapped.loss, stacked.loss, rtol=1e-3, atol=1e-5)


def test_steps_and_step_size_may_be_traced(linear_problem, key):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def attack(epsilon, step_size, num_steps):
        found = pgd(LinfBall(epsilon), step_size=step_size, num_steps=num_steps)
        return found(key, linear_problem.logits_fn, *linear_problem[2:]).images

    for epsilon in (0.0, 0.1, 0.3):
        num_steps = num_steps_for(epsilon, 0.05)
        args = jnp.float32(epsilon), jnp.float32(0.05), jnp.int32(num_steps)
        static = pgd(LinfBall(epsilon), step_size=0.05, num_steps=num_steps)
        expected = static(key, linear_problem.logits_fn, *linear_problem[2:]).images
        np.testing.assert_allclose(attack(*args), expected, atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_steps(linear_problem, key):
    def peak(num_steps):
        def attack(images):
            found = pgd(LinfBall(0.3), step_size=0.01, num_steps=num_steps, keep="best")
            return found(key, linear_problem.logits_fn, images, linear_problem.labels)

        compiled = jax.jit(attack).lower(linear_problem.images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(300) == peak(3)
