"""Stress on a trained model: what each disturbance is, and that it does harm where it must."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import seed, trace

from probattn import InputError, log_barrier, stability_margin
from probattn.inference.fitting.training import initial_parameters, train
from probattn.inference.study.course import margins_in_training
from probattn.inference.study.under_stress import (
    ATTACK,
    AUXILIARY,
    CHOICES,
    NOISE_LEVELS,
    TYPO_KINDS,
    margins_of_heads,
    stress,
)
from probattn.models import TransformerLM

MODEL = TransformerLM(4, 12, dim=8, layers=1, heads=2)
CYCLE = np.array([[1 + (start + t) % 3 for t in range(12)] for start in range(3)] * 20)
HELD = CYCLE[:30]  # of one shape in all tests, so that programs compile once


@pytest.fixture(scope="module")
def trained():
    return train(MODEL, CYCLE, seeds=(0, 1), num_steps=200, batch_size=16)


def params_of(trained, number):
    return jax.tree.map(lambda leaf: leaf[number], trained.params)


def test_training_learns_what_can_be_known(trained):
    """After the first symbol of the cycle all others follow: log 3 for twelve tokens."""
    for number in range(2):
        found = stress(MODEL, params_of(trained, number), HELD)
        assert np.log(3) / 12 - 1e-3 < found["clean"] < np.log(3) / 12 + 0.1
    assert trained.losses.shape == (2, 200)
    assert not np.array_equal(*trained.losses)


def test_disturbances_do_harm_in_their_order(trained):
    params = params_of(trained, 0)
    found = stress(MODEL, params, HELD)
    noise, attack = ([found["clean"], *found[kind].values()] for kind in ("noise", "attack"))
    assert list(found["noise"]) == [str(level) for level in NOISE_LEVELS]
    assert list(found["attack"]) == [str(level) for level in ATTACK]
    assert np.all(np.diff(attack) > 0)
    assert noise[-1] > noise[0]
    for level in ATTACK[1:]:  # of the same length, the way up is worse than a random one
        assert found["attack"][str(level)] > found["noise"][str(level)]
    assert set(found["typos"]) == set(TYPO_KINDS)
    assert set(found["support"]) == set(CHOICES)
    assert min(found["typos"].values()) > found["clean"]


def test_larger_embeddings_are_no_protection(trained):
    """Noise counts in root mean squares of the embeddings: with one layer behind a normalisation
    scale alone changes nothing."""
    params = params_of(trained, 0)
    larger = params | {name: 10 * params[name] for name in ("embedding", "position")}
    # What attention and the rest add must grow along, as the normalisation undoes the growth of
    # what they read.
    larger |= {name: 10 * params[name] for name in ("output", "down")}
    one, other = (stress(MODEL, p, HELD)["noise"] for p in (params, larger))
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-3)


def test_margins_are_those_of_the_heads(trained):
    params = params_of(trained, 0)
    found = margins_of_heads(MODEL, params, HELD)

    @jax.jit
    def margins(params, tokens):
        (attention, x), *_ = MODEL.attentions(params, MODEL.path(params, tokens))
        return stability_margin(attention, x)

    margin = margins(params, jnp.asarray(HELD))
    tolerance = 1e3 * float(jnp.finfo(margin.dtype).eps)
    np.testing.assert_allclose(found["smallest"], margin.min(), rtol=tolerance, atol=tolerance)
    assert sum(found["counts"]) == margin.size
    assert 0 <= found["beyond"] <= 1


def test_an_auxiliary_attention_is_looked_at(trained):
    """Its barrier is that of `log_barrier` on the embeddings it is trained on, and the heads are
    those of the model without it."""
    model = dataclasses.replace(MODEL, barrier_weight=0.05, variant="margin_only")
    params = params_of(trained, 0)
    extra = {
        name: jax.random.normal(jax.random.key(i), (1, 4, 8)) for i, name in enumerate(AUXILIARY)
    }
    found = stress(model, params | extra, HELD)
    barrier = log_barrier(model.auxiliary_attention(extra), model.path(params, jnp.asarray(HELD)))
    np.testing.assert_allclose(found["auxiliary"]["barrier"], barrier.mean(), rtol=1e-4)
    plain = stress(MODEL, params, HELD)
    assert {name: value for name, value in found.items() if name != "auxiliary"} == plain


def test_margins_in_training():
    course = margins_in_training(MODEL, CYCLE, HELD, seeds=(0, 1), num_steps=100, batch_size=16)
    assert [at["steps"] for at in course] == [0, 50]
    start = jax.tree.map(lambda leaf: leaf[1], initial_parameters(MODEL, seeds=(0, 1)))
    assert course[0]["results"][1] == margins_of_heads(MODEL, start, HELD)
    assert course[1]["results"] != course[0]["results"]


def test_seeds_and_models_share_their_start():
    """So that arms are compared in pairs."""
    other = dataclasses.replace(MODEL, barrier_weight=0.05)
    one, two = (initial_parameters(model, seeds=(3,)) for model in (MODEL, other))
    assert set(two) - set(one) == set(AUXILIARY)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
        np.testing.assert_allclose(
            value.std(), MODEL.priors()[name].variance.max() ** 0.5, rtol=0.6
        )
    assert not np.array_equal(one["query"], one["key"])  # of one shape and one prior


def test_noise_in_training_buys_robustness(trained):
    """The one thing that must work: the study would be blind if it did not."""
    noisy = dataclasses.replace(MODEL, noise=0.8)
    as_noisy = train(noisy, CYCLE, seeds=(0, 1), num_steps=200, batch_size=16)
    plain, hardened = (
        stress(model, params_of(of, 0), HELD) for model, of in ((MODEL, trained), (noisy, as_noisy))
    )
    assert hardened["noise"]["0.4"] < plain["noise"]["0.4"]


def test_bad_input():
    with pytest.raises(InputError, match="seeds: expected at least one"):
        train(MODEL, CYCLE, seeds=(), num_steps=10)
    with pytest.raises(InputError, match="weight_decay"):
        train(MODEL, CYCLE, seeds=(0,), num_steps=10, weight_decay=-1.0)
    with pytest.raises(InputError, match="num_steps"):
        train(MODEL, CYCLE, seeds=(0,), num_steps=0)
    assert trace(seed(MODEL, 0)).get_trace(num_sequences=2)["tokens"]["value"].shape == (2, 12)
