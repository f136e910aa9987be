"""Emission processes that are small enough for sums over every sequence and integrals on a grid."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from probattn import Attention, AttentionTransform, Emission, EmissionProcess

LENGTH, VOCAB = 3, 3
NODES = 40  # of quadrature, for each position


def emission(dim=1, seed=0, heads=1, length=LENGTH, vocab_size=VOCAB):
    keys = jax.random.split(jax.random.key(seed), 7)

    def draw(key, shape):  # the same case in both precisions
        return jax.random.normal(key, shape, jnp.float32).astype(float)

    attention = Attention(
        3 * draw(keys[0], (heads, dim, dim)),
        draw(keys[1], (heads, dim, dim)),
        1.5 * draw(keys[2], (heads, dim, dim)),
        draw(keys[3], (dim,)),
        0.9,
        position_bias=draw(keys[4], (heads, length)),
    )
    readout, bias = 2 * draw(keys[5], (vocab_size, dim)), draw(keys[6], (vocab_size,)) / 2
    return Emission(attention, jnp.asarray(0.8), readout, bias)


def process(num_particles, seed=0, **settings):
    return EmissionProcess(
        emission(**settings), length=LENGTH, num_particles=num_particles, key=jax.random.key(seed)
    )


def every_sequence():
    """All 15 sequences of length 3 over {end, 1, 2}, padded with the end."""
    padded = {
        row[: row.index(0)] + (0,) * (LENGTH - row.index(0)) if 0 in row else row
        for row in product(range(VOCAB), repeat=LENGTH)
    }
    return np.array(sorted(padded))


def by_quadrature(emission, tokens, nodes=NODES):
    """`P(x)` and `E[u | x]` in dimension 1 by Gauss-Hermite over the noise, of at most NODES nodes
    a position.

    Independent of what the filter computes: the grid is in the noise, so no density of an embedding
    and no Jacobian enters, and the embeddings come from the transform.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*[points] * LENGTH, indexing="ij"), -1).reshape(-1, LENGTH)
    mass = (
        np.stack(np.meshgrid(*[weights / weights.sum()] * LENGTH, indexing="ij"), -1)
        .reshape(-1, LENGTH)
        .prod(-1)
    )
    noise = np.zeros(
        (NODES**LENGTH, LENGTH, 1)
    )  # a coarser grid is filled up with zeros: one program serves all
    noise[: len(grid), :, 0] = float(emission.scale) * grid
    u = np.asarray(AttentionTransform(emission.attention)(noise))[: len(grid), :, 0]
    logits = u[..., None] * np.asarray(emission.readout)[:, 0] + np.asarray(emission.bias)
    emitted = np.exp(logits - logits.max(-1, keepdims=True))
    emitted /= emitted.sum(-1, keepdims=True)
    probabilities, means = [], []
    for row in tokens:
        positions = range(LENGTH if 0 not in row else list(row).index(0) + 1)
        likelihood = np.prod([emitted[:, t, row[t]] for t in positions], axis=0)
        probabilities.append((mass * likelihood).sum())
        means.append((mass * likelihood) @ u / probabilities[-1])
    return np.array(probabilities), np.array(means)
