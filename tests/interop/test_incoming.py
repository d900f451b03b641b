"""PyTorch's models under our hands. Needs torch; CI has none."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, pgd
from jaxrobust.data import Dataset
from jaxrobust.evaluation import evaluate
from jaxrobust.interop import from_torch
from jaxrobust.losses import LOSSES
from jaxrobust.threat import LinfBall

torch = pytest.importorskip("torch")

SHAPE = (6, 8, 2)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 6, 3),
        torch.nn.BatchNorm2d(6),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(6 * 4 * 6, 5),
    ).eval()


@pytest.fixture(scope="module")
def module():
    return network()


@pytest.fixture(scope="module")
def logits_fn(module):
    return from_torch(module, num_classes=5)


@pytest.fixture(scope="module")
def problem(logits_fn):
    """Images, and the classes that the model takes them for."""
    images = jax.random.uniform(jax.random.key(1), (9, *SHAPE))
    return images, jnp.argmax(logits_fn(images), axis=-1)


def pgd_of_torch(module, images, labels, epsilon, step_size, num_steps):
    """Madry's attack from the clean image, written again in NumPy and PyTorch."""
    clean = np.array(images).transpose(0, 3, 1, 2)
    found, answers = clean.copy(), torch.tensor(np.array(labels)).long()
    for _ in range(num_steps):
        inputs = torch.tensor(found, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(
            module(inputs), answers, reduction="sum"
        )
        loss.backward()
        found = found + np.float32(step_size) * np.sign(inputs.grad.numpy())
        found = np.clip(found, clean - np.float32(epsilon), clean + np.float32(epsilon))
        found = np.clip(found, 0, 1).astype(np.float32)
    with torch.no_grad():
        right = module(torch.tensor(found)).argmax(1) == answers
    return found.transpose(0, 2, 3, 1), right.numpy()


def test_logits_and_gradients_agree(module, logits_fn, problem):
    images, labels = problem
    inputs = torch.tensor(np.array(images).transpose(0, 3, 1, 2), requires_grad=True)
    logits = module(inputs)
    answers = torch.tensor(np.array(labels)).long()
    torch.nn.functional.cross_entropy(logits, answers, reduction="sum").backward()

    def loss(images):
        return jnp.sum(LOSSES["cross_entropy"](logits_fn(images), labels))

    found, gradient = jax.jit(
        lambda images: (logits_fn(images), jax.grad(loss)(images))
    )(images)
    np.testing.assert_allclose(found, logits.detach().numpy(), rtol=1e-5, atol=1e-5)
    expected = inputs.grad.numpy().transpose(0, 2, 3, 1)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mapped", [False, True])
def test_our_pgd_finds_what_pytorch_finds(mapped, module, logits_fn, problem, key):
    images, labels = problem
    attack = pgd(LinfBall(0.06), step_size=0.02, num_steps=8, random_start=False)
    expected, withstands = pgd_of_torch(module, images, labels, 0.06, 0.02, 8)
    if mapped:

        def one(image, label):
            return attack(key, logits_fn, image[None], label[None])

        found = jax.jit(jax.vmap(one))(images, labels)
        found = jax.tree.map(lambda leaf: leaf[:, 0], found)
    else:
        found = jax.jit(attack, static_argnums=1)(key, logits_fn, images, labels)
    assert 0 < withstands.sum() < len(withstands)
    np.testing.assert_allclose(found.images, expected, atol=1e-5)
    np.testing.assert_array_equal(~np.asarray(found.is_adversarial), withstands)


def test_our_evaluation_attacks_a_module(module, logits_fn, problem):
    images, labels = problem
    dataset = Dataset(
        name="small",
        title="small",
        images=np.array(images),
        labels=np.array(labels, np.int32),
        num_classes=5,
    )
    attack = PGD(step_size=0.02, num_steps=8)
    found = evaluate(logits_fn, dataset, attack, (0.02, 0.06), batch_size=4)
    assert found.clean_accuracy == 1
    _, withstands = pgd_of_torch(module, images, labels, 0.06, 0.02, 8)
    # From random starts, so up to an image or two.
    assert abs(found.robust_accuracy[1] - withstands.mean()) <= 2 / len(labels)


def test_what_is_mapped_is_one_batch_for_pytorch(problem):
    module, sizes = network(), []
    module.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    logits_fn = from_torch(module, num_classes=5)
    groups = problem[0].reshape(3, 3, 1, *SHAPE)
    found = jax.jit(jax.vmap(jax.vmap(logits_fn)))(groups)
    expected = logits_fn(problem[0])
    np.testing.assert_allclose(found.reshape(9, 5), expected, rtol=1e-5, atol=1e-5)
    # Single images are trials while tracing.
    assert [size for size in sizes if size > 1] == [9, 9]


def test_a_function_without_gradient_has_gradient_0(problem):
    class Quantized(torch.nn.Module):
        def forward(self, images):
            return images.detach().flatten(1)[:, :3].round()

    logits_fn = from_torch(Quantized().eval(), num_classes=3)
    gradient = jax.grad(lambda images: jnp.sum(logits_fn(images)))(problem[0])
    assert gradient.shape == problem[0].shape and not gradient.any()


def test_training_mode_is_left_with_a_warning_and_refused_later(problem):
    module = network().train()
    with pytest.warns(UserWarning, match="is now in evaluation mode"):
        logits_fn = from_torch(module, num_classes=5)
    assert not module[1].training
    before = logits_fn(problem[0])
    module[1].train()
    with pytest.raises(RuntimeError, match=r"call `module\.eval\(\)` again"):
        logits_fn(problem[0])
    module.eval()
    np.testing.assert_array_equal(logits_fn(problem[0]), before)


def test_another_number_of_classes_is_refused(module, problem):
    logits_fn = from_torch(module, num_classes=6)
    with pytest.raises(ValueError, match=r"got 6, .* shape \(1, 5\) for one image"):
        jax.jit(logits_fn)(problem[0])


def test_the_module_may_take_images_as_ours_are(problem):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(96, 3)).eval()
    logits_fn = from_torch(module, num_classes=3, layout="NHWC")
    with torch.no_grad():
        expected = module(torch.tensor(np.array(problem[0])))
    np.testing.assert_allclose(logits_fn(problem[0]), expected, rtol=1e-5, atol=1e-5)


BUSY = """
import os
os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})
import jax, jax.numpy as jnp, torch
from jaxrobust.interop import from_torch

module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)).eval()
logits_fn = from_torch(module, num_classes=10)

@jax.jit
def climb(images):
    def step(_, images):
        return images + jax.grad(lambda images: jnp.sum(logits_fn(images)))(images)
    return jax.lax.fori_loop(0, 10, step, images)

images = jnp.ones((1000, 28, 28, 1))
found = [climb(images * count) for count in range(6)]
jax.block_until_ready(found)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_large_batches_on_one_core_do_not_wait_for_each_other_forever():
    # Without pieces below 100 KiB this never ends.
    done = subprocess.run(
        [sys.executable, "-c", BUSY],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "done\n", done.stderr
