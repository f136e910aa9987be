"""Sensitivity to noise, against the dense inverse and the derivative of the solved equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import (
    Attention,
    AttentionTransform,
    InputError,
    residuals,
    sensitivity,
    stability_margin,
)

TIGHT = 2e3 * float(jnp.finfo(jnp.zeros(()).dtype).eps)


def drawn(heads=1, rank=2, dim=2, **fields):
    keys = jax.random.split(jax.random.key(0), 3)
    query, key = (jax.random.normal(one, (heads, rank, dim)) for one in keys[:2])
    value = jax.random.normal(keys[2], (heads, dim, dim)) / 2 if fields.pop("values", 0) else None
    return Attention(query, key, value, **fields)


MAPS = {
    "one head": drawn(),
    "two heads with values": drawn(2, 1, 3, values=1),
    "inclusive": drawn(2, 2, 2, values=1, mask="inclusive"),
    "cap": drawn(1, 2, 3, contraction=0.7),
}


@pytest.mark.parametrize("name", MAPS)
def test_it_is_the_dense_inverse(name):
    attention = MAPS[name]
    u = jax.random.normal(jax.random.key(1), (3, 5, attention.dim))
    found = sensitivity(attention, u)
    for one, path in zip(found, u, strict=True):
        size = path.size
        jacobian = jax.jacrev(lambda v: residuals(attention, v))(path).reshape(size, size)
        # One size after the other: an inverse is as exact as the Jacobian is well conditioned.
        limit = TIGHT * np.linalg.cond(jacobian)
        np.testing.assert_allclose(
            one.reshape(size, size), np.linalg.inv(jacobian), rtol=limit, atol=limit
        )


def test_it_is_the_derivative_of_what_is_solved():
    attention = MAPS["cap"]
    transform = AttentionTransform(attention)
    noise = jax.random.normal(jax.random.key(2), (5, attention.dim))
    expected = jax.jacfwd(transform)(noise)
    found = sensitivity(attention, transform(noise))
    np.testing.assert_allclose(found, expected, rtol=10 * TIGHT, atol=10 * TIGHT)


def test_a_small_margin_amplifies_noise_at_its_token():
    attention = MAPS["one head"]
    u = jax.random.normal(jax.random.key(3), (20, 6, 2))
    found = sensitivity(attention, u)
    own = jnp.linalg.norm(jnp.einsum("btitj->btij", found), ord=2, axis=(-2, -1))
    np.testing.assert_allclose(own * stability_margin(attention, u), 1, rtol=100 * TIGHT)
    before = ~np.tri(6, dtype=bool)  # t < s: noise does not reach back
    np.testing.assert_array_equal(np.moveaxis(np.asarray(found), 3, 2)[:, before], 0)


def test_bad_embeddings_are_refused():
    with pytest.raises(InputError, match="expected shape"):
        sensitivity(MAPS["one head"], np.zeros((3, 5)))
