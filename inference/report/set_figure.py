"""The figure of the random set as a process: who has been visited, how many, and when."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from probattn.errors import InputError
from probattn.inference.report.style import MORE_COLOURS, STYLE, ink
from probattn.sequence.termination import symbols as symbols_of

MOST_CURVES = 8  # tokens drawn: those most probably visited


def plot_set_process(
    process: Any,
    symbols: Sequence[str],
    *,
    sets: Mapping[str, Sequence[int]] | None = None,
    **how: Any,
) -> np.ndarray:
    """S_n at every step n: inclusion of tokens, size, and times to hit and to cover given sets.

    Bands in the first panel are two standard errors, where the numbers come from draws.

    Args:
        process: a sequence process.
        symbols: the symbol of each token.
        sets: tokens of each set, by its name; None is all of the symbols together.
        how: `method`, `num_samples` and `key`, as for `visited_by`.

    Returns: the axes, (3,). Raises: InputError for too few symbols, and as `hitting_time`.
    """
    if len(symbols) < process.vocab_size:
        raise InputError(
            f"symbols: expected {process.vocab_size}, one for each token, got {len(symbols)}"
        )
    sets = {"all symbols": symbols_of(process)} if sets is None else sets
    visited, sizes = process.visited_by(**how), process.set_size_law(**how)
    steps = np.arange(process.length + 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.2), layout="constrained")
        axes = figure.subplots(1, 3)
        tokens = np.array(symbols_of(process))  # the end is in no set
        shown = tokens[np.argsort(-np.asarray(visited.value)[-1][tokens])][:MOST_CURVES]
        for token, colour in zip(shown, MORE_COLOURS, strict=False):
            _curve(axes[0], steps, visited, token, colour, symbols[token])
        axes[0].set(xlabel="step n", ylabel="probability", title="P(token in S_n)")
        axes[0].legend(fontsize=8, ncols=2)
        law = np.asarray(sizes.value)
        most = max(1, int(np.nonzero(law.max(0) > 1e-4)[0].max()))
        image = axes[1].imshow(
            law[:, : most + 1].T, origin="lower", aspect="auto", cmap="Blues", vmin=0, vmax=1
        )
        axes[1].plot(steps, law @ np.arange(law.shape[1]), color=ink(), linewidth=1.2, label="mean")
        axes[1].set(xlabel="step n", ylabel="size", title="P(|S_n| = size)")
        axes[1].legend(fontsize=8)
        figure.colorbar(image, ax=axes[1], shrink=0.8)
        for (name, subset), colour in zip(sets.items(), cycle(MORE_COLOURS), strict=False):
            for kind, line in (("hitting", "-"), ("coverage", "--")):
                law = np.asarray(getattr(process, f"{kind}_time")(subset, **how).value)[:-1]
                by = np.concatenate([[0.0], np.cumsum(law)])
                verb = "hit" if kind == "hitting" else "covered"
                axes[2].step(steps, by, line, where="post", color=colour, label=f"{name}, {verb}")
        axes[2].set(xlabel="step n", ylabel="probability", title="P(hit, or covered, by step n)")
        axes[2].legend(fontsize=8)
        for ax in (axes[0], axes[2]):
            ax.set_ylim(-0.02, 1.02)
    return axes


def _curve(ax: Any, steps: np.ndarray, table: Any, token: Any, colour: str, label: str) -> None:
    value = np.asarray(table.value)[:, token]
    error = 2 * np.asarray(table.standard_error)[:, token]
    ax.plot(steps, value, color=colour, linewidth=1.4, label=label)
    if not table.exact:
        ax.fill_between(steps, value - error, value + error, color=colour, alpha=0.2, linewidth=0)
