"""What the commands print."""

import contextlib
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from probattn.errors import InputError
from probattn.visible_text import visible, visible_symbol

# Most fits that a table of 80 columns has room for; the page has room for more.
MOST_COLUMNS = 3
SAME_COMMAND = "the same command resumes it"
# Arguments of the library that are options by the same name.
OPTIONS = {
    *("batch_size", "cluster", "format", "keep_space", "length", "mix_densities", "train_size"),
    *("num_particles", "num_starts", "num_steps", "num_warmup", "num_samples", "stream", "top_k"),
}


def in_options(message: object) -> str:
    """A message of the library on one line, with its arguments as options and controls visible.

    The library writes `train_size` or `format=words` in backticks, the command line --train-size
    or --format words.
    """

    def option(found: re.Match) -> str:
        name, value = found["name"], found["value"]
        if name not in OPTIONS:
            return found[0]
        return f"--{name.replace('_', '-')}" + ("" if value in (None, "True") else f" {value}")

    line = " ".join(str(message).split())
    return visible(re.sub(r"`(?P<name>\w+)(=(?P<value>[^`]*))?`", option, line))


class VisibleConsole(Console):
    """A console that shows names, symbols and paths as they are.

    No text is read as markup, as an emoji or as a control character.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make text of a string; rich calls it for what is printed and for each cell of a table."""
        return super().render_str(visible(text, keep="\n"), **options)


console = VisibleConsole()


@contextlib.contextmanager
def resumption_hint(how: Callable[[], str | None]) -> Iterator[None]:
    """Print how to resume the work inside if Ctrl-C stops it, and let the interrupt pass.

    `how` is called only then; it returns None if there is nothing to resume.
    """
    try:
        yield
    except KeyboardInterrupt:
        if said := how():
            print(f"\nstopped; {visible(said)}", file=sys.stderr)
        raise


@contextlib.contextmanager
def naming(option: str) -> Iterator[None]:
    """Begin the message of bad input with the option that it was given to."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{option} {error}") from error


def print_comparison(comparison: Any) -> None:
    """Print the warnings, scores, a short table (of few fits only) and findings of a comparison."""
    from probattn.inference.report.sentences import findings, warnings_of

    for warning in warnings_of(comparison):
        console.print(in_options(f"{warning.topic}: {warning.text}"), style="bold")
    scores = Table(
        "predictor",
        "nats per token",
        "gradients",
        "seconds",
        title="held-out loss and its cost",
    )
    for score in sorted(comparison.scores, key=lambda score: score.loss):
        cost = [
            "" if math.isnan(cost) else f"{cost:,.0f}" for cost in (score.gradients, score.seconds)
        ]
        scores.add_row(score.name, f"{score.loss:.4f} ± {score.per_token.error:.4f}", *cost)
    console.print(scores)
    if len(comparison.methods) <= MOST_COLUMNS:
        console.print(_in_short(comparison))
    for finding in findings(comparison):
        console.print(f"- {finding.text}")


def _in_short(comparison: Any) -> Table:
    """The figures of the reference, and beside them the paired differences of the other fits."""
    reference = comparison.answers[0].reference
    others = [name for name in comparison.methods if name != reference]
    table = Table(
        "figure",
        reference,
        title=f"values, and paired differences: value minus that of {reference}",
    )
    for name in others:
        table.add_column(name)
    for answer in comparison.answers:
        cells = [
            f"{answer.values[name]}\n{answer.differences[name].signed} {answer.word(name)}"
            for name in others
        ]
        table.add_row(
            Text.assemble(f"{visible(answer.figure)}\n", (answer.unit, "dim")),
            str(answer.values[reference]),
            *cells,
        )
    return table


def generation_table(corpus: Any, generation: Any) -> Table:
    """One generated sequence as a table, with a row for each token.

    Its margin is that of the position that predicts it: where the path has a start, that of the
    token before, which `probattn margins` shows in the row of that token.
    """
    from probattn.inference.evaluation.support import path_labels

    positions = int((generation.support >= 0).sum())
    labels = path_labels(generation.tokens, corpus.symbols, positions, generation.path_has_start)
    # Numbers the positions of the path so that the n-th token is n, with or without a start at 0.
    first = 0 if generation.path_has_start else 1
    total = generation.log_prob[:positions].sum()
    table = Table(
        "position",
        "token",
        "log probability",
        "margin before it" if generation.path_has_start else "margin",
        "support token so far",
        title=f"{visible(corpus.decode(generation.tokens))}   (log probability {total:.3f} nats)",
    )
    for position in range(positions):
        support = generation.support[position]
        table.add_row(
            str(position + 1),
            visible_symbol(corpus.symbols[generation.tokens[position]]),
            f"{generation.log_prob[position]:.3f}",
            margin_text(generation.margin[position]),
            f"{first + support} {visible_symbol(labels[support])}",
        )
    return table


def candidate_table(corpus: Any, generation: Any, candidates: Any, most: int) -> Table:
    """One generated sequence, with the most probable candidates of each of its steps.

    Probabilities are those of the model, without a decoding rule."""
    positions = int((generation.support >= 0).sum())
    most = min(most, candidates.log_prob.shape[1])
    table = Table(
        "step",
        "drawn",
        "probability by the model",
        "margin",
        "outside",
        f"the {most} most probable: probability (margin)",
        title=visible(corpus.decode(generation.tokens)),
    )
    for position in range(positions):
        log_prob, margin = candidates.log_prob[position], candidates.margin[position]
        outside, drawn = candidates.outside[position], int(generation.tokens[position])

        def shown(token: int, margin: Any = margin, outside: Any = outside) -> str:
            if math.isnan(margin[token]):
                return "none"  # no embedding follows the last step
            return margin_text(margin[token]) + (" outside" if outside[token] else "")

        best = sorted(range(len(log_prob)), key=lambda token: (-log_prob[token], token))[:most]
        listed = ", ".join(
            f"{visible_symbol(corpus.symbols[token])} {math.exp(log_prob[token]):.3f} "
            f"({shown(token)})"
            for token in best
        )
        table.add_row(
            str(position + 1),
            visible_symbol(corpus.symbols[drawn]),
            f"{math.exp(log_prob[drawn]):.3f}",
            shown(drawn),
            str(int(outside.sum())),
            listed,
        )
    return table


def margin_text(margin: Any) -> str:
    """A margin with three decimals, or with its order of magnitude where that would be 0.000."""
    return f"{margin:.3f}" if margin >= 0.0005 else f"{margin:.1e}"


def print_diagnosis(diagnosis: Any) -> None:
    """Print the three tiers of convergence (raw, identified, predictive) and the verdict."""
    table = Table(
        "tier",
        "quantities",
        "largest R-hat",
        "of",
        "bulk ESS",
        "tail ESS",
        title=f"{diagnosis.name}: {diagnosis.chains} chains of {diagnosis.draws} draws",
    )
    for tier in diagnosis.tiers:
        numbers = (
            f"{tier.rhat:.3f}",
            tier.rhat_of,
            f"{tier.ess_bulk:.0f}",
            f"{tier.ess_tail:.0f}",
        )
        table.add_row(tier.name, str(tier.count), *numbers)
    console.print(table)
    console.print(
        f"started from {diagnosis.start}; {diagnosis.divergences} divergences, "
        f"{diagnosis.steps_per_draw:.1f} steps a draw, "
        f"BFMI {diagnosis.bfmi:.2f}"
    )
    console.print(
        f"{diagnosis.quantity}: R-hat {diagnosis.rhat:.3f}, bulk ESS {diagnosis.ess_bulk:.0f}"
    )
    console.print(in_options(diagnosis.verdict))
