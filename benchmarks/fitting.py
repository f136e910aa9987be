"""What the barrier costs a MAP step, and what a MAP fit of the demo costs once it is compiled."""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import optax
from rich.console import Console
from rich.table import Table

from benchmarks.measure import save, side_by_side
from probattn.inference import fit_map, load_corpus
from probattn.inference.fitting.unconstrained import potential
from probattn.models import LanguageModel, TransformerLM

VOCAB, LENGTH, DIM, BATCH = 96, 64, 64, 32
RANKS = (1, 2, 4, 8, 64)


def steps_of(model_of: Callable[[float], Any]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """One Adam step on the joint with and without the barrier, from the same small parameters.
    Args: model_of, of a barrier weight."""
    tokens = jax.random.randint(jax.random.key(1), (BATCH, LENGTH), 1, VOCAB)
    optimiser = optax.adam(1e-3)
    models = {weight: model_of(weight) for weight in (0.05, 0.0)}
    z = {
        name: 0.1 * jax.random.normal(jax.random.key(i), prior.shape())
        for i, (name, prior) in enumerate(models[0.05].priors().items())
    }

    def step(model: Any) -> Any:
        # A barrier on an attention beside the model has parameters that the model without it has
        # not.
        names = model.priors()

        def one(z: Any, state: Any, tokens: Any) -> Any:
            negative_log_joint = potential(model, tokens)
            loss, slope = jax.value_and_grad(
                lambda z: negative_log_joint({name: z[name] for name in names})
            )(z)
            updates, state = optimiser.update(slope, state, z)
            return optax.apply_updates(z, updates), state, loss

        return one

    functions = {"with barrier": step(models[0.05]), "without": step(models[0.0])}
    return functions, (z, optimiser.init(z), tokens)


def language_model(rank: int) -> Callable[[float], LanguageModel]:
    return lambda weight: LanguageModel(VOCAB, LENGTH, DIM, 1, rank, barrier_weight=weight)


def transformer(weight: float) -> TransformerLM:
    return TransformerLM(VOCAB, LENGTH, DIM, layers=2, heads=4, barrier_weight=weight)


def demo_map() -> dict[str, float]:
    """Seconds of the demo's MAP fit: compiled afresh, and again with its programs in the persistent
    cache."""
    corpus = load_corpus("cmudict", train_size=300)
    model = LanguageModel(len(corpus.symbols), corpus.length, dim=4)
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for name in ("compiled afresh", "compiled before"):
            jax.clear_caches()
            started = time.perf_counter()
            fit_map(model, corpus.train, key=jax.random.key(0), num_steps=3000, progress=False)
            seconds[name] = time.perf_counter() - started
    return seconds


def main() -> None:
    console = Console(width=120)
    results: dict[str, Any] = {"step": {}}
    table = Table(
        "model",
        "times the step without barrier",
        "memory, times",
        title=f"MAP step: vocabulary {VOCAB}, length {LENGTH}, dim {DIM}, {BATCH} sequences",
    )
    models = {f"LanguageModel, rank {rank}": language_model(rank) for rank in RANKS}
    for name, model_of in ({"TransformerLM, 2 layers, 4 heads": transformer} | models).items():
        functions, arguments = steps_of(model_of)
        timings = results["step"][name] = side_by_side(functions, *arguments, runs=20)
        with_barrier, without = timings.values()
        memory = with_barrier.temporary_bytes / without.temporary_bytes
        table.add_row(name, f"{with_barrier.median / without.median:.2f}", f"{memory:.2f}")
    console.print(table)
    results["demo_map_seconds"] = demo_map()
    console.print(
        "MAP of the demo: "
        + ", ".join(f"{k} {v:.1f} s" for k, v in results["demo_map_seconds"].items())
    )
    about = {"vocab_size": VOCAB, "length": LENGTH, "dim": DIM, "batch": BATCH}
    console.print(f"figures: {save('fitting', about, results)}")


if __name__ == "__main__":
    main()
