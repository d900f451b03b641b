import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.networks import (
    LeNet,
    Linear,
    ModelConfig,
    as_network,
    network_of,
    resnet18,
)
from jaxrobust.networks.resnet import CIFAR10_MEAN, CIFAR10_STD, ResNet
from jaxrobust.networks.wide_resnet import WideResNet, standardized


def num_parameters(network, shape):
    found = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(found.params))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lenet", (28, 28, 1), 1_111_946),  # LP-M1
        ("lenet-same", (28, 28, 1), 3_274_634),  # N-LeNet
        ("linear", (28, 28, 1), 7_850),
        ("resnet18", (32, 32, 3), 11_173_962),
        ("resnet50", (32, 32, 3), 23_520_842),
    ],
)
def test_parameter_counts_are_those_of_the_papers(name, shape, expected):
    assert num_parameters(network_of(ModelConfig(name=name), 10), shape) == expected


@pytest.mark.parametrize("factor", [0.125, 0.25, 0.5, 1, 2, 4])
def test_widths_of_lenet_follow_the_factor(factor):
    first, second, hidden = int(32 * factor), int(64 * factor), int(1024 * factor)
    expected = 25 * first + first + 25 * first * second + second
    expected += 49 * second * hidden + hidden + hidden * 10 + 10
    module = LeNet(widen_factor=factor, padding="SAME")
    assert num_parameters(as_network(module, 10), (28, 28, 1)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "lenet-same"])
def test_formulations_give_the_same_logits_and_input_gradients(name, key):
    images = jax.random.uniform(key, (3, 28, 28, 1))
    settings = {"name": name, "widen_factor": 0.125}
    networks = [
        network_of(ModelConfig(formulation=formulation, **settings), 10)
        for formulation in ("direct", "patches")
    ]
    variables = networks[0].init(key, images)

    def probe(network):
        apply = lambda x: network.apply(variables, x, train=False, key=None)[0]  # noqa: E731
        gradient = jax.grad(lambda x: jnp.sum(apply(x)[:, 0]))
        return apply(images), gradient(images)

    for one, other in zip(*map(probe, networks), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_torch_initialization_is_uniform_in_one_over_root_fan_in(key):
    params = LeNet().init(key, jnp.zeros((1, 28, 28, 1)))["params"]
    for name, fan_in in {
        "conv1": 25,
        "conv2": 800,
        "hidden": 1024,
        "head": 1024,
    }.items():
        for leaf in params[name].values():
            limit = fan_in**-0.5
            assert np.abs(leaf).max() <= limit
        kernel = np.asarray(params[name]["kernel"])
        assert np.abs(kernel).max() > 0.95 * limit
        assert kernel.std() == pytest.approx(limit / 3**0.5, rel=0.05)


def test_madry_initialization_is_a_cut_normal_with_biases_of_a_tenth(key):
    module = LeNet(padding="SAME", initialization="madry")
    params = module.init(key, jnp.zeros((1, 28, 28, 1)))["params"]
    kernel = np.asarray(params["hidden"]["kernel"])
    assert 0.19 < np.abs(kernel).max() <= 0.2 + 1e-6
    # A normal of deviation .1, cut at 2 deviations, has deviation .0880.
    assert kernel.std() == pytest.approx(0.0880, rel=0.01)
    assert all(
        np.all(np.asarray(layer["bias"]) == np.float32(0.1))
        for layer in params.values()
    )


def test_the_linear_classifier_starts_at_zero(key):
    images = jax.random.uniform(key, (2, 5, 5, 1))
    module = Linear(3)
    np.testing.assert_array_equal(module.apply(module.init(key, images), images), 0.0)


@pytest.fixture(scope="module")
def small_resnet():
    module = ResNet(block_counts=(1, 1), is_bottleneck=True, widen_factor=0.125)
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    return module, module.init(jax.random.key(1), images), images


def test_batch_statistics_change_in_training_mode_only(small_resnet):
    module, variables, images = small_resnet
    _, kept = module.apply(variables, images, train=False, mutable=["batch_stats"])
    jax.tree.map(
        np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"]
    )
    _, moved = module.apply(variables, images, train=True, mutable=["batch_stats"])
    before, after = variables["batch_stats"], moved["batch_stats"]
    assert not np.allclose(before["stem_norm"]["mean"], after["stem_norm"]["mean"])


def test_evaluation_of_an_image_does_not_depend_on_the_others(small_resnet):
    module, variables, images = small_resnet
    together = module.apply(variables, images, train=False)
    alone = module.apply(variables, images[:1], train=False)
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def test_pixels_are_standardized_inside_the_model(small_resnet, key):
    module, variables, images = small_resnet
    plain = ResNet(
        block_counts=(1, 1),
        is_bottleneck=True,
        widen_factor=0.125,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    by_hand = (np.asarray(images) - CIFAR10_MEAN) / CIFAR10_STD
    np.testing.assert_allclose(
        module.apply(variables, images),
        plain.apply(variables, jnp.asarray(by_hand, "float32")),
        atol=1e-4,
    )


def test_other_numbers_of_channels_are_not_standardized(key):
    images = jax.random.uniform(key, (2, 8, 8, 1))
    settings = {"block_counts": (1,), "is_bottleneck": False, "widen_factor": 0.125}
    module, plain = ResNet(**settings), ResNet(**settings, mean=(0.0,), std=(1.0,))
    variables = module.init(key, images)
    assert variables["params"]["stem"]["kernel"].shape[2] == 1
    np.testing.assert_array_equal(
        module.apply(variables, images), plain.apply(variables, images)
    )


def test_a_mean_that_does_not_fit_the_channels_is_refused(key):
    module = resnet18(widen_factor=0.125, mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"`mean` must be one number .*\(1\)"):
        module.init(key, jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize("formulation", ["direct", "patches"])
def test_images_too_small_for_the_network_are_refused(formulation, key):
    module = LeNet(formulation=formulation)
    with pytest.raises(ValueError, match="large enough for a window of 6 pixels in co"):
        module.init(key, jnp.zeros((1, 8, 8, 1)))


def wide_resnet_parameters(k):
    """Of WRN-28-k with 10 classes, layer by layer."""
    total, channels = 27 * 16, 16
    for width in (int(16 * k), int(32 * k), int(64 * k)):
        for _ in range(4):
            # Two scales and shifts, two convolutions, a shortcut where widths change.
            total += 2 * channels + 9 * channels * width + 2 * width + 9 * width**2
            total += channels * width if channels != width else 0
            channels = width
    return total + 2 * channels + 10 * channels + 10


@pytest.mark.parametrize("k", [0.25, 1, 4, 10])
def test_parameters_of_the_wide_resnet_are_those_counted_by_hand(k):
    config = ModelConfig(name="wrn28", widen_factor=k)
    expected = wide_resnet_parameters(k)
    assert num_parameters(network_of(config, 10), (32, 32, 3)) == expected


def test_the_count_by_hand_is_that_of_the_published_wide_resnet():
    # WRN-28-10 of Zagoruyko and Komodakis is given as one of 36.5 million.
    assert wide_resnet_parameters(10) == 36_479_194


@pytest.fixture(scope="module")
def wide_resnet():
    module = WideResNet(num_classes=3, widen_factor=0.125)
    images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 3))
    return module, jax.jit(module.init)(jax.random.key(1), images), images


@pytest.mark.slow
def test_the_wide_resnet_sees_each_image_less_its_mean_over_its_deviation(wide_resnet):
    module, variables, images = wide_resnet
    apply = jax.jit(module.apply)
    logits = apply(variables, images)
    other = 0.5 * images + jnp.asarray([0.1, 0.2, 0.3])[:, None, None, None]
    np.testing.assert_allclose(apply(variables, other), logits, atol=1e-4)
    flat = np.asarray(images, np.float64).reshape(3, -1)
    by_hand = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
    found = np.reshape(standardized(images), (3, -1))
    np.testing.assert_allclose(found, by_hand, atol=1e-5)


def test_an_image_of_one_color_is_standardized_to_nothing_with_finite_gradients():
    images = jnp.full((1, 4, 4, 3), 0.3)
    np.testing.assert_allclose(standardized(images), 0.0, atol=1e-5)
    gradient = jax.grad(lambda images: jnp.sum(standardized(images) ** 3))(images)
    assert np.all(np.isfinite(gradient))
    # Deviations below 1/sqrt(48) count as that.
    faint = images.at[0, 0, 0, 0].add(1e-3)
    highest = float(jnp.max(standardized(faint)))
    assert highest == pytest.approx(1e-3 * 47 / 48 * 48**0.5, rel=1e-3)


@pytest.mark.slow
def test_the_wide_resnet_moves_its_statistics_in_training(wide_resnet):
    module, variables, images = wide_resnet
    moved = jax.jit(
        lambda variables: module.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )[1]["batch_stats"]
    )(variables)
    assert not np.allclose(moved["norm"]["mean"], 0.0)
    # 12 blocks of 2, and the last one.
    assert len(moved) == 25


def test_groups_after_the_first_halve_the_side():
    module = resnet18(widen_factor=0.125)
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(
        lambda: module.init_with_output(
            jax.random.key(0), images, capture_intermediates=True
        )
    )[1]["intermediates"]
    sides = [shapes[f"group{g}_block1"]["__call__"][0].shape[1] for g in (1, 2, 3, 4)]
    assert sides == [32, 16, 8, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "lenot"}, "`model` must be one of linear, lenet"),
        ({"name": "my.py"}, "or path/to/file.py:NAME or package.module:NAME for one"),
        ({"name": "my.py:Net", "widen_factor": 2}, "`widen_factor` must be 1 for a"),
        ({"widen_factor": 0}, r"`widen_factor` must be in \(0, inf\)"),
    ],
)
def test_wrong_models_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def test_a_reference_is_imported_only_when_the_network_is_asked_for(tmp_path):
    path = tmp_path / "own.py"
    config = ModelConfig(name=f"{path}:Net")
    with pytest.raises(ValueError, match="`model` must name a Python file"):
        network_of(config, 3)
    path.write_text("from jaxrobust.networks import Linear as Net")
    assert network_of(config, 3) == as_network(Linear(3), 3)


def test_a_network_that_was_handed_over_has_to_be_given_again():
    with pytest.raises(ValueError, match="`network` must be given again"):
        network_of(ModelConfig(name="given"), 3)


def test_networks_of_the_catalogue_are_equal_by_their_settings():
    one, other = (network_of(ModelConfig(name="resnet18"), 3) for _ in range(2))
    assert one == other and hash(one) == hash(other)
    assert network_of(ModelConfig(name="resnet18", widen_factor=2), 3) != one
