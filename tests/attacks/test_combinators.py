import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import AttackResult, judge, pgd, with_restarts
from jaxrobust.attacks.base import better, nothing_found
from jaxrobust.threat import LinfBall


def result(images, loss, is_adversarial):
    count = len(loss)
    return AttackResult(
        jnp.full((count, 1), images),
        jnp.asarray(loss),
        jnp.asarray(is_adversarial),
        jnp.ones(count, bool),
    )


def test_success_comes_before_loss_and_ties_keep_the_first():
    first = result(1.0, [0.9, 0.5, 0.1, 0.3], [False, False, True, True])
    second = result(2.0, [0.8, 0.7, 9.0, 0.3], [True, False, False, True])
    chosen = better(first, second)
    np.testing.assert_array_equal(chosen.images[:, 0], [2.0, 2.0, 1.0, 1.0])
    np.testing.assert_array_equal(chosen.is_adversarial, [True, False, True, True])


def test_anything_improves_on_nothing():
    found = result(2.0, [-5.0], [False])
    assert float(better(nothing_found(jnp.ones((1, 1))), found).images[0, 0]) == 2.0


def test_a_loss_that_is_no_number_is_never_preferred():
    first, second = result(1.0, [0.1], [False]), result(2.0, [jnp.nan], [False])
    assert float(better(first, second).images[0, 0]) == 1.0


def test_restarts_equal_the_best_of_single_runs(linear_problem, key):
    single = pgd(LinfBall(0.05), step_size=0.03, num_steps=1)
    found = with_restarts(single, 4)(key, linear_problem.logits_fn, *linear_problem[2:])
    runs = [
        single(
            jax.random.fold_in(key, index),
            linear_problem.logits_fn,
            *linear_problem[2:],
        )
        for index in range(4)
    ]
    is_adversarial = np.any([run.is_adversarial for run in runs], axis=0)
    np.testing.assert_array_equal(found.is_adversarial, is_adversarial)
    losses = np.asarray([run.loss for run in runs])
    success = np.asarray([run.is_adversarial for run in runs])
    eligible = np.where(success == is_adversarial, losses, -np.inf)
    np.testing.assert_allclose(found.loss, eligible.max(axis=0), rtol=1e-5)
    assert losses.std(axis=0).max() > 0


def test_at_least_one_restart_is_asked_for():
    with pytest.raises(ValueError, match="`num_restarts` must be at least 1"):
        with_restarts(pgd(LinfBall(0.1), step_size=0.1, num_steps=1), 0)


@pytest.mark.parametrize(
    ("logits", "label", "is_wrong", "is_target"),
    [
        ([1.0, 2.0], 1, False, True),
        ([2.0, 1.0], 1, True, False),
        ([1.0, 1.0], 0, False, True),
        ([1.0, 1.0], 1, True, False),
        ([np.nan, 1.0], 0, True, False),
        ([np.nan, 1.0], 1, True, False),
    ],
)
def test_judgement(logits, label, is_wrong, is_target):
    logits, labels = jnp.asarray([logits]), jnp.asarray([label])
    assert bool(judge(logits, labels)[0]) == is_wrong
    assert bool(judge(logits, labels, targeted=True)[0]) == is_target
