"""Run directories: what is written is what is read; damage is told, nothing is half-written."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from probattn import InputError
from probattn.inference import load_run, save_run
from probattn.inference.fitting import run_directory
from probattn.inference.fitting.run_directory import refuse_existing, reserved


@pytest.fixture
def run(tmp_path, fits, corpus):
    path = tmp_path / "run"
    save_run(path, fits["posterior"], corpus, {"seed": 7})
    return path


def test_round_trip(run, fits, corpus):
    fit, again, config = load_run(run)
    assert fit.model == fits["posterior"].model
    assert fit.method == "posterior"
    assert config["settings"] == {"seed": 7}
    assert again.digest() == corpus.digest() == config["corpus"]["sha256"]
    for name, value in fits["posterior"].draws.items():
        np.testing.assert_array_equal(fit.draws[name], value)
        assert fit.draws[name].dtype == value.dtype
    assert set(fit.stats) == set(fits["posterior"].stats)
    assert (fit.start, fit.origins, fit.planned) == ("random points near the origin", (0, 1), 40)
    assert fit.gradients == fits["posterior"].gradients > 0
    np.testing.assert_array_equal(
        fit.predictive_log_prob(corpus.heldout),
        fits["posterior"].predictive_log_prob(corpus.heldout),
    )
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_nothing_in_it_executes_when_loaded(run):
    kinds = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert kinds == {".json", ".zip"}
    inside = [zipfile.ZipFile(path) for path in run.rglob("*.zip")]
    names = {Path(name).name for archive in inside for name in archive.namelist()}
    assert all(
        name == "zarr.json" or set(name) <= set("0123456789") for name in names
    )  # descriptions and chunks
    assert not any(b"pickle" in archive.read("zarr.json") for archive in inside)


def test_an_existing_path_is_left_alone(run, fits, corpus):
    before = (run / "config.json").read_bytes()
    with pytest.raises(InputError, match="exists already; choose another path or remove it"):
        save_run(run, fits["map"], corpus, {})
    assert (run / "config.json").read_bytes() == before


def test_a_path_is_reserved_for_one_fit_and_its_folders_go_if_nothing_comes(tmp_path, run):
    path = tmp_path / "new" / "folder" / "map"
    refusal = f"{path}: another process is fitting into it"
    with reserved(path):
        with pytest.raises(InputError, match=refusal), reserved(path):
            pytest.fail("two processes fit into one folder")
        with reserved(tmp_path / "new" / "folder" / "other"):
            pass
    assert not (tmp_path / "new").exists()
    with reserved(path):
        path.mkdir()
    assert [each.name for each in path.parent.iterdir()] == ["map"]
    with pytest.raises(InputError, match="exists already"), reserved(run):
        pass


def test_a_path_that_was_made_meanwhile_is_left_alone(tmp_path, fits, corpus, monkeypatch):
    made, write_arrays = tmp_path / "map", run_directory.write_arrays

    def slow(*given):
        made.mkdir(exist_ok=True)
        (made / "thesis.tex").touch()
        write_arrays(*given)

    monkeypatch.setattr(run_directory, "write_arrays", slow)
    with pytest.raises(InputError, match="exists already; choose another path"):
        save_run(made, fits["map"], corpus, {})
    assert [path.name for path in tmp_path.iterdir()] == ["map"]
    assert [path.name for path in made.iterdir()] == ["thesis.tex"]


def test_a_link_to_nothing_is_there(tmp_path):
    (tmp_path / "map").symlink_to("nowhere")
    with pytest.raises(InputError, match="exists already"):
        refuse_existing(tmp_path / "map")


def test_a_failed_write_leaves_nothing(tmp_path, fits, corpus, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_directory.os, "rename", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_run(tmp_path / "run", fits["map"], corpus, {})
    assert not list(tmp_path.iterdir())


def truncate_config(run):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text[: len(text) // 2])


def drop_fit(run):
    (run / "fit.zip").unlink()


def truncate_data(run):
    (run / "data.zip").write_bytes((run / "data.zip").read_bytes()[:-20])


def drop_a_chunk(run):
    """Zarr reads a chunk that is missing as zeros, without a word."""
    with zipfile.ZipFile(run / "fit.zip") as old, zipfile.ZipFile(run / "new.zip", "w") as new:
        for name in old.namelist():
            if not name.startswith("draws/embedding/c/"):
                new.writestr(name, old.read(name))
    (run / "new.zip").replace(run / "fit.zip")


def flip_a_byte(run):
    data = bytearray((run / "data.zip").read_bytes())
    data[len(data) // 3] ^= 1
    (run / "data.zip").write_bytes(bytes(data))


def other_format(run):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"format": 99}))


def other_model(run):
    config = json.loads((run / "config.json").read_text())
    config["model"]["name"] = "Oracle"
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate_config, "damaged or truncated"),
        (drop_a_chunk, "array draws/embedding is not what was written"),
        (drop_fit, "has no draw yet"),
        (truncate_data, "damaged or truncated"),
        (flip_a_byte, "damaged or truncated"),
        (
            other_format,
            "written in format 99 by probattn .*, this probattn reads format 9; fit again",
        ),
        (other_model, "holds an unknown model: Oracle is not among the entry points"),
        (shutil.rmtree, "no run directory"),
    ],
)
def test_damage_is_told(run, harm, message):
    harm(run)
    with pytest.raises(InputError, match=message):
        load_run(run)


def test_what_a_mode_says_of_itself_is_kept(tmp_path, fits, corpus):
    save_run(tmp_path / "run", fits["map"], corpus, {})
    fit, _, config = load_run(tmp_path / "run")
    assert fit.verdict == fits["map"].verdict
    assert fit.coordinates == "constrained"
    assert fit.gradients == fits["map"].gradients > 0
    assert set(fit.modes) == {"constrained", "unconstrained"}
    for coordinates, mode in fits["map"].modes.items():
        assert set(fit.modes[coordinates]) == set(mode) > set()
        for name, value in mode.items():
            np.testing.assert_array_equal(fit.modes[coordinates][name], value)
    assert config["density"]["fields"]["barrier_weight"] == 0.05
    assert config["density"]["data_sha256"] == fit.density.data
