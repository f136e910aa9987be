"""A character model with one transformer block, in Equinox."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from probattn import Attention, barrier_loss

LENGTH, DIM, BATCH, STEPS = 32, 32, 16, 300
text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
symbols = sorted(set(text))
ids = jnp.array([symbols.index(character) for character in text])


class Model(eqx.Module):
    embedding: eqx.nn.Embedding
    position: jax.Array
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    readout: eqx.nn.Linear
    barrier: jax.Array  # query and key

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embedding = eqx.nn.Embedding(len(symbols), DIM, key=keys[0])
        self.position = 0.1 * jax.random.normal(keys[1], (LENGTH, DIM))
        self.attention = eqx.nn.MultiheadAttention(4, DIM, key=keys[2])
        self.norm = eqx.nn.LayerNorm(DIM)
        self.readout = eqx.nn.Linear(DIM, len(symbols), key=keys[3])
        self.barrier = DIM**-0.5 * jax.random.normal(key, (2, 1, 4, DIM))

    def embed(self, tokens):
        return jax.vmap(self.embedding)(tokens) + self.position

    def __call__(self, tokens):
        u = self.embed(tokens)
        mixed = self.attention(u, u, u, mask=jnp.tri(LENGTH, dtype=bool))
        return jax.vmap(self.readout)(jax.vmap(self.norm)(u + mixed))


def loss_of(model, tokens):
    logits = jax.vmap(model)(tokens[:, :-1])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()
    barrier = barrier_loss(Attention(*model.barrier), jax.vmap(model.embed)(tokens[:, :-1]), 0.02)
    return cross_entropy + barrier, cross_entropy


model = Model(jax.random.key(0))
optimiser = optax.adam(3e-3)


@eqx.filter_jit
def step(model, state, key):
    starts = jax.random.randint(key, (BATCH, 1), 0, len(ids) - LENGTH)
    tokens = ids[starts + jnp.arange(LENGTH + 1)]
    (_, cross_entropy), slope = eqx.filter_value_and_grad(loss_of, has_aux=True)(model, tokens)
    updates, state = optimiser.update(slope, state)
    return eqx.apply_updates(model, updates), state, cross_entropy


state = optimiser.init(eqx.filter(model, eqx.is_array))
for number in range(STEPS):
    model, state, cross_entropy = step(model, state, jax.random.key(number))
    if number % 100 == 99:
        print(f"step {number + 1}: {cross_entropy:.3f} nats per character")
