"""Margins of a pretrained layer: ours over what one would write by hand, in one run.

By hand is automatic differentiation of the layer's block at each position, and all singular values.
A whole text is timed too."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.measure import save
from benchmarks.pretrained import TEXTS
from probattn.lens import encode, lens, load_transformer, streams
from probattn.lens.extreme_singular_values import extremes
from probattn.lens.forward import attention_output, attention_parts
from probattn.lens.jacobian_blocks import attention_blocks

POSITIONS = 4  # of each layer that is timed
SHORT = 36  # tokens of the text to which they belong


def main(
    model_file: Annotated[Path, typer.Argument(help="The GGUF file.")],
    tokens: Annotated[int, typer.Option(help="Length of the whole text.")] = 128,
    rounds: int = 3,
) -> None:
    """Time both in turns, on one thread of BLAS, then all layers of a text."""
    console, model = Console(width=120), load_transformer(str(model_file))
    ids = np.concatenate([encode(model, text) for text in TEXTS.values()])[:tokens]
    path = streams(model, ids[:SHORT])
    at = jnp.arange(8, 8 + POSITIONS)
    layers = (1, len(model.layers) // 2, len(model.layers) - 1)

    def ours(layer: int) -> Any:
        blocks = attention_blocks(model.config, model.layers[layer], path[layer], at)
        return [extremes(block) for block in np.asarray(blocks)]

    @jax.jit
    def derivative(weights: Any, x: Any, t: Any) -> Any:
        def block(here: Any) -> Any:
            whole = x.at[t].set(here)
            parts = attention_parts(model.config, weights, whole)
            return here + attention_output(model.config, weights, parts)[t]

        return jax.jacfwd(block)(x[t])

    def by_hand(layer: int) -> Any:
        found = []
        for t in at:
            block = np.asarray(derivative(model.layers[layer], path[layer], t))
            values = np.linalg.svd(block, compute_uv=False)
            found.append((values[-1], values[0], *np.linalg.slogdet(block)))
        return found

    with threadpool_limits(1, "blas"):
        for layer in layers:  # compiles, and both give the same
            pairs = zip(ours(layer), by_hand(layer), strict=True)
            apart = max(abs(one.sigma_min / other[0] - 1) for one, other in pairs)
            console.print(f"layer {layer}: largest relative difference of sigma_min {apart:.1e}")
        ratios = np.array(
            [[seconds(by_hand, one) / seconds(ours, one) for one in layers] for _ in range(rounds)]
        )
    started = time.perf_counter()
    lens(model, ids, progress=True)
    whole = time.perf_counter() - started
    error = ratios.std(0, ddof=1) / np.sqrt(rounds)
    results = {
        "layers": list(layers),
        "by hand over ours": ratios.mean(0).tolist(),
        "standard error": error.tolist(),
        "seconds of a whole text": whole,
    }
    save("lens_cost", {"tokens": len(ids), "rounds": rounds, "layers": len(model.layers)}, results)
    console.print(results)


def seconds(function: Callable[[int], Any], layer: int) -> float:
    """Of one call."""
    started = time.perf_counter()
    function(layer)
    return time.perf_counter() - started


if __name__ == "__main__":
    typer.run(main)
