"""What benchmarks compare with is the same mathematics, written by hand: a twin, and a fair
opponent."""

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import log_density

from benchmarks import by_hand
from probattn import Attention, AttentionProcess, attention_mean
from probattn.models import LanguageModel

TOKENS = jnp.asarray([[1, 2, 0, 0, 0], [3, 1, 2, 3, 1], [0, 0, 0, 0, 0]])


def close(one, other):
    # Sums of some hundred terms.
    np.testing.assert_allclose(
        one, other, rtol=0, atol=300 * jnp.finfo(other.dtype).eps * float(jnp.abs(other).max())
    )


def test_density_and_mean_by_hand_are_ours():
    draw = np.random.default_rng(0).standard_normal
    query, key, u = (
        jnp.asarray(draw((2, 3))),
        jnp.asarray(draw((2, 3))),
        jnp.asarray(draw((4, 5, 3))),
    )
    attention = Attention(query[None], key[None])
    close(by_hand.attention_mean(query, key, u), attention_mean(attention, u))
    ours, theirs = (
        AttentionProcess(attention, 1.0, 5).log_prob(u),
        by_hand.log_density(query, key, u).sum(-1),
    )
    np.testing.assert_array_equal(jnp.isneginf(ours), jnp.isneginf(theirs))
    inside = ~jnp.isneginf(ours)
    assert inside.any()
    close(ours[inside], theirs[inside])


def test_the_language_model_by_hand_is_ours():
    model = LanguageModel(4, 5, 3)
    keys = jax.random.split(jax.random.key(0), len(model.priors()))
    values = {
        n: 0.3 * jax.random.normal(k, p.shape())
        for k, (n, p) in zip(keys, model.priors().items(), strict=True)
    }
    ours, _ = log_density(model, (TOKENS,), {}, values)
    theirs, _ = log_density(by_hand.language_model, (TOKENS,), {"vocab_size": 4, "dim": 3}, values)
    close(ours, theirs)
