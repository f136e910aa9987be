"""Learning curves: fits to growing training sets, scored on the same held-out sequences."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from probattn.checks import as_integer
from probattn.errors import FitError, InputError
from probattn.inference.contract import TokenModel, require
from probattn.inference.data.ngram import fit_ngram, token_counts
from probattn.inference.evaluation.convergence import diagnose
from probattn.inference.evaluation.curve import LearningCurve, join
from probattn.inference.evaluation.predictive import MOST_DRAWS, affordable
from probattn.inference.fitting.density import Density, data_hash
from probattn.inference.fitting.fit import Fit, mixture_log_prob

BASELINE = "bigram"


def learning_curve(
    fits: Mapping[str, Sequence[Fit]], heldout_tokens: Any, *, most_draws: int = MOST_DRAWS
) -> LearningCurve:
    """Score fits to growing prefixes of the training sequences, and bigrams, on held-out ones.

    A bigram is fitted to each prefix as a baseline. A posterior's log probability is that of the
    mixture over its draws (theory, section 8).

    Args:
        fits: by name, one fit for each training size, in any order. All fits are of one model, and
            each name has the same sizes. Weights of a barrier that is a factor beside the law of
            tokens may differ, since the law is the same: so one that falls with the size is
            compared with one that does not.
        heldout_tokens: shape (num_sequences, length).
        most_draws: number of posterior draws, evenly spaced, that score sequences; convergence is
            judged on all draws.

    Raises:
        InputError: no fits, a fit named "bigram", a name with a size twice or with other sizes than
            the rest, models that differ, training sequences that are not prefixes of one another,
            or tokens that a model refuses.
        FitError: a log probability that is not finite.
    """
    as_integer("most_draws", most_draws)
    ordered = _checked(fits)
    heldout = np.asarray(heldout_tokens)
    if heldout.ndim != 2 or len(heldout) < 2:
        raise InputError(
            f"held-out tokens: expected at least two sequences, got shape {heldout.shape}"
        )
    points = zip(*ordered.values(), strict=True)
    model = _common(fit.density for several in ordered.values() for fit in several)
    return join(
        [
            _point(dict(zip(ordered, point, strict=True)), heldout, most_draws, model)
            for point in points
        ]
    )


def _common(densities: Iterable[Density]) -> str:
    """The model and what its fields have in common, as text."""
    first, *others = densities
    fields = [pair for pair in first.fields if all(pair in other.fields for other in others)]
    return dataclasses.replace(first, fields=tuple(fields)).law


def _checked(fits: Mapping[str, Sequence[Fit]]) -> dict[str, list[Fit]]:
    """The fits of each name by ascending size, or an InputError if they make no curve."""
    if not fits or not all(fits.values()):
        raise InputError("learning curve: expected at least one fit of each name, got none")
    if BASELINE in fits:
        raise InputError(
            f"learning curve: {BASELINE!r} is the name of a baseline; give the fits another name"
        )
    ordered = {
        name: sorted(several, key=lambda fit: len(fit.data)) for name, several in fits.items()
    }
    sizes = {name: [len(fit.data) for fit in several] for name, several in ordered.items()}
    (first, expected), *_ = sizes.items()
    longest = ordered[first][-1]
    for name, several in ordered.items():
        if len(set(sizes[name])) < len(several):
            raise InputError(
                f"learning curve: {name} has a training size twice ({_joined(sizes[name])}); "
                "give each once"
            )
        if sizes[name] != expected:
            raise InputError(
                f"learning curve: {name} has training sizes {_joined(sizes[name])}, {first} "
                f"has {_joined(expected)}; fit both at the same"
            )
        for fit in several:
            _refuse_other(f"{name} at {len(fit.data):,} sequences", fit, longest)
    return ordered


def _refuse_other(which: str, fit: Fit, longest: Fit) -> None:
    """InputError unless `fit` is of the model of `longest` and of a prefix of its training data."""
    require(f"learning curve: {which}", fit.model, TokenModel)
    known, expected = _without_weight(fit), _without_weight(longest)
    if apart := known.differences(expected):
        raise InputError(
            f"learning curve: {which}: expected one model throughout, got others "
            f"({'; '.join(apart)}); make one curve for each"
        )
    if not np.array_equal(fit.data, longest.data[: len(fit.data)]):
        raise InputError(
            f"learning curve: {which}: its training sequences are not the first of those of "
            "the largest size; fit to corpus.train[:size]"
        )


def _without_weight(fit: Fit) -> Density:
    """The density without its data and, where it is a factor, without the weight of its barrier."""
    fields = dict(fit.density.fields)
    if fields.get("barrier") == "factor":
        del fields["barrier_weight"]
    return dataclasses.replace(fit.density, data="", fields=tuple(fields.items()))


def _point(
    fits: Mapping[str, Fit], heldout: np.ndarray, most_draws: int, model: str
) -> LearningCurve:
    """The learning curve at a single training size, including the bigram."""
    first = next(iter(fits.values()))
    vocab_size = require("learning curve", first.model, TokenModel).vocab_size
    scored = {name: _scored(name, fit, heldout, most_draws) for name, fit in fits.items()}
    scored[BASELINE] = (
        fit_ngram(first.data, vocab_size, "bigram").log_prob(heldout),
        None,
    )

    def with_baseline(of_fits: dict[str, Any], of_baseline: Any) -> dict[str, Any]:
        return {name: (value,) for name, value in of_fits.items()} | {BASELINE: (of_baseline,)}

    return LearningCurve(
        sizes=np.array([len(first.data)]),
        log_prob={name: values[None] for name, (values, _) in scored.items()},
        counts=token_counts(heldout),
        methods={**{name: fit.method for name, fit in fits.items()}, BASELINE: "baseline"},
        converged={name: (value,) for name, (_, value) in scored.items()},
        seconds=with_baseline({name: float(fit.seconds) for name, fit in fits.items()}, math.nan),
        gradients=with_baseline(
            {name: float(fit.gradients) for name, fit in fits.items()}, math.nan
        ),
        unfinished=with_baseline({name: fit.unfinished for name, fit in fits.items()}, False),
        model=model,
        heldout=data_hash(heldout),
    )


def _refuse_infinite(which: str, log_prob: np.ndarray) -> None:
    """FitError for a log probability that is not finite: it has no loss and no difference."""
    if not np.isfinite(log_prob).all():
        worst = int(np.argmin(np.isfinite(log_prob)))
        raise FitError(
            f"learning curve: {which} gives held-out sequence {worst + 1} a log probability of "
            f"{log_prob[worst]}; fit again with another seed"
        )


def _scored(
    name: str, fit: Fit, heldout: np.ndarray, most_draws: int
) -> tuple[np.ndarray, bool | None]:
    """Held-out log probabilities (num_sequences,) of a fit, and whether it has converged.

    Convergence is judged on all draws, since thinned chains have smaller effective sample sizes.
    """
    thin = affordable(fit).thinned(most_draws)
    per_draw = thin.draw_log_prob(heldout)
    with np.errstate(invalid="ignore"):  # values that are not finite are refused below
        log_prob = mixture_log_prob(per_draw.astype(float))
    _refuse_infinite(f"{name} at {len(fit.data):,} sequences", log_prob)
    if not fit.sampled:
        return log_prob, None if fit.verdict is None else fit.verdict.converged
    known = per_draw if thin.shape == fit.shape and not fit.estimated else None
    return log_prob, diagnose(fit, heldout, name=name, log_prob=known).verdict.converged


def _joined(sizes: Sequence[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)
