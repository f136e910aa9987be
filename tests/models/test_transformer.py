"""The transformer: its forward pass against loops, its joint term by term, its heads' blocks
against autodiff."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import seed
from numpyro.infer.util import log_density

from probattn import InputError, barrier_loss, jacobian_blocks
from probattn.inference import fit_map
from probattn.models import TransformerLM
from probattn.models.layers import forward

MODEL = TransformerLM(5, 6, dim=4, layers=2, heads=2)
TOKENS = jnp.asarray([[1, 2, 3, 4, 0, 0], [4, 4, 1, 2, 3, 2]])


def params_of(model, number=0):
    draw = np.random.default_rng(number).standard_normal
    return {name: jnp.asarray(draw(prior.shape()) / 2) for name, prior in model.priors().items()}


@partial(
    jax.jit, static_argnums=0
)  # as one program: each operation by itself would be compiled by itself
def logits_of(model, params, tokens):
    return model.logits_at(params, model.path(params, tokens))


def normalised(x):
    return x / np.sqrt((x**2).mean() + 1e-6)


def slow_logits(model, params, tokens):
    """One sequence, position by position and head by head."""
    p = {name: np.asarray(value, float) for name, value in params.items()}
    before = [0, *tokens[:-1]]
    hidden = [p["embedding"][token] + p["position"][t] for t, token in enumerate(before)]
    for layer in range(model.layers):
        read = [normalised(h) for h in hidden]
        after = []
        for t, h in enumerate(hidden):
            added = np.zeros(model.dim)
            for head in range(model.heads):
                q, k, v, o = (p[name][layer, head] for name in ("query", "key", "value", "output"))
                scores = np.array(
                    [(k @ read[s]) @ (q @ read[t]) / math.sqrt(model.rank) for s in range(t + 1)]
                )
                alpha = np.exp(scores - scores.max())
                alpha /= alpha.sum()
                added += o @ sum(a * (v @ read[s]) for s, a in enumerate(alpha))
            after.append(h + added)
        hidden = [
            h
            + p["down"][layer]
            @ np.asarray(jax.nn.gelu(jnp.asarray(p["up"][layer] @ normalised(h))))
            for h in after
        ]
    return np.stack([p["readout"] @ normalised(h) + p["bias"] for h in hidden])


def test_the_forward_pass_is_that_of_the_loops():
    params = params_of(MODEL)
    ours = logits_of(MODEL, params, TOKENS)
    tolerance = 1e3 * float(jnp.finfo(ours.dtype).eps)
    for row, tokens in zip(ours, TOKENS.tolist(), strict=True):
        np.testing.assert_allclose(
            row, slow_logits(MODEL, params, tokens), rtol=tolerance, atol=tolerance
        )


def test_the_blocks_of_a_layer_are_the_derivatives_of_its_attention():
    params = params_of(MODEL)

    @jax.jit
    def both(attention, x):
        def residual(token, t):
            past = x.at[t].set(token)[: t + 1]
            heads = []
            for q, k, v in zip(attention.query, attention.key, attention.value, strict=True):
                alpha = jax.nn.softmax((past @ k.T) @ (q @ token) / math.sqrt(len(q)))
                heads.append(v @ (alpha @ past))
            return token - sum(heads)

        return jacobian_blocks(attention, x), jnp.stack(
            [jax.jacfwd(residual)(x[t], t) for t in range(len(x))]
        )

    for attention, x in MODEL.attentions(params, MODEL.path(params, TOKENS[1])):
        np.testing.assert_allclose(*both(attention, x), atol=1e-10)


@pytest.mark.parametrize("placement", ["auxiliary", "own"])
@pytest.mark.parametrize("variant", ["full", "bounded"])
def test_the_joint_is_likelihood_penalty_and_prior(placement, variant):
    model = dataclasses.replace(
        MODEL, barrier_weight=0.3, placement=placement, variant=variant, barrier_sequences=1
    )

    @jax.jit
    def both(params):
        u = model.path(params, TOKENS)
        placed = (
            [(model.auxiliary_attention(params), u)]
            if placement == "auxiliary"
            else model.attentions(params, u)
        )
        first = np.array([[True] * 5 + [False]])
        penalty = sum(
            barrier_loss(attention, x[:1], 0.3, variant, counted=first) for attention, x in placed
        )
        prior = sum(d.log_prob(params[name]).sum() for name, d in model.priors().items())
        expected = model.log_likelihood(params, TOKENS).sum() - penalty * (5 + 6) + prior
        return log_density(model, (TOKENS,), {}, params)[0], expected

    np.testing.assert_allclose(*both(params_of(model)), rtol=1e-10)


def test_noise_and_dropout_are_of_training_only():
    model = dataclasses.replace(MODEL, noise=0.5, dropout=0.3)
    params = params_of(model)

    @jax.jit
    def joint(key):
        return log_density(seed(model, key), (TOKENS,), {}, params)[0]

    keys = jax.random.split(jax.random.key(0))
    assert joint(keys[0]) == joint(keys[0]) != joint(keys[1])
    np.testing.assert_array_equal(
        model.log_likelihood(params, TOKENS), MODEL.log_likelihood(params, TOKENS)
    )


def test_dropout_leaves_out_its_share():
    model = dataclasses.replace(MODEL, dropout=0.3)
    params = params_of(model)
    u = model.path(params, np.tile(TOKENS, (50, 1)))
    _, read, _ = forward(model, params, u, jax.random.key(0))[1][0]
    share = float((read == 0).mean())
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / u.size)


def test_qk_norm_and_spectral_bound_the_logits():
    """Queries and keys of root mean square 1 are blind to their scale; the spectral bound holds the
    singular values."""
    params = params_of(MODEL)
    larger = params | {"query": 100 * params["query"], "key": 7 * params["key"]}
    u = MODEL.path(params, TOKENS)
    normed = dataclasses.replace(MODEL, qk_norm=1.5)
    tolerance = 1e4 * float(jnp.finfo(u.dtype).eps)
    # The scale enters through the constant under the root alone, 1e-6 beside mean squares of order
    # 1.
    one, other = (logits_of(normed, of, TOKENS) for of in (larger, params))
    np.testing.assert_allclose(one, other, atol=1e-4 + tolerance)
    held = dataclasses.replace(MODEL, spectral=0.5)
    for attention, _ in held.attentions(larger, u):
        for matrices in (attention.query, attention.key):
            assert np.linalg.svd(matrices, compute_uv=False).max() < 0.5 * (1 + tolerance)


def test_it_fits_by_the_same_machinery():
    """It is wide enough for more than 1000 numbers, of which no Hessian is compiled."""
    data = jnp.tile(jnp.asarray([[1, 2, 3, 4, 0, 0]]), (8, 1))
    model = TransformerLM(5, 6, dim=10, layers=1, heads=1, barrier_weight=0.05)
    fit = fit_map(model, data, key=jax.random.key(0), num_steps=150, batch_size=4, progress=False)
    assert (
        model.log_likelihood(fit.params, data).mean() > -1
    )  # of five tokens, one in two of which guessing would get


def test_bad_fields_are_refused():
    for changes, words in (
        ({"heads": 3}, "heads: expected a divisor of dim 4, got 3"),
        ({"placement": "between"}, "placement: expected auxiliary, own, stream, got 'between'"),
        ({"variant": "half"}, "variant: expected full"),
        ({"barrier_weight": -1.0}, "barrier_weight: expected a finite number"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\)"),
        ({"noise": math.nan}, "noise: expected a finite number"),
        ({"spectral": 0.0}, "spectral: expected a finite number > 0 or None, got 0.0"),
        ({"softcap": -3.0}, "softcap: expected a finite number > 0 or None, got -3.0"),
        ({"qk_norm": 0.0}, "qk_norm: expected a finite number > 0 or None, got 0.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing: expected a number in \[0, 1\), got 1.0"),
        ({"z_loss": -1e-3}, "z_loss: expected a finite number >= 0, got -0.001"),
        ({"cap": 1.0}, r"cap: expected a number inside \(0, 1\), got 1.0"),
        ({"variant": "hinge"}, 'threshold: expected a finite number > 0 with variant "hinge"'),
        ({"threshold": 0.1}, "threshold: expected None with variant 'full', got 0.1"),
        ({"placement": "stream"}, "variant: expected one_sided, hinge with placement"),
        ({"layers": 0}, "layers: expected a whole number of at least 1"),
        ({"qk_norm": 2.0, "barrier_weight": 0.1, "placement": "own"}, "qk_norm, softcap: the bl"),
    ):
        with pytest.raises(InputError, match=words):
            dataclasses.replace(MODEL, **changes)
    with pytest.raises(InputError, match="num_sequences"):
        seed(MODEL, 0)()
    with pytest.raises(InputError, match="length 6"):
        seed(MODEL, 0)(TOKENS[:, :4])
