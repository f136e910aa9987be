"""Fits whose next-token laws are given: tables of bigrams, one for each draw."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from probattn import SequenceProcess
from probattn.inference import Fit

TRUTH = np.array(  # rows: after the start or end, after a, after b, after c
    [[0.1, 0.5, 0.3, 0.1], [0.2, 0.1, 0.6, 0.1], [0.35, 0.3, 0.1, 0.25], [0.4, 0.2, 0.2, 0.2]]
)


def _logits(params, tokens):
    before = jnp.concatenate([jnp.zeros(1, int), tokens[:-1]])
    return params["table"][before]


@dataclass(frozen=True)
class Bigrams:
    """A model whose parameters are a table of logits."""

    length: int
    vocab_size: int = 4
    observed: ClassVar[str] = "tokens"
    path_has_start: ClassVar[bool] = True

    def priors(self):
        raise NotImplementedError("its tables are given")

    __call__ = priors

    def process(self, params):
        return SequenceProcess(_logits, params, length=self.length, vocab_size=self.vocab_size)

    def log_likelihood(self, params, tokens):
        return self.process(params).log_prob(tokens)


def fit_of(tables, length=6, method=None):
    """A fit with these tables of probabilities as its draws."""
    tables = np.log(np.asarray(tables, float))[None]
    method = method or ("map" if tables.shape[1] == 1 else "ensemble")
    return Fit(
        Bigrams(length, tables.shape[-1]), method, np.zeros((2, length), int), {"table": tables}
    )


def sequences(number, length=6, seed=0, table=TRUTH):
    """Sequences drawn from a bigram, padded with its end token."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((number, length), int)
    before, going = np.zeros(number, int), np.ones(number, bool)
    for position in range(length):
        drawn = (rng.random((number, 1)) > np.cumsum(table, 1)[before]).sum(1)
        tokens[:, position] = np.where(going, drawn, 0)
        before, going = tokens[:, position], going & (drawn != 0)
    return tokens


def sharpened(table, power):
    """Probabilities raised to a power and normalised: overconfident where it is above 1."""
    raised = np.asarray(table) ** power
    return raised / raised.sum(1, keepdims=True)
