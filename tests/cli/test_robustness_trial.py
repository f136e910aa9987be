"""The command `study trial`: every stage to its page, side by side, and on from where it was
killed."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from probattn.cli import app, robustness_trial
from probattn.inference.study import trial_arms, trial_order
from probattn.inference.study.trial_families import PLAIN_FAMILY
from probattn.inference.study.trial_order import QUICK_TRIAL

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "studies" / "robustness" / "PLAN.md"
# Few families: each compiles its programs, and what is tested here is what holds them together.
TINY = dataclasses.replace(
    QUICK_TRIAL,
    families=(PLAIN_FAMILY, "plain, averaged", "auxiliary, one-sided", "ensemble of three"),
)
RUN = """
import os, signal, sys
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[3])
from probattn.cli import app, robustness_trial
from probattn.inference.data import array_file
from probattn.inference.study import trial_order
import dataclasses

trial_order.QUICK_TRIAL = dataclasses.replace(trial_order.QUICK_TRIAL, families=("plain",))
robustness_trial.PROBE = (10, 2)
out, kill = sys.argv[1], int(sys.argv[2])
replace, written = array_file.Path.replace, []
def dying(partial, path):
    written.append(path.name)
    if len(written) == kill:  # half of an arm's file under the name it has before it is whole
        partial.write_bytes(partial.read_bytes()[: partial.stat().st_size // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(partial, path)
array_file.Path.replace = dying
app.main(["study", "trial", "--out", out, "--quick", "--only", "prose", "--plan", sys.argv[4]])
"""


def run(out, *options):
    with pytest.raises(SystemExit) as ended:
        app.main(["study", "trial", "--out", str(out), "--plan", str(PLAN), "--quick", *options])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "trial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_order, "QUICK_TRIAL", TINY)
        patch.setattr(robustness_trial, "PROBE", (10, 2))
        run(out)
    return out


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(trial_order, "QUICK_TRIAL", TINY)
    monkeypatch.setattr(robustness_trial, "PROBE", (10, 2))


def results_of(out):
    return {
        file.relative_to(out / "arms").as_posix(): json.loads(file.read_text())
        for file in (out / "arms").rglob("*.json")
    }


def test_every_arm_says_what_it_was(study):
    found = results_of(study)
    assert {one["stage"] for one in found.values()} == set(trial_order.STAGES)
    for name, one in found.items():
        assert name.split("/")[:2] == [one["text"], one["stage"]]
        assert len(one["plan SHA-256"]) == len(one["text SHA-256"]) == 64
        assert one["configuration"]["learning_rate"] > 0
        assert one["versions"]["jax"]
        assert one["failed"] is None
    assert not list((study / "arms").rglob("*.lock"))
    judged = [one for one in found.values() if one["stage"] == "judgement"]
    assert len(judged) == 2 * len(TINY.families) * len(TINY.seeds)
    for one in judged:
        assert {"clean", "noise 0.4", "noise, absolute", "other text"} < set(one["losses"])
        assert ("margins" in one) == (one["family"] != "ensemble of three")
    # What is added for an ensemble is more members; what is read of one training is one training.
    one, averaged = (
        found[f"prose/judgement/{kind}.json"] for kind in ("plain-1-0", "plain-averaged-1-0")
    )
    assert one["course"] == averaged["course"]
    assert one["losses"]["clean"] != averaged["losses"]["clean"]


def test_the_report_has_a_verdict_for_each_form_and_says_what_was_not_run(study):
    report = json.loads((study / "report.json").read_text())
    assert [(claim["text"], claim["family"]) for claim in report["claims"]] == [
        ("prose", "auxiliary, one-sided"),
        ("code", "auxiliary, one-sided"),
    ]
    assert report["some_form"] in (True, False)
    page = (study / "report.html").read_text()
    for claim in report["claims"]:
        assert claim["verdict"] in page
    assert report["plan"][:16] in page
    assert "section 8 of the plan" in page
    assert "<script" not in page
    assert not re.search("/(tmp|home|root)/", page)


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_reads_well(study, assert_reads_well, width):
    assert_reads_well(study / "report.html", width)


def test_a_lost_arm_is_made_again_bit_for_bit(study, tiny, monkeypatch, capsys):
    lost = study / "arms" / "code" / "judgement" / "auxiliary-one-sided-1-1.json"
    kept = json.loads(lost.read_text())
    lost.unlink()
    run(study)
    again = json.loads(lost.read_text())
    for what in ("losses", "margins", "support", "course", "configuration"):
        assert again[what] == kept[what]
    assert capsys.readouterr().out.count("judgement/") == 1


def test_an_arm_of_another_process_is_left_to_it(tmp_path):
    jobs = tuple(
        trial_order.Job("prose", "rest", PLAIN_FAMILY, number, 0, 10, 10, 8) for number in range(2)
    )
    lock = tmp_path / f"{jobs[0].name}.lock"
    lock.parent.mkdir(parents=True)
    with trial_arms.only_one(lock, "taken"):
        job, _ = trial_arms.take_arm(tmp_path, jobs, lambda job: {"family": job.family})
        assert job == jobs[1]
        assert trial_arms.take_arm(tmp_path, jobs, lambda job: {}) is None
    assert trial_arms.take_arm(tmp_path, jobs, lambda job: {"family": PLAIN_FAMILY})[0] == jobs[0]
    assert set(trial_arms.read_arms(tmp_path)) == {job.name for job in jobs}


def test_minutes_stop_after_the_arm_that_passes_them(tmp_path, tiny, capsys):
    run(tmp_path / "trial", "--only", "prose", "--minutes", "1e-9")
    said = capsys.readouterr().out
    assert "0 arms are done" in said
    assert "hours of one process" in said
    assert "not run: code: left out of this run." in said
    assert not results_of(tmp_path / "trial")


def test_bad_input_is_one_line_and_writes_nothing(study, tmp_path, tiny, capsys):
    out, plan = tmp_path / "out", ["--plan", str(PLAN)]
    for arguments, words in (
        (["--out", str(out), "--plan", str(tmp_path / "PLAN.md")], "give the plan's path with"),
        (["--out", str(out), *plan, "--minutes", "0"], "minutes: expected a number > 0, got 0"),
        (["--out", str(out), *plan, "--only", "verse"], "only: expected prose or code, got 'vers"),
        (["--out", str(study), *plan], "holds another study"),
    ):
        with pytest.raises(SystemExit) as ended:
            app.main(["study", "trial", *arguments])
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("probattn: ")
        assert message.count("\n") == 1
        assert words in message
        assert not out.exists()
    broken = study / "arms" / "prose" / "rest" / "plain-1-10-steps-100.json"
    kept = broken.read_text()
    broken.write_text(kept[:50])
    with pytest.raises(SystemExit):
        app.main(["study", "trial", "--out", str(study), *plan, "--quick"])
    assert "is damaged" in capsys.readouterr().err
    broken.write_text(kept)


def test_killed_in_the_middle_of_writing_an_arm_it_goes_on(tmp_path):
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]

    def start(kill):
        command = [sys.executable, "-c", RUN, str(tmp_path / "trial"), str(kill), cache, str(PLAN)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    # The first file is study.json; the third is the second arm.
    assert start(3).returncode == -signal.SIGKILL
    arms = tmp_path / "trial" / "arms"
    whole = [path.name for path in arms.rglob("*.json") if not path.name.startswith(".")]
    assert whole == ["plain-0-100.json"]
    assert list(arms.rglob("*.partial"))
    before = (arms / "prose" / "rate-third" / "plain-0-100.json").read_text()
    ended = start(-1)
    assert ended.returncode == 0, ended.stderr
    assert "1 arms are done" in ended.stdout
    assert (arms / "prose" / "rate-third" / "plain-0-100.json").read_text() == before
    assert (tmp_path / "trial" / "report.html").exists()
    assert not list(arms.rglob("*.partial"))
