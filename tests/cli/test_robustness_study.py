"""The command `study robustness`: it writes what it says, goes on where it was killed, and refuses
what is another study."""

import json
import re

import numpy as np
import pytest

from probattn.cli import app, robustness_study
from probattn.errors import FitError
from probattn.inference.study.robustness_arms import FIRST_PLACEMENTS, FIRST_VARIANTS, WEIGHTS, arms

TINY = {"dim": 8, "layers": 1, "heads": 2, "length": 12, "num_steps": 50, "num_seeds": 2}
TINY_POSTERIOR = {
    "length": 8,
    "train_size": 20,
    "dim": 1,
    "num_warmup": 100,
    "num_samples": 20,
    "num_members": 2,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "abc.txt"
    path.write_text("".join(np.random.default_rng(0).choice(["abc ", "acb ", "bca "], 800)))
    return path


@pytest.fixture(scope="module")
def study(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "robustness"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness_study, "QUICK", TINY)
        patch.setattr(robustness_study, "QUICK_POSTERIOR", TINY_POSTERIOR)
        run(corpus, out)
    return out


def run(corpus, out, *options):
    with pytest.raises(SystemExit) as ended:
        app.main(["study", "robustness", str(corpus), "--out", str(out), "--quick", *options])
    assert ended.value.code == 0


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        app.main(["study", "robustness", *map(str, arguments)])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("probattn: ")
    assert message.count("\n") == 1
    return message


def test_the_full_study_has_every_weight_variant_and_placement():
    names = [arm.name for arm in arms()]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("barrier") for name in names) == len(WEIGHTS) * len(
        FIRST_VARIANTS
    ) * len(FIRST_PLACEMENTS)
    families = {arm.family for arm in arms()}
    assert {"plain", "noise", "dropout", "weight decay", "QK-norm", "spectral"} < families


def test_it_writes_every_arm_and_the_report(study):
    planned = arms(quick=True)
    assert sorted(path.stem for path in (study / "arms").iterdir()) == sorted(
        arm.name for arm in planned
    )
    report = json.loads((study / "report.json").read_text())
    assert report["missing"] == 0
    assert len(report["losses"]["plain"]["noise 0.4"]) == 2
    assert {claim["verdict"] for claim in report["claims"]} <= {"reproduced", "partly", "not"}
    assert [at["steps"] for at in report["course"]] == [0]
    assert set(report["posterior"]["curves"]) == {
        "embedding noise",
        "swap",
        "drop",
        "insert",
        "substitute",
    }
    assert [row["name"] for row in report["auxiliary"]] == [
        arm.name for arm in planned if "auxiliary" in arm.name
    ]
    page = (study / "report.html").read_text()
    assert "In short" in page
    for arm in planned:
        assert arm.name in page
    assert not re.search("/(tmp|home|root)/", page)


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_reads_well(study, assert_reads_well, width):
    assert_reads_well(study / "report.html", width)


def test_it_goes_on_where_it_was_killed(study, corpus, monkeypatch):
    monkeypatch.setattr(robustness_study, "QUICK", TINY)
    before = {path.name: path.read_text() for path in (study / "arms").iterdir()}
    lost = study / "arms" / "noise-0.2.json"
    lost.unlink()
    whole, trained = robustness_study._result, []
    monkeypatch.setattr(
        robustness_study, "_result", lambda plan, arm: trained.append(arm.name) or whole(plan, arm)
    )
    run(corpus, study)
    assert trained == ["noise-0.2"]
    again, once = (json.loads(text)["results"] for text in (lost.read_text(), before[lost.name]))
    assert again == once  # bit for bit
    assert all(
        (study / "arms" / name).read_text() == text
        for name, text in before.items()
        if name != lost.name
    )


def test_one_that_is_stopped_says_how_it_goes_on(study, corpus, monkeypatch, capsys):
    monkeypatch.setattr(robustness_study, "QUICK", TINY)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(robustness_study, "carry_out", stop)
    with pytest.raises(SystemExit) as ended:
        app.main(["study", "robustness", str(corpus), "--out", str(study), "--quick"])
    assert ended.value.code == 130
    assert "the same command resumes it" in capsys.readouterr().err


def test_an_arm_that_cannot_be_trained_is_said_and_the_others_go_on(study, corpus, monkeypatch):
    monkeypatch.setattr(robustness_study, "QUICK", TINY)
    arm = study / "arms" / "barrier-full-auxiliary-0.05.json"
    kept = arm.read_text()
    arm.unlink()

    def fail(*_, **__):
        raise FitError("every step leads out of the domain")

    monkeypatch.setattr("probattn.inference.fitting.training.train", fail)
    run(corpus, study)
    assert (
        "barrier-full-auxiliary-0.05.</strong> could not be trained: every step"
        in (study / "report.html").read_text()
    )
    arm.write_text(kept)


def test_a_posterior_that_cannot_be_had_is_said(study, corpus, monkeypatch):
    monkeypatch.setattr(robustness_study, "QUICK", TINY)
    file = study / "posterior.json"
    kept = file.read_text()
    file.unlink()

    def fail(*_, **__):
        raise FitError("a chain never moved")

    monkeypatch.setattr(
        "probattn.inference.study.posterior_robustness.compare_under_disturbance", fail
    )
    run(corpus, study)
    assert "It could not be fitted: a chain never moved" in (study / "report.html").read_text()
    file.write_text(kept)


def test_bad_input_is_one_line_and_writes_nothing(study, corpus, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    for arguments, words in (
        (("cmudict", "--out", out), "expected the path of a text file"),
        ((tmp_path / "missing.txt", "--out", out), "missing.txt"),
        ((corpus, "--out", out, "--heads", 5), "heads: expected a divisor of dim 32, got 5"),
        (
            (corpus, "--out", out, "--num-seeds", 0),
            "num_seeds: expected a whole number of at least 1, got 0",
        ),
        ((corpus, "--out", out, "--length", 1000), "2 training sequences of 1000 characters"),
        (
            (corpus, "--out", out, "--length", 4),
            "length: expected a whole number of at least 8, got 4",
        ),
        ((corpus, "--out", out, "--batch-size", 100000), "fewer than a minibatch of 100000"),
        ((corpus, "--out", study), "holds another study"),
        ((corpus, "--out", study), "length: the study has 12, now 64"),
        (
            (corpus, "--out", out, "--quick", "--seed", -1),
            "seed: expected a whole number of at least 0, got -1",
        ),
        (
            (corpus, "--out", out, "--quick", "--dim", -3),
            "dim: expected a whole number of at least 1, got -3",
        ),
    ):
        assert words in refused(capsys, *arguments)
        assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    assert "is no study of robustness" in refused(capsys, corpus, "--out", tmp_path / "full")
    monkeypatch.setattr(robustness_study, "QUICK", TINY)
    broken = study / "arms" / "plain.json"
    kept = broken.read_text()
    broken.write_text(kept[:100])
    assert "plain.json: is damaged" in refused(capsys, corpus, "--out", study, "--quick")
    broken.write_text(kept)
