"""Learning curves: differences and verdicts with known answers, scores against the fits', the
figure against the curve."""

import dataclasses

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from probattn import InputError
from probattn.errors import FitError
from probattn.inference import (
    LearningCurve,
    diagnose,
    learning_curve,
    load_curve,
    plot_learning_curve,
    save_curve,
)
from probattn.inference.data.array_file import read_arrays, write_arrays
from probattn.inference.data.ngram import fit_ngram, token_counts
from probattn.inference.evaluation import learning_study
from probattn.inference.evaluation.curve import join
from probattn.inference.report.style import DARK, INK

NUM_HELDOUT, COUNT, ERROR = 10, 2, 0.012
# Of +s, -s, +s, ... the standard deviation is s sqrt(n / (n - 1)), and the error of its mean s /
# sqrt(n - 1): here s / 3.
NOISE = 3 * ERROR * COUNT * np.tile([1, -1], NUM_HELDOUT // 2)


def known(gains, sizes=(30, 100, 300, 1000), **changes):
    """A curve whose posterior is better than its MAP by these nats per token, each ± ERROR; all
    share a larger noise."""
    shared = np.random.default_rng(0).normal(-20, 5, (len(gains), NUM_HELDOUT))
    better = np.array([gain * COUNT + NOISE for gain in gains])
    values = {
        "sizes": np.array(sizes),
        "log_prob": {"map": shared, "posterior": shared + better},
        "counts": np.full(NUM_HELDOUT, COUNT),
        "methods": {"map": "map", "posterior": "posterior"},
        "converged": {"map": (True,) * len(gains), "posterior": (True,) * len(gains)},
        "seconds": {"map": (1.0,) * len(gains), "posterior": (2.0,) * len(gains)},
        "gradients": {"map": (np.nan,) * len(gains), "posterior": (9.0,) * len(gains)},
        "unfinished": {"map": (False,) * len(gains), "posterior": (False,) * len(gains)},
        "model": "LanguageModel(dim=2)",
        "heldout": "0",
    }
    return LearningCurve(**(values | changes))


@pytest.fixture
def growing(fits):
    """The fits as if they were of 10, 20 and of all 40 training sequences: what draws are of does
    not matter here."""
    return {
        name: [dataclasses.replace(fit, data=fit.data[:size]) for size in (10, 20)] + [fit]
        for name, fit in fits.items()
    }


def test_differences_are_paired_and_have_the_known_error():
    gains = [0.123, 0.025, 0.023, -0.2]
    found, errors = known(gains).differences("posterior", "map")
    np.testing.assert_allclose(found, gains, atol=1e-12)
    np.testing.assert_allclose(errors, ERROR, rtol=1e-9)
    np.testing.assert_allclose(known(gains).differences("map", "posterior")[0], -found)
    losses, spread = known(gains).losses("map")
    np.testing.assert_allclose(losses, -known(gains).log_prob["map"].sum(1) / NUM_HELDOUT / COUNT)
    assert (
        spread > 10 * ERROR
    ).all()  # what the two share is in the error of each, and not in that of the difference


def test_verdicts_say_from_which_size_on_the_difference_is_noise():
    # Two standard errors are 0.024.
    assert known([0.123, 0.025, 0.023, -0.001]).verdicts() == [
        "At 30 and 100 sequences posterior predicts better than map by 0.123 ± 0.012 and 0.025 "
        "± 0.012 nats per token; "
        "from 300 on they differ by 0.023 ± 0.012 and 0.001 ± 0.012 nats per token, within noise."
    ]
    assert known([0.001, -0.2, -0.1, 0.002], (30, 1000, 2000, 3000)).verdicts() == [
        "At 30 sequences posterior and map differ by 0.001 ± 0.012 nats per token, within "
        "noise; at 1,000 and 2,000 map "
        "predicts better than posterior by 0.200 ± 0.012 and 0.100 ± 0.012 nats per token; at "
        "3,000 they differ by "
        "0.002 ± 0.012 nats per token, within noise."
    ]


def test_verdicts_name_fits_that_have_not_converged_or_are_unfinished():
    curve = known(
        [0.1, 0.1, 0.1],
        (30, 100, 3000),
        converged={"map": (True, None, True), "posterior": (False, True, False)},
        unfinished={"map": (False,) * 3, "posterior": (False, False, True)},
    )
    assert curve.verdicts()[1:] == [
        (
            "posterior has not converged at 30 and 3,000 sequences: its numbers there are those of "
            "an unconverged fit."
        ),
        (
            "posterior is unfinished at 3,000 sequences: its numbers there are those of the draws "
            "so far."
        ),
    ]
    assert curve.trusted("map").tolist() == [True, True, True]
    assert curve.trusted("posterior").tolist() == [False, True, False]


def test_scores_are_those_of_the_fits(growing, fits, corpus):
    mixed = {name: [several[2], several[0], several[1]] for name, several in growing.items()}
    curve = learning_curve(mixed, corpus.heldout)
    assert curve.sizes.tolist() == [10, 20, 40]
    assert curve.counts.tolist() == token_counts(corpus.heldout).tolist()
    assert curve.methods == {"map": "map", "posterior": "posterior", "bigram": "baseline"}
    for name, fit in fits.items():
        for row in curve.log_prob[name]:
            np.testing.assert_allclose(row, fit.predictive_log_prob(corpus.heldout), rtol=1e-6)
        assert curve.seconds[name] == (fit.seconds,) * 3
    for size, row in zip(curve.sizes, curve.log_prob["bigram"], strict=True):
        np.testing.assert_allclose(
            row, fit_ngram(corpus.train[:size], 4, "bigram").log_prob(corpus.heldout)
        )
    verdict = diagnose(fits["posterior"], corpus.heldout).verdict
    assert curve.converged["posterior"][2] == verdict.converged
    assert curve.converged["map"] == (fits["map"].verdict.converged,) * 3
    assert curve.converged["bigram"] == (None,) * 3
    assert curve.unfinished["posterior"] == (False,) * 3
    assert np.isnan(curve.seconds["bigram"]).all()
    assert "dim=2" in curve.model


def test_a_posterior_is_scored_by_some_draws_and_judged_by_all(growing, fits, corpus, monkeypatch):
    judged = []

    def watched(fit, sequences, *, name, log_prob):
        judged.append((fit.shape, None if log_prob is None else log_prob.shape))
        return diagnose(fit, sequences, name=name, log_prob=log_prob)

    monkeypatch.setattr(learning_study, "diagnose", watched)
    half = [dataclasses.replace(growing["posterior"][0], planned=60)]
    curve = learning_curve({"posterior": half}, corpus.heldout, most_draws=10)
    expected = fits["posterior"].thinned(10).predictive_log_prob(corpus.heldout)
    np.testing.assert_allclose(curve.log_prob["posterior"][0], expected, rtol=1e-6)
    assert judged == [((2, 40), None)]
    assert curve.unfinished["posterior"] == (True,)
    learning_curve({"posterior": half}, corpus.heldout)
    assert judged[1:] == [
        ((2, 40), (2, 40, len(corpus.heldout)))
    ]  # scored by all: those are not computed again


def changed(fit, **fields):
    return dataclasses.replace(fit, model=dataclasses.replace(fit.model, **fields))


def test_weights_of_a_factor_may_fall_with_the_size_and_those_of_a_law_may_not(growing):
    weights = (0.05, 0.025, 0.0125)
    falling = [
        changed(fit, barrier_weight=weight)
        for fit, weight in zip(growing["map"], weights, strict=True)
    ]
    curve = learning_curve({"fixed": growing["map"], "falling": falling}, falling[0].data[:5])
    assert "barrier=factor" in curve.model
    assert "barrier_weight" not in curve.model
    alone = learning_curve({"fixed": growing["map"]}, falling[0].data[:5])
    assert "barrier_weight=0.05" in alone.model
    normalised = {
        name: [changed(fit, barrier="normalised") for fit in several]
        for name, several in {"fixed": growing["map"], "falling": falling}.items()
    }
    with pytest.raises(InputError, match=r"got others \(barrier_weight: 0.025, 0.05\)"):
        learning_curve(normalised, falling[0].data[:5])


BAD = {
    "nothing": (lambda g: {}, "at least one fit of each name, got none"),
    "no fit of a name": (lambda g: g | {"laplace": []}, "at least one fit of each name, got none"),
    "the baseline's name": (lambda g: {"bigram": g["map"]}, "'bigram' is the name of a baseline"),
    "a size twice": (
        lambda g: {"map": [*g["map"], g["map"][0]]},
        r"map has a training size twice \(10, 10, 20, 40\)",
    ),
    "other sizes": (
        lambda g: g | {"posterior": g["posterior"][1:]},
        "posterior has training sizes 20, 40, map has 10, 20, 40; fit both at the same",
    ),
    "another model": (
        lambda g: g | {"posterior": [*g["posterior"][:2], changed(g["posterior"][2], scale=0.5)]},
        r"posterior at 40 sequences: expected one model throughout, got others "
        r"\(scale: 0.5, 1.0\)",
    ),
    "no prefix": (
        lambda g: {
            "map": [dataclasses.replace(g["map"][0], data=g["map"][2].data[10:20]), *g["map"][1:]]
        },
        (
            "map at 10 sequences: its training sequences are not the first of those of the largest "
            "size"
        ),
    ),
    "other data of one name": (
        lambda g: (
            g
            | {
                "posterior": [
                    dataclasses.replace(fit, data=fit.data[::-1]) for fit in g["posterior"]
                ]
            }
        ),
        "posterior at 10 sequences: its training sequences are not the first",
    ),
    "another method at one size": (
        lambda g: {"map": [g["posterior"][0], *g["map"][1:]]},
        "expected one of the same methods",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_fits_that_make_no_curve_are_refused(name, growing, corpus):
    make, message = BAD[name]
    with pytest.raises(InputError, match=message):
        learning_curve(make(growing), corpus.heldout)


def test_held_out_sequences_and_scores_that_make_no_curve_are_refused(growing, corpus):
    with pytest.raises(InputError, match="at least two sequences"):
        learning_curve(growing, corpus.heldout[:1])
    with pytest.raises(
        InputError, match="most_draws: expected a whole number of at least 1, got 0"
    ):
        learning_curve(growing, corpus.heldout, most_draws=0)
    with pytest.raises(InputError, match="expected one of map, posterior, got 'laplace'"):
        known([0.1, 0.1, 0.1, 0.1]).losses("laplace")
    broken = {name: np.full_like(value, np.nan) for name, value in growing["map"][0].draws.items()}
    with pytest.raises(
        FitError, match=r"map at 10 sequences gives held-out sequence 1 a log probability of nan"
    ):
        learning_curve(
            {"map": [dataclasses.replace(growing["map"][0], draws=broken)]}, corpus.heldout
        )


def test_a_sequence_without_probability_makes_no_curve():
    with pytest.raises(
        FitError, match="map gives held-out sequence 2 a log probability of -inf; fit again"
    ):
        learning_study._refuse_infinite("map", np.array([-3.0, -np.inf, -2.0]))


def test_curves_of_single_sizes_make_the_whole_one(growing, corpus):
    whole = learning_curve(growing, corpus.heldout)
    single = [
        learning_curve({name: [fits[place]] for name, fits in growing.items()}, corpus.heldout)
        for place in (2, 0, 1)
    ]
    assert_same(join(single), whole)
    with pytest.raises(InputError, match="expected each training size once, got 10, 10"):
        join([single[1], single[1]])
    with pytest.raises(InputError, match="expected one of the same heldout"):
        join([single[0], dataclasses.replace(single[1], heldout="other")])


def assert_same(one, other):
    for field in dataclasses.fields(LearningCurve):
        # NaN is not itself, and is printed as it is.
        assert repr(getattr(one, field.name)) == repr(getattr(other, field.name)), field.name


def test_a_curve_is_read_as_it_was_written(tmp_path, growing, corpus):
    curve = learning_curve(growing, corpus.heldout)
    save_curve(tmp_path / "curve.zip", known([0.1, 0.1, 0.1, 0.1]))
    save_curve(tmp_path / "curve.zip", curve)
    again = load_curve(tmp_path / "curve.zip", corpus.heldout)
    assert_same(again, curve)
    for name, values in curve.log_prob.items():
        np.testing.assert_array_equal(again.log_prob[name], values)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.zip"]
    with pytest.raises(InputError, match="it is of other held-out sequences than those given"):
        load_curve(tmp_path / "curve.zip", corpus.train)


def test_files_that_hold_no_curve_are_refused(tmp_path):
    path = tmp_path / "curve.zip"
    with pytest.raises(InputError, match=r"no such file; make one with `probattn learning-curve`"):
        load_curve(path)
    save_curve(path, known([0.1, 0.1, 0.1, 0.1]))
    arrays, about = read_arrays(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no learning curve, or a damaged one"):
        load_curve(path)
    write_arrays(path, arrays, {"something": "else"})
    with pytest.raises(InputError, match="no learning curve, or a damaged one"):
        load_curve(path)
    write_arrays(path, arrays, about | {"format": 99})
    with pytest.raises(
        InputError, match=r"written in format 99, this probattn reads 1; make it again"
    ):
        load_curve(path)
    for place in (tmp_path, tmp_path / "none" / "curve.zip"):
        with pytest.raises(InputError, match="expected the name of a file in a folder that exists"):
            save_curve(place, known([0.1, 0.1, 0.1, 0.1]))


def test_the_figure_shows_the_curve():
    curve = known(
        [0.1, 0.2, 0.3, 0.4],
        converged={"map": (True,) * 4, "posterior": (False, True, None, True)},
        unfinished={"map": (False,) * 4, "posterior": (False, False, False, True)},
    )
    ax = plot_learning_curve(curve)
    drawn = {container.get_label(): container for container in ax.containers}
    assert list(drawn) == ["map", "posterior"]
    for name, container in drawn.items():
        line, _, (bars,) = container
        losses, errors = curve.losses(name)
        np.testing.assert_allclose(line.get_xdata(), curve.sizes)
        np.testing.assert_allclose(line.get_ydata(), losses)
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(np.diff(ends)[:, 0], 4 * errors)
    lines = {name: container[0] for name, container in drawn.items()}
    for look in ("get_color", "get_linestyle", "get_marker"):
        assert len({getattr(line, look)() for line in lines.values()}) == 2
    assert lines["map"].get_markevery() == [0, 1, 2, 3]
    assert lines["posterior"].get_markevery() == [1, 2]
    (hollow,) = [line for line in ax.get_lines() if line.get_fillstyle() == "none"]
    assert hollow.get_xdata().tolist() == [30, 1000]
    np.testing.assert_allclose(hollow.get_ydata(), curve.losses("posterior")[0][[0, 3]])
    assert (hollow.get_marker(), hollow.get_color()) == (
        lines["posterior"].get_marker(),
        lines["posterior"].get_color(),
    )
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["30", "100", "300", "1,000"]
    assert ax.get_xticks(minor=True).tolist() == []
    assert ax.get_xlabel() == "training sequences (logarithmic scale)"
    assert ax.get_ylabel() == "held-out loss, nats per token\n(bars: two standard errors)"
    said = [text.get_text() for text in ax.get_legend().get_texts()]
    assert said == ["map", "posterior", "hollow: not converged or unfinished"]
    plt.close(ax.figure)


def test_the_figure_says_of_hollow_markers_only_what_there_is():
    gains = [0.1, 0.2, 0.3, 0.4]
    flags = {"map": (False,) * 4, "posterior": (True,) * 4}
    for changes, expected in (
        ({}, []),
        ({"unfinished": flags}, ["hollow: unfinished"]),
        (
            {"converged": {name: tuple(not flag for flag in row) for name, row in flags.items()}},
            ["hollow: not converged"],
        ),
    ):
        ax = plot_learning_curve(known(gains, **changes))
        assert [text.get_text() for text in ax.get_legend().get_texts()][2:] == expected
        plt.close(ax.figure)


def test_the_figure_takes_fits_and_axes_and_dark_paper(growing, corpus):
    _, (left, right) = plt.subplots(1, 2)
    assert plot_learning_curve(growing, corpus.heldout, ax=right) is right
    assert [container.get_label() for container in right.containers] == [
        "map",
        "posterior",
        "bigram",
    ]
    assert not left.containers
    plt.close(right.figure)
    with mpl.rc_context(DARK):
        ax = plot_learning_curve(learning_curve(growing, corpus.heldout), corpus.heldout)
    assert ax.get_legend().get_lines()[-1].get_color() == INK
    plt.close(ax.figure)
    with pytest.raises(InputError, match="expected those to score the fits on, got none"):
        plot_learning_curve(growing)
    with pytest.raises(InputError, match="it is of other held-out sequences"):
        plot_learning_curve(known([0.1, 0.1, 0.1, 0.1]), corpus.heldout)
