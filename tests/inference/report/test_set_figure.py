"""The figure of the random set shows the laws of the process."""

import jax.numpy as jnp
import numpy as np
import pytest

from probattn import InputError, SequenceProcess
from probattn.inference import plot_set_process


def bigram(table, tokens):
    return table[jnp.concatenate([jnp.zeros(1, int), tokens[:-1]])]


PROCESS = SequenceProcess(
    bigram, np.random.default_rng(0).normal(size=(4, 4)), length=5, vocab_size=4
)


def test_curves_are_the_laws():
    axes = plot_set_process(PROCESS, ["end", "a", "b", "c"], sets={"a and b": [1, 2]})
    visited = np.asarray(PROCESS.visited_by().value)
    order = 1 + np.argsort(-visited[-1, 1:])
    for line, token in zip(axes[0].get_lines(), order, strict=True):
        np.testing.assert_allclose(line.get_ydata(), visited[:, token])
    np.testing.assert_allclose(axes[1].images[0].get_array(), PROCESS.set_size_law().value.T)
    hit, covered = (line.get_ydata() for line in axes[2].get_lines())
    np.testing.assert_allclose(hit[1:], np.cumsum(PROCESS.hitting_time([1, 2]).value)[:-1])
    np.testing.assert_allclose(covered[1:], np.cumsum(PROCESS.coverage_time([1, 2]).value)[:-1])
    drawn = plot_set_process(PROCESS, ["end", "a", "b", "c"], method="monte_carlo", num_samples=99)
    assert len(drawn[0].collections) == 3  # bands of two standard errors


def test_too_few_symbols_are_refused():
    with pytest.raises(InputError, match="symbols: expected 4, one for each token, got 2"):
        plot_set_process(PROCESS, ["end", "a"])
