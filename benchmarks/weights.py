"""MAPs with a barrier weight that stays, and with one that falls, on growing training sets.

The factor of the path grows with the data as the likelihood does, so that with a fixed weight the
mode need not tend to the best law of tokens (theory, section 7)."""

from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import save
from probattn.inference import fit_map, learning_curve, load_corpus
from probattn.models import LanguageModel, falling_weight

UNTIL = 100  # sequences, from which on a falling weight falls


def main(
    sizes: Annotated[str, typer.Option(help="Training words, ascending.")] = "30,100,300,1000,3000",
    dim: int = 4,
) -> None:
    """Fit each arm at each size, and score all of them on the same held-out words."""
    wanted = [int(size) for size in sizes.split(",")]
    corpus, console = load_corpus("cmudict", train_size=wanted[-1]), Console(width=120)
    weights: dict[str, Any] = {
        "0": lambda number: 0.0,
        "0.05": lambda number: 0.05,
        "1": lambda number: 1.0,
        "1, falling": lambda number: falling_weight(1.0, UNTIL, number),
    }
    fits: dict[str, list] = {name: [] for name in weights}
    for size in wanted:
        for name, weight in weights.items():
            model = LanguageModel(
                len(corpus.symbols), corpus.length, dim=dim, barrier_weight=weight(size)
            )
            fit = fit_map(
                model, corpus.train[:size], key=jax.random.key(0), num_starts=2, progress=False
            )
            fits[name].append(fit)
            console.print(size, name, f"{fit.seconds:.0f} s", fit.verdict.converged)
    curve = learning_curve(fits, corpus.heldout)
    table = Table("words", *weights, title="held-out loss, nats per token (difference from 0)")
    results = {}
    for name in weights:
        losses, _ = curve.losses(name)
        difference, error = (
            (np.zeros(len(wanted)),) * 2 if name == "0" else curve.differences("0", name)
        )
        results[name] = {
            "loss": losses.tolist(),
            "minus plain": difference.tolist(),
            "error": error.tolist(),
            "at rest": [fit.verdict.converged for fit in fits[name]],
        }
    for row, size in enumerate(wanted):
        table.add_row(
            f"{size:,}",
            *(
                f"{one['loss'][row]:.4f} ({one['minus plain'][row]:+.4f} ± {one['error'][row]:.4f})"
                for one in results.values()
            ),
        )
    console.print(table)
    save("weights", {"sizes": wanted, "dim": dim, "until": UNTIL}, results)


if __name__ == "__main__":
    typer.run(main)
