"""MAP and posterior against cases with known answers; predictions as mixtures over whole
sequences."""

import dataclasses

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from known import DATA, Conjugate, Impossible, Line
from numpyro.infer.hmc_util import dual_averaging
from scipy.linalg import sqrtm

from probattn import FitError, InputError
from probattn.inference import sample_posterior
from probattn.inference.devices.device_placement import place_chains
from probattn.inference.fitting.chain_program import AT_BOUNDARY, AVERAGING, TARGET, chain_kernel
from probattn.inference.fitting.chain_starts import check_start, start_points
from probattn.inference.fitting.fit import Fit
from probattn.inference.fitting.posterior import _refuse_failure, _refuse_stuck
from probattn.inference.fitting.transitions import Point, no_u_turn, random_length_hmc
from probattn.inference.fitting.unconstrained import constrain, potential
from probattn.inference.fitting.warmup import FIRST_LONGEST, FIRST_STEP

KEY = jax.random.key(0)


def test_posterior_has_the_known_mean_and_spread():
    fit = sample_posterior(
        Conjugate(),
        DATA,
        key=KEY,
        num_chains=2,
        num_warmup=300,
        num_samples=1000,
        max_tree_depth=4,
        progress=False,
    )
    theta = fit.draws["theta"]
    assert theta.shape == (2, 1000)
    size = az.ess(theta)
    assert size > 400
    assert abs(theta.mean() - Conjugate.mean) < 4 * Conjugate.spread / np.sqrt(size)
    assert abs(theta.std() / Conjugate.spread - 1) < 4 / np.sqrt(2 * size)


@pytest.mark.parametrize("start", ["maps", "map", "prior", "random"])
def test_without_a_start_point_it_raises(start):
    with pytest.raises(FitError, match="no start point of finite density"):
        sample_posterior(
            Impossible(), DATA, key=KEY, num_chains=1, num_warmup=5, num_samples=5, start=start
        )


@pytest.mark.parametrize("name", ["num_chains", "num_warmup", "num_samples", "max_tree_depth"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(InputError, match=f"{name}: expected a whole number of at least 1, got 0"):
        sample_posterior(Conjugate(), DATA, key=KEY, **{name: 0})


def test_predictive_is_the_mixture_of_sequence_probabilities(fits, corpus):
    posterior, model = fits["posterior"], fits["posterior"].model
    flat = posterior.flat_draws()
    probabilities = []
    for i in range(80):
        params = {name: value[i] for name, value in flat.items()}
        probabilities.append(
            np.exp(np.asarray(model.log_likelihood(params, corpus.heldout), np.float64))
        )
    expected = np.log(np.mean(probabilities, axis=0))
    tolerance = 100 * np.finfo(posterior.draws["bias"].dtype).eps * np.abs(expected).max()
    np.testing.assert_allclose(
        posterior.predictive_log_prob(corpus.heldout), expected, rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(
        posterior.process().log_prob(corpus.heldout), expected, rtol=0, atol=tolerance
    )
    point = fits["map"]
    np.testing.assert_array_equal(
        point.process().log_prob(corpus.heldout), model.log_likelihood(point.params, corpus.heldout)
    )
    single = model.log_likelihood(point.params, corpus.heldout)
    np.testing.assert_allclose(
        point.predictive_log_prob(corpus.heldout), single, rtol=0, atol=tolerance
    )


def test_the_mixture_over_sequences_is_not_the_product_of_averaged_conditionals(fits, corpus):
    posterior, model = fits["posterior"], fits["posterior"].model
    tokens, flat = corpus.heldout[:5], posterior.flat_draws()
    conditionals = np.mean(
        [
            np.take_along_axis(
                np.asarray(
                    jax.nn.softmax(
                        model.next_token_logits({k: v[i] for k, v in flat.items()}, tokens)
                    )
                ),
                tokens[..., None],
                -1,
            )[..., 0]
            for i in range(80)
        ],
        axis=0,
    )
    before_end = np.concatenate([np.ones((5, 1), bool), tokens[:, :-1] != 0], axis=1)
    wrong = np.where(before_end, np.log(conditionals), 0).sum(1)
    assert np.abs(posterior.predictive_log_prob(tokens) - wrong).max() > 1e-3


def test_datatree_of_a_posterior_has_what_arviz_needs(fits, corpus):
    tree = fits["posterior"].to_datatree()
    assert {"posterior", "sample_stats", "log_likelihood", "observed_data"} <= set(tree.children)
    assert tree["posterior"]["embedding"].shape == (2, 40, 4, 2)
    assert {"diverging", "energy", "n_steps", "step_size", "acceptance_rate"} <= set(
        tree["sample_stats"].data_vars
    )
    assert tree["log_likelihood"]["tokens"].shape == (2, 40, 40)
    assert np.isfinite(az.rhat(tree, var_names=["bias"])["bias"]).all()


def test_datatree_of_a_map_has_no_sample_to_diagnose(fits):
    tree = fits["map"].to_datatree()
    terms = {"log_prior", "log_path", "log_likelihood"}
    assert terms | {"map", "observed_data"} == set(tree.children)
    assert tree["map"]["embedding"].shape == (1, 1, 4, 2)
    with pytest.raises(AttributeError, match="a posterior has draws"):
        _ = fits["posterior"].params


def test_no_fit_returns_a_finite_number_for_tokens_it_cannot_score(fits):
    with pytest.raises(InputError, match="expected ids 0 to 3, got 9"):
        fits["map"].predictive_log_prob(np.full((2, 5), 9))
    with pytest.raises(InputError, match="to length 5, got length 3"):
        fits["posterior"].predictive_log_prob(np.ones((2, 3), int))


@pytest.mark.parametrize("method", [None, "batches", "vectorised"])
def test_chains_are_the_same_wherever_they_run(method):
    settings = dict(
        num_chains=4, num_warmup=20, num_samples=8, max_tree_depth=3, start="random", progress=False
    )
    fit = sample_posterior(Line(), DATA, key=KEY, chain_method=method, **settings)
    assert fit.shape == (4, 8)
    assert len({float(chain[-1]) for chain in fit.stats["potential_energy"]}) == 4
    placed = place_chains(4, method)
    assert (placed.num_devices, placed.method) == (2, method or "batches")
    other = sample_posterior(Line(), DATA, key=KEY, chain_method="batches", **settings)
    # Programs differ by rounding, which the step sizes of warmup magnify; slopes are of order 1.
    first, again = (one.draws["slopes"][:, 0] for one in (fit, other))
    np.testing.assert_allclose(first, again, rtol=0, atol=1e-6)
    assert np.abs(first).max() > 0.1


def test_placement_says_where_chains_run():
    assert str(place_chains(2)) == "2 chains on 2 cpu devices"
    assert str(place_chains(4)) == "4 chains on 2 cpu devices, 2 on each, one after the other"
    assert str(place_chains(3)) == "3 chains on 1 cpu device, one after the other"
    assert str(place_chains(4, "vectorised")) == "4 chains on 2 cpu devices, 2 on each, vectorised"
    with pytest.raises(
        InputError, match="parallel needs a device for each of 5 chains, there are 2"
    ):
        place_chains(5, "parallel")
    with pytest.raises(InputError, match="expected one of parallel, vectorised, batches"):
        place_chains(2, "pmap")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(start="mode"), "start: expected maps, map, prior, random or a MAP fit, got 'mode'"),
        (dict(start="map", num_starts=2), "num_starts: expected at most 1, got 2"),
        (dict(num_starts=5), "num_starts: expected at most 4, got 5"),
    ],
)
def test_bad_starts_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        sample_posterior(Conjugate(), DATA, key=KEY, **settings)


def test_a_posterior_starts_where_a_map_ended(fits, corpus):
    with pytest.raises(InputError, match="start: expected a MAP fit, got one by posterior"):
        sample_posterior(fits["map"].model, corpus.train, key=KEY, start=fits["posterior"])
    fit = sample_posterior(
        fits["map"].model,
        corpus.train,
        key=KEY,
        num_chains=2,
        num_warmup=60,
        num_samples=10,
        max_tree_depth=4,
        start=fits["map"],
        progress=False,
    )
    assert fit.origins == (0, 0)
    assert fit.start == "a point on the way to one mode"
    points, gradients = start_points(
        fits["map"].model, jnp.asarray(corpus.train), KEY, fits["map"], 1, False
    )
    assert gradients == 0
    there = constrain(
        fits["map"].model, corpus.train, {name: value[0] for name, value in points.items()}
    )
    share = np.asarray(there["bias"]) / np.asarray(fits["map"].params["bias"])
    np.testing.assert_allclose(share, share[0], rtol=1e-5)
    assert 0.5 <= share[0] < 1


@pytest.fixture
def small_chunks(monkeypatch):
    for module in ("chain_program", "posterior"):
        monkeypatch.setattr(f"probattn.inference.fitting.{module}.CHUNK_ITERATIONS", 5)
    chain_kernel.cache_clear()
    yield
    chain_kernel.cache_clear()


@pytest.mark.parametrize("sampler", ["hmc", "nuts"])
def test_chunks_are_transitions_one_after_the_other(sampler, small_chunks):
    """A twin without chunks, blocks or store: one transition after the other from the same start
    with the same keys, in four stages of warmup whose metric is a matrix over all coordinates.

    The longer stages take more than one chunk, and some trajectories in warmup meet the boundary.
    """
    model, data, most = Line(wall=0.5), jnp.asarray(DATA), 2
    fit = sample_posterior(
        model,
        data,
        key=KEY,
        num_chains=2,
        num_warmup=25,
        num_samples=8,
        sampler=sampler,
        max_tree_depth=most,
        start="random",
        progress=False,
    )
    for_start, *keys = jax.random.split(KEY, 3)
    start, gradients = start_points(model, data, for_start, "random", 2, False)
    of_z, chains = potential(model, data), range(2)
    unravel = ravel_pytree({name: value[0] for name, value in start.items()})[1]
    z = [
        np.array([start["offset"][chain], *start["slopes"][chain]]) for chain in chains
    ]  # in the order of names

    @jax.jit
    def begin(root, w):
        value, gradient = jax.value_and_grad(lambda w: of_z(unravel(root @ w)))(w)
        return Point(w, value, gradient)

    @jax.jit
    def step(root, point, key, step_size, longest, measure):
        def of_w(w):
            return of_z(unravel(root @ w))

        if sampler == "nuts":
            return no_u_turn(of_w, point, key, step_size, most)
        return random_length_hmc(of_w, point, key, step_size, longest, 2**most - 1, measure)

    first, update = dual_averaging()
    root, step_size, longest, met = np.eye(3), FIRST_STEP, FIRST_LONGEST, 0
    # of each stage the iterations, and the first of them whose gradients and lengths count
    for iterations, counts in ((3, 2), (5, 3), (11, 5), (6, 3)):
        moments, turns, means = [], [], []
        for chain in chains:
            point = begin(root, jnp.linalg.solve(root, z[chain]))
            own_step, own_longest = step_size, longest
            averaging = first(jnp.log(2 * step_size))
            for i in range(1, iterations + 1):
                keys[chain], now = jax.random.split(keys[chain])
                point, report = step(
                    root, point, now, own_step, round(float(own_longest)), i >= counts
                )
                gradients += int(report.num_steps)
                met += int(report.outside)
                averaging = update(
                    TARGET - (AT_BOUNDARY if report.outside else report.acceptance), averaging
                )
                own_step = jnp.exp(averaging[0])
                if i >= counts:
                    own_longest += (report.turn - own_longest) / AVERAGING
                    moments.append(np.outer(point.gradient, point.gradient))
                    turns.append(int(report.turn))
            means.append(float(averaging[1]))
            z[chain] = np.asarray(root @ point.w)
        step_size, longest = np.exp(np.mean(means)), np.mean(turns)
        if iterations != 6:
            moment, number = np.mean(moments, axis=0), len(moments)
            spread = np.diag(np.sqrt(np.diag(moment)))
            share = 3 / (3 + number)
            correlation = np.linalg.inv(spread) @ moment @ np.linalg.inv(spread)
            root = root @ np.linalg.inv(
                np.real(sqrtm((1 - share) * correlation + share * np.eye(3))) @ spread
            )
            step_size *= np.sqrt(np.trace(moment) / 3)
    assert met > 0 or sampler == "nuts"  # which cannot tell
    for chain in chains:
        point = begin(root, jnp.linalg.solve(root, z[chain]))
        for draw in range(8):
            keys[chain], now = jax.random.split(keys[chain])
            point, report = step(root, point, now, step_size, round(longest), False)
            slopes = constrain(model, data, unravel(root @ point.w))["slopes"]
            # The programs are others, whose rounding the step sizes of warmup magnify; a wrong key
            # would be off by 1.
            np.testing.assert_allclose(
                fit.draws["slopes"][chain, draw], slopes, rtol=1e-6, atol=1e-6
            )
            assert fit.stats["n_steps"][chain, draw] == report.num_steps
            gradients += int(report.num_steps)
    np.testing.assert_allclose(fit.stats["step_size"], step_size, rtol=1e-6)
    assert fit.gradients == gradients


def test_starts_that_are_modes_cost_their_descents(monkeypatch):
    monkeypatch.setattr("probattn.inference.fitting.chain_starts.MODE_STEPS", 60)
    for start, expected in {"maps": 3 * 60, "prior": 0, "random": 0}.items():
        assert start_points(Conjugate(), jnp.asarray(DATA), KEY, start, 3, False)[1] == expected


@pytest.mark.parametrize(
    ("rows", "outside", "share"),
    [
        (1, (0, 0), 0.5),
        (1, (-np.inf, 0.82), 1.0),
        (1, (0.41, 0.44), 0.55),
        (10, (0, 0), 0.75),
    ],
)
def test_chains_start_on_the_way_to_modes_where_there_is_room(rows, outside, share):
    """The density of y ~ N(theta, 1), of four values, each so many times.

    At share s of the mode m the energy is higher by (1 - s)^2 m^2 precision / 2: at a half by 0.4,
    which is below 1; with ten times the data by 1.0 at three quarters. With density 0 up to 0.82
    all points on the way are outside, and the mode is left; with density 0 about a half of the mode
    the next share counts."""
    first, last = outside

    def model(y):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        numpyro.factor("wall", jnp.where((theta > first) & (theta < last), -jnp.inf, 0.0))
        numpyro.sample("y", dist.Normal(theta, 1), obs=y[:, 0])

    data = jnp.asarray(np.repeat(DATA, rows, axis=0))
    mode = data.sum() / (1 / 4 + len(data))
    points, _ = start_points(model, data, KEY, "maps", 2, False)
    # A descent of a thousand steps is within 5e-3 of the mode, beside a wall too; shares are 0.04
    # apart.
    np.testing.assert_allclose(points["theta"], [share * mode] * 2, atol=5e-3)


def test_what_is_not_finite_and_what_never_moved_is_refused():
    good = np.random.default_rng(0).normal(size=(2, 5, 3))
    _refuse_failure({"theta": good}, 20)
    for wrong in (np.nan, np.inf):
        bad = good.copy()
        bad[1, 3, 0] = wrong
        with pytest.raises(FitError, match="theta is not finite at chain 2, draw 24"):
            _refuse_failure({"theta": bad}, 20)
    _refuse_stuck(good[..., 0])
    with pytest.raises(FitError, match="chain 2 never moved; give it more warmup"):
        _refuse_stuck(np.array([[1.0, 2.0, 1.0], [3.0, 3.0, 3.0]]))


def test_some_draws_are_evenly_spaced_over_all_chains():
    theta = np.arange(80.0).reshape(2, 40)
    fit = Fit(Conjugate(), "posterior", DATA, {"theta": theta})
    assert fit.flat_draws(4)["theta"].tolist() == [0, 26, 53, 79]
    np.testing.assert_array_equal(fit.flat_draws(80)["theta"], np.arange(80.0))
    assert fit.thinned(4).draws["theta"].tolist() == [[0, 39], [40, 79]]  # as many of each chain


def test_a_start_that_is_no_fit_of_the_model_is_refused(fits, corpus):
    model, data = fits["map"].model, jnp.asarray(corpus.train)
    with pytest.raises(InputError, match="start: expected maps, map, prior, random or a MAP fit"):
        check_start(None, 4, None)
    other = dataclasses.replace(model, dim=model.dim + 1, rank=None)
    with pytest.raises(InputError, match="start: expected a fit of this model, with embedding of"):
        start_points(other, data, KEY, fits["map"], 1, False)
