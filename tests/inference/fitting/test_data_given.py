"""Data of many kinds: what holds the same numbers is the same, and the rest is one sentence."""

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from probattn import InputError
from probattn.checks import as_data
from probattn.inference import (
    fit_ensemble,
    fit_laplace,
    fit_map,
    sample_microcanonical,
    sample_posterior,
)
from probattn.models import EmissionModel, LanguageModel, LatentAttention, TransformerLM

TOKENS = np.array([[1, 2, 0], [2, 1, 0]], np.int32)


@pytest.mark.parametrize(
    "same",
    [
        np.ndarray.tolist,
        pd.DataFrame,
        xr.DataArray,
        np.asfortranarray,
        lambda tokens: tokens.astype(">i4"),
        lambda tokens: tokens.astype(np.uint64),
        lambda tokens: tuple(map(tuple, tokens)),
    ],
)
def test_the_same_numbers_are_the_same_data(same):
    found = as_data(same(TOKENS))
    np.testing.assert_array_equal(found, TOKENS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[1, 2], [1]], "sequences of one length, got several; pad them"),
        (None, "an array of numbers, got dtype object"),
        (TOKENS.astype(str), "an array of numbers, got dtype <U"),
        (np.ma.masked_equal(TOKENS, 0), "got a masked array"),
        (np.full((2, 3), 2**40), f"integers of at most {2**31 - 1}, got {2**40}"),
        (np.array([[0.0], [np.nan]]), "NaN or infinity in sequence 1, counted from 0"),
    ],
)
def test_other_data_are_refused_in_one_sentence(data, message):
    with pytest.raises(InputError, match=f"data: expected .*{message}"):
        as_data(data)


FITS = [fit_map, fit_laplace, fit_ensemble, sample_posterior, sample_microcanonical]


@pytest.mark.parametrize("fit", FITS)
def test_every_fit_looks_at_its_data(fit):
    data = np.zeros((3, 2, 1))
    data[2, 1] = np.inf
    with pytest.raises(InputError, match="NaN or infinity in sequence 2"):
        fit(LatentAttention(1, 2), data, key=jax.random.key(0), progress=False)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 2, 0], [1, 3, 0]], "tokens: expected ids 0 to 2, got 3"),
        ([[1, 2, 0], [1, -1, 0]], "tokens: expected ids 0 to 2, got -1"),
        ([[1, 2, 0], [1, 0, 2]], "tokens: after the end token 0 only 0 may follow"),
    ],
)
@pytest.mark.parametrize("fit", FITS)
def test_tokens_that_the_model_does_not_know_are_named_and_not_its_dimension(fit, tokens, message):
    with pytest.raises(InputError, match=message):
        fit(LanguageModel(3, 3, 1, contraction=0.9), tokens, key=jax.random.key(0), progress=False)


@pytest.mark.parametrize("model", [TransformerLM(3, 3, 1, 1, 1), EmissionModel(3, 3, 1)])
def test_every_model_looks_at_its_tokens_when_it_is_fitted(model):
    with pytest.raises(InputError, match="tokens: expected ids 0 to 2, got 3"):
        fit_map(model, [[1, 2, 0], [1, 3, 0]], key=jax.random.key(0), progress=False)
