"""Our models under PyTorch's hands. Needs torch; CI has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import pgd
from jaxrobust.interop import export_model, load_exported, to_torch
from jaxrobust.threat import LinfBall

torch = pytest.importorskip("torch")

# Of the peers, which are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


def sent(images, **options):
    """Images as PyTorch has them."""
    return torch.tensor(np.array(images.transpose(0, 3, 1, 2)), **options)


def answers(labels):
    return torch.tensor(np.array(labels)).long()


@pytest.fixture(scope="module")
def module(small):
    return to_torch(small.logits_fn, batch_size=8)


def bent_gradient(small, images):
    found = jax.jit(jax.grad(lambda images: jnp.sum(jnp.sin(small.logits_fn(images)))))
    return np.asarray(found(images)).transpose(0, 3, 1, 2)


# One part, padded; the largest part; two parts.
@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_logits_and_gradients_agree(count, small, module):
    images = small.images[:count]
    inputs = sent(images, requires_grad=True)
    logits = module(inputs)
    np.testing.assert_allclose(
        logits.detach().numpy(), small.logits_fn(images), rtol=1e-5, atol=1e-5
    )
    (gradient,) = torch.autograd.grad(logits.sin().sum(), inputs)
    expected = bent_gradient(small, images)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_images_as_ours_are_taken_too(small):
    module = to_torch(small.logits_fn, layout="NHWC")
    inputs = torch.tensor(np.array(small.images), requires_grad=True)
    logits = module(inputs)
    np.testing.assert_allclose(
        logits.detach().numpy(), small.logits_fn(small.images), rtol=1e-5, atol=1e-5
    )
    logits.sin().sum().backward()
    expected = bent_gradient(small, small.images).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(inputs.grad.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_without_gradients_there_is_no_graph(small, module):
    with torch.no_grad():
        assert not module(sent(small.images, requires_grad=True)).requires_grad
    assert not module(sent(small.images)).requires_grad
    assert not module.training


def test_gradients_add_up_over_backward_calls_and_not_twice_through(small, module):
    inputs = sent(small.images, requires_grad=True)
    loss = module(inputs).sin().sum()
    loss.backward(retain_graph=True)
    once = inputs.grad.clone()
    loss.backward()
    torch.testing.assert_close(inputs.grad, 2 * once)
    loss = module(inputs).sin().sum()
    (gradient,) = torch.autograd.grad(loss, inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_shrinking_batches_compile_only_for_powers_of_two(small):
    traces = []

    def counted(images):
        traces.append(images.shape[0])
        return small.logits_fn(images)

    module = to_torch(counted, batch_size=8)
    everything = sent(small.images.repeat(2, axis=0))
    for count in range(24, 0, -1):
        inputs = everything[:count].clone().requires_grad_()
        module(inputs).sum().backward()
    # Once for the logits and once for the gradient.
    assert sorted(traces) == [1, 1, 2, 2, 4, 4, 8, 8]


def test_memory_is_not_written_into_nor_read_late(small, module):
    inputs = sent(small.images)
    kept = inputs.clone()
    logits = module(inputs)
    before = logits.clone()
    # As square attack does with logits, and every attack with images.
    logits[:, 0] = -np.inf
    inputs.zero_()
    torch.testing.assert_close(module(kept), before)


def test_views_and_other_types_are_taken(small, module):
    whole = sent(small.images)
    expected = module(whole)
    shifted = torch.cat([torch.zeros(1), whole.reshape(-1)])[1:].reshape(whole.shape)
    assert shifted.data_ptr() % 16
    torch.testing.assert_close(module(shifted), expected)
    torch.testing.assert_close(module(whole[1::2]), expected[1::2])
    double = module(whole.double().requires_grad_())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float().detach(), expected)
    assert module(whole[:0]).shape == (0, 5)


def test_what_is_not_a_batch_of_float_images_is_refused(module):
    with pytest.raises(TypeError, match=r"must be floats, got torch\.uint8"):
        module(torch.zeros((1, 2, 6, 8), dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"batch, channels, height, width"):
        module(torch.zeros((2, 6, 8)))


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    """The model read from a file, as PyTorch sees it, and ours."""
    path = tmp_path_factory.mktemp("peers") / "model"
    export_model(
        small.logits_fn, path, image_shape=small.image_shape, platforms=("cpu",)
    )
    loaded = load_exported(path)
    return loaded, to_torch(loaded, batch_size=16)


EPSILON, STEP, STEPS = 0.01, 0.0025, 6


@pytest.fixture(scope="module")
def by_ours(small, exported):
    """PGD without a random start, as its images and who withstands them."""
    attack = pgd(LinfBall(EPSILON), step_size=STEP, num_steps=STEPS, random_start=False)
    run = jax.jit(lambda images, labels: attack(KEY, exported[0], images, labels))
    found = run(small.images, small.labels)
    withstands = ~np.asarray(found.is_adversarial)
    assert 0 < withstands.sum() < len(withstands)
    return np.asarray(found.images).transpose(0, 3, 1, 2), withstands


KEY = jax.random.key(0)


def test_torchattacks_finds_what_we_find(small, exported, by_ours):
    torchattacks = pytest.importorskip("torchattacks")
    images, withstands = by_ours
    attack = torchattacks.PGD(
        exported[1], eps=EPSILON, alpha=STEP, steps=STEPS, random_start=False
    )
    found = attack(sent(small.images), answers(small.labels))
    np.testing.assert_allclose(found.numpy(), images, atol=1e-5)
    correct = exported[1](found).argmax(1) == answers(small.labels)
    np.testing.assert_array_equal(correct.numpy(), withstands)


def test_autoattack_of_torchattacks_runs_and_finds_no_less(small, exported, by_ours):
    torchattacks = pytest.importorskip("torchattacks")
    attack = torchattacks.AutoAttack(exported[1], eps=EPSILON, n_classes=5, seed=0)
    for each in attack._autoattack.attacks:
        each.steps, each.n_queries = 3, 20
    found = attack(sent(small.images), answers(small.labels))
    correct = exported[1](found).argmax(1) == answers(small.labels)
    assert 0 < int(correct.sum()) <= by_ours[1].sum() + 1
    assert float((found - sent(small.images)).abs().max()) <= EPSILON + 1e-6


def test_foolbox_finds_what_we_find(small, exported, by_ours):
    foolbox = pytest.importorskip("foolbox")
    images, withstands = by_ours
    model = foolbox.PyTorchModel(exported[1], bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)
    inputs, labels = sent(small.images), answers(small.labels)
    _, found, is_adversarial = attack(model, inputs, labels, epsilons=EPSILON)
    np.testing.assert_allclose(found.numpy(), images, atol=1e-5)
    np.testing.assert_array_equal(~is_adversarial.numpy(), withstands)


def test_art_finds_what_we_find(small, exported, by_ours):
    pytest.importorskip("art")
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    images, withstands = by_ours
    inputs = sent(small.images)
    classifier = PyTorchClassifier(
        model=exported[1],
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(inputs.shape[1:]),
        nb_classes=5,
        clip_values=(0.0, 1.0),
    )
    attack = ProjectedGradientDescent(
        classifier,
        eps=EPSILON,
        eps_step=STEP,
        max_iter=STEPS,
        num_random_init=0,
        batch_size=12,
        verbose=False,
    )
    found = attack.generate(inputs.numpy(), np.array(small.labels))
    np.testing.assert_allclose(found, images, atol=1e-5)
    correct = classifier.predict(found).argmax(1) == np.array(small.labels)
    np.testing.assert_array_equal(correct, withstands)
