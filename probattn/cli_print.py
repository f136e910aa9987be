"""What the commands print."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False, soft_wrap=True)


def print_comparison(comparison: Any) -> None:
    """Scores and verdicts."""
    from probattn.inference.report import verdicts

    table = Table("predictor", "density", "parameters", "nats per token", "standard error", title="held-out loss")
    for score in sorted(comparison.scores, key=lambda score: -score.log_prob_per_token):
        loss, error = f"{-score.log_prob_per_token:.4f}", f"{score.standard_error:.4f}"
        table.add_row(score.name, score.density, str(score.parameters or ""), loss, error)
    console.print(table)
    for sentence in verdicts(comparison):
        console.print(f"- {sentence}", markup=False)


def generation_table(corpus: Any, generation: Any) -> Table:
    """One generated sequence, a row for each token."""
    from probattn.inference.compare import path_labels

    positions = int((generation.support >= 0).sum())
    labels = path_labels(generation.tokens, corpus.symbols, positions, generation.path_has_start)
    first = 0 if generation.path_has_start else 1  # so that the token at position n is n on the path too
    total = generation.log_prob[:positions].sum()
    table = Table(
        "position", "token", "log probability", "margin", "support token so far",
        title=f"{escape(corpus.decode(generation.tokens))}   (log probability {total:.3f} nats)",
    )  # fmt: skip
    for position in range(positions):
        support = generation.support[position]
        table.add_row(
            str(position + 1),
            escape(corpus.symbols[generation.tokens[position]]),
            f"{generation.log_prob[position]:.3f}",
            f"{generation.margin[position]:.3f}",
            f"{first + support} {escape(labels[support])}",
        )
    return table


def print_diagnosis(diagnosis: Any) -> None:
    """The three tiers and the verdict."""
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
        numbers = f"{tier.rhat:.3f}", escape(tier.rhat_of), f"{tier.ess_bulk:.0f}", f"{tier.ess_tail:.0f}"
        table.add_row(tier.name, str(tier.count), *numbers)
    console.print(table)
    console.print(
        f"started from {diagnosis.start}; {diagnosis.divergences} divergences, {diagnosis.steps_per_draw:.1f} steps a draw, "
        f"BFMI {diagnosis.bfmi:.2f}"
    )
    console.print(f"{diagnosis.quantity}: R-hat {diagnosis.rhat:.3f}, bulk ESS {diagnosis.ess_bulk:.0f}")
    console.print(str(diagnosis.verdict), markup=False)
