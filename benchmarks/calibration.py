"""Simulation-based calibration of LatentAttention, with the log-determinant and without: `make calibration`.

Not a timing: it shows that the sampler and the density fit together, in every parametrisation, and that the test sees
it when the log-determinant is left out.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import matplotlib.pyplot as plt
import numpyro
import numpyro.distributions as dist
import typer
from rich.console import Console

from probattn import residuals
from probattn.inference import plot_calibration, simulation_based_calibration
from probattn.models import LatentAttention


@dataclass(frozen=True)
class WithoutLogDet(LatentAttention):
    """The same model, scored by its residuals alone: what forgetting the change of variables does."""

    def __call__(self, embeddings: Any = None, num_sequences: int | None = None) -> Any:
        params = {name: numpyro.sample(name, prior) for name, prior in self.priors().items()}
        e = residuals(self.attention(params), embeddings)
        numpyro.factor("embeddings", dist.Normal(0, params["scale"]).log_prob(e).sum())


def main(
    simulations: Annotated[int, typer.Option(help="simulated data sets for each model")] = 1000,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="folder of the figures")] = Path("build/calibration"),
) -> None:
    """Rank ECDFs of every parametrisation, with bands that hold all quantities together with probability 0.95."""
    console = Console(width=120)
    out.mkdir(parents=True, exist_ok=True)
    for parametrisation in ("full", "factored", "symmetric"):
        for scored_by in (LatentAttention, WithoutLogDet):
            fields = dict(dim=2, length=8, parametrisation=parametrisation, values=False)
            started = time.perf_counter()
            calibration = simulation_based_calibration(
                LatentAttention(**fields),
                posterior_model=scored_by(**fields),
                key=jax.random.key(seed),
                num_simulations=simulations,
            )
            name = f"{parametrisation}-{scored_by.__name__}"
            plot_calibration(calibration).savefig(out / f"{name}.png", dpi=120)
            plt.close("all")
            outside = ", ".join(calibration.outside()) or "none"
            console.print(
                f"{name}: {simulations} simulations in {time.perf_counter() - started:.0f} s, "
                f"{calibration.diverging:.2%} diverging; outside their bands: {outside}",
                markup=False,
            )


if __name__ == "__main__":
    typer.run(main)
