"""LanguageModel: its law, its joint density against the formula by hand, and its use by plain
NumPyro."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.util import log_density

from probattn import InputError, SequenceProcess, jacobian_blocks, residuals
from probattn.inference.fitting.density import density_of
from probattn.models import LanguageModel, falling_weight, language_law
from probattn.sequence.shared_prefixes import prefix_tree

TOKENS = np.array([[1, 2, 0, 0], [3, 1, 2, 3], [0, 0, 0, 0], [2, 2, 1, 0]])
TWO_HEADS = LanguageModel(4, 5, 3, heads=2)


def random_params(model, seed=0, size=1.0):
    draw = np.random.default_rng(seed).standard_normal
    return {name: jnp.asarray(size * draw(prior.shape())) for name, prior in model.priors().items()}


@partial(jax.jit, static_argnums=(0, 1))
def compute(model, methods, params, tokens):
    """Several methods as one program: compiling takes the time here, and each operation by itself
    would be compiled."""
    return tuple(getattr(model, method)(params, tokens) for method in methods)


@partial(jax.jit, static_argnums=0)
def joint(model, params):
    return log_density(model, (TOKENS,), {}, params)[0]


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def every_sequence(vocab_size, length):
    """All padded sequences: each ends with an end token and padding, or has none."""
    grid = np.stack(np.meshgrid(*[np.arange(vocab_size)] * length, indexing="ij"), -1).reshape(
        -1, length
    )
    after_end = np.cumsum(grid == 0, axis=1) - (grid == 0) > 0
    return grid[~(after_end & (grid != 0)).any(1)]


@pytest.mark.parametrize("heads", [1, 2])
def test_the_law_over_all_padded_sequences_sums_to_one(heads):
    model = LanguageModel(3, 4, 2, heads)
    sequences = every_sequence(3, 4)
    total = np.exp(model.log_likelihood(random_params(model), sequences)).sum()
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-12)


def test_many_sequences_are_scored_in_pieces(monkeypatch):
    params = random_params(LanguageModel(4, 4, 2))
    whole = LanguageModel(4, 4, 2).log_likelihood(params, TOKENS)
    monkeypatch.setattr("probattn.models.language_law.LOGITS_AT_ONCE", 3 * 4 * 4)
    pieces, called = language_law.in_pieces, []
    monkeypatch.setattr(
        language_law, "in_pieces", lambda *given: called.append(given[2]) or pieces(*given)
    )
    again = LanguageModel(4, 4, 2, scale=2.0)  # another program; the scale bears on the path alone
    np.testing.assert_allclose(again.log_likelihood(params, TOKENS), whole, rtol=1e-6)
    assert called == [3]


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_prefixes_give_the_joint_its_gradient_and_the_likelihood_of_the_tokens(weight):
    model = LanguageModel(4, 4, 2, barrier_weight=weight)
    tokens = np.array([[1, 2, 0, 0], [1, 2, 3, 0], [1, 2, 3, 0], [2, 1, 1, 1], [0, 0, 0, 0]])
    params = {name: 0.3 * value for name, value in random_params(model).items()}

    @jax.jit
    def joint(params, data):
        return jax.value_and_grad(lambda one: log_density(model, (data,), {}, one)[0])(params)

    tree = prefix_tree(tokens, 4)
    # Sums of some fifty terms, each of a few dozen roundings.
    tolerance = 1000 * float(jnp.finfo(jnp.zeros(()).dtype).eps)
    pairs = zip(*map(jax.tree.leaves, (joint(params, tokens), joint(params, tree))), strict=True)
    for whole, by_prefix in pairs:
        np.testing.assert_allclose(
            by_prefix, whole, rtol=tolerance, atol=tolerance * abs(whole).max()
        )
    np.testing.assert_allclose(
        model.log_likelihood(params, tree), model.log_likelihood(params, tokens), rtol=tolerance
    )


def test_log_likelihood_follows_the_formula_token_by_token():
    model = LanguageModel(4, 4, 3, 2, rank=2)
    params = random_params(model)
    by_hand = {name: np.asarray(value) for name, value in params.items()}
    E, P, out, b = (by_hand[name] for name in ("embedding", "position", "readout", "bias"))
    for tokens, ours in zip(TOKENS, model.log_likelihood(params, TOKENS), strict=True):
        expected, before = 0.0, [0]
        for x in tokens:
            u = np.stack([E[symbol] + P[t] for t, symbol in enumerate(before)])
            hidden = u[-1]
            for q, k, v in zip(by_hand["query"], by_hand["key"], by_hand["value"], strict=True):
                logits = np.stack([u_s @ k.T @ q @ u[-1] for u_s in u]) / np.sqrt(2)
                hidden = hidden + v @ (softmax(logits) @ u)
            expected += np.log(softmax(out @ hidden + b)[x])
            before.append(x)
            if x == 0:
                break
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("contraction", [None, 0.9])
def test_joint_density_is_likelihood_plus_weighted_path_plus_prior(contraction):
    model = LanguageModel(4, 4, 3, barrier_weight=0.3, scale=0.7, contraction=contraction)
    params = random_params(model, size=0.4)
    path, u = 0.0, model.path(params, TOKENS)
    e, blocks = jax.jit(
        lambda attention, u: (residuals(attention, u), jacobian_blocks(attention, u))
    )(model.attention(params), u)
    for tokens, of_row, blocks_of_row in zip(
        TOKENS, np.asarray(e), np.asarray(blocks), strict=True
    ):
        end = np.flatnonzero(tokens == 0)
        seen = of_row[: end[0] + 1 if len(end) else len(tokens)]
        path += -0.5 * (seen**2).sum() / 0.7**2 - seen.size * np.log(0.7 * np.sqrt(2 * np.pi))
        path += sum(np.log(np.linalg.det(block)) for block in blocks_of_row[: len(seen)])
    prior = 0.0
    stated = {
        "embedding": 1,
        "position": 0.5,
        "query": 3**-0.25,
        "key": 3**-0.25,
        "value": 3**-0.5,
        "readout": 2 * 3**-0.5,
        "bias": 1,
    }
    for name, scale in stated.items():
        prior += (
            -0.5 * (np.asarray(params[name]) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))
        ).sum()
    expected = np.asarray(model.log_likelihood(params, TOKENS)).sum() + 0.3 * path + prior
    np.testing.assert_allclose(joint(model, params), expected, rtol=1e-12)


def test_what_follows_the_end_token_does_not_count():
    model = LanguageModel(4, 4, 2)
    longer = LanguageModel(4, 6, 2)
    params = random_params(longer)
    shorter = params | {"position": params["position"][:4]}
    tokens = TOKENS[[0, 2, 3]]
    padded = np.pad(tokens, ((0, 0), (0, 2)))
    *ours, margins = compute(
        model, ("log_likelihood", "path_log_density", "margins"), shorter, tokens
    )
    theirs = compute(longer, ("log_likelihood", "path_log_density"), params, padded)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert np.isnan(margins[0]).tolist() == [False, False, False, True]


def test_logits_of_a_position_see_only_the_tokens_before_it():
    model = LanguageModel(5, 6, 3)
    params = random_params(model, size=0.3)
    tokens = np.array([1, 2, 3, 4, 1, 2])
    base = model.next_token_logits(params, tokens)
    for position in range(6):
        changed = tokens.copy()
        changed[position] = 1 + tokens[position] % 4
        differs = np.abs(model.next_token_logits(params, changed) - base).max(-1) > 1e-6
        assert differs.tolist() == [t > position for t in range(6)]


def test_joint_is_minus_infinity_outside_the_local_domain_and_the_cap_has_no_outside():
    params = random_params(LanguageModel(4, 4, 3))
    params["query"] = params["key"] = 3 * jnp.eye(3)[None]
    assert joint(LanguageModel(4, 4, 3), params) == -jnp.inf
    assert np.isfinite(joint(LanguageModel(4, 4, 3, contraction=0.9), params))
    assert np.isfinite(joint(LanguageModel(4, 4, 3, barrier_weight=0.0), params))


def test_generated_tokens_come_with_their_log_probability_margin_and_support_token():
    params = random_params(TWO_HEADS)
    found = jax.tree.map(np.asarray, TWO_HEADS.generate(params, 200, key=jax.random.key(0)))
    likelihood, margins = compute(TWO_HEADS, ("log_likelihood", "margins"), params, found.tokens)
    np.testing.assert_allclose(np.nansum(found.log_prob, -1), likelihood, rtol=1e-4)
    margins = np.asarray(margins)
    np.testing.assert_allclose(found.margin, margins, rtol=1e-5)
    for margin, support, tokens in zip(margins, found.support, found.tokens, strict=True):
        positions = np.isfinite(margin).sum()
        assert positions == (tokens[:-1] != 0).sum() + 1
        # As the sequence grew: the smallest among the positions it then had.
        assert support[:positions].tolist() == [
            int(np.argmin(margin[: t + 1])) for t in range(positions)
        ]
        assert (support[positions:] == -1).all()
        assert np.isnan(margin[positions:]).all()
    assert len(np.unique(found.support)) > 3


def test_its_process_is_the_law_that_generates_and_its_cached_step_the_whole_pass():
    params = random_params(TWO_HEADS)
    process = TWO_HEADS.process(params)
    assert "a cached step per position" in repr(process)
    plain = SequenceProcess(
        process.next_token_logits, params, length=5, vocab_size=4, end_token=0, batched=True
    )
    key = jax.random.key(1)
    drawn = process.sample(key, (200,))
    # A uniform number that falls within rounding of a boundary may go the other way: not in 1000 of
    # them.
    np.testing.assert_array_equal(drawn, plain.sample(key, (200,)))
    np.testing.assert_array_equal(drawn, TWO_HEADS.generate(params, 200, key=key).tokens)
    np.testing.assert_allclose(
        process.log_prob(drawn), TWO_HEADS.log_likelihood(params, drawn), rtol=1e-6
    )


def test_plain_numpyro_samples_and_optimises_it_without_a_wrapper():
    model = LanguageModel(5, 6, 2)
    draw = jax.jit(lambda key: Predictive(model, num_samples=1)(key, num_sequences=30)["tokens"][0])
    tokens = draw(jax.random.key(0))
    assert tokens.shape == (30, 6)

    @jax.jit  # the search for a start point would otherwise compile each operation by itself
    def draws_of(key):
        mcmc = MCMC(
            NUTS(model, max_tree_depth=4),
            num_warmup=20,
            num_samples=10,
            num_chains=1,
            progress_bar=False,
        )
        mcmc.run(key, tokens)
        return mcmc.get_samples()

    draws = draws_of(jax.random.key(1))
    assert set(draws) == set(model.priors())
    assert all(jnp.isfinite(value).all() for value in draws.values())
    replicate = jax.jit(lambda key: Predictive(model, draws)(key, num_sequences=7)["tokens"])
    replicated = replicate(jax.random.key(2))
    assert replicated.shape == (10, 7, 6)
    svi = SVI(model, AutoDelta(model), numpyro.optim.Adam(0.05), Trace_ELBO())
    losses = jax.jit(lambda key: svi.run(key, 50, tokens, progress_bar=False).losses)(
        jax.random.key(3)
    )
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("dim", [4, 32])
def test_numpyro_default_start_points_lie_in_the_local_domain(dim):
    model = LanguageModel(40, 10, dim)
    tokens = np.random.default_rng(0).integers(1, 40, (300, 10))
    # NumPyro takes the first of a hundred points where value and gradient are finite, and if none
    # is the last.
    energy = jax.jit(lambda key: NUTS(model).init(key, 1, None, (tokens,), {}).potential_energy)(
        jax.random.key(0)
    )
    assert np.isfinite(energy)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.ones(4, int), r"expected shape \(num_sequences, 4\), got \(4,\)"),
        (np.ones((2, 5), int), "to length 4, got length 5"),
        (np.ones((2, 4)), "expected integers, got dtype float"),
        (np.full((2, 4), np.nan), "expected integers"),
        (np.full((2, 4), 4), "expected ids 0 to 3, got 4"),
        (np.full((2, 4), -1), "expected ids 0 to 3, got -1"),
        ([[1, 0, 2, 0]], "after the end token 0 only 0 may follow"),
        ([[1, 2], [1]], "rows of different lengths"),
        (np.ones((0, 4), int), "at least one sequence"),
    ],
)
def test_bad_tokens_are_refused(tokens, message):
    model = LanguageModel(4, 4, 2)
    with numpyro.handlers.seed(rng_seed=0), pytest.raises(InputError, match=message):
        model(tokens)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 1}, "vocab_size: expected a whole number of at least 2, got 1"),
        ({"length": 0}, "length: expected a whole number"),
        ({"dim": -2}, "dim: expected a whole number of at least 1, got -2"),
        ({"heads": True}, "heads: expected a whole number"),
        ({"rank": 0}, "rank: expected a whole number"),
        ({"barrier_weight": -1.0}, "barrier_weight: expected a finite number >= 0, got -1.0"),
        ({"barrier_weight": float("nan")}, "barrier_weight: expected a finite number"),
        ({"scale": 0.0}, "scale: expected a finite number > 0"),
        ({"contraction": 1.5}, r"contraction: expected a number inside \(0, 1\) or None, got 1.5"),
    ],
)
def test_bad_fields_are_refused_at_construction(fields, message):
    with pytest.raises(InputError, match=message):
        LanguageModel(**({"vocab_size": 4, "length": 4, "dim": 2} | fields))


def test_without_tokens_a_number_of_sequences_is_needed():
    with (
        numpyro.handlers.seed(rng_seed=0),
        pytest.raises(InputError, match="num_sequences: expected at least 1"),
    ):
        LanguageModel(4, 4, 2)()


def test_quantities_are_blind_to_the_order_of_heads():
    model = LanguageModel(4, 4, 2, heads=2)
    params = random_params(model, size=0.4)
    swapped = params | {name: params[name][::-1] for name in ("query", "key", "value")}
    before, after = (model.quantities(one, TOKENS) for one in (params, swapped))
    for name, value in before.items():
        np.testing.assert_allclose(
            after[name], value, rtol=0, atol=1e-4
        )  # sums of some ten terms of order 10


def shifted(params, site, by):
    """Other parameters of the same law: the end token begins each path and occurs nowhere else."""
    if site == "start":
        away = params["embedding"].at[0].add(by), params["position"].at[0].add(-by)
    elif site == "embedding":
        away = params["embedding"].at[1:].add(by), params["position"].at[1:].add(-by)
    else:
        return params | {site: params[site] + by}
    return params | dict(zip(("embedding", "position"), away, strict=True))


@pytest.mark.parametrize("site", ["start", "embedding", "readout", "bias"])
def test_quantities_are_blind_to_shifts_that_the_law_does_not_see(site):
    model = LanguageModel(4, 4, 2)
    params = random_params(model, size=0.4)
    by = jnp.asarray([0.7, -1.1]) if site != "bias" else 0.7
    laws, quantities = [], []
    for one in (params, shifted(params, site, by)):
        laws.append(compute(model, ("log_likelihood", "path_log_density"), one, TOKENS))
        quantities.append(model.quantities(one, TOKENS))
    # Sums of some ten terms of order 10.
    np.testing.assert_allclose(*laws, rtol=0, atol=1e-4)
    for name, value in quantities[0].items():
        np.testing.assert_allclose(quantities[1][name], value, rtol=0, atol=1e-4, err_msg=name)


def test_embeddings_looked_up_as_products_are_the_same_model():
    gathered, multiplied = LanguageModel(4, 4, 3), LanguageModel(4, 4, 3, one_hot=True)
    params = random_params(gathered, size=0.4)

    def with_slope(model, params):
        return jax.value_and_grad(lambda params: model.log_likelihood(params, TOKENS).sum())(params)

    ours, theirs = jax.jit(
        lambda params: [with_slope(model, params) for model in (multiplied, gathered)]
    )(params)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(
            one, other, rtol=0, atol=100 * jnp.finfo(other.dtype).eps * jnp.abs(other).max()
        )
    assert density_of(multiplied, TOKENS) == density_of(gathered, TOKENS)
    program = (
        jax.jit(jax.grad(lambda params: multiplied.path(params, TOKENS).sum()))
        .lower(params)
        .as_text()
    )
    assert "scatter" not in program


def test_a_falling_weight_keeps_the_whole_factor_constant_beyond_a_number():
    assert [falling_weight(0.2, 300, number) for number in (1, 300, 600)] == [0.2, 0.2, 0.1]
    np.testing.assert_allclose(9000 * falling_weight(0.2, 300, 9000), 300 * 0.2)
    for given, message in (
        ((-1.0, 3, 3), "weight: expected a number from 0, got -1.0"),
        ((float("nan"), 3, 3), "weight: expected a number from 0, got nan"),
        ((1.0, 0, 3), "until: expected a whole number of at least 1, got 0"),
        ((1.0, 3, 0), "num_sequences: expected a whole number of at least 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            falling_weight(*given)
