"""A LanguageModel without a table of positions: one law on infinite sequences."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import InputError
from probattn.inference import fit_map, sample_posterior
from probattn.models import LanguageModel

MODEL = LanguageModel(3, 4, 2, heads=2, position="lag", barrier_weight=0.5)
SMALL = 1e4 * float(jnp.finfo(jnp.zeros(()).dtype).eps)


def drawn(model, seed=0):
    return {
        name: np.asarray(prior.sample(jax.random.key(seed + i)), float)
        for i, (name, prior) in enumerate(model.priors().items())
    }


def by_hand(model, params, tokens):
    """Logits of one sequence by loops."""
    u = params["embedding"][[0, *tokens[:-1]]]
    found = []
    for t in range(len(tokens)):
        hidden = u[t].copy()
        for head in range(model.heads):
            query = params["query"][head] @ u[t]
            lags = [t - s for s in range(t + 1) if model.window is None or t - s <= model.window]
            logits = np.array(
                [
                    (params["key"][head] @ u[t - lag]) @ query / np.sqrt(model.rank)
                    - np.exp(params["log_slope"][head]) * lag
                    for lag in lags
                ]
            )
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            mean = sum(w * u[t - lag] for w, lag in zip(weights, lags, strict=True))
            hidden = hidden + params["value"][head] @ mean
        found.append(params["readout"] @ hidden + params["bias"])
    return np.array(found)


@pytest.mark.parametrize("window", [None, 1, 2])
def test_logits_are_those_by_hand(window):
    model = LanguageModel(4, 6, 2, heads=2, rank=1, position="lag", window=window)
    params = drawn(model)
    assert "position" not in params
    tokens = np.array([1, 3, 2, 2, 1, 3])
    expected = by_hand(model, params, tokens)
    np.testing.assert_allclose(
        model.next_token_logits(params, tokens), expected, rtol=SMALL, atol=SMALL
    )


def test_its_finite_laws_are_consistent_at_growing_lengths():
    """Kolmogorov: the law of the first n tokens is the same at every length, and the sum over what
    may follow."""
    params = drawn(MODEL)
    prefixes = np.array(list(product(range(3), repeat=3)))
    laws = [
        np.exp(np.asarray(MODEL.at_length(n).process(params).log_prob(prefixes), float))
        for n in (3, 5, 9, 40)
    ]
    for law in laws[1:]:
        np.testing.assert_allclose(law, laws[0], rtol=SMALL, atol=SMALL)
    np.testing.assert_allclose(laws[0].sum(), 1, rtol=SMALL)
    process = MODEL.at_length(6).process(params)
    longer = np.array([[*prefix, v] for prefix in prefixes for v in range(3)])
    summed = np.exp(np.asarray(process.log_prob(longer), float)).reshape(-1, 3).sum(1)
    np.testing.assert_allclose(summed, laws[0], rtol=SMALL, atol=SMALL)


def test_any_length_is_drawn_and_scored():
    params = drawn(MODEL, 3)
    for window in (None, 5):
        model = LanguageModel(3, 4, 2, heads=2, position="lag", window=window).at_length(300)
        process = model.process(params)
        tokens = process.sample(jax.random.key(0), (4,))
        assert tokens.shape == (4, 300)
        scored = process.log_prob(tokens)
        assert np.isfinite(scored).all()
        # A cached step gives the law that whole passes give.
        np.testing.assert_allclose(
            scored, model.log_likelihood(params, tokens), rtol=SMALL, atol=SMALL
        )


def test_what_is_out_of_the_window_bears_on_nothing():
    model = LanguageModel(3, 8, 2, position="lag", window=2, barrier_weight=1.0)
    params = drawn(model)
    first, second = np.array([[1, 1, 2, 1, 2, 2, 1, 2], [2, 2, 1, 1, 2, 2, 1, 2]])
    one, other = (np.asarray(model.next_token_logits(params, x)) for x in (first, second))
    # Row 6 reads tokens 3, 4 and 5, which are the same, and what is before them no more.
    np.testing.assert_array_equal(one[6:], other[6:])
    assert np.abs(one[4] - other[4]).max() > 1e-4
    margins = np.asarray(model.margins(params, np.stack([first, second])))
    np.testing.assert_allclose(margins[0, 7], margins[1, 7], rtol=SMALL)


def test_it_is_tight_by_a_true_bound_at_any_length():
    params = drawn(MODEL)
    process = MODEL.at_length(6).process(params)
    found = process.tightness()
    assert found.tight
    assert found.horizon is None
    for n in range(1, 7):
        assert float(process.survival(n)) <= found.survival_bound(n) * (1 + 1e-5)
    every = np.array(list(product(range(1, 3), repeat=6)))
    ending = np.exp(np.asarray(process.next_token_log_probs(every)))[..., 0]
    assert found.delta <= ending.min() * (1 + 1e-5)
    assert found.survival_bound(1000) == pytest.approx((1 - found.delta) ** 1000)


def test_it_fits_and_samples_like_any_other():
    tokens = np.asarray(MODEL.process(drawn(MODEL)).sample(jax.random.key(1), (12,)))
    mode = fit_map(MODEL, tokens, key=jax.random.key(0), num_starts=1, num_steps=30, progress=False)
    assert mode.params["log_slope"].shape == (2,)
    chains = sample_posterior(
        MODEL, tokens, key=jax.random.key(0), num_chains=2, num_warmup=25, num_samples=8,
        start="random", max_tree_depth=3, progress=False,
    )  # fmt: skip
    assert chains.draws["log_slope"].shape == (2, 8, 2)
    assert np.isfinite(chains.predictive_log_prob(tokens)).all()
    found = MODEL.candidates(mode.params, tokens[:2])
    assert np.isfinite(np.asarray(found.margin)[:, 0]).all()


def test_bad_settings_are_refused():
    for fields, message in (
        ({"position": "rotary"}, "position: expected one of table, lag, got 'rotary'"),
        ({"window": 3}, "window: expected None with a table of positions, got 3"),
        ({"position": "lag", "window": 0}, "window: expected a whole number of at least 1, got 0"),
        ({"position": "lag", "barrier": "normalised"}, "normalised.* needs a table of positions"),
    ):
        with pytest.raises(InputError, match=message):
            LanguageModel(3, 4, 2, **fields)
    with pytest.raises(InputError, match="got one with a table of 4 positions"):
        LanguageModel(3, 4, 2).at_length(9)
