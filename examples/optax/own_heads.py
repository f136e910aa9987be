"""A character model with one attention layer, in JAX and optax alone."""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from probattn import Attention, barrier_loss

LENGTH, DIM, BATCH, STEPS = 32, 32, 16, 300
text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
symbols = sorted(set(text))
ids = jnp.array([symbols.index(character) for character in text])

shapes = {
    "embedding": (len(symbols), DIM),
    "position": (LENGTH, DIM),
    "readout": (DIM, len(symbols)),
}
shapes |= {"query": (DIM, DIM), "key": (DIM, DIM), "value": (DIM, DIM)}
keys = jax.random.split(jax.random.key(0), len(shapes))
params = {
    name: DIM**-0.5 * jax.random.normal(key, shape)
    for (name, shape), key in zip(shapes.items(), keys, strict=True)
}


def forward(params, u):
    logits = (
        jnp.einsum("bti,ri,rj,bsj->bts", u, params["query"], params["key"], u, optimize=True)
        / DIM**0.5
    )
    alpha = jax.nn.softmax(jnp.where(jnp.tri(LENGTH, dtype=bool), logits, -jnp.inf))
    return (u + alpha @ u @ params["value"].T) @ params["readout"]


def loss_of(params, tokens):
    u = params["embedding"][tokens[:, :-1]] + params["position"]
    logits = forward(params, u)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()
    head = [params[name][None] for name in ("query", "key", "value")]
    return cross_entropy + barrier_loss(Attention(*head, mask="inclusive"), u, 0.02), cross_entropy


optimiser = optax.adam(3e-3)


@jax.jit
def step(params, state, key):
    starts = jax.random.randint(key, (BATCH, 1), 0, len(ids) - LENGTH)
    (_, cross_entropy), slope = jax.value_and_grad(loss_of, has_aux=True)(
        params, ids[starts + jnp.arange(LENGTH + 1)]
    )
    updates, state = optimiser.update(slope, state)
    return optax.apply_updates(params, updates), state, cross_entropy


state = optimiser.init(params)
for number in range(STEPS):
    params, state, cross_entropy = step(params, state, jax.random.key(number))
    if number % 100 == 99:
        print(f"step {number + 1}: {cross_entropy:.3f} nats per character")
