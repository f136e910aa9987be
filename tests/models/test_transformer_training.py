"""What acts in a transformer's training, and what bounds its scores, against formulas by loops."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import seed
from numpyro.infer.util import log_density

from probattn.models import TransformerLM
from probattn.models.layers import forward
from probattn.models.training_terms import stream_blocks

MODEL = TransformerLM(5, 6, dim=4, layers=2, heads=2)
TOKENS = jnp.asarray([[1, 2, 3, 4, 0, 0], [4, 4, 1, 2, 3, 2]])
ENDS = (5, 6)  # tokens of each sequence that count


def params_of(model, number=0):
    draw = np.random.default_rng(number).standard_normal
    return {name: jnp.asarray(draw(prior.shape()) / 2) for name, prior in model.priors().items()}


@jax.jit
def logits_of(params):
    return MODEL.logits_at(params, MODEL.path(params, TOKENS))


def tolerance():
    return 1e3 * float(jnp.finfo(jnp.result_type(float)).eps)


def test_smoothing_and_z_loss_by_loops():
    """The smoothed label has 1 - s + s / V on the token, and s / V on every other."""
    model = dataclasses.replace(MODEL, label_smoothing=0.2, z_loss=0.03)
    params = params_of(model)
    logits = np.asarray(logits_of(params), float)
    total = 0.0
    for row, tokens, end in zip(logits, TOKENS.tolist(), ENDS, strict=True):
        for t in range(end):
            normaliser = math.log(sum(math.exp(x) for x in row[t]))
            for v, logit in enumerate(row[t]):
                label = 0.2 / 5 + (0.8 if v == tokens[t] else 0.0)
                total -= label * (logit - normaliser)
            total += 0.03 * normaliser**2
    np.testing.assert_allclose(model.loss(params, TOKENS), total / sum(ENDS), rtol=tolerance())
    prior = sum(d.log_prob(params[name]).sum() for name, d in model.priors().items())
    joint = log_density(model, (TOKENS,), {}, params)[0]
    np.testing.assert_allclose(joint, prior - total, rtol=10 * tolerance())
    expected = model.log_likelihood(params, TOKENS) + model.log_factors(params, TOKENS)
    np.testing.assert_allclose(expected.sum(), -total, rtol=10 * tolerance())


def test_what_is_of_training_alone_leaves_the_law():
    model = dataclasses.replace(
        MODEL, label_smoothing=0.2, z_loss=0.1, noise=0.3, dropout=0.2, barrier_weight=0.1
    )
    params = params_of(MODEL)
    assert model.law == MODEL
    np.testing.assert_array_equal(
        model.log_likelihood(params, TOKENS), MODEL.log_likelihood(params, TOKENS)
    )
    assert model.has_factor
    assert not MODEL.has_factor
    drawn = seed(model, 0)(num_sequences=2)
    assert drawn.shape == (2, 6)
    # What changes the network stays in its law.
    for field in ("softcap", "qk_norm", "spectral"):
        assert dataclasses.replace(model, barrier_weight=0.0, **{field: 1.5}).law != MODEL


@pytest.mark.parametrize("field", ["softcap", "qk_norm"])
def test_scores_of_cosines_and_capped_scores_by_loops(field):
    model = dataclasses.replace(MODEL, layers=1, **{field: 0.7})
    params = params_of(model)
    p = {name: np.asarray(value, float) for name, value in params.items()}
    ours = np.asarray(jax.jit(lambda p: model.logits_at(p, model.path(p, TOKENS)))(params))

    def normalised(x):
        return x / np.sqrt((x**2).mean() + 1e-6)

    for row, tokens in zip(ours, TOKENS.tolist(), strict=True):
        hidden = [p["embedding"][w] + p["position"][t] for t, w in enumerate([0, *tokens[:-1]])]
        read = [normalised(h) for h in hidden]
        for t, h in enumerate(hidden):
            after = h.copy()
            for head in range(2):
                q, k, v, o = (p[name][0, head] for name in ("query", "key", "value", "output"))
                scores = []
                for s in range(t + 1):
                    left, right = q @ read[t], k @ read[s]
                    if field == "softcap":
                        score = 0.7 * math.tanh(left @ right / math.sqrt(2) / 0.7)
                    else:
                        score = 0.7 * left @ right / np.linalg.norm(left) / np.linalg.norm(right)
                    scores.append(score)
                alpha = np.exp(scores) / np.exp(scores).sum()
                after += o @ sum(a * (v @ read[s]) for s, a in enumerate(alpha))
            after += p["down"][0] @ np.asarray(jax.nn.gelu(p["up"][0] @ normalised(after)))
            logits = p["readout"] @ normalised(after) + p["bias"]
            # The norms have a constant of 1e-6 beside mean squares of 0.05 and more.
            np.testing.assert_allclose(row[t], logits, rtol=1e-4, atol=1e-4)


def test_the_blocks_of_the_stream_are_its_derivatives():
    params = params_of(MODEL)

    @jax.jit
    def both(params, u):
        (attention, x, scale), *_ = forward(MODEL, params, u)[1]

        def after(token, t):
            h = u.at[t].set(token)[: t + 1]
            read = h / jnp.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)
            added = 0.0
            for q, k, value in zip(attention.query, attention.key, attention.value, strict=True):
                alpha = jax.nn.softmax((read @ k.T) @ (q @ read[t]) / math.sqrt(len(q)))
                added = added + value @ (alpha @ read)
            return token + added

        blocks = stream_blocks(attention, x[None], scale[None])[0]
        return blocks, jnp.stack([jax.jacfwd(after)(u[t], t) for t in range(len(u))])

    np.testing.assert_allclose(*both(params, MODEL.path(params, TOKENS)[1]), atol=1e-10)


@pytest.mark.parametrize("variant", ["one_sided", "hinge"])
def test_the_penalty_of_the_stream(variant):
    threshold = 0.8 if variant == "hinge" else None
    model = dataclasses.replace(
        MODEL, barrier_weight=0.3, placement="stream", variant=variant, threshold=threshold
    )
    params = params_of(model)

    @jax.jit
    def both(params):
        layers = forward(model, params, model.path(params, TOKENS))[1]
        blocks = jnp.stack([stream_blocks(*of) for of in layers])  # [layer, n, t, i, j]
        if variant == "hinge":
            eigenvalues = jnp.linalg.eigvalsh(blocks.mT @ blocks)[..., 0]
            each = jnp.maximum(0, 1 - jnp.sqrt(eigenvalues) / 0.8)
        else:
            each = jnp.maximum(0, -jnp.linalg.slogdet(blocks)[1])
        counts = each[:, 0, : ENDS[0]].sum() + each[:, 1, : ENDS[1]].sum()
        penalty = counts / sum(ENDS)
        clean = MODEL.loss(params, TOKENS)
        half = model.loss(params, TOKENS, strength=0.5)
        return (model.loss(params, TOKENS) - clean, half - clean), (0.3 * penalty, 0.15 * penalty)

    ours, expected = both(params)
    assert float(expected[0]) > 0.01
    np.testing.assert_allclose(ours, expected, rtol=10 * tolerance(), atol=10 * tolerance())


def test_a_cap_bounds_the_auxiliary_attention():
    for cap in (0.5, 0.95):
        model = dataclasses.replace(MODEL, barrier_weight=0.1, variant="bounded", cap=cap)
        assert model.auxiliary_attention(params_of(model)).contraction == cap
