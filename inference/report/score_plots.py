"""Figures of held-out scores: of whole fits, and of single draws."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from probattn.errors import InputError
from probattn.inference.contract import TokenModel, require
from probattn.inference.evaluation.mode_against_draws import DrawScores, draw_scores
from probattn.inference.evaluation.scores import has_chains, score_baselines, score_fit
from probattn.inference.report.plot_arguments import fits_by_name, results_by_name
from probattn.inference.report.style import STYLE, fit_styles, own_axes


def plot_scores(fits: Any, tokens: Any = None, *, ax: Axes | None = None) -> Axes:
    """Held-out loss of each predictor with two standard errors.

    Args:
        fits: one fit, several by name, or a sequence of `Score`.
        tokens: held-out sequences (num_sequences, length), needed for fits. A unigram and a bigram
            of the training sequences are scored on them too.
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    Raises: InputError for tokens that the model refuses.
    """
    if isinstance(fits, (list, tuple)):
        scores = list(fits)
    else:
        given = fits_by_name(fits)
        first = next(iter(given.values()))
        scores = [score_fit(name, fit, tokens) for name, fit in given.items()]
        vocab_size = require("scores", first.model, TokenModel).vocab_size
        scores += score_baselines(first.data, np.asarray(tokens), vocab_size)
    ordered = sorted(scores, key=lambda score: -score.loss)
    ax = own_axes(ax, 6.8, 1.0 + 0.38 * len(ordered))
    shown = fit_styles({score.name: score.method for score in scores})
    with mpl.rc_context(STYLE):
        for row, score in enumerate(ordered):
            style = {"color": shown[score.name]["color"], "marker": shown[score.name]["marker"]}
            ax.errorbar(
                score.loss,
                row,
                xerr=2 * score.per_token.error,
                capsize=3,
                label=score.name,
                **style,
            )
            ax.annotate(
                f"{score.loss:.3f}",
                (score.loss, row),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        ax.set_yticks(range(len(ordered)), [score.name for score in ordered])
        ax.set_ylim(-0.5, len(ordered) - 0.2)
        ax.set_xlabel("held-out loss, nats per token (left is better; bars: two standard errors)")
        ax.grid(axis="x", alpha=0.3)
    return ax


def plot_traces(fits: Any, tokens: Any = None, *, ax: Axes | None = None) -> Axes:
    """Held-out log probability per token of single draws, chain by chain.

    Fits that are not by Markov chains are left out.

    Args:
        fits: one fit, several by name, or a sequence of `Score`.
        tokens: held-out sequences (num_sequences, length), needed for fits.
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    Raises: InputError if no fit is by Markov chains.
    """
    given = isinstance(fits, (list, tuple))
    scores = (
        fits
        if given
        else [score_fit(name, fit, tokens) for name, fit in fits_by_name(fits).items()]
    )
    sampled = [score for score in scores if has_chains(score)]
    if not sampled:
        raise InputError("traces: expected a fit by Markov chains, got none")
    ax = own_axes(ax, 6.8, 3.0)
    shown = fit_styles({score.name: score.method for score in sampled})
    with mpl.rc_context(STYLE):
        for score in sampled:
            # per_draw is [chains, draws, n]; its sum over the n sequences is [chains, draws].
            for chain, values in enumerate(score.per_draw.sum(-1) / score.num_tokens):
                style = ("-", "--", ":", "-.")[chain % 4]
                ax.plot(
                    values,
                    style,
                    color=shown[score.name]["color"],
                    linewidth=1,
                    label=f"{score.name}, chain {chain + 1}",
                )
        ax.set_xlabel("draw")
        ax.set_ylabel("held-out log probability,\nnats per token")
        ax.figure.legend(
            *ax.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=9
        )
    return ax


def plot_mode_against_draws(fits: Any, tokens: Any = None, *, ax: Axes | None = None) -> Axes:
    """Held-out log probability of each draw against its joint density.

    A dashed line is the mixture of all draws of a fit.

    Args:
        fits: one fit, several by name, or a mapping to `DrawScores`.
        tokens: held-out sequences (num_sequences, length), needed for fits.
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    """
    found = results_by_name(fits, DrawScores, lambda fit: draw_scores(fit, tokens))
    ax = own_axes(ax, 6.4, 3.8)
    shown = fit_styles({name: one.method for name, one in found.items()})
    with mpl.rc_context(STYLE):
        for name, one in found.items():
            single = len(one.log_joint) == 1
            style = {
                "color": shown[name]["color"],
                "marker": shown[name]["marker"],
                "linestyle": "none",
            }
            ax.plot(
                one.log_joint,
                one.per_token,
                **style,
                markersize=9 if single else 3,
                alpha=1 if single else 0.5,
                label=name,
            )
            if not single:
                ax.axhline(
                    one.mixture,
                    color=shown[name]["color"],
                    linewidth=1.4,
                    linestyle="--",
                    label=f"{name}, all draws together",
                )
        ax.set_xlabel(
            "log joint density of parameters and training data, nats (right is more probable)"
        )
        ax.set_ylabel("held-out log probability,\nnats per token (up is better)")
        ax.legend(fontsize=9)
    return ax
