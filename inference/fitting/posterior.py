"""The posterior by sampling, in chunks, so that a run can be killed at any time and resumed."""

import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from probattn.checks import as_data, as_integer, as_key
from probattn.errors import FitError, InputError
from probattn.inference.contract import NumPyroModel
from probattn.inference.devices.device_placement import Placement, place_chains
from probattn.inference.devices.multihost import gathered, is_first, on_first
from probattn.inference.devices.progress import Progress
from probattn.inference.devices.sharding import condensed, replicate
from probattn.inference.fitting.chain_program import (
    CHUNK_ITERATIONS,
    SAMPLERS,
    chain_kernel,
    to_device,
    to_host,
)
from probattn.inference.fitting.chain_starts import START_WORDS, check_start, origins, start_points
from probattn.inference.fitting.density import data_hash, density_of
from probattn.inference.fitting.fit import Fit, split_latents
from probattn.inference.fitting.metric import unit_metric
from probattn.inference.fitting.posterior_store import InMemory, PosteriorStore, run_config
from probattn.inference.fitting.warmup import (
    FIRST_LONGEST,
    FIRST_STEP,
    settle_iteration,
    stage_ends,
    tune,
)


def sample_posterior(
    model: NumPyroModel,
    data: Any,
    *,
    key: Array,
    num_chains: int = 4,
    num_warmup: int = 300,
    num_samples: int = 500,
    sampler: str = "hmc",
    max_tree_depth: int = 8,
    start: str | Fit = "maps",
    num_starts: int | None = None,
    chain_method: str | None = None,
    devices: int | None = None,
    store: str | Path | None = None,
    progress: bool = True,
) -> Fit:
    """Draw from the posterior by Hamiltonian Monte Carlo with a metric that knows its symmetries.

    Warmup has four stages. Each ends with a metric from the gradients of all chains, averaged over
    the model's symmetries (`metric_blocks`); the last tunes the step size alone. Then everything is
    fixed, and the draws are exact.

    With `store`, the draws and the sampler's whole state are written to that folder every fifty
    iterations. The same call resumes a run that was killed; its draws are bit for bit those of an
    uninterrupted run. Memory does not grow with the number of draws. If the run is finished, the
    same call reads it, and a call with more `num_samples` extends it. `load_posterior` reads an
    unfinished run.

    Args:
        model: a NumPyro model called as `model(data)`.
        data: the data to condition on, sequences first: tokens (num_sequences, length), or
            embeddings (num_sequences, length, dim).
        key: JAX random key.
        num_chains, num_warmup, num_samples: at least 1 each; samples are per chain.
        sampler: "hmc", with trajectories of 1 to n steps at random, where n is how many they took
            to turn back in warmup; or "nuts", the No-U-Turn sampler.
        max_tree_depth: a draw takes at most 2^depth - 1 gradients.
        start: where chains start: "maps", on the way from the origin of the unconstrained
            coordinates to modes found independently from random points, one for each chain (see
            `chain_starts`); "map", all on the way to one mode; "prior", at draws from the prior;
            "random", near that origin; or a MAP fit, all on the way to its mode.
        num_starts: number of start points, which chains share if there are fewer of them; by
            default one for each chain. At most 1 where `start` is "map" or a fit.
        chain_method: "parallel", "vectorised" or "batches"; None chooses by the devices, see
            `place_chains`.
        devices: number of devices. Chains are divided among them first; devices that are left over
            split the sequences. None takes one for each chain, as far as there are enough, or with
            several processes all of their devices. Results with different numbers differ by
            rounding alone, which the chains amplify until they diverge.
        store: folder of the run; of several processes, the first alone writes to it.
        progress: show progress.

    Raises:
        InputError: data that the model refuses, a count below 1, devices that are not there, or a
            store that holds another run (another model, data, key, setting, precision, placement or
            library version), or that another process is sampling into.
        FitError: no start point of finite density, a NaN among the draws or their density, a chain
            that never moved, or a full disk; the chunks already stored stay whole.
    """
    counts = {"num_chains": num_chains, "num_warmup": num_warmup, "num_samples": num_samples}
    counts["max_tree_depth"] = max_tree_depth
    for name, value in counts.items():
        as_integer(name, value)
    if sampler not in SAMPLERS:
        raise InputError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}")
    num_starts = check_start(start, num_chains, num_starts)
    placement = place_chains(num_chains, chain_method, devices)
    data, key = as_data(data), as_key(key)
    named = (
        start
        if isinstance(start, str)
        else f"fit {data_hash(np.concatenate([v.ravel() for v in start.draws.values()]))}"
    )
    settings: dict[str, Any] = {
        **counts,
        "sampler": sampler,
        "start": named,
        "num_starts": num_starts,
    }
    run = InMemory() if store is None else PosteriorStore(store)
    with contextlib.closing(run):
        if isinstance(run, PosteriorStore):
            config = run_config(density_of(model, data), key, settings, asdict(placement))
            run.open(config)
        if progress and is_first():
            print(placement)
        _sample(model, data, key, start, settings, placement, run, progress)
    return _as_fit(model, data, run, settings)


def resume_posterior(
    model: NumPyroModel,
    data: Any,
    *,
    store: str | Path,
    num_samples: int | None = None,
    progress: bool = True,
) -> Fit:
    """Resume a run that was begun with `sample_posterior(..., store=)`, with its own settings.

    Args:
        model, data: those of the run.
        store: the folder of the run.
        num_samples: a new total of draws per chain, not below that of the run; None keeps it.
        progress: show progress.

    Raises: as `sample_posterior`; InputError also for a smaller `num_samples`, and for a run that
        started from a fit: give the fit to `sample_posterior` again, with the same store."""
    config = on_first(lambda: PosteriorStore(store).config)
    if num_samples is not None and num_samples < (asked := config["settings"]["num_samples"]):
        raise InputError(
            f"num_samples: expected a total of at least the {asked} that the run was begun with, "
            f"got {num_samples}; leave it out"
        )
    settings = config["settings"] | ({} if num_samples is None else {"num_samples": num_samples})
    if settings["start"] not in START_WORDS:
        raise InputError(
            f"{store}: the run started from a fit; give the fit to sample_posterior again, with "
            "this store"
        )
    key = jax.random.wrap_key_data(
        jnp.asarray(config["key"]["data"], jnp.uint32), impl=config["key"]["kind"]
    )
    placed = {
        "chain_method": config["placement"]["method"],
        "devices": config["placement"]["num_devices"],
    }
    return sample_posterior(
        model, data, key=key, store=store, progress=progress, **placed, **settings
    )


def load_posterior(model: NumPyroModel, data: Any, *, store: str | Path) -> Fit:
    """Load the draws so far of a run; `fit.planned` is how many each chain is to have.

    Args: model, data, those of the run; store, the folder of the run.
    Raises: InputError if there is no run in the folder, if it has another model or other data, or
        if it has no draw yet."""
    run = PosteriorStore(store)
    settings, density = run.config["settings"], density_of(model, data)
    if {"name": density.model, **dict(density.fields)} != run.config[
        "model"
    ] or density.data != run.config["data"]:
        raise InputError(f"{store}: is a run of another model or of other data than {density}")
    if not run.arrays("draws"):
        raise InputError(
            f"{store}: holds no draw: it has not gone through its {settings['num_warmup']} "
            "iterations of warmup, or what followed is damaged; resume the run"
        )
    return _as_fit(model, data, run, settings)


def _sample(
    model: NumPyroModel,
    data: Array,
    key: Array,
    start: Any,
    settings: dict[str, Any],
    placement: Placement,
    run: PosteriorStore | InMemory,
    progress: bool,
) -> None:
    """Add chunks to the run until it has all its draws."""
    num_warmup, total = settings["num_warmup"], settings["num_warmup"] + settings["num_samples"]
    for_start, *for_chains = jax.random.split(key, placement.num_chains + 1)
    stored = run.last_state()
    if stored is not None and stored.done >= total:
        return
    began = time.perf_counter()
    if stored is None:
        points, gradients = start_points(
            model, data, for_start, start, settings["num_starts"], progress, placement.for_starts
        )
        chosen = np.array(origins(placement.num_chains, settings["num_starts"]))
        # points: [num_starts, ...] -> z: [num_chains, ...]
        z = jax.tree.map(lambda leaf: leaf[chosen], points)
    else:
        # Only shapes and types of z matter here: the stored state holds its values.
        z = {name: jnp.zeros(shape, dtype) for name, (shape, dtype) in stored.z.items()}
    shapes = {name: (list(leaf.shape), str(leaf.dtype)) for name, leaf in z.items()}
    of_one = tuple((name, tuple(shape[1:]), dtype) for name, (shape, dtype) in shapes.items())
    kernel = chain_kernel(model, placement, of_one, settings["sampler"], settings["max_tree_depth"])
    given = replicate(condensed(model, data, placement), placement)
    ends = stage_ends(num_warmup)
    flat = np.asarray(jax.vmap(lambda one: ravel_pytree(one)[0])(z))  # [num_chains, n]
    keys = jnp.stack(for_chains)
    metric = [root.astype(flat.dtype) for root in unit_metric(kernel.blocks)]
    like = jax.eval_shape(kernel.begin, _start(flat, keys, 1.0, 1.0), given, _on_device(metric))
    impl = jax.random.key_impl(key)

    def begin(w: np.ndarray, keys: Array, step_size: float, longest: float) -> list[np.ndarray]:
        start = _start(w, keys, step_size, longest)
        return to_host(kernel.begin(start, given, _on_device(metric)))

    # Every chunk starts from a state that was copied from the host, as after a kill: interrupted
    # and uninterrupted runs then execute the same program, and their draws agree bit for bit.
    if stored is None:
        state, done = begin(flat, keys, FIRST_STEP, FIRST_LONGEST), 0
        seconds = time.perf_counter() - began
        about = {"done": 0, "z": shapes, "seconds": seconds, "gradients": gradients}
        run.add([*state, *metric], {}, {}, about)
    else:
        leaves, done = stored.state, stored.done
        state, metric = leaves[: -len(metric)], leaves[-len(metric) :]
    with Progress("posterior", total, progress) as bar:
        while done < total:
            began = time.perf_counter()
            sampling, first_draws = done >= num_warmup, done == num_warmup
            end = total if sampling else min(one for one in ends if one > done)
            number = min(CHUNK_ITERATIONS, end - done)
            after, (z, stats) = kernel.chunk(
                to_device(state, like, impl),
                given,
                _on_device(metric),
                jnp.asarray(number),
                jnp.asarray(settle_iteration(done, ends)),
            )
            state, stats = to_host(after), gathered(stats)
            draws, kept = {}, {}
            if sampling:
                # [num_chains, CHUNK_ITERATIONS, ...] -> [num_chains, number, ...]: the rest is not
                # filled.
                draws = {
                    name: value[:, :number]
                    for name, value in gathered(kernel.values(z, given)).items()
                }
                kept = {name: value[:, :number] for name, value in stats.items()}
                kept["reached_max_treedepth"] = (
                    kept["n_steps"] >= 2 ** settings["max_tree_depth"] - 1
                )
                _refuse_failure(
                    {**draws, "potential energy": kept["potential_energy"]}, done - num_warmup
                )
            done += number
            gradients = int(stats["n_steps"][:, :number].sum())
            if done in ends:
                chains = jax.tree.unflatten(jax.tree.structure(like), state)
                tuned, w = tune(kernel.blocks, metric, chains, is_last=done == ends[-1])
                metric = tuned.metric
                keys = jax.random.wrap_key_data(jnp.asarray(chains.key), impl=impl)
                state = begin(w, keys, tuned.step_size, tuned.longest)
            seconds = time.perf_counter() - began
            run.add(
                [*state, *metric],
                draws,
                kept,
                {"done": done, "z": shapes, "seconds": seconds, "gradients": gradients},
            )
            if progress and first_draws and is_first():
                print(f"first draws after {run.seconds():.1f} s")
            bar.update(done, _status(run, done, num_warmup, bar.time_left(done)))
    _refuse_stuck(run.stat("potential_energy"))


def _start(w: np.ndarray, keys: Array, step_size: float, longest: float) -> tuple[Any, ...]:
    """The first argument of `Kernel.begin`, for chains at w (num_chains, n)."""
    same = (jnp.full(len(w), value) for value in (step_size, longest))
    return (jnp.asarray(w), keys, *same)


def _on_device(metric: list[np.ndarray]) -> tuple[Array, ...]:
    return tuple(jnp.asarray(root) for root in metric)


def _as_fit(
    model: NumPyroModel, data: Any, run: PosteriorStore | InMemory, settings: dict[str, Any]
) -> Fit:
    draws, latents = split_latents(model, run.arrays("draws"))
    start = START_WORDS[settings["start"] if settings["start"] in START_WORDS else "map"]
    shared = origins(settings["num_chains"], settings["num_starts"])
    stats, planned = run.arrays("stats"), settings["num_samples"]
    return Fit(
        model,
        "posterior",
        np.asarray(data),
        draws,
        stats,
        latents,
        run.seconds(),
        run.gradients(),
        start=start,
        origins=shared,
        planned=planned,
    )


def _status(run: PosteriorStore | InMemory, done: int, num_warmup: int, left: str) -> str:
    if done <= num_warmup:
        return f"warmup, {left}"
    # Imported here, since it loads more slowly than NumPyro: the first draws need not wait for it.
    from arviz_stats import ess

    energies = run.stat("potential_energy")
    said = f"sampling, {int(run.stat('diverging').sum())} divergences"
    if energies.shape[1] >= 8:
        said += (
            f", {float(ess(energies)) / run.seconds():.2g} effective draws of the log joint per s"
        )
    return f"{said}, {left}"


def _refuse_failure(values: dict[str, np.ndarray], first: int) -> None:
    for name, value in values.items():
        if not np.isfinite(value).all():
            chain, draw = np.argwhere(~np.isfinite(value))[0][:2]
            raise FitError(
                f"posterior: {name} is not finite at chain {chain + 1}, draw "
                f"{first + draw + 1}; the fit is unusable"
            )


def _refuse_stuck(potential: np.ndarray) -> None:
    for chain, energies in enumerate(potential, start=1):
        if len(energies) > 1 and (energies == energies[0]).all():
            raise FitError(
                f"posterior: chain {chain} never moved; give it more warmup (`num_warmup`)"
            )
