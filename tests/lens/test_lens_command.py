"""The command `lens`, from a model to a page, and every bad input: one line, exit code 2, and no
file."""

import json
import sys

import jax
import numpy as np
import pytest
import tokenizers
import xarray as xr
from references import REFERENCE, pair
from safetensors.numpy import save_file
from tokenizers import models, pre_tokenizers

from probattn.cli import app
from probattn.lens import continued, growth, lens, load_transformer

WORDS = ["<unk>", "the", "old", "bridge", "was", "closed", ",", "when", "river", "rose"]
TEXT = "the old bridge was closed , when the river rose"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a tiny model that knows some words."""
    folder = tmp_path_factory.mktemp("model")
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((REFERENCE / "qwen3" / name).read_bytes())
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return folder


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        app.main([str(argument) for argument in arguments])
    return ended.value.code


def test_from_a_text_to_page_numbers_and_table(model, tmp_path, capsys):
    page, numbers, kept = (tmp_path / f"lens.{end}" for end in ("html", "json", "nc"))
    options = ["--out", page, "--json", numbers, "--netcdf", kept]
    assert call("lens", model, TEXT, *options) == 0
    printed = capsys.readouterr()
    assert "20 blocks of width 16: about" in printed.err
    assert "lens: 20/20" in printed.err
    table = [line for line in printed.out.splitlines() if line.startswith(("│", "┃"))]
    assert len(table) == 3
    assert max(map(len, table)) <= 80
    assert f"page: {page}" in printed.out
    assert {path.name for path in tmp_path.iterdir()} == {"lens.html", "lens.json", "lens.nc"}
    assert ">bridge</span>" in page.read_text(encoding="utf-8")
    assert f"Attention of {model.name}" in page.read_text(encoding="utf-8")
    expected = lens(load_transformer(model), TEXT)
    assert f"{float(expected['sigma_min'][0].min()):.3g}" in table[1]
    read = json.loads(numbers.read_text(encoding="utf-8"))
    assert read["reading"] == "stream"
    assert read["arrays"]["token"] == expected["token"].values.tolist()
    assert read["arrays"]["loss"][-1] is None
    for name, array in expected.variables.items():
        assert read["dims"][name] == list(array.dims)
        if name != "token":
            stored = np.array(read["arrays"][name], float)
            np.testing.assert_allclose(stored, array.values, rtol=1e-6)
    with xr.open_dataset(kept, engine="h5netcdf") as stored:
        xr.testing.assert_allclose(stored.load(), expected)


def test_ids_layers_window_and_reading(model, tmp_path, capsys):
    options = ["--tokens", "1, 2,3 4", "--layers", "1", "--window", "2", "--reading", "mixing"]
    numbers = tmp_path / "lens.json"
    assert call("lens", model, *options, "--out", tmp_path / "a.html", "--json", numbers) == 0
    read = json.loads(numbers.read_text(encoding="utf-8"))
    assert read["arrays"]["layer"] == [1]
    assert read["arrays"]["token_id"] == [1, 2, 3, 4]
    assert read["arrays"]["window"] == [0, 0, 1, 1]
    assert read["reading"] == "mixing"
    assert "reading mixing" in capsys.readouterr().out


def test_the_text_of_a_file(model, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    numbers = tmp_path / "lens.json"
    options = ["--text-file", tmp_path / "text.txt", "--layers", "0-1", "--json", numbers]
    assert call("lens", model, *options, "--out", tmp_path / "a.html") == 0
    assert json.loads(numbers.read_text(encoding="utf-8"))["arrays"]["token"] == TEXT.split()


def refused(capsys, folder, *arguments):
    """The one line of a refusal, which leaves no file behind in a folder."""
    before = {*folder.iterdir()}
    if "--out" not in arguments:
        arguments = (*arguments, "--out", folder / "never.html")
    assert call("lens", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert {*folder.iterdir()} == before
    return printed.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "text: expected one of TEXT, --text-file and --tokens"),
        ([TEXT, "--tokens", "1,2"], "text: expected one of TEXT"),
        ([""], "TEXT: expected a text, got an empty one"),
        (["--tokens", ""], "--tokens: expected ids such as 1,2,3, got ''"),
        (["--tokens", "1,x"], "--tokens: expected ids such as 1,2,3, got '1,x'"),
        (["--tokens", "1,48"], "expected ids from 0 to 47, got 48"),
        ([TEXT, "--reading", "residual"], "--reading: expected one of stream, mixing, theory"),
        ([TEXT, "--layers", "0,2"], "layers: expected numbers from 0 to 1, each once, got [0, 2]"),
        ([TEXT, "--layers", "1,1"], "layers: expected numbers"),
        ([TEXT, "--layers", "3-1"], "--layers: expected numbers such as 0,5,10-12, got '3-1'"),
        ([TEXT, "--layers", "0-999999999"], "--layers: expected numbers below"),
        ([TEXT, "--layers", "all"], "--layers: expected numbers such as 0,5,10-12, got 'all'"),
        ([TEXT, "--window", "1"], "window: expected 2 to 64 tokens, got 1"),
        ([TEXT, "--window", "65"], "window: expected 2 to 64 tokens, got 65"),
    ],
)
def test_bad_options(model, tmp_path, capsys, options, says):
    assert says in refused(capsys, tmp_path, model, *options)


def test_bad_files_of_text(model, tmp_path, capsys):
    file = tmp_path / "text.txt"
    assert "cannot be read (No such file" in refused(capsys, tmp_path, model, "--text-file", file)
    file.write_bytes(b"ab\xff")
    said = refused(capsys, tmp_path, model, "--text-file", file)
    assert "expected UTF-8; byte 2 is not" in said
    file.write_bytes(b"")
    assert "got an empty one" in refused(capsys, tmp_path, model, "--text-file", file)


def test_places_that_cannot_be_written_are_refused_before_the_model_is_read(tmp_path, capsys):
    nowhere = tmp_path / "no model", TEXT
    said = refused(capsys, tmp_path, *nowhere, "--out", tmp_path / "no" / "a.html")
    assert "cannot be written (no such folder); choose another place" in said
    assert "got a folder" in refused(capsys, tmp_path, *nowhere, "--out", tmp_path)
    assert "cannot be written" in refused(capsys, tmp_path, *nowhere, "--json", "/proc/a.json")
    long = tmp_path / f"{'x' * 255}.html"
    assert "cannot be written (File name too" in refused(capsys, tmp_path, *nowhere, "--out", long)
    same = ["--out", tmp_path / "a", "--json", tmp_path / "a"]
    assert "expected different files" in refused(capsys, tmp_path, *nowhere, *same)


def test_bad_models(model, tmp_path, capsys):
    assert "found nothing" in refused(capsys, tmp_path, tmp_path / "none", TEXT)
    assert "cannot be read (File name too long)" in refused(capsys, tmp_path, "x" * 300, TEXT)
    fields, arrays = pair("qwen3")

    def folder(name, fields, arrays):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(fields))
        save_file(arrays, tmp_path / name / "model.safetensors")
        return tmp_path / name

    unknown = folder("unknown", fields | {"model_type": "mamba"}, arrays)
    assert "got 'mamba'" in refused(capsys, tmp_path, unknown, "--tokens", "1,2")
    cut = folder("cut", fields, arrays)
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors" in refused(capsys, tmp_path, cut, "--tokens", "1,2")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00")
    assert "cut.gguf" in refused(capsys, tmp_path, tmp_path / "cut.gguf", "--tokens", "1,2")
    name = "model.norm.weight"
    less = folder("less", fields, {key: value for key, value in arrays.items() if key != name})
    assert name in refused(capsys, tmp_path, less, "--tokens", "1,2")
    broken = folder("broken", fields, arrays | {name: arrays[name] * np.float32(np.nan)})
    assert name in refused(capsys, tmp_path, broken, "--tokens", "1,2")
    wordless = folder("wordless", fields, arrays)
    assert "give token ids in its place" in refused(capsys, tmp_path, wordless, TEXT)


def test_a_continuation_is_marked_and_its_noise_is_drawn(model, tmp_path, capsys):
    page, numbers = tmp_path / "lens.html", tmp_path / "lens.json"
    options = ["--generate", 5, "--layers", "1", "--out", page, "--json", numbers]
    assert call("lens", model, "the old bridge", *options) == 0
    read = json.loads(numbers.read_text(encoding="utf-8"))
    loaded = load_transformer(model)
    whole = continued(loaded, "the old bridge", 5)
    assert read["arrays"]["token_id"] == whole.tolist()
    grown = growth(loaded, whole, key=jax.random.key(0), position=2)
    np.testing.assert_allclose(read["arrays"]["noise_size"], grown["size"][1:2], rtol=1e-5)
    html = page.read_text(encoding="utf-8")
    assert html.count(' made"') == 5
    assert "wrote the tokens from position 3 on" in html
    assert "<h2>How noise travels</h2>" in html
    capsys.readouterr()
    drawn = ["--generate", 5, "--temperature", 3.0, "--seed", 4, "--out", page, "--json", numbers]
    assert call("lens", model, "the old bridge", *drawn) == 0
    read = json.loads(numbers.read_text(encoding="utf-8"))
    key = jax.random.key(4)
    other = continued(loaded, "the old bridge", 5, key=key, temperature=3.0)
    assert read["arrays"]["token_id"] == other.tolist() != whole.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "0.5"], "--temperature: expected together with --generate"),
        (["--generate", "5000"], "number: expected at most"),
        (["--generate", "0"], "--generate: expected 1 or more"),
        (["--generate", "2", "--seed", "99999999999999999999"], "seed"),
        (["--generate", "2", "--temperature", "0"], "temperature: expected a positive number"),
    ],
)
def test_a_continuation_that_cannot_be(model, tmp_path, capsys, options, message):
    assert message in refused(capsys, tmp_path, model, "the old", *options)


def test_a_missing_extra_is_named(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    said = refused(capsys, tmp_path, model, "--tokens", "1,2")
    assert 'pip install "probattn[lens]"' in said


def test_a_disk_that_is_full_at_the_end_leaves_nothing(model, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    files = ["--out", tmp_path / "a.html", "--netcdf", tmp_path / "a.nc"]
    assert call("lens", model, "--tokens", "1,2,3", *files) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("a.nc: cannot be written (No space left on device); choose another place")
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_overflow_are_said(model, tmp_path, capsys, monkeypatch):
    fields, arrays = pair("qwen3")
    name = "model.layers.0.mlp.down_proj.weight"
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text(json.dumps(fields))
    large = arrays | {name: np.full_like(arrays[name], 1e38)}
    save_file(large, tmp_path / "large" / "model.safetensors")
    page = tmp_path / "lens.html"
    assert call("lens", tmp_path / "large", "--tokens", "1,2,3", "--out", page) == 0
    assert "3 of 6 blocks are NaN" in capsys.readouterr().out
    assert "3 of 6 blocks are NaN" in page.read_text(encoding="utf-8")
