"""Prefixes of sequences, and the density at them against that of whole sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import Attention, path_log_density
from probattn.attention.density_and_readout import density_with_readout
from probattn.attention.density_at_rows import density_with_readout_at_rows
from probattn.sequence.shared_prefixes import prefix_tree

TOKENS = np.array(
    [[1, 2, 0, 0], [1, 2, 3, 0], [1, 2, 3, 0], [2, 1, 1, 1], [2, 1, 1, 3], [0, 0, 0, 0]]
)
TREE = prefix_tree(TOKENS, vocab_size=4)


def test_each_prefix_occurs_once_with_what_follows_it():
    expected: dict[tuple, list] = {}
    for row in TOKENS.tolist():
        for t, token in enumerate(row):
            expected.setdefault(tuple(row[:t]), []).append(token)
            if token == 0:
                break
    assert len(TREE.own) == len(expected)
    for row, prefixes in zip(TOKENS.tolist(), TREE.prefix, strict=True):
        for t, n in enumerate(prefixes):
            if n >= 0:
                followers = expected[tuple(row[:t])]
                assert TREE.counts[n].tolist() == np.bincount(followers, minlength=4).tolist()
    counted = 1 + (np.cumsum(TOKENS == 0, axis=1) == 0)[:, :-1].sum(1)
    assert TREE.totals.sum() == counted.sum() == (TREE.prefix >= 0).sum()


def test_the_past_of_a_prefix_is_its_path_from_the_start():
    of_prefix = [past for group in TREE.pasts for past in group]
    for row, prefixes in zip(TOKENS.tolist(), TREE.prefix, strict=True):
        for t, n in enumerate(prefixes):
            if n >= 0:
                rows = [k for k in of_prefix[n] if k >= 0] + [TREE.own[n]]
                pairs = [(TREE.row_token[k], TREE.row_position[k]) for k in rows]
                assert pairs == list(zip((0, *row[:t]), range(t + 1), strict=True))


@pytest.mark.parametrize(("heads", "rank"), [(1, 2), (2, 1), (2, 3)])
def test_density_mean_and_gradients_are_those_of_whole_sequences(heads, rank):
    """With and without the determinant lemma (heads * rank <= dim)."""
    dim, keys = 3, jax.random.split(jax.random.key(0), 4)
    attention = Attention(
        *(0.4 * jax.random.normal(key, (heads, rank, dim)) for key in keys[:2]),
        0.4 * jax.random.normal(keys[2], (heads, dim, dim)),
        mask="inclusive",
    )
    by_pair = jax.random.normal(keys[3], (4, 4, dim))  # u(token, position)
    before = np.concatenate([np.zeros((len(TOKENS), 1), int), TOKENS[:, :-1]], axis=1)
    weights = jnp.arange(1.0, 1 + 4 * len(TOKENS)).reshape(len(TOKENS), 4)

    def whole(attention, by_pair):
        return density_with_readout(attention, by_pair[before, np.arange(4)], 0.7)

    def at_rows(attention, by_pair):
        table = by_pair[TREE.row_token, TREE.row_position]
        found = density_with_readout_at_rows(attention, table, TREE.own, TREE.pasts, 0.7)
        return tuple(x[TREE.prefix] for x in found)

    def total(function):
        def weighted(attention, by_pair):
            density, mean = function(attention, by_pair)
            there = jnp.where(TREE.prefix >= 0, weights, 0)
            return (there * density).sum() + (there[..., None] * jnp.sin(mean)).sum()

        return jax.jit(jax.value_and_grad(weighted, (0, 1)))(attention, by_pair)

    # Sums of some twenty terms, each of a few dozen roundings.
    tolerance = 1000 * float(jnp.finfo(jnp.zeros(()).dtype).eps)
    for one, other in zip(
        jax.tree.leaves(total(whole)), jax.tree.leaves(total(at_rows)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * abs(one).max())


def test_outside_the_domain_it_is_minus_infinity():
    attention = Attention.from_interaction([[[9.0]]], mask="inclusive")
    by_pair = jnp.array([[-1.0], [1.0], [0.0], [0.5]])
    table = by_pair[TREE.row_token]
    density, _ = density_with_readout_at_rows(attention, table, TREE.own, TREE.pasts)
    before = np.concatenate([np.zeros((len(TOKENS), 1), int), TOKENS[:, :-1]], axis=1)
    expected = path_log_density(Attention.from_interaction([[[9.0]]]), by_pair[before])
    found = np.where(TREE.prefix >= 0, density[TREE.prefix], 0)
    assert np.isneginf(found).any()
    assert (np.isneginf(found) == np.isneginf(np.where(TREE.prefix >= 0, expected, 0))).all()
