"""One transition at a time: laws that it leaves as they are, and what it says that it did.

Many chains at once, each with its own key: their positions are independent, so that errors of means
over them are known."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from probattn.inference.fitting.transitions import Point, no_u_turn, random_length_hmc

PRECISION = np.array([[2.0, 0.6, -0.5], [0.6, 1.0, 0.3], [-0.5, 0.3, 1.5]])
MEAN = np.array([1.0, -2.0, 0.5])
WALL = -0.3
SAMPLERS = ("hmc", "nuts")


def gaussian(w):
    return 0.5 * (w - MEAN) @ (PRECISION @ (w - MEAN))


def isotropic(w):
    return 0.5 * (w**2).sum()


def truncated(w):
    return jnp.where(w[0] > WALL, isotropic(w), jnp.inf)


def broken(w):
    return jnp.where(w[0] > WALL, isotropic(w), jnp.nan)


def begin(potential, w):
    return Point(w, *jax.value_and_grad(potential)(w))


@lru_cache
def program(sampler, potential, number, most):
    """Compiled: chains that begin at one place and take `number` transitions."""

    def chain(key, start, step_size, longest, measure):
        def one(point, key):
            if sampler == "nuts":
                new = no_u_turn(potential, point, key, step_size, 4)
            else:
                new = random_length_hmc(potential, point, key, step_size, longest, most, measure)
            return new[0], new

        return jax.lax.scan(one, begin(potential, start), jax.random.split(key, number))[1]

    return jax.jit(jax.vmap(chain, in_axes=(0, None, None, None, None)))


def run(
    sampler, potential, start, step_size, longest=4, measure=False, number=30, chains=4000, most=15
):
    """Points and reports of the chains after each transition, arrays (chains, number, ...)."""
    start, step_size = jnp.asarray(start, float), jnp.asarray(step_size)
    return jax.tree.map(
        np.asarray,
        program(sampler, potential, number, most)(
            jax.random.split(jax.random.key(0), chains),
            start,
            step_size,
            jnp.asarray(longest),
            jnp.asarray(measure),
        ),
    )


def assert_mean(values, mean):
    """Of independent values, within 4.5 standard errors."""
    values = np.asarray(values, float)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(0) - mean) < 4.5 * error).all(), (values.mean(0), mean, error)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_law_of_a_correlated_gaussian_stays(sampler):
    """From a point outside the bulk the chains reach it and remain in it, although steps are so
    large that some proposals are refused."""
    points, reports = run(sampler, gaussian, np.zeros(3), 0.9)
    w = points.w[:, -1]
    assert_mean(w, MEAN)
    centred = (w - MEAN)[:, :, None] * (w - MEAN)[:, None]
    assert_mean(centred, np.linalg.inv(PRECISION))
    assert_mean(points.potential[:, -1], 1.5)  # half a chi-square with three degrees of freedom
    assert 0.6 < reports.acceptance.mean() < 0.95
    assert not reports.diverging.any()
    assert not reports.outside.any()
    for found, expected in zip(points, begin(gaussian, w[0]), strict=True):
        np.testing.assert_allclose(found[0, -1], expected, rtol=0, atol=1e-4)


def test_the_energy_is_that_of_where_the_chain_is():
    """Without its potential it is kinetic, half a chi-square with three degrees of freedom."""
    points, reports = run("hmc", gaussian, np.zeros(3), 0.9)
    assert_mean((reports.energy - points.potential)[:, -1], 1.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_wall_truncates_the_law(sampler):
    points, reports = run(sampler, truncated, [0.5, 0.0, 0.0], 0.7)
    assert (points.w[..., 0] > WALL).all()
    w = points.w[:, -1]
    assert_mean(w, [norm.pdf(WALL) / norm.sf(WALL), 0, 0])
    assert_mean(w[:, 0] ** 2, 1 + WALL * norm.pdf(WALL) / norm.sf(WALL))
    assert_mean(w[:, 1:] ** 2, 1)
    met, other = reports.outside, reports.diverging
    if sampler == "nuts":  # which does not tell one from the other
        met, other = other, met
    assert 0.05 < met.mean() < 0.9
    assert not other.any()
    if sampler == "hmc":
        assert (reports.acceptance[met] == 0).all()
        stays = met[:, 1:]
        np.testing.assert_array_equal(points.w[:, 1:][stays], points.w[:, :-1][stays])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_too_large_a_step_diverges(sampler):
    points, reports = run(sampler, gaussian, np.zeros(3), 100.0)
    assert reports.diverging.all()
    assert not reports.outside.any()
    np.testing.assert_array_equal(points.w, 0)
    np.testing.assert_allclose(reports.acceptance, 0, atol=1e-6)


def test_what_is_not_a_number_diverges():
    points, reports = run("hmc", broken, [0.5, 0.0, 0.0], 0.7)
    assert 0.05 < reports.diverging.mean() < 0.9
    assert not reports.outside.any()
    assert np.isfinite(points.potential).all()
    assert (reports.acceptance[reports.diverging] == 0).all()


@pytest.mark.parametrize(("sampler", "steps"), [("hmc", [1, 2, 3, 4]), ("nuts", [15])])
def test_tiny_steps_are_accepted_and_counted(sampler, steps):
    """The energy changes by the square of the step. A tree that has not turned has all its fewer
    than 2^4 steps."""
    _, reports = run(sampler, gaussian, MEAN, 1e-3)
    np.testing.assert_allclose(reports.acceptance, 1, atol=2e-5)
    assert np.unique(reports.num_steps).tolist() == steps


@pytest.mark.parametrize(("longest", "expected"), [(6, 6), (1, 1), (40, 15)])
def test_lengths_are_uniform(longest, expected):
    """None is longer than 15, the most that was allowed."""
    _, reports = run("hmc", gaussian, MEAN, 0.01, longest)
    steps = reports.num_steps.ravel()  # 120,000, independent of where the chains are
    share, counts = 1 / expected, np.bincount(steps, minlength=expected + 1)
    assert len(counts) == expected + 1
    assert counts[0] == 0
    error = np.sqrt(share * (1 - share) / len(steps))
    assert (np.abs(counts[1:] / len(steps) - share) <= 4.5 * error).all()


def test_measuring_changes_no_point():
    """A trajectory that goes on beyond its proposal, also across the wall, ends where it would."""
    start = [0.5, 0.0, 0.0]
    points, plain = run("hmc", truncated, start, 0.4, 3)
    others, measured = run("hmc", truncated, start, 0.4, 3, measure=True)
    np.testing.assert_array_equal(points.w, others.w)
    np.testing.assert_array_equal(plain.outside, measured.outside)
    assert (measured.num_steps >= plain.num_steps).all()
    assert (measured.num_steps > plain.num_steps).mean() > 0.5


def test_a_trajectory_from_the_centre_turns_after_a_quarter_of_its_period():
    """There q = p_0 sin t and p = p_0 cos t, whose product falls below 0 at pi / 2. The leapfrog
    integrator with step e turns by arccos(1 - e^2 / 2) a step."""
    for step_size in (0.3, 0.11):
        _, report = run("hmc", isotropic, np.zeros(3), step_size, 3, True, number=1)
        turned = int(np.pi / 2 / np.arccos(1 - step_size**2 / 2)) + 1
        np.testing.assert_array_equal(report.turn, turned)
        np.testing.assert_array_equal(report.num_steps, turned)


def test_a_trajectory_that_does_not_turn_counts_its_steps():
    _, report = run("hmc", isotropic, np.zeros(3), 1e-3, 3, True, number=1)
    np.testing.assert_array_equal(report.turn, 15)
    _, report = run("hmc", isotropic, np.zeros(3), 1e-3, 3, False, number=1)
    assert np.unique(report.turn).tolist() == [1, 2, 3]
    np.testing.assert_array_equal(report.turn, report.num_steps)


def test_a_trajectory_in_many_dimensions_turns_after_half_its_period():
    """With |q_0|^2 = |p_0|^2 = n and q_0 . p_0 = n c, where c is N(0, 1 / n) distributed, the
    product of p and q - q_0 is n (sin t + c (cos 2t - cos t)), which vanishes near pi + 2c. It is
    seen half a step later on average."""
    n, step_size, chains = 900, jnp.asarray(0.05), 1000

    def one(key):
        for_start, for_transition = jax.random.split(key)
        w = jax.random.normal(for_start, (n,))
        point = begin(isotropic, w * jnp.sqrt(n) / jnp.linalg.norm(w))
        longest, measure = jnp.asarray(1), jnp.asarray(True)
        return random_length_hmc(
            isotropic, point, for_transition, step_size, longest, 100, measure
        )[1].turn

    turn = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), chains))
    times = (np.asarray(turn) - 0.5) * float(step_size)
    spread, number = 2 / np.sqrt(n), np.sqrt(chains)
    # c and |p_0|^2 move the mean by some 1 / n; a step of e is a spread of e / 12^(1/2).
    assert abs(times.mean() - np.pi) < 4.5 * spread / number + 3 / n
    wide = np.sqrt(spread**2 + float(step_size) ** 2 / 12)
    assert abs(times.std() / wide - 1) < 4.5 / number / np.sqrt(2) + 3 / n
