"""What sampling from a LanguageModel costs, in units of one `log_prob` of the same batch."""

import statistics
import time
from typing import Annotated

import jax
import jax.numpy as jnp
import typer
from rich.console import Console
from rich.table import Table

from probattn import SequenceProcess
from probattn.models import LanguageModel


def seconds(function, runs: int) -> float:
    """Median wall time after one run that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(
    number: Annotated[int, typer.Option(help="Sequences in a batch.")] = 10_000,
    vocab_size: int = 96,
    length: int = 32,
    dim: int = 32,
    runs: Annotated[int, typer.Option(help="Timed runs of each, after one that compiles.")] = 20,
) -> None:
    """Cached steps against whole passes, each against one forward pass and one log_prob."""
    model = LanguageModel(vocab_size, length, dim)
    keys = iter(jax.random.split(jax.random.key(0), len(model.priors()) + 1))
    params = {
        name: 0.3 * jax.random.normal(next(keys), prior.shape())
        for name, prior in model.priors().items()
    }
    cached = model.process(params)
    plain = SequenceProcess(
        cached.next_token_logits, params, length=length, vocab_size=vocab_size, batched=True
    )
    key = next(keys)
    tokens = cached.sample(key, (number,))
    tokens = jnp.where(tokens == 0, 1, tokens)  # no sequence ends early
    logits = jax.jit(model.next_token_logits)
    unit = seconds(lambda: cached.log_prob(tokens), runs)
    few = max(1, number // 20)
    small_unit = seconds(lambda: cached.log_prob(tokens[:few]), runs)
    ratios = {
        "one forward pass (logits)": seconds(lambda: logits(params, tokens), runs) / unit,
        "sample, cached steps": seconds(lambda: cached.sample(key, (number,)), runs) / unit,
        f"sample, whole passes ({few:,} sequences)": seconds(
            lambda: plain.sample(key, (few,)), max(1, runs // 10)
        )
        / small_unit,
    }
    title = (
        f"{number:,} sequences of length {length}, dim {dim}, {vocab_size} tokens, median of {runs}"
    )
    table = Table("", "times one log_prob", title=title)
    for name, ratio in ratios.items():
        table.add_row(name, f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
