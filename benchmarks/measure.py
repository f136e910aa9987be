"""Timing side by side: medians of compiled functions that take turns in one process, and what they
were measured on.

Only ratios of such figures mean anything elsewhere; seconds are kept so that they can be formed.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import jax

from probattn.inference.devices.environment import versions

RESULTS = Path(__file__).parent / "results"
RUNS = 30


@dataclass(frozen=True)
class Timing:
    """Seconds a run, median and quartiles of `runs`; seconds to compile; bytes of temporaries,
    arguments and results."""

    median: float
    lower: float
    upper: float
    runs: int
    compile_seconds: float
    temporary_bytes: int
    argument_bytes: int


def side_by_side(
    functions: Mapping[str, Callable], *arguments: Any, runs: int = RUNS
) -> dict[str, Timing]:
    """Time each function of the same arguments, compiled, after two runs that warm up; they take
    turns."""
    compiled, compile_seconds = {}, {}
    for name, function in functions.items():
        started = time.perf_counter()
        compiled[name] = jax.jit(function).lower(*arguments).compile()
        compile_seconds[name] = time.perf_counter() - started
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for turn in range(runs + 2):
        for name, function in compiled.items():
            started = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    timings = {}
    for name, function in compiled.items():
        lower, median, upper = statistics.quantiles(seconds[name], n=4)
        memory = function.memory_analysis()
        temporary, given = (
            memory.temp_size_in_bytes,
            memory.argument_size_in_bytes + memory.output_size_in_bytes,
        )
        timings[name] = Timing(median, lower, upper, runs, compile_seconds[name], temporary, given)
    return timings


def machine() -> dict[str, Any]:
    """What figures were measured on."""
    device = jax.devices()[0]
    return {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "devices": f"{jax.device_count()} {device.device_kind}",
        "precision": "float64" if jax.config.jax_enable_x64 else "float32",
        "versions": versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def save(name: str, about: Mapping[str, Any], results: Any) -> Path:
    """Write one benchmark's figures, with their machine, to `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    whole = {"benchmark": name, "machine": machine(), "about": dict(about), "results": results}
    path.write_text(json.dumps(whole, indent=1, default=asdict) + "\n")
    return path
