"""One small MAP and one small posterior, fitted once for all tests of what is done with fits."""

import jax
import numpy as np
import pytest

from probattn.inference import Corpus, fit_map, sample_posterior
from probattn.models import LanguageModel


@pytest.fixture(scope="session")
def corpus():
    rng = np.random.default_rng(0)
    tokens = np.zeros((60, 5), np.int32)
    for row in tokens:
        row[: rng.integers(1, 5)] = 1
    tokens *= rng.integers(1, 4, tokens.shape, dtype=np.int32)
    return Corpus("toy", ("<end>", "a", "b", "c"), "", tokens[:40], tokens[40:])


@pytest.fixture(scope="session")
def fits(corpus):
    model = LanguageModel(4, 5, 2)
    key = jax.random.key(0)
    return {
        "map": fit_map(model, corpus.train, key=key, num_steps=120, progress=False),
        "posterior": sample_posterior(
            model,
            corpus.train,
            key=key,
            num_chains=2,
            num_warmup=60,
            num_samples=40,
            max_tree_depth=4,
            start="random",
            progress=False,
        ),
    }
