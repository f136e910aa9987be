"""One transition of a chain: random-length Hamiltonian Monte Carlo, or NumPyro's NUTS.

Coordinates w have unit mass; the metric is in the change of coordinates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.infer.hmc_util import IntegratorState, build_tree, velocity_verlet

MOST_ENERGY = 1000.0  # a trajectory whose energy rises by more has diverged


class Point(NamedTuple):
    """A position of a chain.

    Args: w, coordinates [n]; potential, the negative log density there; gradient, of it [n].
    """

    w: Array
    potential: Array
    gradient: Array


class Report(NamedTuple):
    """What a transition did.

    Args:
        energy: potential and kinetic energy of the new position with the momentum it came with.
        acceptance: probability with which the proposal was accepted; for NUTS the tree's mean.
        num_steps: gradients taken.
        diverging: whether the energy rose by more than MOST_ENERGY.
        outside: whether the trajectory met a point of density 0. NUTS does not tell it from a
            divergence, and it is False there.
        turn: number of steps after which the trajectory turned back; for NUTS, steps of the tree.
    """

    energy: Array
    acceptance: Array
    num_steps: Array
    diverging: Array
    outside: Array
    turn: Array


class _Trajectory(NamedTuple):
    """A trajectory so far: its end, the proposal, and when it turned back (0: not yet)."""

    steps: Array
    end: IntegratorState
    proposal: IntegratorState
    turn: Array


def random_length_hmc(
    potential: Callable,
    point: Point,
    key: Array,
    step_size: Array,
    longest: Array,
    most: int,
    measure: Array,
) -> tuple[Point, Report]:
    """Hamiltonian Monte Carlo with 1 to `longest` steps, each number equally likely.

    A random length keeps trajectories from returning to where they began. With `measure` the
    trajectory goes on beyond the proposal until it turns back, that is until the distance from its
    start no longer grows; after that many steps more are of little use.

    Args: most, steps that no trajectory exceeds. Source: Neal, arXiv:1206.1901, section 3.2; the
    measure of a trajectory's length is that of Wu, Stoehr and Robert, arXiv:1810.04449.
    """
    for_momentum, for_length, for_acceptance = jax.random.split(key, 3)
    momentum = jax.random.normal(for_momentum, point.w.shape, point.w.dtype)
    length = jax.random.randint(for_length, (), 1, jnp.minimum(longest, most) + 1)
    _, step = velocity_verlet(potential, _kinetic)
    start = IntegratorState(point.w, momentum, point.potential, point.gradient)
    before = point.potential + _kinetic(1.0, momentum)

    def is_fine(at: IntegratorState) -> Array:
        return at.potential_energy + _kinetic(1.0, at.r) - before <= MOST_ENERGY  # False for NaN

    def goes_on(at: _Trajectory) -> Array:
        wanted = (at.steps < length) | (measure & (at.turn == 0) & (at.steps < most))
        return wanted & is_fine(at.end)

    def move(at: _Trajectory) -> _Trajectory:
        end = step(step_size, 1.0, at.end)
        steps = at.steps + 1
        turned = (at.turn == 0) & (((end.z - point.w) * end.r).sum() < 0)
        return _Trajectory(
            steps,
            end,
            jax.tree.map(lambda a, b: jnp.where(steps == length, a, b), end, at.proposal),
            jnp.where(turned, steps, at.turn),
        )

    none = jnp.zeros((), int)
    path = jax.lax.while_loop(goes_on, move, _Trajectory(none, start, start, none))
    failed = path.steps < length  # before the proposal was reached, or at it
    failed |= (path.steps == length) & ~is_fine(path.end)
    after = path.proposal.potential_energy + _kinetic(1.0, path.proposal.r)
    acceptance = jnp.where(failed, 0.0, jnp.minimum(1.0, jnp.exp(before - after)))
    accepted = jax.random.uniform(for_acceptance) < acceptance
    new = Point(path.proposal.z, path.proposal.potential_energy, path.proposal.z_grad)
    outside = failed & jnp.isposinf(path.end.potential_energy)
    return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, point), Report(
        jnp.where(accepted, after, before),
        acceptance,
        path.steps,
        failed & ~outside,
        outside,
        jnp.where(path.turn > 0, path.turn, path.steps),
    )


def no_u_turn(
    potential: Callable, point: Point, key: Array, step_size: Array, depth: int
) -> tuple[Point, Report]:
    """NumPyro's NUTS, whose tree has fewer than 2 to the power of `depth` steps."""
    for_momentum, for_tree = jax.random.split(key)
    momentum = jax.random.normal(for_momentum, point.w.shape, point.w.dtype)
    _, step = velocity_verlet(potential, _kinetic)
    start = IntegratorState(point.w, momentum, point.potential, point.gradient)
    mass = jnp.ones_like(point.w)
    tree = build_tree(
        step, _kinetic, start, mass, step_size, for_tree, MOST_ENERGY, max_tree_depth=depth
    )
    return Point(tree.z_proposal, tree.z_proposal_pe, tree.z_proposal_grad), Report(
        tree.z_proposal_energy,
        tree.sum_accept_probs / tree.num_proposals,
        tree.num_proposals,
        tree.diverging,
        jnp.zeros((), bool),
        tree.num_proposals,
    )


def _kinetic(inverse_mass: Any, momentum: Array) -> Array:
    """Kinetic energy at unit mass. NumPyro's integrator passes the inverse mass, here 1."""
    return 0.5 * (inverse_mass * momentum**2).sum()
