"""Random keys: one key is taken in either form, and what is none is one sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import (
    Attention,
    AttentionProcess,
    Emission,
    EmissionProcess,
    InputError,
    SequenceProcess,
    expected_roots,
)
from probattn.checks import as_key
from probattn.inference import (
    fit_ensemble,
    fit_laplace,
    fit_map,
    particle_log_prob,
    sample_microcanonical,
    sample_posterior,
    simulation_based_calibration,
)
from probattn.models import EmissionModel, LanguageModel

KEY, BATCH = jax.random.key(0), jax.random.split(jax.random.key(0), 2)
TOKENS = np.array([[1, 2, 0], [2, 1, 0]])
MODEL, EMITTING = LanguageModel(3, 3, 1), EmissionModel(3, 3, 1, num_particles=4)
ATTENTION = Attention.from_interaction(np.eye(2)[None] / 4, contraction=0.9)
PROCESS = SequenceProcess(
    lambda logits, tokens: logits, jnp.zeros((3, 3)), length=3, vocab_size=3, end_token=0
)
COUNTED = dict(method="monte_carlo", num_samples=4)


def params_of(model):
    return {name: jnp.zeros(prior.event_shape) for name, prior in model.priors().items()}


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (0, "a random key such as jax.random.key(0), got 0"),
        (None, "a random key such as jax.random.key(0), got None"),
        ("0", "a random key such as jax.random.key(0), got '0'"),
        (jnp.zeros(2), "a random key such as jax.random.key(0), got an array of float32"),
        (np.zeros(3, np.uint32), "a random key such as jax.random.key(0), got an array of uint32"),
        (BATCH, "one random key, got a batch of them of shape (2,)"),
        (jax.random.key_data(BATCH), "one random key, got a batch of them of shape (2,)"),
    ],
)
def test_what_is_no_key_is_refused_in_one_sentence(given, got):
    with pytest.raises(InputError) as refused:
        as_key(given)
    assert str(refused.value).startswith(f"key: expected {got}")


@pytest.mark.parametrize("given", [jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3))])
def test_the_raw_integers_of_a_key_are_the_key(given):
    assert as_key(given) == jax.random.key(3) == as_key(jax.random.key(3))
    drawn = [PROCESS.sample(key, (5,)) for key in (jnp.asarray(given), jax.random.key(3))]
    np.testing.assert_array_equal(*drawn)
    under_jit = jax.jit(lambda key: PROCESS.sample(key, (5,)))(jnp.asarray(given))
    np.testing.assert_array_equal(under_jit, drawn[0])


def emission(key):
    one = Emission(ATTENTION, 1.0, np.zeros((3, 2)), np.zeros(3))
    return EmissionProcess(one, length=3, num_particles=4, key=key)


@pytest.mark.parametrize(
    "function",
    [
        PROCESS.sample,
        PROCESS.sample_set,
        lambda key: PROCESS.marginal(1, key=key, **COUNTED),
        lambda key: PROCESS.conditional(1, {0: 1}, key=key, **COUNTED),
        lambda key: PROCESS.survival(2, key=key, **COUNTED),
        lambda key: PROCESS.containment([1], key=key, **COUNTED),
        lambda key: PROCESS.capacity([1], key=key, **COUNTED),
        lambda key: PROCESS.set_law(key=key, **COUNTED),
        lambda key: PROCESS.inclusion_probabilities(key=key, **COUNTED),
        AttentionProcess(ATTENTION, 1.0, 3).sample,
        lambda key: expected_roots(ATTENTION, np.ones((1, 2)), key=key),
        emission,
        lambda key: emission(KEY).sample(key),
        lambda key: MODEL.generate(params_of(MODEL), 1, key=key),
        lambda key: EMITTING.generate(params_of(EMITTING), 1, key=key),
        lambda key: EMITTING.process(params_of(EMITTING), key=key),
        lambda key: particle_log_prob(
            EMITTING, params_of(EMITTING), TOKENS, num_particles=4, key=key
        ),
        lambda key: simulation_based_calibration(MODEL, key=key),
        *(
            lambda key, fit=fit: fit(MODEL, TOKENS, key=key, progress=False)
            for fit in (
                fit_map,
                fit_laplace,
                fit_ensemble,
                sample_posterior,
                sample_microcanonical,
            )
        ),
    ],
)
def test_a_batch_of_keys_is_refused_everywhere(function):
    with pytest.raises(InputError, match="key: expected one random key, got a batch of them"):
        function(BATCH)
