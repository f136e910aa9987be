"""Stability margins, support tokens and support weights (theory, section 3)."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from probattn.attention.attention import Attention
from probattn.attention.batching import over_sequences
from probattn.attention.domain import centred_working_set, inequality_slack
from probattn.attention.jacobian import jacobian_blocks, log_det
from probattn.errors import InputError


def stability_margin(
    attention: Attention, u: ArrayLike, kind: str = "sigma_min"
) -> Float[Array, "*batch length"]:
    """Distance of each position from the degeneracy boundary `det J_t = 0`.

        sigma_min   sigma_min(J_t), the spectral norm of the smallest change of J_t that makes it
                    singular
        log_det     log |det J_t|, a smooth alternative, -inf on the boundary
        spectral    1 - |I - J_t|_2, a lower bound of sigma_min; positive where attention is a local
                    contraction, and above 1 - kappa under the cap

    At positions 1 and 2 under the strict mask, where J_t = I, these are 1, 0 and 1.

    Args: attention; u, embeddings of shape (..., length, dim); kind, as above.
    Raises: InputError on a wrong shape, a NaN or an unknown kind. Source: theory, section 3.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, stability_margin
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(stability_margin(attention, u))
        [1.  1.  0.5]
    """
    if kind == "sigma_min":
        return jnp.linalg.svd(jacobian_blocks(attention, u), compute_uv=False)[..., -1]
    if kind == "log_det":
        return log_det(attention, u)
    if kind == "spectral":
        derivative = jnp.eye(attention.dim) - jacobian_blocks(attention, u)
        return 1 - jnp.linalg.svd(derivative, compute_uv=False)[..., 0]
    raise InputError(f'kind: expected "sigma_min", "log_det" or "spectral", got {kind!r}')


def support_weights(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length"]:
    """Support weight of each position, `1 / sigma_min(J_t) = |J_t^{-1}|_2`: +inf on the boundary.

    For symmetric A, as the weight lambda of the barrier tends to 0, lambda times the inverse of
    `I - S_t^{1/2} A S_t^{1/2}` tends to the dual variable of the constraint that this matrix is
    positive definite, as in a support vector machine.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape
    or a NaN. Source: theory, section 3.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, support_weights
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(support_weights(attention, u))
        [1. 1. 2.]
    """
    return 1 / stability_margin(attention, u)


def support_tokens(
    attention: Attention, u: ArrayLike, k: int, kind: str = "sigma_min"
) -> Int[Array, "*batch {k}"]:
    """Positions with the k smallest stability margins, the smallest first.

    A change of the embeddings' basis, with the interaction changed to match, is the same law of
    tokens. It keeps every log det J_t, and so this ranking by "log_det"; that by "sigma_min" it can
    change, unless it is a rotation.

    Positions count from 0; of equal margins the earlier position comes first. Under the inclusive
    mask with V = I the first position attends to itself alone: its margin is 0, and it always comes
    first.

    Args: attention; u, embeddings of shape (..., length, dim); k, from 1 to length; kind, as
    `stability_margin`. Raises: InputError on a wrong shape, a NaN, k outside 1 ... length, or an
    unknown kind. Source: theory, sections 3 and 6.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, support_tokens
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(support_tokens(attention, u, 1))
        [2]
    """
    margin = stability_margin(attention, u, kind)
    if (
        isinstance(k, bool)
        or not isinstance(k, (int, np.integer))
        or not 1 <= k <= margin.shape[-1]
    ):
        raise InputError(f"k: expected 1 to {margin.shape[-1]} (the length), got {k}")
    return jnp.argsort(margin, axis=-1, stable=True)[..., :k]


def matrix_inequality_slack(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length"]:
    """Slack of each position's linear matrix inequality, for symmetric A.

        lambda_min(I - S_t^{1/2} A S_t^{1/2})

    The local domain is where all slacks are positive: at given attention weights a convex set of A,
    whose standard barrier is `-log det J_t`. At positions 1 and 2, where S_t = 0, the slack is 1.
    Under a contraction A is the capped one.

    Args: attention, declared symmetric; u, embeddings of shape (..., length, dim). Raises:
    InputError on a wrong shape, a NaN, or an attention that was not built with symmetric=True.
    Source: theory, section 3.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, matrix_inequality_slack
        >>> attention = Attention.from_interaction([[[0.5]]], symmetric=True)
        >>> # keys at -1 and 1, and a token between them: 1 - 0.5 * 1
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])
        >>> print(matrix_inequality_slack(attention, u))
        [1.  1.  0.5]
    """
    if not attention.symmetric:
        raise InputError(
            "attention: expected one built with symmetric=True (A = A^T, one head, V = I)"
        )
    return over_sequences(inequality_slack, attention, u, working_set=centred_working_set)
