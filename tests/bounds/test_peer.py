"""The bounds of auto_LiRPA on the same weights, where it is installed."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxrobust.bounds import interval, linear
from jaxrobust.threat import LinfBall
from tests.bounds.networks import dense, random_dense

pytestmark = pytest.mark.filterwarnings("ignore")

EPSILON = 0.1


@pytest.fixture(scope="module")
def peer():
    """Bounds of logits by interval and by linear bounds, of one network and images."""
    torch = pytest.importorskip("torch")
    lirpa = pytest.importorskip("auto_LiRPA")
    layers = random_dense(0, 6, 10, 8, 3)
    modules = []
    for weights, bias in layers:
        module = torch.nn.Linear(*weights.shape)
        module.weight.data = torch.from_numpy(weights.T.copy())
        module.bias.data = torch.from_numpy(bias)
        modules += [module, torch.nn.ReLU()]
    network = torch.nn.Sequential(*modules[:-1])
    images = np.random.default_rng(1).uniform(size=(5, 6)).astype(np.float32)
    given = torch.from_numpy(images)
    bounded = lirpa.BoundedModule(
        network, given, bound_opts={"activation_bound_option": "adaptive"}
    )
    ball = lirpa.PerturbationLpNorm(norm=np.inf, eps=EPSILON)
    inside = lirpa.BoundedTensor(given, ball)
    found = {
        method: [
            end.detach().numpy()
            for end in bounded.compute_bounds(x=(inside,), method=method)
        ]
        for method in ("IBP", "CROWN")
    }
    return layers, images, found


@pytest.mark.parametrize(
    "method, compute",
    [("IBP", interval), ("CROWN", partial(linear, intermediate="linear"))],
)
def test_a_peer_has_the_same_bounds(peer, method, compute):
    layers, images, found = peer
    compute = jax.jit(partial(compute, dense(*layers), rounding="nearest"))
    bounds = compute(LinfBall(EPSILON, bounds=None), images)
    np.testing.assert_allclose(bounds.lower, found[method][0], atol=1e-4)
    np.testing.assert_allclose(bounds.upper, found[method][1], atol=1e-4)
