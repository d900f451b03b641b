"""A variant of a user's own: fog, whose density in [0, 1] is a number of sweeps."""

import dataclasses

from jaxrobust.data import as_float
from jaxrobust.pytrees import Pytree


@dataclasses.dataclass(frozen=True)
class Fog(Pytree):
    density: float

    def __call__(self, images):
        return (1 - self.density) * as_float(images) + self.density
