"""What users named is shown as they named it: in the terminal, on the page and in the JSON file."""

import html
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from probattn.cli import app
from probattn.inference import load_run
from probattn.inference.report import style

SYMBOLS = "[]/\\{}<&\"':ab\x07"  # of markup, escapes, templates, HTML and terminals
NAME = "[bold]it's {x} :smile: <b>&amp;[-bold]\\"


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        app.main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A MAP of words full of such symbols, in a folder with such a name."""
    folder = tmp_path_factory.mktemp("exact") / NAME
    folder.mkdir()
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list(SYMBOLS), 4)) for _ in range(60)]
    corpus = folder / f"{NAME}.txt"
    corpus.write_text("\n".join([*words, "[/b]", "[b]a", "\\\\[a]"[:4]]))
    out = folder / f"run {NAME}"
    assert call("fit", corpus, "--method", "map", "--dim", 1, "--num-steps", 20, "--out", out) == 0
    return out


def test_the_terminal_shows_symbols_and_names(run, capsys):
    fit, corpus, _ = load_run(run)
    assert set(corpus.symbols[1:]) == set(SYMBOLS)
    assert call("generate", run, "-n", 5, "--seed", 3) == 0
    printed = capsys.readouterr().out
    keys = jax.random.split(jax.random.key(3), 5)
    drawn = [fit.model.generate(fit.params, 1, key=key).tokens[0] for key in keys]
    assert "\x07" in "".join(corpus.decode(np.asarray(tokens)) for tokens in drawn)
    assert printed == "".join(f"{corpus.decode(np.asarray(tokens))}\n" for tokens in drawn).replace(
        "\x07", "\\x07"
    )
    assert call("margins", run, "[/b]") == 0
    table = capsys.readouterr().out
    assert "map: [/b]" in table
    assert all(f" {symbol} " in table for symbol in "[/b]")
    assert call("generate", run, "-n", 3, "--margins") == 0
    assert call("diagnose", run) == 0
    assert call("margins", run, "[z]") == 2
    assert "unknown symbol 'z' in '[z]'" in capsys.readouterr().err


@pytest.mark.filterwarnings("default:figures")
def test_the_page_and_the_json_show_them(run, tmp_path, capsys):
    style._warn_of_missing_symbols.cache_clear()
    out = tmp_path / f"{NAME[:10]}.html"
    assert call("compare", run, "--out", out) == 0
    printed = capsys.readouterr()
    assert printed.err.count("fonts lack some of the symbols") == 1  # of the bell, in any figure
    assert "Glyph" not in printed.err
    assert run.name in printed.out
    page, found = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    assert run.name in html.unescape(page)
    assert "<b>" not in page
    assert {score["name"] for score in found["scores"]} >= {run.name}


CONTROLS = "\x1b\x07\r\t\x7f\x9b\u2028\u202e"


def test_control_characters_are_seen_wherever_text_is_printed(tmp_path, capfd, monkeypatch):
    """In words, in names of runs, of folders and of other texts, in tables, messages and pages."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    letters = ["a", "\x1b", "\x9b", "\u202e", "\t"]
    words = ["a" + "".join(rng.choice(letters, 2)) + "a" for _ in range(80)]
    Path("words.txt").write_text("\n".join(words))
    Path("other\x1b.txt").write_text("a\x1ba\na\ta\na\x1b\x1b\x1b\x1b\x1b\x1ba\n")
    run = "run\x1b[31m"
    assert (
        call("fit", "words.txt", "--method", "map", "--dim", 1, "--num-steps", 9, "--out", run) == 0
    )
    assert call("generate", run, "-n", 9) == 0
    assert call("generate", run, "-n", 2, "--margins") == 0
    assert call("margins", run, "a\x1b\ta") == 0
    assert call("margins", run, "a\x1b\x07a") == 2
    assert call("margins", f"no{CONTROLS}", "a") == 2
    assert call("fit", "words.txt", "--method", f"m{CONTROLS}", "--out", "x") == 2
    assert call("compare", run, "--elsewhere", "other\x1b.txt", "--out", "page.html") == 0
    printed = "".join(capfd.readouterr())
    assert "\\x1b[31m" in printed
    assert "from other\\x1b.txt" in printed
    assert not set(printed) & set(CONTROLS) - {"\r"}  # a progress bar goes back to the line's start
    page = Path("page.html").read_text()
    assert "run\\x1b[31m" in page
    assert not set(page) & set(CONTROLS) - {"\t"}
    assert list(json.loads(Path("page.json").read_text())["methods"]) == [run]


@pytest.mark.parametrize("number", ["-1", "99999999999999999999"])
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "{}", "--seed"],
        ["generate", "{}", "--number"],
        ["calibrate", "latent", "--seed"],
        ["fit", "cmudict", "--method", "map", "--out", "new", "--seed"],
        ["fit", "cmudict", "--method", "map", "--out", "new", "--num-steps"],
        ["demo", "--seed"],
    ],
    ids=lambda command: f"{command[0]} {command[-1]}",
)
def test_integers_out_of_range_are_one_line(run, command, number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(*(word.format(run) for word in command), number) == 2
    error = capsys.readouterr().err.strip()
    assert "expected a whole number of at" in error
    assert len(error.split("\n")) == 1
    assert not list(tmp_path.iterdir())


def test_what_a_terminal_cannot_show_is_replaced(run, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("\n".join(a + b for a in "甲乙丙丁" for b in "甲乙丙丁"))
    call("fit", words, "--method", "map", "--dim", 1, "--num-steps", 20, "--out", tmp_path / "run")
    generated = subprocess.run(
        [sys.executable, "-m", "probattn", "generate", str(tmp_path / "run"), "--margins"],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=True,
        timeout=300,
    )
    assert b"?" in generated.stdout
    assert b"Traceback" not in generated.stderr


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is full")
@pytest.mark.parametrize("command", ["--help", "env"])
def test_output_that_cannot_be_written_is_one_line(command):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "probattn", command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 1
    assert ended.stderr == "probattn: the output cannot be written (No space left on device)\n"


def test_what_stops_reading_a_pipe_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "probattn", "env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_page_replaces_no_pipe_or_device(run, tmp_path, capsys):
    pipe = tmp_path / "page"
    os.mkfifo(pipe)
    assert call("compare", run, "--out", pipe) == 2
    assert (
        "is a device or a pipe, and no file; give the name of the page" in capsys.readouterr().err
    )
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]
