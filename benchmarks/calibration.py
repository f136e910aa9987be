"""Simulation-based calibration with the log-determinant and without: `make calibration`.

Not a timing: it shows that simulator, density and sampler fit together, for LatentAttention in
every parametrisation, EmissionModel in both coordinates and LanguageModel with the normalised
barrier, and that the test sees it when the log-determinant is left out of the first two."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpyro
import numpyro.distributions as dist
import typer
from rich.console import Console

from probattn import residuals
from probattn.inference import plot_ranks, simulation_based_calibration
from probattn.models import EmissionModel, LanguageModel, LatentAttention
from probattn.models.emission_distributions import StoppedEmbeddings, StoppedTokens
from probattn.sequence.tokens import counted


@dataclass(frozen=True)
class WithoutLogDet(LatentAttention):
    """The same model, scored by its residuals alone: what forgetting the change of variables
    does."""

    def __call__(self, embeddings: Any = None, num_sequences: int | None = None) -> Any:
        params = {name: numpyro.sample(name, prior) for name, prior in self.priors().items()}
        e = residuals(self.attention(params), embeddings)
        numpyro.factor("embeddings", dist.Normal(0, params["scale"]).log_prob(e).sum())


class StoppedResiduals(StoppedEmbeddings):
    """Its residuals alone."""

    def log_prob(self, value: Any) -> Any:
        e = jnp.where(self.counted[..., None], residuals(self.process.attention, value), value)
        return dist.Normal(0, self.process.scale).log_prob(e).sum((-2, -1))


@dataclass(frozen=True)
class EmissionWithoutLogDet(EmissionModel):
    """The emission model in embedding coordinates, likewise."""

    def __call__(self, tokens: Any = None, num_sequences: int | None = None) -> Any:
        params = {name: numpyro.sample(name, prior) for name, prior in self.priors().items()}
        with numpyro.plate("sequences", len(tokens)):
            u = numpyro.sample(
                "embeddings", StoppedResiduals(self.embedding_process(params), counted(tokens))
            )
            return numpyro.sample(
                "tokens", StoppedTokens(u @ params["readout"].T + params["bias"]), obs=tokens
            )


def cases() -> dict[str, tuple[Any, Any]]:
    """By name: the model, and another whose posterior is sampled in its place, if any."""
    found: dict[str, tuple[Any, Any]] = {}
    for parametrisation in ("full", "factored", "symmetric"):
        fields: dict[str, Any] = dict(
            dim=2, length=8, parametrisation=parametrisation, values=False
        )
        found[parametrisation] = LatentAttention(**fields), None
        found[f"{parametrisation}-without-log-det"] = (
            LatentAttention(**fields),
            WithoutLogDet(**fields),
        )
    fields = dict(vocab_size=3, length=4, dim=1)
    found["emission-embedding"] = EmissionModel(**fields), None
    found["emission-noise"] = EmissionModel(**fields, coordinates="noise"), None
    found["emission-without-log-det"] = EmissionModel(**fields), EmissionWithoutLogDet(**fields)
    fields |= dict(barrier="normalised", contraction=0.9)
    for weight in (0.05, 0.5, 1.0):
        found[f"normalised-{weight}"] = LanguageModel(**fields, barrier_weight=weight), None
    return found


def main(
    simulations: Annotated[int, typer.Option(help="simulated data sets for each model")] = 1000,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="folder of the figures")] = Path("build/calibration"),
    only: Annotated[str, typer.Option(help="what the names of cases contain")] = "",
) -> None:
    """Rank ECDFs of every case, with bands that hold all quantities together with probability
    0.95."""
    console = Console(width=120)
    out.mkdir(parents=True, exist_ok=True)
    for name, (model, posterior_model) in cases().items():
        if only not in name:
            continue
        started = time.perf_counter()
        calibration = simulation_based_calibration(
            model,
            posterior_model=posterior_model,
            key=jax.random.key(seed),
            num_simulations=simulations,
        )
        plot_ranks(calibration)[0].figure.savefig(out / f"{name}.png", dpi=120)
        plt.close("all")
        outside = ", ".join(calibration.outside()) or "none"
        console.print(
            f"{name}: {simulations} simulations in {time.perf_counter() - started:.0f} s, "
            f"{calibration.diverging:.2%} diverging; outside their bands: {outside}",
            markup=False,
        )


if __name__ == "__main__":
    typer.run(main)
