"""A character model with one transformer block, in Flax NNX."""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from probattn import Attention, barrier_loss

LENGTH, DIM, BATCH, STEPS = 32, 32, 16, 300
text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
symbols = sorted(set(text))
ids = jnp.array([symbols.index(character) for character in text])


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embedding = nnx.Embed(len(symbols), DIM, rngs=rngs)
        self.position = nnx.Param(0.1 * jax.random.normal(rngs.params(), (LENGTH, DIM)))
        self.attention = nnx.MultiHeadAttention(4, DIM, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(DIM, rngs=rngs)
        self.readout = nnx.Linear(DIM, len(symbols), rngs=rngs)
        self.barrier = nnx.Param(DIM**-0.5 * jax.random.normal(rngs.params(), (2, 1, 4, DIM)))

    def embed(self, tokens):
        return self.embedding(tokens) + self.position[...]

    def __call__(self, tokens):
        u = self.embed(tokens)
        return self.readout(self.norm(u + self.attention(u, mask=nnx.make_causal_mask(tokens))))


def loss_of(model, tokens):
    logits = model(tokens[:, :-1])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()
    barrier = barrier_loss(Attention(*model.barrier[...]), model.embed(tokens[:, :-1]), 0.02)
    return cross_entropy + barrier, cross_entropy


model = Model(nnx.Rngs(0))
optimiser = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)


@nnx.jit
def step(model, optimiser, key):
    starts = jax.random.randint(key, (BATCH, 1), 0, len(ids) - LENGTH)
    tokens = ids[starts + jnp.arange(LENGTH + 1)]
    (_, cross_entropy), slope = nnx.value_and_grad(loss_of, has_aux=True)(model, tokens)
    optimiser.update(model, slope)
    return cross_entropy


for number in range(STEPS):
    cross_entropy = step(model, optimiser, jax.random.key(number))
    if number % 100 == 99:
        print(f"step {number + 1}: {cross_entropy:.3f} nats per character")
