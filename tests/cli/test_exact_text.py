"""What users named is shown as they named it: in the terminal, on the page and in the JSON file."""

import html
import json
import os
import subprocess
import sys

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
    assert printed == "".join(f"{corpus.decode(np.asarray(tokens))}\n" for tokens in drawn).replace(
        "\x07", ""
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
