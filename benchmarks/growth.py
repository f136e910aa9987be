"""How time and memory grow with length, dimension, sequences, draws and chains: slopes on log-log
axes."""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import typer
from jaxtyping import Array
from matplotlib.ticker import NullLocator
from rich.console import Console
from rich.table import Table

from benchmarks import by_hand
from benchmarks.measure import save, side_by_side
from probattn import Attention, AttentionProcess, residuals
from probattn.inference import sample_posterior
from probattn.inference.devices.device_placement import set_host_device_count
from probattn.models import LanguageModel

LENGTHS = (16, 64, 256, 1024)
DIMS = (2, 4, 8, 16, 32, 64)
SEQUENCES = (10, 100, 1000, 10_000, 100_000)
DRAWS, CHAINS = (50, 200, 800), (1, 2, 4, 8)
BY_HAND_BYTES = 2e8  # beyond, the density by hand is left out


@dataclass(frozen=True)
class Curve:
    """Seconds and bytes of one function along one axis, and their slopes on log-log axes over its
    upper half."""

    sizes: list[int]
    seconds: list[float]
    bytes: list[int]
    time_slope: float
    memory_slope: float


def curve(sizes: list[int], seconds: list[float], memory: list[int]) -> Curve:
    """The curve of these points; a slope needs two."""
    half = slice(-max(2, (len(sizes) + 1) // 2), None)

    def slope(values: list[Any]) -> float:
        if len(sizes) < 2 or min(values) <= 0:
            return float("nan")
        return float(np.polyfit(np.log(sizes[half]), np.log(values[half]), 1)[0])

    return Curve(sizes, seconds, memory, slope(seconds), slope(memory))


def density_functions(rank: int, dim: int, length: int) -> dict[str, Any]:
    """Gradients in parameters and embeddings of the density, of the mean alone, and of the density
    by hand."""

    def process(query: Array, key: Array, u: Array) -> Array:
        return AttentionProcess(Attention(query[None], key[None]), 1.0, length).log_prob(u).sum()

    def mean(query: Array, key: Array, u: Array) -> Array:
        return -0.5 * (residuals(Attention(query[None], key[None]), u) ** 2).sum()

    def hand(query: Array, key: Array, u: Array) -> Array:
        return by_hand.log_density(query, key, u).sum()

    return {
        name: jax.value_and_grad(function, (0, 1, 2))
        for name, function in (
            ("density", process),
            ("mean alone", mean),
            ("density by hand", hand),
        )
    }


def along(
    axis: str,
    sizes: tuple[int, ...],
    *,
    length: int = 16,
    dim: int = 8,
    rank: int | None = 4,
    number: int = 64,
) -> dict[str, Curve]:
    """Curves of the three densities where one of length, dim and number takes these sizes; rank
    None is dim."""
    found: dict[str, list[tuple[int, float, int]]] = {}
    for size in sizes:
        shape = {"length": length, "dim": dim, "number": number} | {axis: size}
        n, t, d = shape["number"], shape["length"], shape["dim"]
        r = d if rank is None else min(rank, d)
        functions = density_functions(r, d, t)
        if n * t * t * d * d * 4 * 3 > BY_HAND_BYTES:
            del functions["density by hand"]
        query, key = (0.3 / d**0.5 * jax.random.normal(jax.random.key(i), (r, d)) for i in (0, 1))
        u = jax.random.normal(jax.random.key(2), (n, t, d))
        for name, timing in side_by_side(functions, query, key, u, runs=20).items():
            found.setdefault(name, []).append(
                (size, timing.median, timing.temporary_bytes + timing.argument_bytes)
            )
    return {name: curve(*map(list, zip(*points, strict=True))) for name, points in found.items()}


def sampling(console: Console) -> dict[str, Curve]:
    """Seconds of a posterior along its draws and its chains, programs compiled before, and bytes
    that live on the device."""
    model = LanguageModel(4, 5, 2)
    tokens = jnp.asarray(np.tile([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0], [3, 3, 2, 1, 0]], (20, 1)))

    def run(draws: int, chains: int) -> tuple[float, int]:
        started = time.perf_counter()
        settings: dict[str, Any] = dict(
            num_warmup=50, start="random", max_tree_depth=4, progress=False
        )
        with tempfile.TemporaryDirectory() as folder:
            sample_posterior(
                model,
                tokens,
                key=jax.random.key(0),
                num_samples=draws,
                num_chains=chains,
                store=Path(folder) / "run",
                **settings,
            )
            seconds = time.perf_counter() - started
        return seconds, sum(array.nbytes for array in jax.live_arrays())

    found = {}
    for axis, sizes in (("draws", DRAWS), ("chains", CHAINS)):
        points = []
        for size in sizes:
            settings = (size, 2) if axis == "draws" else (100, size)
            run(*settings)
            points.append((size, *run(*settings)))
        found[axis] = curve(*map(list, zip(*points, strict=True)))
        console.print(f"{axis}: {points}")
    return found


def draw(curves: dict[str, dict[str, Curve]], path: Path) -> None:
    """Seconds above, bytes below, an axis of growth in each column."""
    figure, axes = plt.subplots(
        2, len(curves), figsize=(3.2 * len(curves), 5.6), sharex="col", layout="constrained"
    )
    for column, (title, lines) in zip(axes.T, curves.items(), strict=True):
        for name, line in lines.items():
            for axis, values, slope in zip(
                column,
                (line.seconds, line.bytes),
                (line.time_slope, line.memory_slope),
                strict=True,
            ):
                axis.loglog(
                    line.sizes, values, marker="o", markersize=3, label=f"{name}, slope {slope:.2f}"
                )
        column[0].set_title(title, fontsize=10)
        column[1].set_xlabel(title.split(",")[0])
        sizes = sorted({size for line in lines.values() for size in line.sizes})
        for axis in column:
            axis.legend(fontsize=7)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7, rotation=45)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("bytes")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(
    figure: Annotated[Path, typer.Option(help="Where the curves are drawn.")] = Path(
        "build/growth.png"
    ),
) -> None:
    set_host_device_count(2)
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    console = Console(width=120)
    curves = {
        "length, 16 sequences, dim 8, rank 4": along("length", LENGTHS, number=16),
        "dim, 64 sequences of 16, rank 4": along("dim", DIMS),
        "dim, 64 sequences of 16, rank = dim": along("dim", DIMS, rank=None),
        "sequences of length 16, dim 4": along("number", SEQUENCES, dim=4),
    }
    curves["draws and chains, a posterior"] = sampling(console)
    table = Table("along", "what", "slope of time", "slope of memory")
    for title, lines in curves.items():
        for name, line in lines.items():
            table.add_row(title, name, f"{line.time_slope:.2f}", f"{line.memory_slope:.2f}")
    console.print(table)
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw(curves, figure)
    results = {
        title: {name: asdict(line) for name, line in lines.items()}
        for title, lines in curves.items()
    }
    console.print(f"figures: {save('growth', {'runs': 20}, results)}, {figure}")


if __name__ == "__main__":
    typer.run(main)
