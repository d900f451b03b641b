import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.attacks import AttackResult, judge, pgd
from jaxrobust.data import Dataset
from jaxrobust.evaluation import EvaluationConfig, evaluate
from jaxrobust.threat import LinfBall


def dataset_of(images, labels, num_classes=2):
    return Dataset(
        name="test",
        title="test",
        images=np.asarray(images, np.float32),
        labels=np.asarray(labels, np.int32),
        num_classes=num_classes,
    )


@given(size=st.integers(1, 23), batch_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_example_counts_exactly_once(size, batch_size, seed):
    # The answer is written in the image, so the right counts are known.
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 2, size=(size, 1, 1, 2)).astype(np.float32)
    labels = np.zeros(size)

    def logits_fn(pixels):
        return jnp.stack([1 - pixels[:, 0, 0, 0], pixels[:, 0, 0, 0]], axis=1)

    def breaking(epsilon, num_steps):
        del epsilon, num_steps

        # Breaks an example if its second pixel says so.
        def attack(key, logits_fn, pixels, labels):
            del key
            falls = (pixels[:, 0, 0, 1] > 0) | judge(logits_fn(pixels), labels)
            return AttackResult(pixels, jnp.zeros(len(labels)), falls, ~falls)

        return attack

    config = EvaluationConfig(epsilons=(0.1,), num_restarts=2, batch_size=batch_size)
    found = evaluate(logits_fn, dataset_of(images, labels), config, attack_for=breaking)
    is_right = images[:, 0, 0, 0] == 0
    stays = is_right & (images[:, 0, 0, 1] == 0)
    np.testing.assert_array_equal(found.is_clean_correct, is_right)
    np.testing.assert_array_equal(found.is_robust[0.1], stays)
    assert found.clean_accuracy == is_right.mean()
    assert found.robust_accuracy == {0.1: stays.mean()}
    assert found.num_examples == size
    # Examples that the clean image loses are not attacked; each fall counts once.
    assert found.num_bad_gradients == np.sum(is_right & ~stays)


def line_problem(seed=0, size=40):
    """Two classes, a linear score: an example falls where |score| < epsilon |w|_1."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=4)
    images = rng.uniform(0.35, 0.65, size=(size, 2, 2, 1))
    offset = -np.median(images.reshape(size, 4) @ weights)
    score = images.reshape(size, 4) @ weights + offset

    def logits_fn(pixels):
        total = pixels.reshape(pixels.shape[0], 4) @ jnp.asarray(weights, "float32")
        return jnp.stack([total + offset, jnp.zeros_like(total)], axis=1)

    labels = (score < 0).astype(int)
    labels[:3] = 1 - labels[:3]
    return logits_fn, dataset_of(images, labels), score, np.abs(weights).sum()


def test_robust_accuracy_of_a_linear_model_is_the_closed_form():
    logits_fn, dataset, score, norm = line_problem()
    radii = (0.0, 0.02, 0.05, 0.1, 0.3)
    config = EvaluationConfig(
        epsilons=radii, num_steps=60, num_restarts=1, batch_size=7, step_size=0.02
    )
    found = evaluate(logits_fn, dataset, config)
    is_right = np.arange(40) >= 3
    assert found.clean_accuracy == pytest.approx(37 / 40)
    for radius in radii:
        expected = is_right & (np.abs(score) > radius * norm)
        np.testing.assert_array_equal(found.is_robust[radius], expected)
    accuracies = list(found.robust_accuracy.values())
    assert accuracies == sorted(accuracies, reverse=True)
    assert 0 < accuracies[2] < accuracies[0] == found.clean_accuracy


def test_one_batch_agrees_with_attacking_directly():
    logits_fn, dataset, *_ = line_problem(1)
    config = EvaluationConfig(epsilons=(0.05,), num_steps=3, num_restarts=1)
    found = evaluate(logits_fn, dataset, config)
    index = np.flatnonzero(found.is_clean_correct)
    chosen = np.resize(index, 40)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
    attack = pgd(LinfBall(0.05), step_size=0.01, num_steps=3)
    labels = jnp.asarray(dataset.labels[chosen])
    direct = attack(key, logits_fn, jnp.asarray(dataset.images[chosen]), labels)
    expected = ~np.asarray(direct.is_adversarial)[: len(index)]
    np.testing.assert_array_equal(found.is_robust[0.05][index], expected)


def test_restarts_never_raise_robust_accuracy():
    logits_fn, dataset, *_ = line_problem(2)

    def accuracy(num_restarts):
        config = EvaluationConfig(
            epsilons=(0.05,), num_steps=1, num_restarts=num_restarts, step_size=0.03
        )
        return evaluate(logits_fn, dataset, config).is_robust[0.05]

    one, many = accuracy(1), accuracy(6)
    assert np.all(many <= one) and many.sum() < one.sum()


def test_all_radii_restarts_and_batches_share_one_program():
    logits_fn, dataset, *_ = line_problem(3)
    logits_fn = chex.assert_max_traces(logits_fn, n=3)
    # Once for clean images; once inside the attack's loop and once for its judgement.
    config = EvaluationConfig(
        epsilons=(0.01, 0.02, 0.03), num_steps=2, num_restarts=3, batch_size=6
    )
    evaluate(logits_fn, dataset, config)


def test_the_row_has_radii_as_printed():
    logits_fn, dataset, *_ = line_problem(4)
    config = EvaluationConfig(epsilons=(0.1, 8 / 255), num_steps=1, num_restarts=1)
    told = []
    row = evaluate(logits_fn, dataset, config, report=told.append).as_row()
    assert set(row) == {"clean_accuracy", "robust_accuracy"}
    assert list(row["robust_accuracy"]) == ["0.1", "0.0313725"]
    assert len(told) == 2 and told[0].startswith("epsilon 0.1: robust accuracy")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilons": (-0.1,)}, "`epsilon` must be finite and non-negative"),
        ({"norm": "l7"}, "`norm` must be one of linf, l2"),
        ({"step_size": 0}, "`step_size` must be positive"),
        ({"num_steps": 0}, "`num_steps` must be at least 1 or None"),
        ({"num_restarts": 0}, "`num_restarts` must be at least 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**settings)


def test_steps_follow_the_radius_when_not_given():
    assert EvaluationConfig(num_steps=None).num_steps_at(0.4) == 100
    assert EvaluationConfig().num_steps_at(0.4) == 200
