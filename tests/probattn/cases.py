"""One registry of attention maps, over which every closed form is tested, and slow twins written
from the formulas."""

import jax
import numpy as np

from probattn import Attention

DIM = 3


def attention(
    heads=1, rank=2, *, value=False, origin=False, bias=False, seed=0, **static
) -> Attention:
    draw = np.random.default_rng(seed).standard_normal
    return Attention(
        draw((heads, rank, DIM)),
        draw((heads, rank, DIM)),
        draw((heads, DIM, DIM)) if value else None,
        draw(DIM) if origin else None,
        position_bias=draw((heads, 7)) if bias else None,
        **static,
    )


CASES = {
    f"{mask}-{heads}heads-{extra or 'plain'}": (mask, heads, extra)
    for mask in ("strict", "inclusive")
    for heads in (1, 3)
    for extra in ("", "value", "value-origin-bias")
}
CONTRACTED = {
    f"contracted-{heads}heads-{extra or 'plain'}": ("strict", heads, extra)
    for heads in (1, 3)
    for extra in ("", "value")
}


def build(name: str) -> Attention:
    mask, heads, extra = (CASES | CONTRACTED)[name]
    static = {"mask": mask} | ({"contraction": 0.8} if name in CONTRACTED else {})
    return attention(
        heads, value="value" in extra, origin="origin" in extra, bias="bias" in extra, **static
    )


def slow_mean(attention: Attention, u, t: int, xp=np):
    """mu_t by explicit loops over heads and past positions, from the formulas of theory, sections 1
    and 4.

    With NumPy nothing is compiled, and u may be complex; with xp = jax.numpy JAX can differentiate
    it."""
    attention = jax.tree.map(xp.asarray, attention)
    last = t + 1 if attention.mask == "inclusive" else t
    if last == 0:
        return xp.zeros(attention.dim) if attention.origin is None else attention.origin
    past = [u[s] for s in range(last)]
    interactions = [
        k.T @ q / np.sqrt(attention.rank)
        for k, q in zip(attention.key, attention.query, strict=True)
    ]
    identity = [xp.eye(attention.dim) / attention.heads] * attention.heads
    values = identity if attention.value is None else list(attention.value)
    shrink = 1.0
    if attention.contraction is not None:
        squared_diameter = xp.stack([((a - b) ** 2).sum() for a in past for b in past]).max()
        gain = sum(
            xp.sqrt((v**2).sum()) * xp.sqrt((a**2).sum())
            for v, a in zip(values, interactions, strict=True)
        )
        shrink = 1 / (1 + gain * squared_diameter / (4 * attention.contraction))
    total = 0.0
    for h, (interaction, value) in enumerate(zip(interactions, values, strict=True)):
        bias = (
            xp.zeros(last)
            if attention.position_bias is None
            else attention.position_bias[h, t - np.arange(last)]
        )
        logits = xp.stack([u_s @ (shrink * interaction) @ u[t] for u_s in past]) + bias
        weights = xp.exp(logits - logits.real.max())
        total = total + value @ (weights / weights.sum() @ xp.stack(past))
    return total


def slow_residuals(attention: Attention, u, xp=np):
    u = xp.asarray(u)
    return xp.stack([u[t] - slow_mean(attention, u, t, xp) for t in range(len(u))])


def slow_jacobian(attention: Attention, u):
    """The derivative of the slow residuals, [t, i, s, j], by complex steps: Im f(u + ih) / h, exact
    to rounding."""
    u, step = np.asarray(u, float), 1e-30
    columns = [
        slow_residuals(attention, u + 1j * step * direction.reshape(u.shape)).imag / step
        for direction in np.eye(u.size)
    ]
    return np.stack(columns, axis=-1).reshape(*u.shape, *u.shape)


def dissipative(strength=3.0, dim=DIM, seed=0) -> Attention:
    """One head with V = I and A + A^T <= 0: one root for every history, without a cap."""
    square = np.random.default_rng(seed).standard_normal((dim, dim))
    return Attention.from_interaction(strength * (square - square.T - square @ square.T)[None])


PROPER = {
    "contracted": attention(contraction=0.8),
    "contracted-value-origin-bias": attention(
        2, value=True, origin=True, bias=True, contraction=0.95
    ),
    "dissipative": dissipative(),
}


def slow_sample(attention: Attention, noise, iterations=2000):
    """Embeddings for given noise by the plain iteration u <- mu(u) + e from the formulas, position
    by position."""
    u = []
    for t, e in enumerate(noise):
        token = e
        for _ in range(iterations):
            again = slow_mean(attention, [*u, token], t) + e
            if np.abs(again - token).max() <= 1e-13:
                break
            token = again
        u.append(token)
    return np.stack(u)
