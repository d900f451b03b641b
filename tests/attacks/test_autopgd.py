"""Auto-PGD against an independent one in numpy, and against torchattacks'."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import auto_pgd, pgd
from jaxrobust.attacks.autopgd import sample_sphere
from jaxrobust.losses import targeted_dlr
from jaxrobust.threat import THREATS, L2Ball, LinfBall

BATCH, PIXELS, CLASSES = 12, 36, 5


class TanhNet:
    """One hidden layer, with losses and their gradients by hand."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.first = rng.normal(size=(PIXELS, 8)) / 2
        self.second = 3 * rng.normal(size=(8, CLASSES))
        self.center = rng.uniform(size=(BATCH, PIXELS))
        self.images = jnp.asarray(self.center.reshape(BATCH, 6, 6, 1), "float32")
        self.labels = np.argmax(self.logits(self.center), axis=1)

    def logits(self, flat):
        return np.tanh(flat @ self.first) @ self.second

    def logits_fn(self, images):
        flat = images.reshape(images.shape[0], -1)
        hidden = jnp.tanh(flat @ self.first.astype(flat.dtype))
        return hidden @ self.second.astype(flat.dtype)

    def loss_and_gradient(self, flat, loss):
        logits = self.logits(flat)
        rows = np.arange(len(flat))
        if loss == "cross_entropy":
            shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
            share = shifted / shifted.sum(axis=1, keepdims=True)
            value = -np.log(share[rows, self.labels])
            error = share - np.eye(CLASSES)[self.labels]
        else:
            order = np.argsort(-logits, axis=1)
            is_right = order[:, 0] == self.labels
            other = np.where(is_right, order[:, 1], order[:, 0])
            top = logits[rows, other] - logits[rows, self.labels]
            spread = logits[rows, order[:, 0]] - logits[rows, order[:, 2]]
            value = top / spread
            one = np.eye(CLASSES)
            d_top = one[other] - one[self.labels]
            d_spread = one[order[:, 0]] - one[order[:, 2]]
            error = (d_top - value[:, None] * d_spread) / spread[:, None]
        hidden = np.tanh(flat @ self.first)
        return value, ((error @ self.second.T) * (1 - hidden**2)) @ self.first.T


def numpy_auto_pgd(net, start, kind, epsilon, num_steps, loss):
    """Algorithm 1 with whole histories, in float64, one example after another.

    Returns every iterate, `(num_steps + 1, batch, pixels)`, and the halvings.
    """

    def project(moved, center):
        if kind == "linf":
            moved = np.clip(moved, center - epsilon, center + epsilon)
        else:
            length = np.linalg.norm(moved - center)
            moved = center + (moved - center) * min(1, epsilon / max(length, 1e-30))
        return np.clip(moved, 0, 1)

    checkpoints, place, window = [], 0, max(int(0.22 * num_steps), 1)
    while place + window <= num_steps:
        place += window
        checkpoints.append((place, window))
        window = max(
            window - max(int(0.03 * num_steps), 1), max(int(0.06 * num_steps), 1)
        )
    runs, halvings = [], np.zeros(BATCH, int)
    for row in range(BATCH):
        center = net.center[row]

        def evaluate(image, row=row):
            batch = np.tile(image, (BATCH, 1))
            value, gradient = net.loss_and_gradient(batch, loss)
            return value[row], gradient[row]

        x = [start[row]]
        value, gradient = evaluate(x[0])
        losses, gradients = [value], [gradient]
        step, was_halved, best_before = 2 * epsilon, True, value
        here = before = x[0]
        for index in range(num_steps):
            if kind == "linf":
                ascent = np.sign(gradient)
            else:
                ascent = gradient / max(np.linalg.norm(gradient), 1e-30)
            aim = project(here + step * ascent, center)
            share = 0.75 if index else 1.0
            moved = here + share * (aim - here) + (1 - share) * (here - before)
            before, here = here, project(moved, center)
            value, gradient = evaluate(here)
            x.append(here), losses.append(value), gradients.append(gradient)
            for place, window in checkpoints:
                if place == index + 1:
                    recent = losses[place - window : place + 1]
                    rises = sum(b > a for a, b in pairwise(recent))
                    is_poor = rises <= 0.75 * window
                    is_stuck = not was_halved and max(losses) <= best_before
                    was_halved, best_before = is_poor or is_stuck, max(losses)
                    if was_halved:
                        step /= 2
                        top = int(np.argmax(losses))
                        here, gradient = x[top], gradients[top]
                        halvings[row] += 1
        runs.append(np.asarray(x))
    return np.stack(runs, axis=1), halvings


@pytest.fixture(scope="module")
def net():
    return TanhNet()


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
@pytest.mark.parametrize(("kind", "epsilon"), [("linf", 0.08), ("l2", 0.3)])
def test_agrees_with_an_independent_one_in_numpy(net, kind, epsilon, loss, key):
    threat, num_steps = THREATS[kind](epsilon), 34
    # In double precision: a step more or less is a matter of comparing two losses.
    with jax.enable_x64(True):
        images = jnp.asarray(net.center.reshape(BATCH, 6, 6, 1))
        start = np.asarray(sample_sphere(threat, key, images, epsilon))
        found = auto_pgd(threat, num_steps=num_steps, loss=loss)(
            key, net.logits_fn, images, jnp.asarray(net.labels)
        )
    assert found.images.dtype == start.dtype == np.float64
    start = start.reshape(BATCH, PIXELS)
    iterates, halvings = numpy_auto_pgd(net, start, kind, epsilon, num_steps, loss)
    assert halvings.max() >= 2 and halvings.min() < halvings.max()

    # What is kept: the highest loss among the iterates alike in success.
    values = np.asarray([net.loss_and_gradient(images, loss)[0] for images in iterates])
    fools = np.asarray(
        [np.argmax(net.logits(images), axis=1) != net.labels for images in iterates]
    )
    is_broken = fools.any(axis=0)
    np.testing.assert_array_equal(found.is_adversarial, is_broken)
    assert 0 < is_broken.sum() < BATCH
    best = np.argmax(np.where(fools == is_broken, values, -np.inf), axis=0)
    # The projection keeps a few roundings of single precision inside an l2 ball.
    np.testing.assert_allclose(
        found.loss, values[best, np.arange(BATCH)], rtol=3e-5, atol=1e-6
    )
    difference = np.asarray(found.images).reshape(BATCH, PIXELS)
    difference = np.abs(difference - iterates[best, np.arange(BATCH)])
    # Rounding decides on the sign of a derivative that is nearly 0.
    assert np.mean(difference < 2e-4) > 0.99 and difference.max() < 5e-3


@pytest.fixture
def peer(net):
    torch = pytest.importorskip("torch")
    torchattacks = pytest.importorskip("torchattacks")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.tensor(net.first, dtype=torch.float32)
            self.second = torch.tensor(net.second, dtype=torch.float32)
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            return torch.tanh(images.reshape(len(images), -1) @ self.first) @ (
                self.second
            )

    return torch, torchattacks, Model().eval()


@pytest.mark.parametrize(("kind", "epsilon"), [("linf", 0.08), ("l2", 0.3)])
def test_agrees_with_torchattacks_from_the_same_start(
    net, peer, kind, epsilon, key, monkeypatch
):
    torch, torchattacks, model = peer
    threat = THREATS[kind](epsilon)
    noise = THREATS[kind](1.0, None).sample(key, jnp.zeros_like(net.images))
    draw = torch.tensor(np.asarray(noise).reshape(BATCH, 1, 6, 6))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: (draw + 1) / 2)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: draw)
    norm = {"linf": "Linf", "l2": "L2"}[kind]
    attack = torchattacks.APGD(model, norm=norm, eps=epsilon, steps=25, loss="ce")
    images = torch.tensor(np.asarray(net.images).reshape(BATCH, 1, 6, 6))
    _, is_right, loss, _ = attack.attack_single_run(images, torch.tensor(net.labels))
    found = auto_pgd(threat, num_steps=25)(
        key, net.logits_fn, net.images, jnp.asarray(net.labels)
    )
    np.testing.assert_array_equal(found.is_adversarial, ~is_right.numpy())
    np.testing.assert_allclose(found.loss, loss.numpy(), rtol=5e-3)


@pytest.mark.slow
def test_the_mean_over_draws_of_a_deterministic_model_is_the_model(net, key):
    labels = jnp.asarray(net.labels)
    one, four = (
        auto_pgd(LinfBall(0.05), num_steps=8, num_samples=num_samples)(
            key, net.logits_fn, net.images, labels
        )
        for num_samples in (1, 4)
    )
    np.testing.assert_allclose(one.loss, four.loss, rtol=1e-3)
    np.testing.assert_array_equal(one.is_adversarial, four.is_adversarial)


def test_is_at_least_as_strong_as_pgd_with_as_many_steps(net, key):
    labels = jnp.asarray(net.labels)
    plain = pgd(LinfBall(0.06), step_size=0.015, num_steps=20, keep="best")
    theirs = plain(key, net.logits_fn, net.images, labels)
    ours = auto_pgd(LinfBall(0.06), num_steps=20)(
        key, net.logits_fn, net.images, labels
    )
    assert np.sum(ours.is_adversarial) >= np.sum(theirs.is_adversarial)
    assert np.mean(ours.loss) > 0.98 * np.mean(theirs.loss)


def test_a_targeted_loss_raises_the_target(net, key):
    labels = jnp.asarray(net.labels)
    targets = (labels + 1) % CLASSES
    attack = auto_pgd(L2Ball(1.0), num_steps=15, loss="dlr", targets=targets)
    found = attack(key, net.logits_fn, net.images, labels)
    predicted = np.argmax(net.logits_fn(found.images), axis=1)
    assert np.mean(predicted == np.asarray(targets)) > 0.5
    clean = targeted_dlr(targets)(net.logits_fn(net.images), labels)
    assert np.all(found.loss > clean)


def test_losses_too_large_to_be_summed_do_no_harm(net, key):
    # Each loss is finite in float32, their sum over the batch is not.
    labels = jnp.asarray(net.labels)

    def huge(logits, labels):
        return jnp.take_along_axis(-logits, labels[:, None], axis=1)[:, 0] * 2e37

    found = auto_pgd(LinfBall(0.2), num_steps=10, loss=huge)(
        key, net.logits_fn, net.images, labels
    )
    assert np.all(found.is_gradient_finite) and np.all(np.isfinite(found.loss))
    assert np.mean(found.is_adversarial) > 0.5


def test_the_number_of_steps_may_be_traced_and_costs_no_memory(net, key):
    labels = jnp.asarray(net.labels)

    def attack(images, num_steps):
        found = auto_pgd(LinfBall(0.06), num_steps=num_steps)
        return found(key, net.logits_fn, images, labels)

    traced = jax.jit(attack)(net.images, jnp.int32(30))
    static = attack(net.images, 30)
    np.testing.assert_allclose(traced.loss, static.loss, rtol=1e-3)

    def peak(num_steps):
        compiled = jax.jit(partial(attack, num_steps=num_steps)).lower(net.images)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    assert peak(300) == peak(3)


def test_the_start_lies_on_the_sphere(key):
    images = jnp.full((6, 5, 5, 1), 0.5)
    for threat in (LinfBall(0.2), L2Ball(0.2)):
        start = sample_sphere(threat, key, images, 0.2)
        np.testing.assert_allclose(threat.norm(start - images), 0.2, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be at least 1, got 0"),
        ({"num_steps": 2.5}, r"`num_steps` must be a whole number, got 2\.5"),
        ({"momentum": 0.0}, "`momentum` must be in"),
        ({"rho": 1.5}, "`rho` must be in"),
        ({"num_samples": 0}, "`num_samples` must be at least 1"),
        ({"loss": "hinge"}, "`loss` must be one of cross_entropy, margin, dlr"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        auto_pgd(LinfBall(0.1), **settings)
