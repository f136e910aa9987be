"""The parameters of a causal attention map, checked at construction."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probattn.checks import as_float_array
from probattn.errors import InputError

# Each array field, with the number of axes it has for one map; axes in front are a batch of maps.
ARRAY_FIELDS = {"query": 3, "key": 3, "value": 3, "origin": 1, "position_bias": 2}
STATIC_FIELDS = ("contraction", "mask", "symmetric")


@dataclass(frozen=True, eq=False)
class Attention:
    """Parameters of a causal attention map with H heads of rank r on embeddings of dimension d.

        l_ts = u_s^T A_h u_t + c_{t-s},   A_h = key_h^T query_h / sqrt(r)
        mu_t = sum_h value_h sum_s softmax_s(l_ts) u_s

    Axes in front of the shapes below are a batch of maps. They broadcast against each other and
    against the axes that embeddings have in front of (length, dim).

    Args:
        query: `W_Q`, shape (..., H, r, d).
        key: `W_K`, shape (..., H, r, d).
        value: `V`, shape (..., H, d, d); None is identity / H, so that the mean is the average of
            the heads.
        origin: mean of the first position under the strict mask, which has no past, shape (..., d);
            None is 0. An inclusive mask never meets an empty past and does not use it.
        contraction: cap kappa in (0, 1): A_h is divided by `1 + g D_t^2 / (4 kappa)`, with
            `g = sum_h |V_h|_F |A_h|_F` and D_t the diameter of the strict past, so that
            |I - J_t| < kappa for every parameter and history. Strict mask only. None leaves A as
            it is.
        mask: "strict" attends to s < t, "inclusive" to s <= t.
        symmetric: declares A symmetric (one head, value None, strict mask). The local domain of the
            density is then the convex set where `I - S_t^{1/2} A S_t^{1/2} > 0` for all t.
        position_bias: c by lag t - s, lag 0 first, shape (..., H, length); None is 0.

    Raises:
        InputError: a wrong rank or shape, a non-finite entry, an unknown mask, kappa outside
            (0, 1), a contraction with the inclusive mask, or an interaction that is declared
            symmetric and is not.

    Source: arXiv:2602.22271; theory, sections 1, 2 (masks), 3 (symmetric) and 4 (contraction).
    """

    query: Any
    key: Any
    value: Any = None
    origin: Any = None
    contraction: float | None = None
    mask: str = "strict"
    symmetric: bool = False
    position_bias: Any = None

    @classmethod
    def from_interaction(cls, interaction: Any, **others: Any) -> "Attention":
        """An attention with the interaction A itself given: `query = sqrt(d) A`, `key = I`.

        Args: interaction, A of shape (..., H, d, d); others, the further fields of `Attention`.
        Raises: InputError on another shape of A, or as at construction.
        """
        interaction = as_float_array("interaction", interaction)
        if interaction.ndim < 3 or interaction.shape[-2] != interaction.shape[-1]:
            raise InputError(
                f"interaction: expected shape (..., heads, dim, dim), got {interaction.shape}"
            )
        dim = interaction.shape[-1]
        key = jnp.broadcast_to(jnp.eye(dim, dtype=interaction.dtype), interaction.shape)
        return cls(math.sqrt(dim) * interaction, key, **others)

    def __post_init__(self) -> None:
        for name in ARRAY_FIELDS:
            if getattr(self, name) is not None or name in ("query", "key"):
                object.__setattr__(self, name, as_float_array(name, getattr(self, name)))
        _check_shapes(self)
        if self.mask not in ("strict", "inclusive"):
            raise InputError(f'mask: expected "strict" or "inclusive", got {self.mask!r}')
        if self.contraction is not None:
            if not isinstance(self.contraction, Real) or not 0 < self.contraction < 1:
                raise InputError(
                    "contraction: expected a number inside (0, 1) or None, got "
                    f"{self.contraction!r}"
                )
            if self.mask != "strict":
                raise InputError(
                    "contraction: the cap holds for the strict mask only (the diameter of the past "
                    'must not depend on the token itself); use mask="strict" or contraction=None'
                )
        if self.symmetric:
            _check_symmetric(self)

    @property
    def heads(self) -> int:
        """Number of heads, H."""
        return self.query.shape[-3]

    @property
    def rank(self) -> int:
        """Rank of each head, r."""
        return self.query.shape[-2]

    @property
    def dim(self) -> int:
        """Dimension of the embeddings, d."""
        return self.query.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of maps, () for one map."""
        arrays = [(getattr(self, name), axes) for name, axes in ARRAY_FIELDS.items()]
        return np.broadcast_shapes(
            *(array.shape[:-axes] for array, axes in arrays if array is not None)
        )

    @property
    def interaction(self) -> Float[Array, "*batch heads dim dim"]:
        """`A_h = W_K^T W_Q / sqrt(r)`, before any contraction."""
        return jnp.einsum("...hri,...hrj->...hij", self.key, self.query) / math.sqrt(self.rank)


def _check_shapes(attention: Attention) -> None:
    """Raise InputError unless the shapes of the arrays agree and their batches broadcast."""
    query = attention.query.shape
    if len(query) < 3 or 0 in query:
        raise InputError(f"query: expected shape (..., heads, rank, dim), got {query}")
    heads, rank, dim = query[-3:]
    expected = {"key": (heads, rank, dim), "value": (heads, dim, dim), "origin": (dim,)}
    for name, shape in expected.items():
        array = getattr(attention, name)
        if array is not None and array.shape[-len(shape) :] != shape:
            raise InputError(
                f"{name}: expected shape {shape} to go with query {query}, got {array.shape}"
            )
    bias = attention.position_bias
    if bias is not None and (bias.ndim < 2 or bias.shape[-2] != heads):
        raise InputError(
            f"position_bias: expected shape ({heads}, length), lag 0 first, got {bias.shape}"
        )
    try:
        attention.batch_shape  # raises if the batches do not broadcast  # noqa: B018
    except ValueError as error:
        shapes = {
            name: getattr(attention, name).shape
            for name in ARRAY_FIELDS
            if getattr(attention, name) is not None
        }
        raise InputError(
            f"attention: expected batches of maps that broadcast, got {shapes}"
        ) from error


def _check_symmetric(attention: Attention) -> None:
    """Raise InputError unless A is symmetric up to rounding, with one head and the strict mask."""
    if attention.heads != 1 or attention.value is not None or attention.mask != "strict":
        raise InputError(
            "symmetric: expected one head, value None and the strict mask, got "
            f"{attention.heads} heads, value "
            f"{'None' if attention.value is None else 'given'} and mask {attention.mask!r}"
        )
    if isinstance(attention.query, jax.core.Tracer) or isinstance(attention.key, jax.core.Tracer):
        return  # the entries of traced arrays are not known
    interaction = np.asarray(attention.interaction)
    asymmetry = abs(interaction - interaction.swapaxes(-1, -2)).max()
    # An entry is a sum of r products: rounding is some r machine epsilons of the largest product.
    largest = abs(np.asarray(attention.key)).max() * abs(np.asarray(attention.query)).max()
    if asymmetry > 4 * attention.rank * np.finfo(interaction.dtype).eps * largest:
        raise InputError(
            f"symmetric: expected A = A^T, got entries that differ by up to {asymmetry:.3g}"
        )


def _flatten(attention: Attention) -> tuple[tuple, tuple]:
    """Arrays with their names, and the static fields, for `register_pytree_with_keys`."""
    return (
        tuple((jax.tree_util.GetAttrKey(name), getattr(attention, name)) for name in ARRAY_FIELDS),
        tuple(getattr(attention, name) for name in STATIC_FIELDS),
    )


def _unflatten(static: tuple, arrays: Iterable) -> Attention:
    """The attention from its static fields and arrays, without the checks of the constructor.

    JAX's transformations rebuild it with placeholders or batched leaves, which the checks would
    refuse.
    """
    attention = object.__new__(Attention)
    for name, leaf in zip((*ARRAY_FIELDS, *STATIC_FIELDS), (*arrays, *static), strict=True):
        object.__setattr__(attention, name, leaf)
    return attention


jax.tree_util.register_pytree_with_keys(Attention, _flatten, _unflatten)
assert {field.name for field in fields(Attention)} == {*ARRAY_FIELDS, *STATIC_FIELDS}
