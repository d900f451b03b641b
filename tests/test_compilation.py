import os

import jax
import pytest

from jaxrobust.compilation import keep_compilations


@pytest.fixture
def restored():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_configured_cache_is_left_alone(restored, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert keep_compilations() == str(tmp_path)


def test_the_cache_lies_where_caches_belong(restored, tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert keep_compilations() == str(tmp_path / "jaxrobust")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jaxrobust")


@pytest.mark.parametrize("place", ["file/in/it", "no home"])
def test_a_cache_that_cannot_be_written_is_said_once_and_does_without(
    place, restored, tmp_path, monkeypatch
):
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "file").write_text("something else")
    if place == "no home":
        # As in containers whose user has no name.
        for name in ("HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    with pytest.warns(
        UserWarning, match=r"not kept.*\$JAX_COMPILATION_CACHE_DIR names"
    ):
        assert keep_compilations() is None
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.exact
def test_tests_marked_exact_run_without_the_flags_of_the_others():
    flags = os.environ["XLA_FLAGS"].split()
    has_default = bool(os.environ.get("JAXROBUST_TESTS_DEFAULT_FLAGS"))
    assert ("--xla_backend_optimization_level=1" in flags) != has_default
