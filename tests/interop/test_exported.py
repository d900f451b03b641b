import json
import resource
import shutil
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust.attacks import pgd
from jaxrobust.interop import ExportError, export_model, load_exported, read_header
from jaxrobust.interop import exported as loader
from jaxrobust.networks import as_network
from jaxrobust.threat import LinfBall
from jaxrobust.training import bind


@pytest.fixture(scope="module")
def model_file(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "small.jaxrobust"
    export_model(
        small.logits_fn,
        path,
        image_shape=small.image_shape,
        platforms=("cpu", "cuda"),
        notes={"name": "small"},
    )
    return path


@pytest.fixture(scope="module")
def loaded(model_file):
    return load_exported(model_file)


def bent(logits_fn):
    """A scalar whose gradient meets every logit."""
    return lambda images: jnp.sum(jnp.sin(logits_fn(images)))


@pytest.mark.parametrize("count", [1, 12])
def test_logits_and_gradients_are_those_of_the_model(count, small, loaded):
    images = small.images[:count]
    np.testing.assert_allclose(
        loaded(images), small.logits_fn(images), rtol=1e-5, atol=1e-5
    )
    ours, theirs = (jax.jit(jax.grad(bent(each))) for each in (small.logits_fn, loaded))
    assert float(jnp.abs(ours(images)).max()) > 1e-2
    np.testing.assert_allclose(theirs(images), ours(images), rtol=1e-5, atol=1e-5)


def test_a_mapped_gradient_is_a_gradient_of_what_is_mapped(small, loaded):
    groups = small.images.reshape(2, 3, 2, *small.image_shape)
    expected = jax.jit(jax.grad(bent(small.logits_fn)))(small.images)
    expected = expected.reshape(groups.shape)
    inside = jax.jit(jax.vmap(jax.vmap(jax.grad(bent(loaded)))))
    np.testing.assert_allclose(inside(groups), expected, rtol=1e-5, atol=1e-5)

    def outside(groups):
        return jnp.sum(jnp.sin(jax.vmap(jax.vmap(loaded))(groups)))

    found = jax.jit(jax.grad(outside))(groups)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_an_attack_of_mapped_images_finds_the_same(small, loaded, key):
    attack = pgd(LinfBall(0.1), step_size=0.03, num_steps=5)
    keys = jax.random.split(key, len(small.labels))

    def attacked(logits_fn):
        def one(key, image, label):
            return attack(key, logits_fn, image[None], label[None])

        return jax.jit(jax.vmap(one))(keys, small.images, small.labels)

    ours, theirs = attacked(small.logits_fn), attacked(loaded)
    assert bool(ours.is_adversarial.any())
    np.testing.assert_allclose(theirs.images, ours.images, atol=1e-6)
    np.testing.assert_array_equal(theirs.is_adversarial, ours.is_adversarial)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        found = nn.BatchNorm(use_running_average=not train)(images)
        return nn.Dense(3)(found.reshape(images.shape[0], -1))


def test_batch_norm_is_exported_in_evaluation_mode(small, tmp_path):
    network = as_network(Normalized(), 3)
    weights = network.init(jax.random.key(1), small.images)
    stats = jax.tree.map(lambda leaf: leaf + 0.5, weights.state)
    model = bind(network, weights._replace(state=stats))
    path = tmp_path / "normalized"
    export_model(model, path, image_shape=small.image_shape, platforms=("cpu",))
    found = load_exported(path)(small.images[:1])
    np.testing.assert_allclose(found, model(small.images)[:1], rtol=1e-5, atol=1e-5)


def test_the_header_says_what_the_model_takes_and_gives(model_file):
    header = read_header(model_file)
    assert header["image_shape"] == [6, 8, 2] and header["num_classes"] == 5
    assert header["bounds"] == [0.0, 1.0] and header["platforms"] == ["cpu", "cuda"]
    assert header["versions"]["jax"] == jax.__version__
    assert header["name"] == "small"


def test_a_run_knows_its_shape(small, tmp_path):
    problem = SimpleNamespace(image_shape=small.image_shape)
    run = SimpleNamespace(logits_fn=small.logits_fn, problem=problem)
    header = export_model(run, tmp_path / "run", platforms=("cpu",))
    assert header["image_shape"] == [6, 8, 2]


def test_images_of_another_shape_are_refused(loaded):
    with pytest.raises(ValueError, match=r"must be of shape \(batch, 6, 8, 2\)"):
        loaded(jnp.zeros((2, 2, 6, 8)))


BLOCKED = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ImportError("refused: " + name)

sys.meta_path.insert(0, Refuse())
import jax, jax.numpy as jnp
{code}
model = load_exported(sys.argv[1])
images = jnp.arange(192, dtype=jnp.float32).reshape(2, 6, 8, 2) / 192
gradient = jax.grad(lambda images: jnp.sum(jnp.sin(model(images))))(images)
print([*model(images).ravel().tolist(), float(jnp.sum(jnp.abs(gradient)))])
"""
REFUSED = ("flax", "orbax", "optax", "tensorflow_datasets", "matplotlib", "torch")


@pytest.mark.parametrize("alone", [False, True], ids=["library", "copied file"])
def test_loading_needs_only_jax(alone, small, model_file, tmp_path):
    if alone:
        shutil.copy(loader.__file__, tmp_path / "loader.py")
        code, refused = "from loader import load_exported", (*REFUSED, "jaxrobust")
    else:
        code = "from jaxrobust.interop import load_exported"
        refused = REFUSED
    program = BLOCKED.format(refused=refused, code=code)
    done = subprocess.run(
        [sys.executable, "-c", program, str(model_file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    images = jnp.arange(192, dtype=jnp.float32).reshape(2, 6, 8, 2) / 192
    gradient = jax.grad(bent(small.logits_fn))(images)
    expected = [*small.logits_fn(images).ravel().tolist()]
    expected.append(float(jnp.sum(jnp.abs(gradient))))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def changed(path, target, **changes):
    """A copy of the file with other entries in its header."""
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read(loader.HEADER)) | changes
        program = archive.read(loader.PROGRAM)
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(loader.HEADER, json.dumps(header))
        archive.writestr(loader.PROGRAM, changes.get("program", program))
    return target


class TestDamage:
    def check(self, path, match):
        with pytest.raises(ExportError, match=match):
            load_exported(path)

    def test_no_file(self, tmp_path):
        self.check(tmp_path / "none", "got no file")

    def test_something_else(self, tmp_path):
        path = tmp_path / "text"
        path.write_text("hello")
        self.check(path, "damaged or something else")

    def test_another_archive(self, tmp_path):
        path = tmp_path / "archive"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "hello")
        self.check(path, "damaged or something else")

    @pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
    def test_cut_short(self, share, model_file, tmp_path):
        content = model_file.read_bytes()
        path = tmp_path / "cut"
        path.write_bytes(content[: int(share * len(content))])
        self.check(path, "damaged or something else")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_a_flipped_bit(self, share, model_file, tmp_path):
        content = bytearray(model_file.read_bytes())
        content[int(share * len(content))] ^= 4
        path = tmp_path / "flipped"
        path.write_bytes(content)
        self.check(path, "damaged or something else")

    def test_another_format(self, model_file, tmp_path):
        path = changed(model_file, tmp_path / "new", format="jaxrobust model 9")
        self.check(path, "is 'jaxrobust model 9'; load it with the version")

    def test_a_header_that_is_not_one(self, tmp_path):
        path = tmp_path / "list"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(loader.HEADER, "[1]")
            archive.writestr(loader.PROGRAM, b"")
        self.check(path, "cannot be read")

    def test_a_platform_that_is_not_here(self, model_file, tmp_path):
        path = changed(model_file, tmp_path / "tpu", platforms=["tpu"])
        self.check(path, "must hold a model for cpu, got .* which is for tpu")

    def test_a_program_that_is_not_one(self, model_file, tmp_path):
        path = changed(model_file, tmp_path / "program", program="hello, hello, hello")
        self.check(path, "must hold a program that jax")


def test_a_full_disk_leaves_no_file_and_the_name_free(small, tmp_path):
    path = tmp_path / "model"
    options = {"image_shape": small.image_shape, "platforms": ("cpu",)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="model"):
            export_model(small.logits_fn, path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    export_model(small.logits_fn, path, **options)
    assert load_exported(path)(small.images).shape == (12, 5)


def test_storage_that_fails_is_no_damage(model_file):
    with pytest.raises(OSError, match="too long"):
        load_exported(model_file.with_name("x" * 300))


class TestRefusals:
    def check(self, match, path, model=None, **options):
        options = {"image_shape": (6, 8, 2), "platforms": ("cpu",)} | options
        model = model or (lambda images: images.reshape(images.shape[0], -1))
        with pytest.raises(ExportError, match=match):
            export_model(model, path, **options)

    def test_a_file_that_exists(self, tmp_path):
        path = tmp_path / "mine"
        path.write_text("keep me")
        self.check("must be a new file", path)
        assert path.read_text() == "keep me"

    def test_a_file_that_comes_into_being_meanwhile(self, tmp_path):
        path = tmp_path / "theirs"

        def model(images):
            path.write_text("keep me")
            return images.reshape(images.shape[0], -1)

        with pytest.raises(FileExistsError):
            export_model(model, path, image_shape=(6, 8, 2), platforms=("cpu",))
        assert path.read_text() == "keep me" and list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("platforms", [("cpu", "quantum"), ("gpu",), ()])
    def test_platforms_that_there_are_not(self, platforms, tmp_path):
        wrong = repr(platforms[-1]) if platforms else "none"
        match = f"`platforms` must be among cpu, cuda, rocm, tpu, got {wrong}"
        self.check(match, tmp_path / "a", platforms=platforms)
        assert not list(tmp_path.iterdir())

    def test_an_address(self):
        with pytest.raises(ValueError, match="path of the local file system"):
            export_model(jnp.sin, "gs://bucket/model")

    def test_no_shape(self, tmp_path):
        self.check("`image_shape` must be", tmp_path / "a", image_shape=None)

    def test_what_is_not_a_classifier(self, tmp_path):
        self.check(r"must return logits \(batch, classes\)", tmp_path / "a", jnp.sin)

    def test_a_model_of_one_batch_size(self, tmp_path):
        self.check(
            r"must return logits \(batch, classes\)",
            tmp_path / "a",
            lambda images: images.reshape(4, 96),
        )

    def test_a_model_that_is_not_jax(self, tmp_path):
        self.check("any size", tmp_path / "a", lambda images: np.asarray(images))
        assert not list(tmp_path.iterdir())
