"""Measured costs against costs counted by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxrobust.attacks import (
    PGD,
    Passes,
    auto_pgd,
    count_passes,
    fab,
    mi_fgsm,
    over_targets,
    transferred_from,
    with_restarts,
    worst_of,
)
from jaxrobust.threat import LinfBall

THREAT = LinfBall(0.1)


def short_pgd(num_steps=3):
    return PGD(step_size=0.05, num_steps=num_steps)


# The model has three classes, so there are two targets.
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (short_pgd(0), Passes(1, 0)),
        (short_pgd(), Passes(4, 3)),
        (with_restarts(short_pgd(), 2), Passes(8, 6)),
        (worst_of(short_pgd(), short_pgd(5)), Passes(10, 8)),
        (partial(mi_fgsm, num_steps=4), Passes(5, 4)),
        (partial(auto_pgd, num_steps=4), Passes(5, 4)),
        (partial(auto_pgd, num_steps=4, num_samples=3), Passes(15, 12)),
        # One evaluation of the clean image ranks the targets.
        (
            over_targets(partial(auto_pgd, num_steps=2, loss="dlr"), 9),
            Passes(1 + 2 * 3, 2 * 2),
        ),
        # All three logits are differentiated; 3 steps of the final search, and a look
        # whether the success is clear.
        (partial(fab, num_steps=4), Passes(2 * 4 + 3 + 3, 3 * 4)),
        (
            over_targets(partial(fab, num_steps=4), 1),
            Passes(1 + 2 * 4 + 3 + 3, 4),
        ),
        # Of the model under attack nothing but the judgement is asked.
        (transferred_from(short_pgd(), lambda images: images[:, :3, 0, 0]), (1, 0)),
    ],
)
def test_counts_are_those_by_hand(build, expected, linear_problem):
    passes = count_passes(
        build(THREAT),
        linear_problem.logits_fn,
        linear_problem.images,
        linear_problem.labels,
    )
    assert passes == expected


def test_mapped_examples_and_models_with_constant_gradients_are_counted(
    linear_problem,
):
    def one_by_one(key, logits_fn, images, labels):
        def single(key, image, label):
            found = short_pgd()(THREAT)(key, logits_fn, image[None], label[None])
            return jax.tree.map(lambda leaf: leaf[0], found)

        keys = jax.random.split(key, len(labels))
        return jax.vmap(single)(keys, images, labels)

    passes = count_passes(one_by_one, linear_problem.logits_fn, *linear_problem[2:])
    assert passes == Passes(4, 3)


def test_the_result_of_the_attack_is_not_changed(linear_problem, key):
    seen = []

    def noted(key, logits_fn, images, labels):
        found = short_pgd()(THREAT)(key, logits_fn, images, labels)
        jax.debug.callback(seen.append, found.images)
        return found

    count_passes(noted, linear_problem.logits_fn, *linear_problem[2:], key=key)
    alone = short_pgd()(THREAT)(key, linear_problem.logits_fn, *linear_problem[2:])
    assert jnp.allclose(seen[0], alone.images, atol=1e-6)
