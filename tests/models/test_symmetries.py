"""What each symmetry of a LanguageModel leaves alone (theory, section 6)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import stability_margin, support_tokens
from probattn.models import LanguageModel, gauge
from probattn.sequence.tokens import counted

MODEL = LanguageModel(4, 6, 3, heads=2)
TOKENS = np.random.default_rng(0).integers(1, 4, (20, 6))
TOKENS[:10, 4:] = 0  # half of them end
PARAMS = {
    name: jnp.asarray(prior.sample(jax.random.key(i)))
    for i, (name, prior) in enumerate(MODEL.priors().items())
}
# Blocks near the boundary lose some three digits, and a sequence adds up some ten terms.
ROUNDING = 1e4 * float(jnp.finfo(jnp.zeros(()).dtype).eps)
LAW = ("log_likelihood", "log_det")  # what belongs to the law of tokens
PATH = ("path_log_density", "margins")  # what belongs to its embeddings


def transformed(base):
    """u -> B u with all that reads embeddings."""
    inverse = jnp.linalg.inv(base)
    return {
        **PARAMS,
        "embedding": PARAMS["embedding"] @ base.T,
        "position": PARAMS["position"] @ base.T,
        "query": PARAMS["query"] @ inverse,
        "key": PARAMS["key"] @ inverse,
        "value": base @ PARAMS["value"] @ inverse,
        "readout": PARAMS["readout"] @ inverse,
    }


def moved(**shifts):
    return {name: value + shifts.get(name, 0) for name, value in PARAMS.items()}


ROTATION = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (3, 3)))[0]
SHIFT = jax.random.normal(jax.random.key(2), (3,))
STRETCH = ROTATION @ jnp.diag(jnp.array([3.9, 2.0, 1.0])) / 2  # condition 3.9
MIXING = jax.random.normal(jax.random.key(3), (2, 3, 3)) + 2 * jnp.eye(3)
SYMMETRIES = {
    "rotation": transformed(ROTATION),
    "shift of embeddings against positions": moved(embedding=SHIFT, position=-SHIFT),
    "shift of the start against its position": moved(
        embedding=jnp.zeros((4, 3)).at[0].set(SHIFT), position=jnp.zeros((6, 3)).at[0].set(-SHIFT)
    ),
    "shift of the readout": moved(readout=SHIFT),
    "shift of the bias": moved(bias=0.7),
    "mixing of query and key": {
        **PARAMS,
        "query": MIXING @ PARAMS["query"],
        "key": jnp.linalg.inv(jnp.swapaxes(MIXING, 1, 2)) @ PARAMS["key"],
    },
    "heads in another order": {
        name: value[::-1] if name in ("query", "key", "value") else value
        for name, value in PARAMS.items()
    },
}


def outputs(params):
    path, attention = MODEL.path(params, TOKENS), MODEL.attention(params)
    return {
        "log_likelihood": MODEL.log_likelihood(params, TOKENS),
        "log_det": jnp.where(counted(TOKENS), stability_margin(attention, path, "log_det"), 0),
        "path_log_density": jnp.nan_to_num(MODEL.path_log_density(params, TOKENS)),
        "margins": jnp.nan_to_num(MODEL.margins(params, TOKENS)),
    }


@pytest.mark.parametrize("name", SYMMETRIES)
def test_a_symmetry_leaves_law_and_path(name):
    before, after = outputs(PARAMS), outputs(SYMMETRIES[name])
    for output in LAW + PATH:
        np.testing.assert_allclose(after[output], before[output], rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", SYMMETRIES)
def test_a_symmetry_leaves_what_is_identified(name):
    before, after = (MODEL.quantities(one, TOKENS) for one in (PARAMS, SYMMETRIES[name]))
    for quantity in before:
        scale = float(abs(before[quantity]).max())
        np.testing.assert_allclose(
            after[quantity], before[quantity], rtol=ROUNDING, atol=ROUNDING * scale
        )


def test_without_a_barrier_a_change_of_basis_leaves_what_is_identified():
    model = dataclasses.replace(MODEL, barrier_weight=0.0)
    before, after = (model.quantities(one, TOKENS) for one in (PARAMS, transformed(STRETCH)))
    assert not {"singular_values", "smallest_margin", "support_position"} & set(before)
    for quantity in before:
        scale = float(abs(before[quantity]).max())
        np.testing.assert_allclose(
            after[quantity], before[quantity], rtol=ROUNDING, atol=ROUNDING * scale
        )


def test_a_change_of_basis_leaves_the_law_of_tokens_and_no_margin():
    """log det is a property of the law; sigma_min and the support token are of coordinates."""
    before, after = outputs(PARAMS), outputs(transformed(STRETCH))
    for output in LAW:
        np.testing.assert_allclose(after[output], before[output], rtol=ROUNDING, atol=ROUNDING)
    for output in PATH:
        assert not np.allclose(after[output], before[output], rtol=0.05)
    support = [
        np.where(np.asarray(one["margins"]) > 0, one["margins"], np.inf).argmin(1)
        for one in (before, after)
    ]
    assert (support[0] != support[1]).any()
    ranked = [
        support_tokens(MODEL.attention(one), MODEL.path(one, TOKENS), 2, kind="log_det")
        for one in (PARAMS, transformed(STRETCH))
    ]
    np.testing.assert_array_equal(*ranked)


def test_of_a_large_vocabulary_some_pairs_are_looked_at():
    model = LanguageModel(60, 6, 3, heads=2)
    params = {
        name: jnp.asarray(prior.sample(jax.random.key(i)))
        for i, (name, prior) in enumerate(model.priors().items())
    }
    tokens = np.random.default_rng(0).integers(1, 60, (30, 6))
    found = jax.jit(model.quantities)(params, tokens)
    assert not {"interaction", "association"} & set(found)
    E, interaction = params["embedding"], model.attention(params).interaction
    F = jnp.concatenate([E[:1] + params["position"][:1], E[1:] - E[1:].mean(0)])
    whole = jnp.einsum("vi,hij,wj->hvw", F, interaction, F)
    whole = whole[jnp.argsort(jnp.linalg.norm(whole, axis=(1, 2)))]
    occur = found["interaction of pairs that occur"]
    first, last = whole[:, tokens[0, 0], tokens[0, 1]], whole[:, tokens[-1, -2], tokens[-1, -1]]
    np.testing.assert_allclose(occur[:, [0, -1]].T, [first, last], rtol=1e-4, atol=1e-4)
    rows, columns = np.random.default_rng(0).integers(60, size=(2, gauge.NUM_PAIRS))
    np.testing.assert_allclose(
        found["interaction of random pairs"], whole[:, rows, columns], rtol=1e-3, atol=1e-3
    )
    assert found["association of random pairs"].shape == (gauge.NUM_PAIRS,)
