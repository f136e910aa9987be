"""What the commands print."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Most fits that a table of 80 columns has room for; the page has room for more.
MOST_COLUMNS = 3
# Names, symbols and paths are shown as they are: no text is read as markup or as an emoji.
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
SAME_COMMAND = "the same command resumes it"


@contextlib.contextmanager
def resumption_hint(how: Callable[[], str | None]) -> Iterator[None]:
    """Print how to resume the work inside if Ctrl-C stops it, and let the interrupt pass.

    `how` is called only then; it returns None if there is nothing to resume.
    """
    try:
        yield
    except KeyboardInterrupt:
        if said := how():
            print(f"\nstopped; {said}", file=sys.stderr)
        raise


def print_comparison(comparison: Any) -> None:
    """Print the warnings, scores, a short table (of few fits only) and findings of a comparison."""
    from probattn.inference.report.sentences import findings, warnings_of

    for warning in warnings_of(comparison):
        console.print(f"{warning.topic}: {warning.text}", style="bold")
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
        title=f"values, and paired differences from {reference}",
    )
    for name in others:
        table.add_column(name)
    for answer in comparison.answers:
        cells = [
            f"{answer.values[name]}\n{answer.differences[name].signed} {answer.word(name)}"
            for name in others
        ]
        table.add_row(
            Text.assemble(f"{answer.figure}\n", (answer.unit, "dim")),
            str(answer.values[reference]),
            *cells,
        )
    return table


def generation_table(corpus: Any, generation: Any) -> Table:
    """One generated sequence as a table, with a row for each token."""
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
        "margin",
        "support token so far",
        title=f"{corpus.decode(generation.tokens)}   (log probability {total:.3f} nats)",
    )
    for position in range(positions):
        support = generation.support[position]
        table.add_row(
            str(position + 1),
            corpus.symbols[generation.tokens[position]],
            f"{generation.log_prob[position]:.3f}",
            f"{generation.margin[position]:.3f}",
            f"{first + support} {labels[support]}",
        )
    return table


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
    console.print(str(diagnosis.verdict))
