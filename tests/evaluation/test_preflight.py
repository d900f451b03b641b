import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    ChecklistConfig,
    check_model,
    checklist,
    evaluate,
    evaluate_models,
    labelled_by_model,
    minimal_epsilons,
    robustness_wrt_predictions,
    standard_ensemble,
)

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(12, 3)).astype(np.float32)


def dataset_of(images, num_classes=3):
    return Dataset(
        name="test",
        title="test",
        images=np.asarray(images, np.float32),
        labels=np.arange(len(images), dtype=np.int32) % num_classes,
        num_classes=num_classes,
    )


DATA = dataset_of(RNG.uniform(size=(11, 2, 2, 3)))
ONE_STEP = {"attacks": PGD(num_steps=1), "epsilons": [0.1], "batch_size": 4}


def honest(images):
    return images.reshape(len(images), -1) @ WEIGHTS


def dark_is_nan(images):
    # Not a number for the images whose first pixel is dark.
    first = images[:, 0, 0, 0]
    return honest(images) + jnp.where(first < 0.5, jnp.nan, 0.0)[:, None]


def two_rows(images):
    return jnp.repeat(honest(images), 2, axis=0)


def flat(images):
    return honest(images)[:, 0]


def names(flags):
    return [flag.name for flag in flags]


def test_an_honest_model_passes():
    assert check_model(honest, DATA, epsilons=(0, 8 / 255, 0.5)) == []
    assert check_model(honest, DATA, norm="l2", epsilons=(3.0,), batch_size=1) == []


@pytest.mark.parametrize(
    ("logits_fn", "shape"),
    [
        (lambda images: honest(images)[:, :2], r"\(11, 2\)"),
        (lambda images: jnp.tile(honest(images), 2), r"\(11, 6\)"),
        (two_rows, r"\(22, 3\)"),
        (flat, r"\(11,\)"),
    ],
)
def test_another_number_of_classes_is_refused(logits_fn, shape):
    with pytest.raises(ValueError, match=rf"is \(11, 3\) for .*, got {shape}"):
        check_model(logits_fn, DATA)
    with pytest.raises(ValueError, match=r"must return \(images, classes\)"):
        evaluate(logits_fn, DATA, **ONE_STEP)


def test_logits_that_are_not_finite_are_refused_with_their_number():
    number = int(np.sum(DATA.images[:, 0, 0, 0] < 0.5))
    assert 0 < number < 11
    message = f"finite logits, got NaN or infinity for {number} of 11 clean images"
    with pytest.raises(ValueError, match=message):
        check_model(dark_is_nan, DATA)
    # Not only in the first bucket, and by each kind of evaluation.
    with pytest.raises(ValueError, match=message):
        evaluate(dark_is_nan, DATA, **ONE_STEP)
    with pytest.raises(ValueError, match="11 of 11 clean images of model 2 of 2;"):
        evaluate_models(
            lambda scale: lambda images: honest(images) * scale,
            [jnp.float32(1), jnp.float32(np.inf)],
            DATA,
            **ONE_STEP,
        )


class OutsideRange:
    """A data set that was normalized, as other libraries hand them over."""

    images = DATA.images * 4 - 2
    labels = DATA.labels
    num_classes = 3

    def __len__(self):
        return len(self.labels)


def test_images_outside_the_bounds_are_refused():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got \[-1\.\d+, 1\.\d+"):
        check_model(honest, OutsideRange())
    with pytest.raises(ValueError, match="before normalization"):
        evaluate(honest, OutsideRange(), **ONE_STEP)
    assert check_model(honest, OutsideRange(), bounds=(-2, 2)) == []
    OutsideRange.images = np.where(DATA.images > 0.9, np.nan, DATA.images)
    with pytest.raises(ValueError, match=r"got \[nan, nan\]"):
        check_model(honest, OutsideRange())


def test_a_radius_in_another_unit_is_refused():
    with pytest.raises(ValueError, match=r"got 8\.0; .* so 8/255 rather than 8"):
        evaluate(honest, DATA, PGD(num_steps=1), (0.3, 8))
    with pytest.raises(ValueError, match="8/255 rather than 8"):
        check_model(honest, DATA, epsilons=(8,))
    # The ball of 1 is the whole range: lawful, and seldom meant.
    (flag,) = check_model(honest, DATA, epsilons=(1,))
    assert flag.name == "whole-range" and "1/255" in flag.message


def test_a_radius_in_l2_may_reach_across_the_images():
    # sqrt(12) = 3.464 for images of 2 x 2 x 3.
    assert check_model(honest, DATA, norm="l2", epsilons=(3.46,)) == []
    message = r"in \[0, 3\.4641\] in l2 for images of 12 values, got 3\.47"
    with pytest.raises(ValueError, match=message):
        check_model(honest, DATA, norm="l2", epsilons=(3.47,))
    with pytest.raises(ValueError, match="128/255 rather than 128"):
        evaluate(honest, DATA, PGD(num_steps=1), [128], norm="l2")


def batch_norm(images, weights=WEIGHTS):
    """In training mode: what it takes an image for depends on the others."""
    logits = images.reshape(len(images), -1) @ weights
    mean, spread = (
        moment(logits, axis=0, keepdims=True) for moment in (jnp.mean, jnp.std)
    )
    return (logits - mean) / (spread + 0.1)


def one_of_many(images):
    """Depends on one pixel of the others, by little."""
    seen = jnp.mean(images[:, 0, 0, 0])
    return honest(images) + 0.1 * seen * jnp.array([[1.0, 0.0, -1.0]])


REFUSAL = r"`logits_fn` must answer each image by itself, got .* by \d.* batch norm"
CHECKLIST = ChecklistConfig(
    attack=PGD(num_steps=1), epsilon=0.1, long_steps=2, num_images=8, num_queries=2
)


@pytest.mark.parametrize("model", [batch_norm, one_of_many])
@pytest.mark.parametrize("size", [1, 11])
@pytest.mark.parametrize(
    "ask",
    [
        check_model,
        lambda model, data: check_model(model, data, batch_size=1),
        lambda model, data: evaluate(model, data, **ONE_STEP),
        lambda model, data: evaluate(model, data, **ONE_STEP | {"batch_size": 1}),
        lambda model, data: evaluate(model, data, standard_ensemble(), [0.1]),
        lambda model, data: robustness_wrt_predictions(model, data, **ONE_STEP),
        labelled_by_model,
        minimal_epsilons,
        lambda model, data: checklist(model, data, CHECKLIST),
        lambda model, data: checklist(honest, data, CHECKLIST, base_fn=model),
    ],
)
def test_a_model_that_depends_on_its_batch_is_refused(ask, model, size):
    with pytest.raises(ValueError, match=REFUSAL):
        ask(model, dataset_of(DATA.images[:size]))


def test_it_is_refused_before_any_attack_and_named_among_several():
    def apply(weights):
        def logits_fn(images):
            normalized = batch_norm(images, weights["last"])
            return jnp.where(weights["trains"], normalized, honest(images))

        return logits_fn

    first, second = (
        {"last": WEIGHTS, "trains": np.array(trains)} for trains in (False, True)
    )
    ended = []
    with pytest.raises(ValueError, match="got answers of model 2 of 2 that change by"):
        models = [first, second]
        evaluate_models(apply, models, DATA, **ONE_STEP, progress=ended.append)
    assert {each.model for each in ended} == {0}


@pytest.mark.parametrize(
    ("precision", "kind"),
    [
        ("float32", np.float32),
        pytest.param("bfloat16", np.uint8, marks=pytest.mark.slow),
    ],
)
def test_rounding_is_not_taken_for_company(precision, kind):
    # Such layers amplify what a batch of another shape may round otherwise.
    rng = np.random.default_rng(3)
    kind_of = jnp.dtype(precision)
    layer = jnp.asarray(rng.normal(size=(64, 64)) / 6, kind_of)
    last = jnp.asarray(rng.normal(size=(64, 3)), kind_of)

    def deep(images):
        hidden = images.reshape(len(images), -1).astype(kind_of)
        for _ in range(4):
            hidden = jnp.sin(3 * hidden @ layer)
        return (hidden @ last).astype(jnp.float32)

    pixels = rng.uniform(size=(33, 8, 8, 1)).astype(np.float32)
    if kind is np.uint8:
        pixels = (255 * pixels).astype(np.uint8)
    labels = np.arange(33, dtype=np.int32) % 3
    data = Dataset(
        name="deep", title="deep", images=pixels, labels=labels, num_classes=3
    )
    assert check_model(deep, data) == []
    for batch_size in (1, 33):
        settings = ONE_STEP | {"batch_size": batch_size}
        assert evaluate(deep, data, **settings).num_examples == 33


def test_a_random_model_is_flagged():
    rng = np.random.default_rng(0)

    # Drawn while the function is traced: frozen inside an attack, unlike what it is.
    def traced(images):
        return honest(images) + rng.normal(size=(1, 3)).astype(np.float32)

    def called(images):
        shape = jax.ShapeDtypeStruct((len(images), 3), np.float32)
        noise = jax.pure_callback(
            lambda: rng.normal(size=shape.shape).astype(np.float32), shape
        )
        return honest(images) + noise

    assert names(check_model(traced, DATA)) == ["random"]
    assert names(check_model(called, DATA)) == ["random"]


def test_probabilities_are_flagged():
    def softmax(images):
        return jax.nn.softmax(honest(images))

    assert names(check_model(softmax, DATA)) == ["probabilities"]
    assert check_model(lambda images: jax.nn.relu(honest(images)), DATA) == []
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        check_model(softmax, DATA, batch_size=0)
