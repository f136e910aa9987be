"""The prior is a plain normal; only its unconstrained coordinates differ."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import biject_to

from probattn.models.priors import UNIT, normal


def test_it_is_a_normal_in_other_coordinates():
    prior, plain = normal(0.7, 3, 2), dist.Normal(0, 0.7).expand((3, 2)).to_event(2)
    value = jax.random.normal(jax.random.key(0), (3, 2))
    np.testing.assert_allclose(prior.log_prob(value), plain.log_prob(value), rtol=1e-6)
    assert prior.event_shape == (3, 2)
    np.testing.assert_array_equal(prior.sample(jax.random.key(1)), plain.sample(jax.random.key(1)))
    np.testing.assert_allclose(
        biject_to(prior.support)(jnp.ones((3, 2))), np.full((3, 2), UNIT * 0.7), rtol=1e-6
    )
    through_jit = jax.jit(lambda d: d)(prior)
    np.testing.assert_allclose(biject_to(through_jit.support)(1.0), UNIT * 0.7, rtol=1e-6)
