"""Effective draws a second on the demo's posterior: probattn, plain NumPyro on the model by hand,
BlackJAX, nutpie."""

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import typer
from jax.flatten_util import ravel_pytree
from numpyro.infer import MCMC, NUTS
from rich.console import Console
from rich.table import Table

from benchmarks import by_hand
from benchmarks.measure import save, side_by_side
from probattn.inference import load_corpus, sample_posterior
from probattn.inference.devices.chain_sharding import over_chains
from probattn.inference.devices.device_placement import place_chains, set_host_device_count
from probattn.inference.fitting.fit import over_draws
from probattn.inference.fitting.unconstrained import constrain, draw_start, potential
from probattn.models import LanguageModel

DEPTH = 6  # of the demo's trees
CHAINS = 2


class Run(NamedTuple):
    """Draws (chains, draws, ...) of each parameter, seconds, and gradients, all of warmup and
    sampling."""

    draws: dict[str, np.ndarray]
    seconds: float
    gradients: float


def probattn_hmc(model: Any, data: Any, key: Any, number: int, start: str) -> Run:
    fit = sample_posterior(
        model,
        data,
        key=key,
        num_chains=CHAINS,
        num_warmup=number,
        num_samples=number,
        max_tree_depth=DEPTH,
        start=start,
        progress=False,
    )
    return Run(dict(fit.draws), fit.seconds, fit.gradients)


def plain_numpyro(model: Any, data: Any, key: Any, number: int, depth: int) -> Run:
    """`MCMC(NUTS(model))` on the model by hand; a depth of 10 is NumPyro's default."""
    kernel = NUTS(
        partial(by_hand.language_model, vocab_size=model.vocab_size, dim=model.dim),
        max_tree_depth=depth,
    )
    mcmc = MCMC(
        kernel, num_warmup=number, num_samples=number, num_chains=CHAINS, progress_bar=False
    )
    started = time.perf_counter()
    mcmc.warmup(key, data, extra_fields=("num_steps",), collect_warmup=True)
    warmup = int(np.sum(mcmc.get_extra_fields()["num_steps"]))
    mcmc.run(key, data, extra_fields=("num_steps",))
    draws = {
        name: np.asarray(value) for name, value in mcmc.get_samples(group_by_chain=True).items()
    }
    return Run(
        draws,
        time.perf_counter() - started,
        warmup + int(np.sum(mcmc.get_extra_fields()["num_steps"])),
    )


def blackjax_nuts(model: Any, data: Any, key: Any, number: int) -> Run:
    """BlackJAX's window adaptation and NUTS on probattn's density."""
    import blackjax

    energy = potential(model, data)
    start = draw_start(model, data, jax.random.split(key, CHAINS))
    adaptation = blackjax.window_adaptation(
        blackjax.nuts, lambda z: -energy(z), max_num_doublings=DEPTH
    )

    def chain(at: Any) -> Any:
        z, key = at
        for_warmup, for_draws = jax.random.split(key)
        (state, parameters), info = adaptation.run(for_warmup, z, number)
        step = blackjax.nuts(lambda z: -energy(z), **parameters).step

        def one(state: Any, key: Any) -> Any:
            state, info = step(key, state)
            return state, (constrain(model, data, state.position), info.num_integration_steps)

        _, (draws, steps) = jax.lax.scan(one, state, jax.random.split(for_draws, number))
        return draws, steps.sum() + info.info.num_integration_steps.sum()

    run = over_chains(chain, place_chains(CHAINS))
    started = time.perf_counter()
    draws, steps = jax.block_until_ready(
        run((start, jax.random.split(jax.random.fold_in(key, 1), CHAINS)))
    )
    return Run(jax.tree.map(np.asarray, draws), time.perf_counter() - started, float(np.sum(steps)))


def nutpie_nuts(model: Any, data: Any, key: Any, number: int) -> Run:
    """nutpie's NUTS, with its own mass-matrix adaptation, on probattn's density."""
    import nutpie

    flat, restore = ravel_pytree(
        jax.tree.map(lambda leaf: leaf[0], draw_start(model, data, jax.random.split(key, 1)))
    )
    energy = potential(model, data)
    density = jax.jit(jax.value_and_grad(lambda z: -energy(restore(z))))

    def make_density() -> Callable:
        def at(z: np.ndarray, **_: Any) -> tuple[float, np.ndarray]:
            value, slope = density(jnp.asarray(z, jnp.float32))
            return float(value), np.asarray(slope, np.float64)

        return at

    def make_expand(*_: Any) -> Callable:
        return lambda z, **_: {"z": np.asarray(z, np.float64)}

    compiled = nutpie.compiled_pyfunc.from_pyfunc(
        flat.size,
        make_density,
        make_expand,
        [np.dtype(np.float64)],
        [(flat.size,)],
        ["z"],
        make_initial_point_fn=lambda seed: np.asarray(flat, np.float64),
    )
    density(flat)
    started = time.perf_counter()
    trace = nutpie.sample(
        compiled,
        draws=number,
        tune=number,
        chains=CHAINS,
        cores=CHAINS,
        seed=0,
        progress_bar=False,
        maxdepth=DEPTH,
    )
    seconds = time.perf_counter() - started
    z = trace.posterior["z"].values
    values = jax.jit(jax.vmap(jax.vmap(lambda z: constrain(model, data, restore(z)))))(
        jnp.asarray(z, jnp.float32)
    )
    steps = sum(
        float(trace[group]["n_steps"].sum()) for group in ("warmup_sample_stats", "sample_stats")
    )
    return Run(jax.tree.map(np.asarray, values), seconds, steps)


def effective(model: Any, run: Run, heldout: np.ndarray) -> dict[str, float]:
    """Bulk effective draws within chains, summed over them: median over what is identified, and
    over held-out sequences.

    Across chains there are few, for every sampler: they sit in different modes. Within them is what
    a sampler can help."""
    names = list(model.priors())
    flat = {name: run.draws[name].reshape(-1, *run.draws[name].shape[2:]) for name in names}
    quantities = over_draws(type(model).quantities, model, flat, heldout)
    identified = [
        quantities[name].reshape(len(flat["bias"]), -1) for name in ("interaction", "association")
    ]
    tiers = {
        "identified": np.concatenate(identified, axis=1),
        "predictive": over_draws(type(model).log_likelihood, model, flat, heldout),
    }
    found = {}
    for tier, columns in tiers.items():
        by_chain = columns.reshape(CHAINS, -1, columns.shape[-1]).astype(float)
        each = [
            [_ess(chain[:, column]) for column in range(0, columns.shape[1], 7)]
            for chain in by_chain
        ]
        found[tier] = float(np.nanmedian(each, axis=1).sum())
    return found


def _ess(draws: np.ndarray) -> float:
    return (
        float(az.ess(draws[None])) if np.ptp(draws) > 0 else 0.0
    )  # a chain that never moved has no effective draws


def main(
    number: Annotated[int, typer.Option(help="Warmup iterations, and as many draws.")] = 100,
    seeds: int = 1,
    only: Annotated[str | None, typer.Option(help="Names, comma-separated.")] = None,
) -> None:
    set_host_device_count(CHAINS)
    numpyro.set_host_device_count(CHAINS)
    corpus = load_corpus("cmudict", train_size=300)
    model = LanguageModel(len(corpus.symbols), corpus.length, dim=4)
    data = jnp.asarray(corpus.train)
    samplers: dict[str, Callable] = {
        "probattn": partial(probattn_hmc, start="maps"),
        "probattn, started at random": partial(probattn_hmc, start="random"),
        "plain NumPyro, depth 6": partial(plain_numpyro, depth=DEPTH),
        "plain NumPyro": partial(plain_numpyro, depth=10),
    }
    if importlib.util.find_spec("blackjax"):
        samplers["BlackJAX on probattn's density"] = blackjax_nuts
    if importlib.util.find_spec("nutpie"):
        samplers["nutpie on probattn's density"] = nutpie_nuts
    if only:
        samplers = {name: samplers[name] for name in only.split(",")}
    results: dict[str, Any] = {"gradient": gradient_cost(model, data), "samplers": {}}
    console = Console(width=130)
    table = Table(
        "sampler",
        "identified / s",
        "predictive / s",
        "gradients",
        "seconds",
        "never moved",
        title="effective draws within chains",
    )
    with tempfile.TemporaryDirectory() as folder:  # so that the second run of each has its programs
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for name, sampler in samplers.items():
            sampler(model, data, jax.random.key(0), number)
            rates = []
            for seed in range(seeds):
                run = sampler(model, data, jax.random.key(seed), number)
                rates.append((effective(model, run, corpus.heldout[:200]), run))
            row = {
                tier: statistics.median(rate[tier] / run.seconds for rate, run in rates)
                for tier in rates[0][0]
            }
            row |= {
                what: statistics.median(getattr(run, what) for _, run in rates)
                for what in ("gradients", "seconds")
            }
            still = [np.ptp(run.draws["bias"], axis=1).max(-1) == 0 for _, run in rates]
            row["chains that never moved"] = int(np.sum(still))
            results["samplers"][name] = row
            table.add_row(name, *(f"{row[c]:.3g}" for c in tuple(row)))
            console.print(name, row)
    console.print(table)
    console.print(
        "figures: "
        f"{save('samplers', {'number': number, 'chains': CHAINS, 'seeds': seeds}, results)}"
    )


def gradient_cost(model: Any, data: Any) -> Any:
    """One gradient of the posterior, ours against that of the model by hand."""
    hand = partial(by_hand.language_model, vocab_size=model.vocab_size, dim=model.dim)
    z = {
        name: 0.1 * jax.random.normal(jax.random.key(i), p.shape())
        for i, (name, p) in enumerate(model.priors().items())
    }
    functions = {"probattn": potential(model, data), "by hand": potential(hand, data)}
    return side_by_side(
        {name: jax.value_and_grad(function) for name, function in functions.items()}, z
    )


if __name__ == "__main__":
    typer.run(main)
