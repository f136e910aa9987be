"""The bijection between noise and embeddings (theory, sections 1, 2 and 5).

Letters in shapes: b sequence, t position, i and j components of an embedding.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optimistix
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from probattn.attention.attention import Attention
from probattn.attention.batching import over_sequences
from probattn.attention.jacobian import log_det, residuals
from probattn.attention.mean_at_position import mean_at
from probattn.attention.uniqueness import always_unique, require_strict
from probattn.attention.weighted_mean import shrinkage
from probattn.checks import in_default_float
from probattn.errors import InputError


class AttentionTransform(Transform):
    """The map from noise e to the embeddings u that solve `u_t = mu_t(u_t; u_<t) + e_t` for all t.

        forward   e -> u      position by position, by Newton's method
        inverse   u -> e      the residuals
        log |det du/de|       = -sum_t log |det J_t|

    Both are of shape (..., length, dim); a batch of maps broadcasts against the leading axes. The
    forward map is differentiable, by the implicit function theorem, in e and in the attention's
    arrays. Where the solver does not converge, the embedding and all later ones are NaN.

    Args:
        attention: with the strict mask.
        branch: which root the forward map takes if no certificate says that there is only one.
            None refuses. "fixed_point" takes the limit of `u <- mu_t(u) + e_t` from u = e_t, at
            which det J_t >= 0, or NaN if there is none within 10,000 iterations.

    Raises:
        InputError: at construction an attention with the inclusive mask or an unknown branch; in
            the forward direction an attention without a certificate, unless a branch is named; a
            wrong shape; a NaN.

    Source: theory, sections 2, 4 and 5.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, AttentionTransform
        >>> transform = AttentionTransform(Attention.from_interaction([[[0.5]]], contraction=0.9))
        >>> # from noise, one embedding after the other
        >>> u = transform(jnp.array([[-1.0], [1.0], [0.5]]))
        >>> print(transform.inv(u).round(4).ravel())
        [-1.   1.   0.5]
    """

    domain = constraints.real_matrix
    codomain = constraints.real_matrix

    def __init__(self, attention: Attention, branch: str | None = None):
        require_strict(attention)
        if branch not in (None, "fixed_point"):
            raise InputError(f'branch: expected None or "fixed_point", got {branch!r}')
        self.attention, self.branch = in_default_float(attention), branch

    def __call__(self, x: ArrayLike) -> Float[Array, "*batch length dim"]:
        length = jnp.shape(x)[-2] if jnp.ndim(x) >= 2 else 0
        # A wrong shape (length 0 here) is refused by over_sequences.
        if length == 0 or always_unique(self.attention, length):
            return over_sequences(_newton, self.attention, x, "noise")
        if self.branch is None:
            raise InputError(
                "attention: the equation u = mu(u) + noise may have several solutions (of traced "
                "parameters nothing but the cap is known), so a sample is not unique; use "
                'contraction=0.9 (always unique), or ask for branch="fixed_point" and check draws '
                "with `certified`"
            )
        return over_sequences(_iterate, self.attention, x, "noise")

    def _inverse(self, y: ArrayLike) -> Float[Array, "*batch length dim"]:
        """The residuals of embeddings y, which are the noise that gives y."""
        return residuals(self.attention, y)

    def log_abs_det_jacobian(
        self, x: Any, y: ArrayLike, intermediates: Any = None
    ) -> Float[Array, "*batch"]:
        """`log |det du/de|` at embeddings y; the noise x and `intermediates` are not used."""
        return -log_det(self.attention, y).sum(-1)

    def tree_flatten(self):
        return (self.attention,), (("attention",), {"branch": self.branch})

    def eq(self, other: object, static: bool = False) -> Any:
        if not isinstance(other, AttentionTransform) or self.branch != other.branch:
            return False
        ours, our_structure = jax.tree.flatten(self.attention)
        theirs, their_structure = jax.tree.flatten(other.attention)
        if our_structure != their_structure:  # type: ignore[operator]
            return False
        return jnp.all(
            jnp.array([jnp.array_equal(*pair) for pair in zip(ours, theirs, strict=True)])
        )


def _newton(attention: Attention, noise: jax.Array) -> jax.Array:
    """Embeddings [b, t, i] from noise [b, t, i] by Newton's method."""
    # Newton's steps can cycle where interactions are strong. Under the cap `newton` then falls back
    # on the fixed-point iteration, which always converges there; without the cap `guarded_newton`
    # starts with a trust region.
    solve = guarded_newton if attention.contraction is None else newton
    return jax.vmap(partial(_solve_sequentially, attention, solve))(noise)


def _iterate(attention: Attention, noise: jax.Array) -> jax.Array:
    """Embeddings [b, t, i] from noise [b, t, i] by the fixed-point iteration."""
    return jax.vmap(partial(_solve_sequentially, attention, _fixed_point))(noise)


def _solve_sequentially(attention: Attention, solve: Callable, noise: jax.Array) -> jax.Array:
    """Embeddings u[t, i] of one sequence from noise[t, i]: `solve` at each position in turn."""

    def step(u: jax.Array, position: jax.Array) -> tuple[jax.Array, None]:
        equation = Equation.at(attention, u, position, noise[position])
        return u.at[position].set(solve(equation, noise[position])), None

    return jax.lax.scan(step, jnp.zeros_like(noise), jnp.arange(len(noise)))[0]


class Equation(NamedTuple):
    """The equation `x = mu_t(x; u_<t) + e` for the embedding x at one position of one sequence.

    The methods take x in units of `unit`, which makes it of order one, so that the tolerances of
    the solvers are relative.

    Args:
        attention: one map, without a contraction cap (`at` works the cap into the query).
        u: buffer [t, i] whose rows before `position` are the past; the other rows are ignored.
        position: index of the row that x belongs to.
        noise: e, [i].
        unit: size of the past and the noise, the largest absolute entry.
    """

    attention: Attention
    u: jax.Array
    position: jax.Array
    noise: jax.Array
    unit: jax.Array

    @classmethod
    def at(
        cls, attention: Attention, u: jax.Array, position: jax.Array, noise: jax.Array
    ) -> "Equation":
        """The equation at `position` for an attention with or without a contraction cap."""
        if attention.contraction is not None:
            # The cap depends on the past only, not on x: it is a factor on the query.
            shrink = shrinkage(attention, u[None])[0, position]
            attention = replace(attention, query=attention.query * shrink, contraction=None)
        past = jnp.where(jnp.arange(len(u))[:, None] < position, u, 0)
        size = jax.lax.stop_gradient(jnp.maximum(jnp.abs(past).max(), jnp.abs(noise).max()))
        return cls(attention, u, position, noise, jnp.where(size > 0, size, 1))

    def iterate(self, scaled: jax.Array) -> jax.Array:
        """The right-hand side `mu_t(x) + e` [i] for `scaled`, x / unit; also divided by unit."""
        return (
            mean_at(self.attention, self.u, self.position, scaled * self.unit) + self.noise
        ) / self.unit

    def difference(self, scaled: jax.Array) -> jax.Array:
        """Left-hand side minus right-hand side, in units of `unit`: 0 at a root.

        Its derivative in `scaled` is J_t.
        """
        return scaled - self.iterate(scaled)


def newton(equation: Equation, start: jax.Array) -> jax.Array:
    """The only root [i] under the cap, by Newton's method from `start`.

    If that fails, by the fixed-point iteration, which converges at rate kappa; NaN if both fail.
    """
    return _root(equation, start, _find_by_newton_or_iteration)


def guarded_newton(equation: Equation, start: jax.Array) -> jax.Array:
    """A root [i] without the cap: a trust region from `start`, then Newton's method; or NaN."""
    return _root(equation, start, _find_by_trust_region)


def _fixed_point(equation: Equation, start: jax.Array) -> jax.Array:
    """The limit [i] of `x <- mu_t(x) + e` from `start`, or NaN."""
    return _root(equation, start, _find_by_iteration)


def _root(equation: Equation, start: jax.Array, find: Callable) -> jax.Array:
    """The root that `find(difference, start)` finds, differentiable to any order.

    `custom_root` differentiates by the implicit function theorem and not through `find`.
    """

    def solve_tangent(linear: Callable, right: jax.Array) -> jax.Array:
        # The linear map is the derivative of `difference` at the root: J_t, a small dense matrix.
        return jnp.linalg.solve(jax.jacfwd(linear)(jnp.zeros_like(right)), right)

    scaled_start = jax.lax.stop_gradient(start / equation.unit)
    return equation.unit * jax.lax.custom_root(
        equation.difference, scaled_start, find, solve_tangent
    )


def _find_by_newton(difference: Callable, start: jax.Array) -> jax.Array:
    """The root of `difference` by Newton's method from `start`, or NaN after 50 steps."""
    # Newton's method is written out here because optimistix's uses lineax, which refuses arrays
    # that lie on several devices, as those of parallel chains do.
    derivative = jax.jacfwd(difference)

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, step, number = carry
        return (jnp.abs(step).max() > small) & (number < 50)

    def advance(
        carry: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, _, number = carry
        step = jnp.linalg.solve(derivative(x), difference(x))
        return x - step, step, number + 1

    # Convergence is quadratic: after a step below a tenth of the square root of the machine
    # epsilon, one more step reaches the root up to rounding.
    small = 0.1 * jnp.finfo(start.dtype).eps ** 0.5
    x, step, _ = jax.lax.while_loop(
        unfinished, advance, (start, jnp.full_like(start, jnp.inf), jnp.zeros((), int))
    )
    return jnp.where(
        jnp.abs(step).max() <= small, x - jnp.linalg.solve(derivative(x), difference(x)), jnp.nan
    )


def _find_by_newton_or_iteration(difference: Callable, start: jax.Array) -> jax.Array:
    """Newton's method from `start`; where it fails, the fixed-point iteration from `start`."""
    root = _find_by_newton(difference, start)
    failed = jnp.isnan(root).any()
    # The iteration always runs (under vmap a `cond` would run it too). Where Newton's method has
    # converged it starts at the root and stops at once.
    return jnp.where(failed, _find_by_iteration(difference, jnp.where(failed, start, root)), root)


def _find_by_trust_region(difference: Callable, start: jax.Array) -> jax.Array:
    """A trust region brings `start` near a root, and Newton's method finds that."""
    solver: Any = optimistix.Dogleg(rtol=1e-2, atol=1e-2)
    near = optimistix.root_find(
        lambda x, _: difference(x), solver, start, max_steps=100, throw=False
    ).value
    return _find_by_newton(difference, near)


def _find_by_iteration(difference: Callable, start: jax.Array) -> jax.Array:
    """The limit of `x <- x - difference(x)`, that is of `x <- mu_t(x) + e`; or NaN."""
    solver: Any = optimistix.FixedPointIteration(*_tolerances(start))
    iterate = lambda x, _: x - difference(x)  # noqa: E731
    return _or_nan(optimistix.fixed_point(iterate, solver, start, max_steps=10_000, throw=False))


def _tolerances(array: jax.Array) -> tuple[float, float]:
    """Relative and absolute tolerance of the fixed-point iteration: 8 machine epsilons each."""
    return (8 * float(jnp.finfo(array.dtype).eps),) * 2


def _or_nan(solution: optimistix.Solution) -> jax.Array:
    """The value of a solution, NaN where the solver did not converge."""
    return jnp.where(solution.result == optimistix.RESULTS.successful, solution.value, jnp.nan)
