"""Density and readout in one pass against each by itself."""

import dataclasses

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import attention_mean, path_log_density
from probattn.attention.density_and_readout import density_with_readout


def both(attention, u, scale=1.0):
    strict = dataclasses.replace(attention, mask="strict", value=None)
    return path_log_density(strict, u, scale), attention_mean(attention, u)


@pytest.mark.parametrize(("heads", "value", "length"), [(2, True, 5), (2, False, 5), (1, False, 1)])
def test_it_is_the_density_and_the_readout(heads, value, length):
    attention = cases.attention(heads, 2, value=value, mask="inclusive")
    u = jnp.asarray(np.random.default_rng(length).standard_normal((3, length, cases.DIM)))

    def to_second_order(function):  # with other weights for each entry of both
        def total(attention, u):
            density, mean = function(attention, u, 0.7)
            return (density * jnp.arange(1, length + 1)).sum() + jnp.sin(mean).sum()

        at = (attention, u)
        return jax.jit(
            lambda: jax.jvp(jax.value_and_grad(total, (0, 1)), at, jax.tree.map(jnp.ones_like, at))
        )()

    for one, other in zip(
        *(jax.tree.leaves(to_second_order(f)) for f in (density_with_readout, both)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gain", [1e3, -1e3])
def test_saturated_attention_on_itself_or_on_others(gain):
    """All weight on the token itself, or none, in float32 too: finite values, finite gradients."""
    attention = cases.attention(1, value=True, mask="inclusive")
    attention = dataclasses.replace(attention, query=gain * attention.key, key=attention.key)
    u = jnp.asarray(np.random.default_rng(3).standard_normal((4, cases.DIM)))
    mean, slope = jax.jit(
        jax.value_and_grad(lambda u: density_with_readout(attention, u)[1].sum())
    )(u)
    expected, expected_slope = jax.jit(
        jax.value_and_grad(lambda u: attention_mean(attention, u).sum())
    )(u)
    rounding = 1e5 * float(
        jnp.finfo(u.dtype).eps
    )  # logits are of the order of a thousand times a few dozen
    np.testing.assert_allclose(mean, expected, rtol=rounding)
    np.testing.assert_allclose(slope, expected_slope, rtol=rounding, atol=rounding)
