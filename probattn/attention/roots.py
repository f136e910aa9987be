"""The expected number of roots of a token's equation (theory, section 4)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jax.typing import ArrayLike
from jaxtyping import Array

from probattn.attention.attention import Attention
from probattn.attention.batching import map_in_batches
from probattn.attention.jacobian import jacobian_blocks, residuals
from probattn.attention.transform import Equation, guarded_newton
from probattn.attention.uniqueness import require_strict
from probattn.checks import as_float_array, as_key, as_scale, in_default_float
from probattn.errors import InputError

CELLS = 8192  # number of cells of the grid in dimension 1
PAST_MULTIPLE = 16  # pasts are padded to a multiple of this length: fewer programs are compiled


class RootCount(NamedTuple):
    """Expected number of roots at one position, given its past.

    Args:
        expected: E over the noise of the number of u with `u - mu_t(u) = e`; at least 1.
        standard_error: standard error of `expected` over the draws of the noise; 0 in dimension 1,
            where no noise is drawn.
        unbalanced: share of draws of which some roots are known to be missing. The signs of det J_t
            add up to 1 over all roots (the map has degree 1); where those of the roots found do
            not, others exist.
    """

    expected: float
    standard_error: float
    unbalanced: float


def expected_roots(
    attention: Attention,
    past: ArrayLike,
    scale: ArrayLike = 1.0,
    *,
    key: Array | None = None,
    num_samples: int = 500,
    num_starts: int = 64,
) -> RootCount:
    """Expected number of roots of `u = mu_t(u; past) + e` over the noise `e ~ N(0, scale^2 I)`.

        E[roots] = integral of N(u - mu_t(u)) |det J_t(u)| du

    It is at least 1, and 1 where the change of variables gives a probability density.

    In dimension 1 it is the total variation of the noise's distribution function along
    `u - mu_t(u)`, exact up to the resolution of 8,192 cells, in each of which the turning point is
    located by bisection. In more dimensions the roots for each draw of the noise are sought from
    many starts and counted. This is a lower bound in expectation; it comes with a standard error,
    and `unbalanced` is the share of draws where roots are known to be missing.

    Args:
        attention: one map, strict mask.
        past: embeddings before the position, shape (t - 1, dim), t >= 2.
        scale: standard deviation of the noise.
        key: random key; needed in dimension 2 and up.
        num_samples: draws of the noise.
        num_starts: starts for each draw: first the embeddings of the past, then random convex
            combinations of them.

    Raises:
        InputError: an inclusive mask, a batch of maps, a wrong shape, num_samples below 2,
            num_starts below 1 or a missing key.

    Source: theory, section 4.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, expected_roots
        >>> past = jnp.array([[-1.0], [1.0]])
        >>> below, beyond = (Attention.from_interaction([[[a]]]) for a in (0.5, 3.0))
        >>> for attention in (below, beyond):  # of the bifurcation at a = 1
        ...     print(round(float(expected_roots(attention, past).expected), 3))
        1.0
        1.672
    """
    require_strict(attention)
    attention = in_default_float(attention)
    past = as_float_array("past", past)
    if past.ndim != 2 or past.shape[0] < 1 or past.shape[1] != attention.dim:
        raise InputError(
            f"past: expected shape (positions >= 1, dim {attention.dim}), got {past.shape}"
        )
    scale = as_scale(scale)
    if attention.batch_shape or scale.shape:
        raise InputError(
            f"attention: expected one map and one scale, got {attention.batch_shape} and "
            f"{scale.shape}"
        )
    if attention.dim == 1:
        return RootCount(float(_total_variation(attention, past, scale)), 0.0, 0.0)
    if key is None:
        raise InputError(
            "key: expected a random key in dimension 2 and up (the count is a Monte Carlo estimate)"
        )
    if num_samples < 2 or num_starts < 1:
        raise InputError(
            f"num_samples, num_starts: expected at least 2 and 1, got {num_samples} and "
            f"{num_starts}"
        )
    padded = jnp.pad(past, ((0, -len(past) % PAST_MULTIPLE), (0, 0)))
    count, balance = _count(
        attention, padded, len(past), scale, as_key(key), num_samples, num_starts
    )
    count, balance = np.asarray(count, float), np.asarray(balance)
    error = count.std(ddof=1) / math.sqrt(num_samples)
    return RootCount(float(count.mean()), float(error), float((balance != 1).mean()))


@jax.jit
def _total_variation(attention: Attention, past: jax.Array, scale: jax.Array) -> jax.Array:
    """Expected number of roots in dimension 1: the sum of |change of Phi(e / scale)| over cells."""

    def at(function, token):  # function at the position after the past, for token (n,)
        context = jnp.broadcast_to(past, (*token.shape, *past.shape))
        u = jnp.concatenate([context, token[..., None, None]], axis=-2)
        return function(attention, u)[..., -1, :].reshape(token.shape)

    block, error = partial(at, lambda a, u: jacobian_blocks(a, u)[..., 0]), partial(at, residuals)
    # Outside (-reach, reach) |u - mu| is more than nine standard deviations: the noise has no mass
    # left there.
    values = 1.0 if attention.value is None else jnp.abs(attention.value).sum()
    reach = values * jnp.abs(past).max() + 9 * scale
    grid = jnp.linspace(-reach, reach, CELLS + 1)
    low, high = grid[:-1], grid[1:]
    falling = block(low) < 0

    # Bisect for the point of each cell where u - mu_t(u) turns; without one it is the upper end.
    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        same = (block(middle) < 0) == falling
        return jnp.where(same, middle, low), jnp.where(same, high, middle)

    turning, _ = jax.lax.fori_loop(0, 50, halve, (low, high))
    ends, turns = norm.cdf(error(grid) / scale), norm.cdf(error(turning) / scale)
    return (jnp.abs(turns - ends[:-1]) + jnp.abs(ends[1:] - turns)).sum()


@partial(jax.jit, static_argnums=(5, 6))
def _count(attention, padded, position, scale, key, num_samples, num_starts):
    """Number of distinct roots found and sum of their signs of det J_t, for each draw of the noise.

    `padded` [s, i] holds the past in its first `position` rows, so that pasts of several lengths
    share one compiled program.
    """
    for_noise, for_starts = jax.random.split(key)
    noise = scale * jax.random.normal(for_noise, (num_samples, attention.dim), padded.dtype)
    rows, number = jnp.arange(len(padded)), jnp.arange(num_starts)
    weights = jnp.where(
        rows < position,
        jax.random.exponential(for_starts, (num_starts, len(padded)), padded.dtype),
        0,
    )
    combinations = weights @ padded / weights.sum(-1, keepdims=True)
    own = padded[jnp.minimum(number, len(padded) - 1)]
    starts = jnp.where(number[:, None] < position, own, combinations)

    def one_draw(noise):
        equation = Equation.at(attention, padded, position, noise)
        roots = jax.vmap(lambda start: guarded_newton(equation, start + noise))(starts)  # [n, i]
        found = jnp.isfinite(roots).all(-1)
        distance = jnp.abs(roots[:, None] - roots[None]).max(-1)
        # Newton's method is exact to some machine epsilons over sigma_min; roots that are closer
        # than the square root of epsilon are one root found twice.
        same = distance < jnp.sqrt(jnp.finfo(roots.dtype).eps) * equation.unit
        first = found & ~jnp.tril(same & found[None], -1).any(-1)
        blocks = jax.vmap(jax.jacfwd(equation.difference))(  # J_t at each root, [n, i, j]
            jnp.where(found[:, None], roots / equation.unit, 0)
        )
        return first.sum(), jnp.where(first, jnp.sign(jnp.linalg.det(blocks)), 0).sum()

    return map_in_batches(one_draw, noise, 64)
