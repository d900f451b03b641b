"""A norm of a user's own: pixels of the lower half count twice."""

import jax
import jax.numpy as jnp

from jaxrobust.threat import ThreatModel


def weights(images):
    rows = jnp.arange(images.shape[1])[None, :, None, None]
    return jnp.where(rows < images.shape[1] / 2, 1.0, 2.0)


class Uneven(ThreatModel):
    symbol = "uneven l∞"

    def norm(self, perturbation):
        return jnp.max(jnp.abs(perturbation) * weights(perturbation), axis=(1, 2, 3))

    def project_perturbation(self, perturbation, radius):
        reach = radius[:, None, None, None] / weights(perturbation)
        return jnp.clip(perturbation, -reach, reach)

    def sample(self, key, center):
        noise = jax.random.uniform(key, center.shape, minval=-1.0, maxval=1.0)
        moved = center + self.radius(center) * noise / weights(center)
        return self.project(moved.astype(center.dtype), center)

    def steepest(self, gradient):
        return jnp.sign(gradient) / weights(gradient)
