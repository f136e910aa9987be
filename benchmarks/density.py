"""What the exact density costs: value and gradient of `AttentionProcess.log_prob`, against the mean
alone and by hand."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

from benchmarks import by_hand
from benchmarks.measure import save, side_by_side
from probattn import Attention, AttentionProcess, residuals
from probattn.attention.determinant import sign_and_log_det

SIZES = ((4, 4), (8, 8), (16, 4), (16, 16), (32, 4))  # dim, rank
NUM_SEQUENCES, LENGTH = 256, 16
BLOCKS, NUM_BLOCKS = (2, 4, 8, 12, 16, 32), 3000


def functions_of(dim: int, rank: int) -> tuple[dict[str, Any], tuple[Array, Array, Array]]:
    """Value and gradient, in parameters and embeddings, of densities over the same sequences."""

    def process(query: Array, key: Array, u: Array) -> Array:
        return AttentionProcess(Attention(query[None], key[None]), 1.0, LENGTH).log_prob(u).sum()

    def mean_alone(query: Array, key: Array, u: Array) -> Array:
        return -0.5 * (residuals(Attention(query[None], key[None]), u) ** 2).sum()

    def mean_by_hand(query: Array, key: Array, u: Array) -> Array:
        return -0.5 * ((u - by_hand.attention_mean(query, key, u)) ** 2).sum()

    def density_by_hand(query: Array, key: Array, u: Array) -> Array:
        return by_hand.log_density(query, key, u).sum()

    for_query, for_key, for_u = jax.random.split(jax.random.key(0), 3)
    # Interactions of a size at which all sequences lie in the local domain.
    query, key = (0.5 / dim**0.5 * jax.random.normal(k, (rank, dim)) for k in (for_query, for_key))
    functions = dict(
        process=process, mean=mean_alone, mean_by_hand=mean_by_hand, density_by_hand=density_by_hand
    )
    gradients = {
        name: jax.value_and_grad(function, (0, 1, 2)) for name, function in functions.items()
    }
    return gradients, (query, key, jax.random.normal(for_u, (NUM_SEQUENCES, LENGTH, dim)))


def determinants(size: int) -> dict[str, Any]:
    """Log determinant with its gradient of many blocks, ours against the library's."""
    noise = jax.random.normal(jax.random.key(size), (NUM_BLOCKS, size, size))
    blocks = jnp.eye(size) - 0.3 / size**0.5 * noise
    ours = jax.value_and_grad(lambda b: sign_and_log_det(b)[1].sum())
    library = jax.value_and_grad(lambda b: jnp.linalg.slogdet(b)[1].sum())
    return dict(side_by_side({"probattn": ours, "slogdet": library}, blocks))


def main() -> None:
    console = Console(width=120)
    results: dict[str, Any] = {"process": {}, "log_det": {}}
    table = Table(
        "dim, rank",
        "times the mean",
        "times the mean by hand",
        "faster than by hand",
        "memory, times the mean",
        title=(
            f"value and gradient of log_prob, {NUM_SEQUENCES} sequences of length {LENGTH}, one "
            "head"
        ),
    )
    for dim, rank in SIZES:
        functions, arguments = functions_of(dim, rank)
        timings = side_by_side(functions, *arguments)
        results["process"][f"dim {dim}, rank {rank}"] = timings
        ours = timings["process"]
        ratios = [
            ours.median / timings["mean"].median,
            ours.median / timings["mean_by_hand"].median,
        ]
        memory = _peak(ours) / _peak(timings["mean"])
        row = [*ratios, timings["density_by_hand"].median / ours.median, memory]
        table.add_row(f"{dim}, {rank}", *(f"{number:.2f}" for number in row))
    console.print(table)
    blocks = Table(
        "size", "slogdet / probattn", title=f"log-det and gradient of {NUM_BLOCKS:,} blocks"
    )
    for size in BLOCKS:
        timings = results["log_det"][f"{size}"] = determinants(size)
        blocks.add_row(f"{size}", f"{timings['slogdet'].median / timings['probattn'].median:.2f}")
    console.print(blocks)
    console.print(
        f"figures: {save('density', {'num_sequences': NUM_SEQUENCES, 'length': LENGTH}, results)}"
    )


def _peak(timing: Any) -> int:
    return timing.temporary_bytes + timing.argument_bytes


if __name__ == "__main__":
    main()
