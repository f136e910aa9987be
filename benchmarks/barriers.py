"""The barrier as a factor beside the law of tokens, and as a part of it, on the same words.

The page of `compare` is written to build/barriers; its figures to `results/barriers.json`."""

from pathlib import Path
from typing import Annotated, Any

import jax
import typer
from rich.console import Console

from benchmarks.measure import save
from probattn.inference import compare, diagnose, fit_map, load_corpus, sample_posterior
from probattn.inference.devices.device_placement import set_host_device_count
from probattn.models import LanguageModel

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"barrier_weight": 0.0},
    "factor 0.05": {"barrier_weight": 0.05},
    "factor 1": {"barrier_weight": 1.0},
    # Without the cap a held-out word may have a token outside the domain, of probability 0.
    "normalised 1": {"barrier_weight": 1.0, "barrier": "normalised", "contraction": 0.9},
}


def main(
    words: int = 100,
    dim: int = 2,
    posterior: Annotated[bool, typer.Option(help="Sample posteriors too.")] = True,
) -> None:
    """Fit, compare, save."""
    set_host_device_count(2)
    corpus, console = load_corpus("cmudict", train_size=words), Console(width=120)
    fits: dict[str, Any] = {}
    verdicts = {}
    for name, kind in KINDS.items():
        model = LanguageModel(len(corpus.symbols), corpus.length, dim=dim, **kind)
        fits[f"map, {name}"] = fit_map(model, corpus.train, key=jax.random.key(0), progress=False)
        verdicts[f"map, {name}"] = fits[f"map, {name}"].verdict.converged
        if posterior:
            fit = sample_posterior(model, corpus.train, key=jax.random.key(1), progress=False)
            fits[f"posterior, {name}"] = fit
            verdicts[f"posterior, {name}"] = diagnose(fit, corpus.heldout).verdict.converged
        console.print(name, {one: round(fit.seconds) for one, fit in fits.items()}, verdicts)
    comparison = compare(fits, corpus.heldout, symbols=corpus.symbols, mix_densities=True)
    folder = Path("build") / "barriers"
    folder.mkdir(parents=True, exist_ok=True)
    comparison.save_html(folder / "report.html")
    comparison.save_json(folder / "report.json")
    console.print(folder / "report.html")
    answers = {
        answer.figure: {name: str(value) for name, value in answer.values.items()}
        for answer in comparison.answers
    }
    save("barriers", {"words": words, "dim": dim, "converged": verdicts}, answers)
    console.print(answers)


if __name__ == "__main__":
    typer.run(main)
