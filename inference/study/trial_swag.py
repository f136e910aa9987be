"""SWAG: draws of parameters around the end of a training (Maddox et al., NeurIPS 2019)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probattn.errors import InputError
from probattn.inference.fitting.unconstrained import Values


def swag_draws(iterates: list[Values], number: int, key: Array) -> Values:
    """Draws of the Gaussian with the mean and half each of two covariances of the iterates.

        mean + sqrt(v / 2) z_1 + D z_2 / sqrt(2 (K - 1))

    with v the variances of K iterates, D their deviations from the mean, as columns, and z_1 and
    z_2 standard normal; each draw is one member.

    Args: iterates, parameters at K >= 2 moments of the last steps; number, of draws.
    Raises: InputError for fewer than two iterates. Source: arXiv:1902.02476.
    """
    if len(iterates) < 2:
        raise InputError(f"iterates: expected at least two, got {len(iterates)}")
    along = jax.random.normal(jax.random.fold_in(key, 0), (number, len(iterates)))

    def of_leaf(key: Array, *values: Array) -> Array:
        several = jnp.stack(values)  # [iterate, ...]
        mean, spread = several.mean(0), several.std(0)
        own = jax.random.normal(key, (number, *mean.shape))
        low_rank = jnp.tensordot(along, several - mean, axes=1)
        return mean + spread * own / 2**0.5 + low_rank / (2 * (len(values) - 1)) ** 0.5

    leaves, tree = jax.tree.flatten(iterates[0])
    others = [jax.tree.leaves(one) for one in iterates]
    keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
    return jax.tree.unflatten(
        tree, [of_leaf(k, *values) for k, *values in zip(keys, *others, strict=True)]
    )
