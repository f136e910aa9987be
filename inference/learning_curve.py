"""Learning curves: held-out loss against the number of training sequences, to see where the posterior matters."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from probattn.checks import whole_number
from probattn.errors import FitError, InputError
from probattn.inference.baselines import fit_ngram, token_counts
from probattn.inference.chunks import DamagedFile, read_arrays, write_arrays
from probattn.inference.diagnose import diagnose
from probattn.inference.estimates import SURE, Measured, ratio
from probattn.inference.fit import CHAINS, Fit, mixture_log_prob
from probattn.inference.identity import data_hash, density_of
from probattn.inference.predictive import affordable
from probattn.inference.style import STYLE, ink, looks, own_axes

FORMAT = 1  # of the file of a curve; raised whenever what it holds changes
BASELINE = "bigram"
MOST_DRAWS = 200  # of a posterior, evenly spaced, that score held-out sequences
PER_SIZE = ("converged", "seconds", "gradients", "unfinished")  # of a curve: a value for each name and size
JUDGED = (None, False, True)  # `converged` in a file is the place in here

Converged = tuple[bool | None, ...]


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Held-out log probabilities of fits to growing prefixes of the same training sequences.

    The standard errors are across held-out sequences. What another draw of training sequences would change is not in
    them: there is one prefix of each size.

    Args:
        sizes: numbers of training sequences, ascending, (num_sizes,).
        log_prob: by name, the log probability of each held-out sequence in nats, (num_sizes, num_heldout).
        counts: tokens that count in each held-out sequence, (num_heldout,).
        methods: by name, the method of its fits; "baseline" for the bigram.
        converged: by name, the verdict at each size; None where there is none.
        seconds: by name, wall time of each fit; NaN for the bigram.
        gradients: by name, gradients that each fit took; NaN where it does not say.
        unfinished: by name, whether a posterior had fewer draws than it is to have.
        model: name and fields of the model, as words.
        heldout: SHA-256 of the held-out tokens.
    """

    sizes: np.ndarray
    log_prob: dict[str, np.ndarray]
    counts: np.ndarray
    methods: dict[str, str]
    converged: dict[str, Converged]
    seconds: dict[str, tuple[float, ...]]
    gradients: dict[str, tuple[float, ...]]
    unfinished: dict[str, tuple[bool, ...]]
    model: str
    heldout: str

    def losses(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Held-out loss of one method and its standard error at each size, in nats per token, each (num_sizes,)."""
        return _columns(self._per_token(-self._of(name)))

    def differences(self, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
        """By how much `first` predicts better than `second` at each size, and the standard error of that.

        `sum_i (log p_first(x_i) - log p_second(x_i)) / sum_i counts_i`, in nats per token, each (num_sizes,). The
        differences are paired: what makes a sequence hard for both is not in the error.
        """
        return _columns(self._gains(first, second))

    def verdicts(self) -> list[str]:
        """What the curve says, in sentences: who predicts better at which sizes, and where the difference is noise.

        Each difference comes with its standard error, and within two of them it is called noise. Fits that have not converged
        or are unfinished are named.
        """
        ranked = sorted(self.methods, key=lambda name: (self.methods[name] == "baseline", not self._sampled(name)))
        sentences = [self._pair_verdict(first, second) for first, second in combinations(ranked, 2)]
        for name in self.methods:
            if apart := self._sizes_where(value is False for value in self.converged[name]):
                sentences.append(
                    f"{name} has not converged at {apart} sequences: its numbers there are those of the fit as it is."
                )
            if short := self._sizes_where(self.unfinished[name]):
                sentences.append(
                    f"{name} is unfinished at {short} sequences: its numbers there are those of the draws so far."
                )
        return sentences

    def trusted(self, name: str) -> np.ndarray:
        """Whether the fits of one method are finished and nothing says that they have not converged, (num_sizes,)."""
        pairs = zip(self.converged[name], self.unfinished[name], strict=True)
        return np.array([converged is not False and not unfinished for converged, unfinished in pairs])

    def refuse_other(self, heldout_tokens: Any) -> None:
        """InputError unless the curve is of these held-out sequences, (num_sequences, length)."""
        if data_hash(heldout_tokens) != self.heldout:
            raise InputError(
                "learning curve: it is of other held-out sequences than those given; make one of the same corpus and length"
            )

    def _of(self, name: str) -> np.ndarray:
        if name not in self.log_prob:
            raise InputError(f"learning curve: expected one of {', '.join(self.log_prob)}, got {name!r}")
        return self.log_prob[name]

    def _sampled(self, name: str) -> bool:
        return self.methods[name] in CHAINS

    def _per_token(self, log_prob: np.ndarray) -> list[Measured]:
        return [ratio(row, self.counts) for row in log_prob]

    def _gains(self, first: str, second: str) -> list[Measured]:
        return self._per_token(self._of(first) - self._of(second))

    def _sizes_where(self, true: Any) -> str:
        return _listed([f"{size:,}" for size, chosen in zip(self.sizes, true, strict=True) if chosen])

    def _pair_verdict(self, first: str, second: str) -> str:
        """One sentence, a clause for each stretch of sizes at which the difference says the same."""
        gains = self._gains(first, second)
        signs = [np.sign(gain.value) if gain.sure else 0 for gain in gains]
        stretches = [list(places) for _, places in groupby(range(len(signs)), key=lambda place: signs[place])]
        clauses = []
        for number, places in enumerate(stretches):
            sign = signs[places[0]]
            by = _listed([str(Measured(abs(gains[place].value), gains[place].error)) for place in places])
            where = self._where(places, begins=number == 0, ends=number == len(stretches) - 1)
            better, worse = (first, second) if sign > 0 else (second, first)
            who = "they" if number else f"{first} and {second}"
            says = f"{better} predicts better than {worse} by {by} nats per token"
            clauses.append(f"{where} {says if sign else f'{who} differ by {by} nats per token, within noise'}")
        return "; ".join(clauses) + "."

    def _where(self, places: list[int], begins: bool, ends: bool) -> str:
        if begins:
            return f"At {_listed([f'{self.sizes[place]:,}' for place in places])} sequences"
        if ends and len(places) > 1:  # of a single size one cannot say that it goes on
            return f"from {self.sizes[places[0]]:,} on"
        return f"at {_listed([f'{self.sizes[place]:,}' for place in places])}"


def learning_curve(
    fits: Mapping[str, Sequence[Fit]], heldout_tokens: Any, *, most_draws: int = MOST_DRAWS
) -> LearningCurve:
    """Score fits to growing prefixes of the same training sequences on held-out ones, with the bigram of each prefix.

    A posterior's log probability is that of the mixture over its draws (theory, section 8).

    Args:
        fits: by name, a fit for each training size, in any order; all of one model, and the same sizes for each name.
        heldout_tokens: shape (num_sequences, length).
        most_draws: of a posterior that score sequences, evenly spaced; convergence is judged by all of them.

    Raises:
        InputError: no fits, a fit named "bigram", a size twice or not for each name, models that differ, training
            sequences that are no prefixes of one another, or tokens that a model refuses.
        FitError: a log probability that is not finite.
    """
    whole_number("most_draws", most_draws)
    ordered = _checked(fits)
    heldout = np.asarray(heldout_tokens)
    if heldout.ndim != 2 or len(heldout) < 2:
        raise InputError(f"held-out tokens: expected at least two sequences, got shape {heldout.shape}")
    points = zip(*ordered.values(), strict=True)
    return join([_point(dict(zip(ordered, point, strict=True)), heldout, most_draws) for point in points])


def join(curves: Sequence[LearningCurve]) -> LearningCurve:
    """One curve of several of the same methods, model and held-out sequences, each of other training sizes.

    Raises: InputError if they are not. That the training sequences are prefixes of one another is for the caller to know.
    """
    first = curves[0]
    for other in curves[1:]:
        for what in ("methods", "model", "heldout"):
            if getattr(other, what) != getattr(first, what):
                raise InputError(
                    f"learning curve: expected one of the same {what} ({getattr(first, what)}), got {getattr(other, what)}"
                )
    ordered = sorted(curves, key=lambda curve: curve.sizes[0])
    sizes = np.concatenate([curve.sizes for curve in ordered])
    if (np.diff(sizes) <= 0).any():
        raise InputError(f"learning curve: expected each training size once, got {', '.join(map(str, sizes))}")
    per_size: dict[str, Any] = {
        what: {name: sum((getattr(curve, what)[name] for curve in ordered), ()) for name in first.methods}
        for what in PER_SIZE
    }
    log_prob = {name: np.concatenate([curve.log_prob[name] for curve in ordered]) for name in first.methods}
    return dataclasses.replace(first, sizes=sizes, log_prob=log_prob, **per_size)


def save_curve(path: str | Path, curve: LearningCurve) -> None:
    """Write a curve to one file, whole or not at all; one that is there is replaced.

    Raises: InputError if the folder is missing or the path is one; FitError if the disk does not take it.
    """
    path = Path(path)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path}: cannot be written (expected the name of a file in a folder that exists)")
    names = list(curve.methods)
    table: dict[str, np.ndarray] = {
        what: np.array([getattr(curve, what)[name] for name in names])
        for what in ("seconds", "gradients", "unfinished")
    }
    table["converged"] = np.array([[JUDGED.index(value) for value in curve.converged[name]] for name in names])
    table["log_prob"] = np.stack([curve.log_prob[name] for name in names])
    about = {"format": FORMAT, "names": names, "methods": list(curve.methods.values())}
    about |= {"model": curve.model, "heldout": curve.heldout}
    write_arrays(path, {"sizes": curve.sizes, "counts": curve.counts, **table}, about)


def load_curve(path: str | Path, heldout_tokens: Any = None) -> LearningCurve:
    """Read a curve back.

    Args: heldout_tokens, if given, those that the curve must be of, (num_sequences, length).
    Raises: InputError if the file is missing, damaged or of another format, or the curve is of other held-out sequences.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; make one with `probattn learning-curve`")
    try:
        arrays, about = read_arrays(path)
        if about["format"] == FORMAT:
            curve = _from_arrays(arrays, about)
    except (DamagedFile, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: no learning curve, or a damaged one ({error}); make it again") from error
    if about["format"] != FORMAT:
        raise InputError(f"{path}: written in format {about['format']}, this probattn reads {FORMAT}; make it again")
    if heldout_tokens is not None:
        curve.refuse_other(heldout_tokens)
    return curve


def plot_learning_curve(
    fits: LearningCurve | Mapping[str, Sequence[Fit]], heldout_tokens: Any = None, *, ax: Axes | None = None
) -> Axes:
    """Held-out loss per token against training size, with bars of two standard errors; a line for each method.

    Markers are hollow where a fit has not converged or is unfinished. The bars of two methods may overlap and their paired
    difference still be sure: `LearningCurve.verdicts` has it.

    Args: fits, a curve, or fits as `learning_curve` takes them; heldout_tokens, (num_sequences, length), needed for fits.
    Raises: InputError for fits without held-out tokens or that `learning_curve` refuses, or a curve of other tokens.
    """
    if isinstance(fits, LearningCurve):
        curve = fits
        if heldout_tokens is not None:
            curve.refuse_other(heldout_tokens)
    elif heldout_tokens is None:
        raise InputError(
            "held-out tokens: expected those to score the fits on, got none; give them, or a LearningCurve"
        )
    else:
        curve = learning_curve(fits, heldout_tokens)
    ax = own_axes(ax)
    with mpl.rc_context(STYLE):
        for name, look in looks(curve.methods).items():
            _draw(curve, name, look, ax)
        _label(curve, ax)
    return ax


def _draw(curve: LearningCurve, name: str, look: Mapping[str, Any], ax: Axes) -> None:
    loss, error = curve.losses(name)
    trusted = curve.trusted(name)
    bars = SURE * error
    ax.errorbar(curve.sizes, loss, yerr=bars, capsize=3, label=name, markevery=np.flatnonzero(trusted).tolist(), **look)
    hollow = {"marker": look["marker"], "color": look["color"], "fillstyle": "none", "linestyle": "none"}
    if not trusted.all():
        ax.plot(curve.sizes[~trusted], loss[~trusted], **hollow)


def _label(curve: LearningCurve, ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xticks(curve.sizes, [f"{size:,}" for size in curve.sizes])
    ax.xaxis.set_minor_locator(NullLocator())  # the scale's own ticks would stand between the sizes
    ax.set_xlabel("training sequences (logarithmic scale)")
    ax.set_ylabel("held-out loss, nats per token\n(bars: two standard errors)")
    handles, labels = ax.get_legend_handles_labels()
    if said := _what_is_hollow(curve):
        handles.append(Line2D([], [], marker="o", color=ink(), fillstyle="none", linestyle="none"))
        labels.append(said)
    ax.legend(handles, labels)


def _what_is_hollow(curve: LearningCurve) -> str:
    apart = any(value is False for values in curve.converged.values() for value in values)
    short = any(value for values in curve.unfinished.values() for value in values)
    kinds = [word for word, there in (("not converged", apart), ("unfinished", short)) if there]
    return f"hollow: {' or '.join(kinds)}" if kinds else ""


def _checked(fits: Mapping[str, Sequence[Fit]]) -> dict[str, list[Fit]]:
    """The fits of each name by ascending size, or an InputError if they make no curve."""
    if not fits or not all(fits.values()):
        raise InputError("learning curve: expected at least one fit of each name, got none")
    if BASELINE in fits:
        raise InputError(f"learning curve: {BASELINE!r} is the name of a baseline; give the fits another name")
    ordered = {name: sorted(several, key=lambda fit: len(fit.data)) for name, several in fits.items()}
    sizes = {name: [len(fit.data) for fit in several] for name, several in ordered.items()}
    (first, expected), *_ = sizes.items()
    longest = ordered[first][-1]
    for name, several in ordered.items():
        if len(set(sizes[name])) < len(several):
            raise InputError(
                f"learning curve: {name} has a training size twice ({_joined(sizes[name])}); give each once"
            )
        if sizes[name] != expected:
            raise InputError(
                f"learning curve: {name} has training sizes {_joined(sizes[name])}, {first} has {_joined(expected)}; fit "
                "both at the same"
            )
        for fit in several:
            _refuse_other(f"{name} at {len(fit.data):,} sequences", fit, longest)
    return ordered


def _refuse_other(which: str, fit: Fit, longest: Fit) -> None:
    """InputError unless a fit is of the same model as another, and of the first of its training sequences."""
    if not hasattr(fit.model, "vocab_size"):
        raise InputError(f"learning curve: {which}: expected a model of tokens, got {fit.model}")
    known = dataclasses.replace(fit.density, data="")
    if apart := known.differences(dataclasses.replace(longest.density, data="")):
        raise InputError(
            f"learning curve: {which}: expected one model throughout, got others ({'; '.join(apart)}); a curve of each"
        )
    if not np.array_equal(fit.data, longest.data[: len(fit.data)]):
        raise InputError(
            f"learning curve: {which}: its training sequences are not the first of those of the largest size; fit to "
            "corpus.train[:size]"
        )


def _point(fits: Mapping[str, Fit], heldout: np.ndarray, most_draws: int) -> LearningCurve:
    """The curve of one size, the bigram included."""
    first = next(iter(fits.values()))
    scored = {name: _scored(name, fit, heldout, most_draws) for name, fit in fits.items()}
    scored[BASELINE] = fit_ngram(first.data, first.model.vocab_size, "bigram").log_prob(heldout), None
    density = density_of(first.model, first.data)

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
            {name: float(getattr(fit, "gradients", math.nan)) for name, fit in fits.items()}, math.nan
        ),
        unfinished=with_baseline({name: is_unfinished(fit) for name, fit in fits.items()}, False),
        model=f"{density.model}({', '.join(f'{name}={value}' for name, value in density.fields)})",
        heldout=data_hash(heldout),
    )


def _refuse_infinite(which: str, log_prob: np.ndarray) -> None:
    """FitError for a log probability that is no finite number: no loss and no difference could be told of it."""
    if not np.isfinite(log_prob).all():
        worst = int(np.argmin(np.isfinite(log_prob)))
        raise FitError(
            f"learning curve: {which} gives held-out sequence {worst + 1} a log probability of {log_prob[worst]}; fit "
            "again with another seed"
        )


def _scored(name: str, fit: Fit, heldout: np.ndarray, most_draws: int) -> tuple[np.ndarray, bool | None]:
    """Held-out log probabilities of a fit, and whether it has converged: by all its draws, which thinning would make few."""
    thin = affordable(fit).thinned(most_draws)
    per_draw = thin.draw_log_prob(heldout)
    with np.errstate(invalid="ignore"):  # what is not finite is refused just below
        log_prob = mixture_log_prob(per_draw.astype(float))
    _refuse_infinite(f"{name} at {len(fit.data):,} sequences", log_prob)
    if not fit.sampled:
        return log_prob, None if fit.verdict is None else fit.verdict.converged
    known = per_draw if thin.shape == fit.shape and not fit.estimated else None
    return log_prob, diagnose(fit, heldout, name=name, log_prob=known).verdict.converged


def is_unfinished(fit: Fit) -> bool:
    """Whether a posterior has fewer draws than it is to have."""
    return fit.planned is not None and fit.shape[1] < fit.planned


def _from_arrays(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> LearningCurve:
    names = about["names"]

    def by_name(what: str) -> dict[str, Any]:
        return {name: tuple(row.tolist()) for name, row in zip(names, arrays[what], strict=True)}

    return LearningCurve(
        sizes=arrays["sizes"],
        log_prob=dict(zip(names, arrays["log_prob"], strict=True)),
        counts=arrays["counts"],
        methods=dict(zip(names, about["methods"], strict=True)),
        converged={name: tuple(JUDGED[value] for value in row) for name, row in by_name("converged").items()},
        seconds=by_name("seconds"),
        gradients=by_name("gradients"),
        unfinished=by_name("unfinished"),
        model=about["model"],
        heldout=about["heldout"],
    )


def _columns(measured: Sequence[Measured]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([one.value for one in measured]), np.array([one.error for one in measured])


def _listed(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _joined(sizes: Sequence[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)
