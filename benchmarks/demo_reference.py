"""A reference posterior of the demo's model, from one long run, in posteriordb's layout.

`python -m benchmarks.demo_reference` writes `benchmarks/posteriordb`: means and standard deviations
of all identified quantities and of the log probabilities of held-out words, with their Monte Carlo
errors. Nothing is written unless the run has converged. A slow test holds a run of the demo's
length to it, and any sampler of this density can be held to it."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats

from benchmarks.measure import machine
from probattn.inference import Corpus, Fit, diagnose, load_corpus, sample_posterior
from probattn.inference.devices.device_placement import set_host_device_count
from probattn.inference.fitting.fit import over_draws
from probattn.models import LanguageModel

ROOT = Path(__file__).parent / "posteriordb"
NAME, MODEL, DATA = "cmudict_300-attention_4", "attention_4", "cmudict_300"
WORDS, DIM, HELDOUT = 300, 4, 200
SETTINGS = dict(num_chains=4, num_warmup=600, num_samples=5000, max_tree_depth=7)
KEPT = 2500  # draws of each chain, evenly spaced, from which the statistics are computed


def setup() -> tuple[LanguageModel, Corpus]:
    """The demo's model and data."""
    corpus = load_corpus("cmudict", train_size=WORDS)
    return LanguageModel(len(corpus.symbols), corpus.length, dim=DIM), corpus


def described(fit: Fit, heldout: np.ndarray, most: int = KEPT) -> dict[str, np.ndarray]:
    """Draws of each scalar, by name, (chains, draws): identified and predictive ones."""
    step = max(1, fit.shape[1] // most)
    thin = {name: value[:, ::step] for name, value in fit.draws.items()}
    chains, draws = next(iter(thin.values())).shape[:2]
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in thin.items()}
    columns: dict[str, Any] = dict(
        over_draws(type(fit.model).quantities, fit.model, flat, fit.data)
    )
    columns["held_out"] = over_draws(type(fit.model).log_likelihood, fit.model, flat, heldout)
    found = {}
    for name, values in columns.items():
        by_entry = np.asarray(values, float).reshape(chains, draws, -1)
        shape = np.asarray(values).shape[1:]
        for entry in range(by_entry.shape[-1]):
            index = ",".join(str(i) for i in np.unravel_index(entry, shape)) if shape else ""
            if np.ptp(by_entry[..., entry]) > 0:
                found[f"{name}[{index}]" if index else name] = by_entry[..., entry]
    return found


def statistics(draws: dict[str, np.ndarray]) -> dict[str, dict[str, list]]:
    """ "mean" and "sd": names, values and Monte Carlo errors."""
    stacked = np.stack(list(draws.values()))  # [quantities, chains, draws]
    axes = dict(chain_axis=-2, draw_axis=-1)
    found = {"mean": stacked.mean((1, 2)), "sd": stacked.std((1, 2))}
    return {
        kind: {
            "names": list(draws),
            "value": _short(values),
            "mcse": _short(array_stats.mcse(stacked, method=kind, **axes)),
        }
        for kind, values in found.items()
    }


def _short(values: np.ndarray) -> list[float]:
    """Five digits, beyond which there is Monte Carlo error alone."""
    return [float(f"{value:.5g}") for value in values]


def main() -> None:
    """Sample, judge, and write if converged."""
    set_host_device_count(2)
    model, corpus = setup()
    data, heldout = jnp.asarray(corpus.train), corpus.heldout[:HELDOUT]
    fit = sample_posterior(model, data, key=jax.random.key(2026), **SETTINGS)
    verdict = diagnose(fit, corpus.heldout).verdict
    print(verdict)
    if not verdict.converged:
        raise SystemExit("not converged: nothing is written")
    found = statistics(described(fit, heldout))
    write("posteriors/{name}.json", posterior(model))
    write(
        "models/info/{model}.info.json",
        {"name": MODEL, "title": repr(model), "module": "probattn.models"},
    )
    write(
        "data/info/{data}.info.json",
        {
            "name": DATA,
            "title": "Pronunciations of the CMU Pronouncing Dictionary in 39 phonemes",
            "references": "Carnegie Mellon University Pronouncing Dictionary 0.7b",
        },
    )
    write(
        "data/data/{data}.json",
        {"symbols": corpus.symbols, "train": corpus.train.tolist(), "heldout": heldout.tolist()},
    )
    write(
        "reference_posteriors/draws/info/{name}.info.json",
        {
            "name": NAME,
            "inference": {"method": "sample_posterior", "settings": SETTINGS, "kept": KEPT},
            "checks_made": {"verdict": str(verdict)},
            "gradients": fit.gradients,
            "machine": machine(),
        },
    )
    for kind, values in found.items():
        write(f"reference_posteriors/summary_statistics/{kind}/{kind}/{{name}}.json", values)


def posterior(model: LanguageModel) -> dict[str, Any]:
    """The record that joins model, data and reference."""
    return {
        "name": NAME,
        "model_name": MODEL,
        "data_name": DATA,
        "reference_posterior_name": NAME,
        "dimensions": {name: list(prior.shape()) for name, prior in model.priors().items()},
    }


def write(path: str, what: Any) -> None:
    """One JSON file of the database."""
    target = ROOT / path.format(name=NAME, model=MODEL, data=DATA)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(what, indent=None if "mean" in path or "sd" in path else 1) + "\n")


if __name__ == "__main__":
    main()
