"""MAP beside posterior on held-out sequences: scores, their differences, margins and support tokens."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from probattn.errors import InputError
from probattn.inference.baselines import fit_ngram, token_counts
from probattn.inference.diagnose import Diagnosis, diagnose
from probattn.inference.fit import Fit, mixture_error, mixture_log_prob, over_draws
from probattn.inference.verdict import Verdict

MARGIN_SEQUENCES = 200  # held-out sequences whose margins enter the histogram
MARGIN_DRAWS = 100  # posterior draws, evenly spaced, that margins and support tokens are computed under
EXAMPLES = 6
# A posterior whose likelihood is an estimate runs a particle filter for each draw and sequence. Their mixture averages the
# errors, so that fewer draws with fewer particles each still make it more precise than a MAP.
FILTERED_DRAWS = 32
PARTICLE_SHARE = 0.25
FILTERED_MARGIN_SEQUENCES = 50


@dataclass(frozen=True)
class Score:
    """Held-out log probability of one predictor, in nats per token, with its standard error across sequences.

    `density` names the model, `parameters` counts the numbers it has (0 for a baseline). Where the log probability is
    estimated by particles, `monte_carlo_error` is the part of the standard error that is due to them, and the estimate is
    on average too low by about `monte_carlo_bias`.
    """

    name: str
    kind: str
    log_prob_per_token: float
    standard_error: float
    density: str = ""
    parameters: int = 0
    monte_carlo_error: float = 0.0
    monte_carlo_bias: float = 0.0


@dataclass(frozen=True)
class Difference:
    """Paired difference of two predictors' held-out log probability per token, first minus second."""

    first: str
    second: str
    log_prob_per_token: float
    standard_error: float
    densities: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Example:
    """Support tokens of one sequence: margin of each position and probability of being the support token.

    Fits of one density share an example. For a MAP the probability is 0 or 1.
    """

    labels: tuple[str, ...]
    margins: dict[str, np.ndarray]
    probability: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found; `save_html`, `save_json` and `figures` show it.

    `diagnostics` are of fits by Markov chains, `modes` the verdicts of others; `mixed` says in which the densities differ,
    where they were mixed knowingly.
    """

    scores: tuple[Score, ...]
    differences: tuple[Difference, ...]
    diagnostics: tuple[Diagnosis, ...]
    modes: dict[str, Verdict]
    mixed: tuple[str, ...]
    margins: dict[str, np.ndarray]
    traces: dict[str, np.ndarray]
    examples: tuple[Example, ...]
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Every number of the comparison as JSON values; NaN as null."""
        from probattn.inference.report import comparison_json

        return comparison_json(self)

    def save_json(self, path: Any) -> None:
        from probattn.inference.report import save_json

        save_json(self, path)

    def save_html(self, path: Any) -> None:
        """Write a self-contained page: figures inline, no script, opens from disk."""
        from probattn.inference.report import save_html

        save_html(self, path)

    def figures(self) -> dict[str, Any]:
        """Matplotlib figures by name."""
        from probattn.inference.figures import figures

        return figures(self)


def compare(
    fits: Mapping[str, Fit],
    heldout_tokens: Any,
    *,
    symbols: Sequence[str] | None = None,
    reference_tokens: Any = None,
    mix_densities: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Comparison:
    """Score fits and n-gram baselines on held-out sequences.

    Every predictor gives one log probability per sequence; a posterior gives that of the mixture over its draws
    (theory, section 8). Per-token figures divide by all tokens that count, end tokens included; standard errors are
    those of that ratio across sequences, and of the paired difference for differences.

    Args:
        fits: by name; all of one density (model, its fields, training tokens), since a MAP and a posterior are
            comparable only so. Where log probabilities are estimated by particles, a posterior is scored by 32 of its
            draws, evenly spaced, with a quarter of the model's particles each.
        heldout_tokens: shape (num_sequences, length).
        symbols: text of each token, for the examples; its id by default.
        reference_tokens: a larger training set for one more bigram baseline, to show what more data is worth.
        mix_densities: let fits of several densities stand side by side, as laws of the same tokens; the comparison says so.
        about: anything to keep with the result, such as how it was made.

    Raises:
        InputError: no fits, fits to different training tokens or densities, or tokens that a model refuses.
    """
    if not fits:
        raise InputError("compare: expected at least one fit, got none")
    first = next(iter(fits.values()))
    for name, fit in fits.items():
        if not np.array_equal(fit.data, first.data):
            raise InputError(f"compare: {name} was fitted to other training sequences than {next(iter(fits))}")
        if fit.model.vocab_size != first.model.vocab_size:
            raise InputError(f"compare: {name} and {next(iter(fits))} have vocabularies of different sizes")
    mixed = _mixed(fits)
    if mixed and not mix_densities:
        raise InputError(
            f"compare: fits of different densities ({'; '.join(mixed)}): a MAP and a posterior are comparable only under the "
            "same one. To see them side by side all the same, as laws of the same tokens, say mix_densities=True "
            "(--mix-densities)"
        )
    vocab_size = first.model.vocab_size
    symbols = [str(token) for token in range(vocab_size)] if symbols is None else list(symbols)
    if len(symbols) != vocab_size:
        raise InputError(f"symbols: expected {vocab_size}, one for each token of the model, got {len(symbols)}")
    whole, fits = fits, {name: _affordable(fit) for name, fit in fits.items()}
    scored = {name: fit.estimate_log_prob(heldout_tokens) for name, fit in fits.items()}
    per_draw = {name: log_prob for name, (log_prob, _) in scored.items()}
    heldout = np.asarray(heldout_tokens)
    counts = token_counts(heldout)
    if heldout.ndim != 2 or len(heldout) < 2:
        raise InputError(f"held-out tokens: expected at least two sequences, got shape {heldout.shape}")

    log_probs = {name: mixture_log_prob(values) for name, values in per_draw.items()}
    errors = {name: mixture_error(*both) for name, both in scored.items()}
    densities = {name: type(fit.model).__name__ for name, fit in fits.items()}
    kinds: dict[str, str] = {name: fit.method for name, fit in fits.items()}
    baselines: dict[str, tuple[Any, str]] = {"unigram": (first.data, "unigram"), "bigram": (first.data, "bigram")}
    if reference_tokens is not None:
        baselines[f"bigram, {len(reference_tokens):,} sequences"] = (reference_tokens, "bigram")
    for name, (tokens, order) in baselines.items():
        if name in fits:
            raise InputError(f"compare: {name!r} is the name of a baseline; give the fit another name")
        log_probs[name] = fit_ngram(tokens, vocab_size, order).log_prob(heldout)  # type: ignore[arg-type]
        kinds[name] = "baseline"

    ordered = sorted(fits, key=lambda name: not fits[name].sampled)
    return Comparison(
        scores=tuple(
            Score(
                name,
                kinds[name],
                *per_token(values, counts),
                densities.get(name, ""),
                num_parameters(fits[name].model) if name in fits else 0,
                *_monte_carlo(errors.get(name, np.zeros(1)), counts),
            )
            for name, values in log_probs.items()
        ),
        differences=tuple(
            Difference(a, b, *per_token(log_probs[a] - log_probs[b], counts), (densities[a], densities[b]))
            for a, b in combinations(ordered, 2)
        ),
        diagnostics=tuple(
            diagnose(fit, heldout, name=name, log_prob=None if fit.estimated else per_draw[name])
            for name, fit in whole.items()
            if fit.sampled
        ),
        modes={name: fit.verdict for name, fit in whole.items() if not fit.sampled and fit.verdict is not None},
        mixed=mixed,
        margins={
            name: _margins(fit, heldout[: FILTERED_MARGIN_SEQUENCES if fit.estimated else MARGIN_SEQUENCES])
            for name, fit in fits.items()
        },
        traces={name: per_draw[name].sum(-1) / counts.sum() for name, fit in fits.items() if fit.sampled},
        examples=_examples(fits, heldout, symbols),
        about={
            "training sequences": len(first.data),
            "held-out sequences": len(heldout),
            "held-out tokens": int(counts.sum()),
            "model": {name: repr(fit.model) for name, fit in whole.items()},
            "density": {name: fit.density.to_json() for name, fit in whole.items()},
            "start": {name: fit.start for name, fit in whole.items() if fit.start},
            "seconds": {name: fit.seconds for name, fit in fits.items()},
            **(about or {}),
        },
    )


def num_parameters(model: Any) -> int:
    """How many numbers a model's priors are over; its latent variables are not among them."""
    return sum(math.prod(prior.shape()) for prior in model.priors().values())


def per_token(log_prob: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """`sum log_prob / sum counts` and its standard error as a ratio of two means across sequences."""
    ratio = log_prob.sum() / counts.sum()
    spread = np.std(log_prob - ratio * counts, ddof=1) / (counts.mean() * math.sqrt(len(counts)))
    return float(ratio), float(spread)


def support_probability(margins: np.ndarray) -> np.ndarray:
    """Share of draws in which each position has the smallest margin; margins (draws, positions), NaN not counted."""
    return np.bincount(np.nanargmin(margins, axis=1), minlength=margins.shape[1]) / len(margins)


def path_labels(
    tokens: Sequence[int] | np.ndarray, symbols: Sequence[str], positions: int, start: bool = True
) -> tuple[str, ...]:
    """What each of the first positions of an embedding path holds: the start if the path has one, then the tokens."""
    held = tuple(symbols[token] for token in tokens)
    return (("start", *held) if start else held)[:positions]


def _mixed(fits: Mapping[str, Fit]) -> tuple[str, ...]:
    """In which the densities of the fits differ from the first one's, as words."""
    (first, one), *others = fits.items()
    found = {name: one.density.differences(fit.density) for name, fit in others}
    return tuple(f"{first} and {name} differ in {', '.join(what)}" for name, what in found.items() if what)


def _law(model: Any) -> Any:
    """What two models share if they are one law of sequences, however they are fitted."""
    return getattr(model, "law", model)


def _monte_carlo(errors: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Error and bias per token of a sum of logarithms of unbiased estimates with these relative errors."""
    total = counts.sum()
    return float(np.sqrt((errors**2).sum()) / total), float((errors**2).sum() / 2 / total)


def _affordable(fit: Fit) -> Fit:
    if not fit.estimated or fit.method == "map":
        return fit
    particles = max(2, round(PARTICLE_SHARE * fit.model.num_particles))
    return dataclasses.replace(
        fit.thinned(FILTERED_DRAWS), model=dataclasses.replace(fit.model, num_particles=particles)
    )


def _margins(fit: Fit, tokens: np.ndarray) -> np.ndarray:
    """Margins (draws, sequences, positions) of evenly spaced draws."""
    return over_draws(fit.model.margins, fit.flat_draws(MARGIN_DRAWS), tokens)


def _example_tokens(heldout: np.ndarray) -> np.ndarray:
    """The first held-out sequences that are long enough to have a choice of support tokens."""
    symbols = (heldout != 0).sum(1)
    return heldout[symbols >= min(4, symbols.max())][:EXAMPLES]


def _examples(fits: Mapping[str, Fit], heldout: np.ndarray, symbols: Sequence[str]) -> tuple[Example, ...]:
    """The same sequences for each density, whose positions need not hold the same."""
    groups: dict[Any, dict[str, Fit]] = {}
    for name, fit in fits.items():
        groups.setdefault(_law(fit.model), {})[name] = fit
    tokens = _example_tokens(heldout)[: max(1, EXAMPLES // len(groups))]
    return tuple(_example(group, row, symbols) for row in tokens for group in groups.values())


def _example(fits: Mapping[str, Fit], tokens: np.ndarray, symbols: Sequence[str]) -> Example:
    margins = {name: _margins(fit, tokens[None])[:, 0] for name, fit in fits.items()}
    positions = int(np.isfinite(next(iter(margins.values()))[0]).sum())
    return Example(
        path_labels(tokens, symbols, positions, next(iter(fits.values())).model.path_has_start),
        {name: values[:, :positions].mean(0) for name, values in margins.items()},
        {name: support_probability(values[:, :positions]) for name, values in margins.items()},
    )
