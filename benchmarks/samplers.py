"""Effective draws per gradient on the posterior of words: probattn's samplers, BlackJAX's NUTS with
a diagonal metric, nutpie. All have the same density and start from the same modes."""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import by_hand
from benchmarks.measure import save, side_by_side
from benchmarks.other_samplers import CHAINS, Run, Setting, with_blackjax, with_nutpie
from probattn.inference import load_corpus, sample_posterior
from probattn.inference.devices.device_placement import set_host_device_count
from probattn.inference.evaluation.chain_statistics import mixing
from probattn.inference.fitting.chain_starts import start_points
from probattn.inference.fitting.fit import over_draws
from probattn.inference.fitting.unconstrained import potential
from probattn.models import LanguageModel

HELDOUT = 200  # sequences whose log probabilities are looked at
TIERS = ("interaction", "association", "held-out")
# Each in the setting that its makers would take for about as many gradients as the demo has; nutpie
# also with as short a warmup as ours.
SETTINGS = {
    "probattn, HMC": Setting(160, 750, 7),
    "probattn, NUTS": Setting(250, 400, 7),
    "BlackJAX, diagonal": Setting(400, 600, 6),
    "nutpie": Setting(300, 300, 7),
    "nutpie, short warmup": Setting(160, 440, 7),
}


def with_probattn(
    model: LanguageModel,
    data: Any,
    starts: Any,
    gradients: float,
    key: Any,
    setting: Setting,
    sampler: str,
) -> Run:
    """`sample_posterior`, which finds the starts again from the same key."""
    fit = sample_posterior(
        model,
        data,
        key=key,
        num_chains=CHAINS,
        num_warmup=setting.warmup,
        num_samples=setting.draws,
        sampler=sampler,
        max_tree_depth=setting.depth,
        progress=False,
    )
    sampling = float(fit.stats["n_steps"].sum())
    return Run(fit.draws, fit.gradients - gradients - sampling, sampling)


def effective(model: LanguageModel, run: Run, heldout: np.ndarray) -> dict[str, Any]:
    """Bulk effective draws, medians over what is identified and over held-out sequences.

    "across" is over all chains together, and so contains how far they agree; "within" is the sum of
    those of single chains. "rhat" is the largest of all quantities."""
    names = list(model.priors())
    flat = {name: np.concatenate(list(run.draws[name])) for name in names}
    quantities = over_draws(type(model).quantities, model, flat, heldout)
    held_out = over_draws(type(model).log_likelihood, model, flat, heldout)
    columns = dict(quantities) | {"held-out": held_out}
    found: dict[str, Any] = {}
    for tier in TIERS:
        values = np.asarray(columns[tier], float).reshape(CHAINS, run_length(run), -1)
        values = values.transpose(2, 0, 1)  # [quantities, chains, draws]
        together = mixing(values)
        alone = [mixing(values[:, chain : chain + 1]).bulk for chain in range(CHAINS)]
        found[tier] = {
            "across": float(np.nanmedian(together.bulk)),
            "within": float(np.nanmedian(np.sum(alone, axis=0))),
            "rhat": float(np.nanmax(together.rhat)),
        }
    return found


def run_length(run: Run) -> int:
    """Draws of each chain."""
    return next(iter(run.draws.values())).shape[1]


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each sampler.")] = 5,
    words: int = 300,
    dim: int = 4,
    only: Annotated[str | None, typer.Option(help="Names, separated by semicolons.")] = None,
    name: Annotated[str, typer.Option(help="Name of the file of results.")] = "samplers",
) -> None:
    """Run each sampler from each seed, and save what was found after each run."""
    set_host_device_count(CHAINS)
    corpus = load_corpus("cmudict", train_size=words)
    model = LanguageModel(len(corpus.symbols), corpus.length, dim=dim)
    data = jnp.asarray(corpus.train)
    tree = model.condensed(data)  # `sample_posterior` makes it from the data itself
    samplers: dict[str, Callable[..., Run]] = {
        "probattn, HMC": partial(with_probattn, sampler="hmc"),
        "probattn, NUTS": partial(with_probattn, sampler="nuts"),
    }
    if importlib.util.find_spec("blackjax"):
        samplers["BlackJAX, diagonal"] = with_blackjax
    if importlib.util.find_spec("nutpie"):
        samplers |= dict.fromkeys(("nutpie", "nutpie, short warmup"), with_nutpie)
    if only:
        samplers = {one: samplers[one] for one in only.split(";")}
    console = Console(width=130)
    results: dict[str, Any] = {"gradient": gradient_cost(model, data), "samplers": {}}
    about = {"words": words, "dim": dim, "chains": CHAINS, "settings": SETTINGS}
    for seed in range(seeds):
        key = jax.random.key(seed)
        for_start = jax.random.split(key, CHAINS + 1)[0]  # as `sample_posterior` splits it
        starts, gradients = start_points(model, data, for_start, "maps", CHAINS, False)
        for sampler, sample in samplers.items():
            given = data if sampler.startswith("probattn") else tree
            run = sample(model, given, starts, gradients, key, SETTINGS[sampler])
            row = {
                "starts": gradients,
                "warmup": run.warmup,
                "sampling": run.sampling,
                **effective(model, run, corpus.heldout[:HELDOUT]),
            }
            results["samplers"].setdefault(sampler, []).append(row)
            console.print(seed, sampler, row)
            save(name, about, results)
    for table in tables(results["samplers"]):
        console.print(table)


def tables(runs: Mapping[str, list[dict[str, Any]]]) -> list[Table]:
    """Effective draws per 1,000 gradients, all counted or of sampling alone, and ratios to ours."""
    found = []
    for counted in ("all gradients", "gradients of sampling"):
        for kind in ("across", "within"):
            table = Table(
                "sampler", *TIERS, "largest R-hat", title=f"{kind} chains, per 1,000 {counted}"
            )
            rates = {
                sampler: np.array(
                    [[rate(row, tier, kind, counted) for tier in TIERS] for row in of]
                )
                for sampler, of in runs.items()
            }
            first = next(iter(rates))
            for sampler, values in rates.items():
                largest = max(row[tier]["rhat"] for row in runs[sampler] for tier in TIERS)
                table.add_row(sampler, *map(_mean, values.T), f"{largest:.3f}")
            for sampler, values in list(rates.items())[1:]:
                both = min(len(values), len(rates[first]))
                ratios = rates[first][:both] / values[:both]
                table.add_row(f"{first} / {sampler}", *map(_mean, ratios.T))
            found.append(table)
    return found


def rate(row: Mapping[str, Any], tier: str, kind: str, counted: str) -> float:
    """Effective draws per 1,000 gradients of one run."""
    number = row["sampling"]
    if counted == "all gradients":
        number += row["warmup"] + row["starts"]
    return 1000 * row[tier][kind] / number


def _mean(values: np.ndarray) -> str:
    """Mean over the seeds and its standard error."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{values.mean():.3g} ± {values.std(ddof=1) / np.sqrt(len(values)):.2g}"


def gradient_cost(model: LanguageModel, data: Any) -> Any:
    """One gradient of the posterior: of each prefix once, of all positions, and by hand."""
    hand = partial(by_hand.language_model, vocab_size=model.vocab_size, dim=model.dim)
    z = {
        name: 0.1 * jax.random.normal(jax.random.key(i), p.shape())
        for i, (name, p) in enumerate(model.priors().items())
    }
    functions = {
        "probattn, each prefix once": potential(model, model.condensed(data)),
        "probattn, all positions": potential(model, data),
        "by hand": potential(hand, data),
    }
    return side_by_side(
        {name: jax.value_and_grad(function) for name, function in functions.items()}, z
    )


if __name__ == "__main__":
    typer.run(main)
