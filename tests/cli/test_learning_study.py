"""The learning-curve study: what it leaves, how it goes on where it was killed, and what it
refuses."""

import json
import shutil

import numpy as np
import pytest

from probattn import inference
from probattn.cli import app, learning_study
from probattn.errors import FitError
from probattn.inference import load_corpus, load_curve, load_run

WORDS = "\n".join(f"{a}{b}{c}" for a in "wxyz" for b in "wxyz" for c in "wxyz")
SMALL = [
    "--dim",
    "1",
    "--num-steps",
    "30",
    "--num-warmup",
    "40",
    "--num-samples",
    "60",
    "--max-tree-depth",
    "3",
]
STUDY = ["--sizes", "5,10", *SMALL]


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        app.main(["learning-curve", *(str(argument) for argument in arguments)])
    return ended.value.code


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "words.txt"
    file.write_text(WORDS)
    return file


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    """A study of two sizes that nobody changes."""
    out = tmp_path_factory.mktemp("study") / "curve"
    assert call(words, "--out", out, *STUDY) == 0
    return out


@pytest.fixture
def study(finished, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(finished, tmp_path / "curve")


@pytest.fixture
def no_fit(monkeypatch):
    """No fit is made or resumed."""

    def refuse(*_, **__):
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr(learning_study, "fit_and_save", refuse)
    monkeypatch.setattr(learning_study, "resume_run", refuse)


def assert_same_draws(run, other):
    one, two = load_run(run)[0], load_run(other)[0]
    assert one.shape == two.shape
    for name, value in two.draws.items():
        np.testing.assert_array_equal(one.draws[name], value)


def assert_same_scores(one, other):
    assert one.sizes.tolist() == other.sizes.tolist()
    for name, values in other.log_prob.items():
        np.testing.assert_array_equal(one.log_prob[name], values)


def test_a_study_leaves_runs_and_a_curve(finished, words):
    runs = ["map-10", "map-5", "posterior-10", "posterior-5"]
    assert sorted(path.name for path in finished.iterdir()) == ["curve.zip", *runs, "study.json"]
    whole = load_corpus(str(words))
    for run in runs:
        method, size = run.split("-")
        fitted, corpus, config = load_run(finished / run)
        assert config["method"] == method
        np.testing.assert_array_equal(fitted.data, whole.train[: int(size)])
        np.testing.assert_array_equal(corpus.heldout, whole.heldout)
        assert fitted.model.dim == 1
    assert load_run(finished / "posterior-5")[0].shape == (4, 60)
    assert load_run(finished / "map-5")[2]["settings"]["num_steps"] == 30
    curve = load_curve(finished / "curve.zip", whole.heldout)
    assert curve.sizes.tolist() == [5, 10]
    assert list(curve.methods) == ["map", "posterior", "bigram"]
    for place, size in enumerate(("5", "10")):
        expected = load_run(finished / f"map-{size}")[0].predictive_log_prob(whole.heldout)
        np.testing.assert_allclose(curve.log_prob["map"][place], expected, rtol=1e-6)


def test_a_finished_study_is_told_again_without_a_fit(study, words, no_fit, capsys, monkeypatch):
    before, written = load_curve(study / "curve.zip"), []
    save = inference.save_curve

    def watched(path, curve):
        written.append(curve.sizes.tolist())
        save(path, curve)

    monkeypatch.setattr(inference, "save_curve", watched)
    assert call(words, "--out", study, *STUDY) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished already") == 4
    for name in before.methods:
        for loss, error in zip(*before.losses(name), strict=True):
            assert f"{loss:.4f} ± {error:.4f}" in printed
    for sentence in before.verdicts():
        assert f"- {sentence}" in printed
    assert ("(not converged)" in printed) == (
        not all(before.trusted(name).all() for name in before.methods)
    )
    assert written == [[5, 10]]  # the file there is not replaced by one of fewer sizes on the way
    assert_same_scores(load_curve(study / "curve.zip"), before)


def test_sizes_may_be_others(study, words, no_fit):
    assert call(words, "--out", study, "--sizes", "10", *SMALL) == 0
    assert load_curve(study / "curve.zip").sizes.tolist() == [10]


def cut(study, chunks):
    """Leave so many chunks of the last posterior: one of the start, one of warmup, two of draws."""
    found = sorted((study / "posterior-10" / "store" / "chunks").iterdir())
    assert len(found) == 4
    for path in found[chunks:]:
        path.unlink()


KILLED = {
    "in sampling": (lambda study: cut(study, 3), "resuming the posterior of 10 sequences"),
    "in warmup": (lambda study: cut(study, 1), "resuming the posterior of 10 sequences"),
    "before the first chunk": (lambda study: cut(study, 0), "fitting 10 sequences by posterior"),
    "before the store": (
        lambda study: shutil.rmtree(study / "posterior-10" / "store"),
        "fitting 10 sequences by posterior",
    ),
    "between the methods": (
        lambda study: shutil.rmtree(study / "posterior-10"),
        "fitting 10 sequences by posterior",
    ),
}


@pytest.mark.parametrize("when", KILLED)
def test_a_study_that_was_killed_goes_on_to_the_same_end(when, study, finished, words, capsys):
    damage, message = KILLED[when]
    damage(study)
    (study / "curve.zip").unlink()
    assert call(words, "--out", study, *STUDY) == 0
    printed = capsys.readouterr().out
    assert message in printed
    assert printed.count("finished already") == 3
    assert_same_draws(study / "posterior-10", finished / "posterior-10")
    assert_same_scores(load_curve(study / "curve.zip"), load_curve(finished / "curve.zip"))


def test_the_curve_of_the_sizes_so_far_is_there_when_a_fit_fails(study, words, monkeypatch, capsys):
    def fail(*_, **__):
        raise FitError("map: no start point of finite density")

    monkeypatch.setattr(learning_study, "fit_and_save", fail)
    shutil.rmtree(study / "map-10")
    (study / "curve.zip").unlink()
    assert call(words, "--out", study, *STUDY) == 1
    assert "no start point of finite density" in capsys.readouterr().err
    assert load_curve(study / "curve.zip").sizes.tolist() == [5]
    assert not (study / "map-10").exists()


@pytest.mark.filterwarnings("always")
def test_a_posterior_that_failed_with_all_its_draws_does_not_end_the_study(
    study, finished, words, monkeypatch, capsys
):
    def stuck(run, _):
        shutil.copytree(finished / "posterior-10", run, dirs_exist_ok=True)
        raise FitError("posterior: chain 1 never moved")

    monkeypatch.setattr(learning_study, "resume_run", stuck)
    cut(study, 3)
    assert call(words, "--out", study, *STUDY) == 0
    assert "chain 1 never moved; the study goes on" in capsys.readouterr().err
    assert load_curve(study / "curve.zip").sizes.tolist() == [5, 10]
    monkeypatch.setattr(learning_study, "resume_run", lambda *_: stuck(study / "nowhere", None))
    cut(study, 3)
    assert call(words, "--out", study, *STUDY) == 1  # its draws are not all there


def test_help_gives_an_example_and_says_that_chains_are_short(capsys):
    assert call("--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Example: probattn learning-curve cmudict" in printed
    assert "The chains are short by default" in printed


BAD = {
    "no sizes": (["--sizes", ""], "sizes: expected ascending whole numbers"),
    "no numbers": (["--sizes", "5,ten"], "sizes: expected ascending whole numbers"),
    "zero": (["--sizes", "0,5"], "sizes: expected ascending whole numbers"),
    "descending": (["--sizes", "10,5"], "sizes: expected ascending whole numbers"),
    "twice": (["--sizes", "5,5"], "sizes: expected ascending whole numbers"),
    "too many": (["--sizes", "5,53"], "has 52 training sequences, got 53; ask for fewer"),
    "no draws": (
        ["--num-samples", "0"],
        "num_samples: expected a whole number of at least 1, got 0",
    ),
    "no steps": (["--num-steps", "0"], "num_steps: expected a whole number of at least 1, got 0"),
    "no dimension": (["--dim", "0"], "dim: expected a whole number of at least 1, got 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2_and_makes_no_folder(name, words, tmp_path, capsys):
    given, message = BAD[name]
    assert call(words, "--out", tmp_path / "new", *STUDY, *given) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


OTHERS = {
    "model": (["--dim", "2"], "model dim: the study has 1, now 2"),
    "settings": (["--num-warmup", "41"], "posterior num_warmup: the study has 40, now 41"),
    "steps": (["--num-steps", "31"], "map num_steps: the study has 30, now 31"),
    "seed": (["--seed", "1"], "seed: the study has 0, now 1"),
    "length": (["--length", "5"], "model length: the study has 4, now 5"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_folder_of_another_study_is_refused(name, finished, words, no_fit, capsys):
    given, message = OTHERS[name]
    before = (finished / "study.json").read_bytes()
    assert call(words, "--out", finished, *STUDY, *given) == 2
    printed = capsys.readouterr().err
    assert "holds another study" in printed
    assert message in printed
    assert (finished / "study.json").read_bytes() == before


def test_the_study_of_another_corpus_is_refused(finished, words, no_fit, tmp_path, capsys):
    other = tmp_path / "words.txt"
    other.write_text(WORDS[: len(WORDS) // 2])
    assert call(other, "--out", finished, *STUDY) == 2
    assert "data SHA-256: the study has" in capsys.readouterr().err


def test_a_folder_or_file_that_is_no_study_is_refused(words, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").write_text("mine")
    for place in (tmp_path / "folder", words):
        assert call(words, "--out", place, *STUDY) == 2
        assert (
            "exists and is no learning curve; choose another --out or remove it"
            in capsys.readouterr().err
        )
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["note.txt"]
    assert call(words, "--out", words / "new", *STUDY) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_runs_that_are_not_of_the_study_are_refused(study, words, no_fit, capsys):
    shutil.rmtree(study / "map-5")
    (study / "map-10").rename(study / "map-5")
    assert call(words, "--out", study, *STUDY) == 2
    assert (
        "map-5: is a run of another model or other data than its study" in capsys.readouterr().err
    )
    (study / "study.json").write_text("{")
    assert call(words, "--out", study, *STUDY) == 2
    assert "study.json: is damaged" in capsys.readouterr().err
    (study / "study.json").write_text(json.dumps([]))
    assert call(words, "--out", study, *STUDY) == 2
    assert "study.json: is damaged" in capsys.readouterr().err
