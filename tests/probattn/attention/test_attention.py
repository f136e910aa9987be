"""The Attention pytree: bad input is an error at construction; transformations leave it whole."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probattn
from probattn import Attention, InputError, residuals

Q = np.ones((2, 3, 4))

BAD = {
    "rank of query": (
        dict(query=Q[0], key=Q),
        r"query: expected shape \(..., heads, rank, dim\), got \(3, 4\)",
    ),
    "key of another rank": (
        dict(query=Q, key=Q[:, :2]),
        r"key: expected shape \(2, 3, 4\).*got \(2, 2, 4\)",
    ),
    "value": (
        dict(query=Q, key=Q, value=np.ones((4, 4))),
        r"value: expected shape \(2, 4, 4\).*got \(4, 4\)",
    ),
    "origin": (
        dict(query=Q, key=Q, origin=np.ones(3)),
        r"origin: expected shape \(4,\).*got \(3,\)",
    ),
    "bias": (
        dict(query=Q, key=Q, position_bias=np.ones((3, 9))),
        r"position_bias: expected shape \(2, length\)",
    ),
    "NaN": (dict(query=Q * np.nan, key=Q), "query: expected finite numbers"),
    "infinity": (dict(query=Q, key=Q * np.inf), "key: expected finite numbers"),
    "complex": (dict(query=Q * 1j, key=Q), "query: expected real numbers, got dtype complex"),
    "strings": (dict(query="words", key=Q), "query: expected an array of numbers, got str"),
    "mask": (dict(query=Q, key=Q, mask="causal"), "mask: expected .* got 'causal'"),
    "contraction 1": (
        dict(query=Q, key=Q, contraction=1.0),
        r"contraction: expected a number inside \(0, 1\).*got 1.0",
    ),
    "contraction 0": (
        dict(query=Q, key=Q, contraction=0.0),
        r"contraction: expected a number inside \(0, 1\).*got 0.0",
    ),
    "contraction NaN": (
        dict(query=Q, key=Q, contraction=float("nan")),
        "contraction: expected a number",
    ),
    "contraction, inclusive": (
        dict(query=Q, key=Q, contraction=0.5, mask="inclusive"),
        "strict mask only",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_parameters_are_refused_at_construction(name):
    arguments, message = BAD[name]
    with pytest.raises(InputError, match=message):
        Attention(**arguments)


@pytest.mark.parametrize(
    ("u", "message"),
    [
        (np.ones(4), r"expected shape \(\.\.\., length >= 1, dim 4\), got \(4,\)"),
        (np.ones((5, 3)), r"got \(5, 3\)"),
        (np.ones((0, 4)), r"got \(0, 4\)"),
        (np.full((5, 4), np.nan), "expected finite numbers"),
        (np.ones((6, 4)), "length 6 needs a position bias of as many lags, got 5"),
    ],
)
@pytest.mark.parametrize(
    "function",
    [
        "residuals",
        "jacobian_blocks",
        "log_det",
        "log_barrier",
        "stability_margin",
        "path_log_density",
    ],
)
def test_bad_embeddings_are_refused(function, u, message):
    attention = Attention(Q, Q, position_bias=np.zeros((2, 5)))
    with pytest.raises(InputError, match=message):
        getattr(probattn, function)(attention, u)


@pytest.mark.parametrize("k", [0, 6])
def test_support_tokens_refuses_k_outside_the_length(k):
    with pytest.raises(InputError, match=f"k: expected 1 to 5 .* got {k}"):
        probattn.support_tokens(Attention(Q, Q), np.ones((5, 4)), k)


@pytest.mark.parametrize("name", cases.CASES | cases.CONTRACTED)
def test_pytree_round_trip_keeps_every_field(name):
    attention = cases.build(name)
    through_jit = jax.jit(lambda a: jax.tree.map(lambda x: 2 * x, a))(attention)
    for field in Attention.__dataclass_fields__:
        before, after = getattr(attention, field), getattr(through_jit, field)
        assert (before is None) == (after is None)
        if isinstance(before, jax.Array):
            np.testing.assert_array_equal(after, 2 * before)
        else:
            assert before == after
    paths = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(attention)
    ]
    assert ".query" in paths


def test_batched_parameters_go_through_vmap():
    several = [cases.attention(seed=seed, value=True) for seed in range(3)]
    batched = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    u = jnp.asarray(np.random.default_rng(0).standard_normal((4, cases.DIM)))
    together = jax.vmap(residuals, (0, None))(batched, u)
    for attention, result in zip(several, together, strict=True):
        np.testing.assert_allclose(result, residuals(attention, u), rtol=0, atol=1e-5)


def test_whole_numbers_become_floating_point():
    assert jnp.issubdtype(
        Attention(np.ones((1, 1, 1), int), np.ones((1, 1, 1), int)).query.dtype, jnp.floating
    )
