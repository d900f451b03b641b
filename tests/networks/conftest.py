import jax
import pytest

IMAGES = jax.random.uniform(jax.random.key(3), (4, 5, 4, 1))


@pytest.fixture
def images():
    return IMAGES
