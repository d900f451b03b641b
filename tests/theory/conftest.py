"""Fixtures of the tests of theory."""

import math
from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def assert_share() -> Callable[[np.ndarray, float], None]:
    """Fails unless flags are those of events with a probability.

    Five standard deviations, and one event: a wrong verdict once in a million draws.
    """

    def check(flags: np.ndarray, probability: float) -> None:
        count = flags.size
        deviation = math.sqrt(max(probability * (1 - probability), 0) / count)
        assert abs(np.mean(flags) - probability) <= 5 * deviation + 1 / count

    return check
