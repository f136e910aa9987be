"""What looking at the emitted token is worth to the particle filter: `make particles`.

Variances over independent filters, and times in units of one guided filter, of the same words in
one process."""

import time
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from probattn.inference import fit_map, load_corpus, load_run
from probattn.models import EmissionModel

SEED = 0


def relative_variance(log_prob: np.ndarray) -> float:
    """Mean over words of the variance of P(x) over its square, from log estimates (words,
    repetitions)."""
    probability = np.exp(log_prob - log_prob.max(1, keepdims=True))
    return float((probability.var(1, ddof=1) / probability.mean(1) ** 2).mean())


def parameters(run: Path | None, dim: int) -> dict[str, tuple[Any, Any]]:
    """By name: a model and parameters, of the last draw of a run, or of MAPs in both
    coordinates."""
    if run is not None:
        fit, _, _ = load_run(run)
        return {
            f"{run.name}, last draw": (fit.model, {k: v[-1] for k, v in fit.flat_draws().items()})
        }
    corpus = load_corpus("cmudict", train_size=300)
    found = {}
    for coordinates, num_steps in (("embedding", 1500), ("noise", 300)):
        model = EmissionModel(len(corpus.symbols), corpus.length, dim, coordinates=coordinates)
        fit = fit_map(
            model, corpus.train, key=jax.random.key(SEED), num_steps=num_steps, progress=False
        )
        found[f"MAP, {coordinates} coordinates"] = (model, fit.params)
    return found


def main(
    run: Annotated[
        Path | None,
        typer.Option(help="Run directory of an emission model; default: two MAPs, fitted here."),
    ] = None,
    dim: Annotated[int, typer.Option(help="Of the MAPs.")] = 4,
    words: int = 20,
    repetitions: int = 20,
) -> None:
    """Guided particles against those of the prior, on held-out words."""
    tokens = np.repeat(load_corpus("cmudict", train_size=300).heldout[:words], repetitions, axis=0)
    console = Console(width=110)
    for name, (model, params) in parameters(run, dim).items():
        params = {key: jnp.asarray(value) for key, value in params.items()}
        title = f"{name}: {words} words, {repetitions} filters each, dim {model.dim}"
        table = Table(
            "proposal",
            "particles",
            "relative variance",
            "times the guided variance",
            "time",
            title=title,
        )
        base: tuple[float, float] | None = None
        for bootstrap, number in ((False, 200), (True, 200), (True, 1000), (True, 2000)):
            process = model.process(params, num_particles=number)
            first = process.filter(tokens, bootstrap=bootstrap)  # compiles
            started = time.perf_counter()
            jax.block_until_ready(process.filter(tokens, bootstrap=bootstrap).log_prob)
            seconds = time.perf_counter() - started
            variance = relative_variance(
                np.asarray(first.log_prob, float).reshape(words, repetitions)
            )
            base = base or (variance, seconds)
            table.add_row(
                "prior (bootstrap)" if bootstrap else "guided",
                f"{number:,}",
                f"{variance:.4f}",
                f"{variance / base[0]:.2f}",
                f"{seconds / base[1]:.2f}",
            )
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
