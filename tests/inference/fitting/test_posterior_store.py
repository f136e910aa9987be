"""Runs on disk: they go on bit for bit, refuse what they are not, and lose nothing that was
written."""

import errno
import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from known import DATA, Line

from probattn import FitError, InputError
from probattn.inference import fit_map, load_posterior, resume_posterior, sample_posterior
from probattn.inference.data import array_file
from probattn.inference.fitting import chain_program, posterior, posterior_store
from probattn.inference.fitting.posterior_store import PosteriorStore
from probattn.models import LanguageModel

MODEL = LanguageModel(4, 5, 2)
KEY = jax.random.key(3)
SETTINGS = dict(
    key=KEY,
    num_chains=2,
    num_warmup=15,
    num_samples=25,
    max_tree_depth=3,
    start="random",
    progress=False,
)


@pytest.fixture(autouse=True, scope="module")
def short_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain_program, "CHUNK_ITERATIONS", 10)
        patch.setattr("probattn.inference.fitting.posterior.CHUNK_ITERATIONS", 10)
        yield


@pytest.fixture(scope="module")
def uninterrupted(corpus, short_chunks):
    return sample_posterior(MODEL, corpus.train, **SETTINGS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus, short_chunks):
    """A finished run, of which each test harms its own copy."""
    path = tmp_path_factory.mktemp("finished") / "store"
    sample_posterior(MODEL, corpus.train, **SETTINGS, store=path)
    return path


@pytest.fixture
def store(tmp_path, finished):
    return shutil.copytree(finished, tmp_path / "store")


def sample(corpus, store, **changed):
    return sample_posterior(MODEL, corpus.train, **(SETTINGS | changed), store=store)


def assert_same(one, other, draws=25):
    for part in ("draws", "stats"):
        for name, value in getattr(one, part).items():
            np.testing.assert_array_equal(
                value[:, :draws], getattr(other, part)[name][:, :draws], strict=True
            )


def names(store):
    return sorted(path.name for path in (store / "chunks").iterdir())


def test_a_stored_run_is_the_run_in_memory(store, corpus, uninterrupted):
    assert names(store) == [
        f"0000{n}.zip" for n in range(6)
    ]  # start, 10 + 5 of warmup, 10 + 10 + 5 draws
    for fit in (
        load_posterior(MODEL, corpus.train, store=store),
        sample(corpus, store),
    ):  # finished: only read
        assert_same(uninterrupted, fit)
        assert fit.gradients == uninterrupted.gradients


def test_the_time_to_the_first_draws_is_told_once(tmp_path, corpus, capsys):
    fit = sample(corpus, tmp_path / "store", progress=True)
    (line,) = (
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("first draws after ")
    )
    assert 0 < float(line.split()[3]) <= fit.seconds + 0.1
    sample(corpus, tmp_path / "store", progress=True, num_samples=30)
    assert "first draws" not in capsys.readouterr().out


def test_gradients_of_starts_and_of_warmup_are_counted(
    tmp_path, corpus, uninterrupted, monkeypatch
):
    sampling = uninterrupted.stats["n_steps"].sum()
    # Each of 2 chains and 15 iterations of warmup takes 1 to 7.
    assert sampling + 2 * 15 <= uninterrupted.gradients <= sampling + 2 * 15 * 7
    points = posterior.start_points
    monkeypatch.setattr(posterior, "start_points", lambda *given: (points(*given)[0], 1000.0))
    for store in (None, tmp_path / "store"):
        assert sample(corpus, store).gradients == uninterrupted.gradients + 1000


@pytest.mark.parametrize("kept", range(6))
def test_it_goes_on_from_any_chunk(store, corpus, uninterrupted, kept):
    for name in names(store)[kept:]:
        (store / "chunks" / name).unlink()
    (store / "chunks" / ".00009.zip.partial").write_bytes(b"half")
    resumed = resume_posterior(MODEL, corpus.train, store=store, progress=False)
    assert_same(uninterrupted, resumed)
    assert resumed.gradients == uninterrupted.gradients
    assert len(names(store)) == 6


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "harm", [truncate, flip, lambda path: path.write_bytes(b""), lambda path: path.unlink()]
)
def test_it_falls_back_to_the_last_whole_chunk(store, corpus, uninterrupted, harm):
    harm(store / "chunks" / "00004.zip")
    left = (
        "the 2 chunks from there on are"
        if len(names(store)) == 6
        else "the 1 chunk from there on is"
    )
    with pytest.warns(UserWarning, match=rf"00004.zip.*{left} left out and sampled again") as told:
        part = load_posterior(MODEL, corpus.train, store=store)
    assert part.shape == (2, 10)
    assert_same(part, uninterrupted, 10)
    assert len(told) == 1
    with pytest.warns(UserWarning, match="left out and sampled again") as told:
        assert_same(
            uninterrupted, resume_posterior(MODEL, corpus.train, store=store, progress=False)
        )
    assert len(told) == 1
    assert_same(uninterrupted, load_posterior(MODEL, corpus.train, store=store))


def test_draws_from_disk_are_dictionaries_to_jax(store, corpus):
    fit = load_posterior(MODEL, corpus.train, store=store)
    shapes = jax.tree.map(np.shape, fit.draws)
    assert shapes["bias"] == (2, 25, 4)
    assert (fit.draws | {"bias": 0})["bias"] == 0


def test_it_can_be_given_more_draws(store, corpus, uninterrupted):
    more = resume_posterior(MODEL, corpus.train, store=store, num_samples=31, progress=False)
    assert more.shape == (2, 31)
    assert_same(uninterrupted, more)
    whole = sample_posterior(MODEL, corpus.train, **(SETTINGS | {"num_samples": 31}))
    assert_same(whole, more, 31)


def test_an_unfinished_run_can_be_read_and_says_so(store, corpus):
    (store / "chunks" / "00005.zip").unlink()
    fit = load_posterior(MODEL, corpus.train, store=store)
    assert fit.shape == (2, 20)
    assert fit.planned == 25
    for name in names(store)[3:]:
        (store / "chunks" / name).unlink()
    with pytest.raises(
        InputError, match="holds no draw: it has not gone through its 15 iterations"
    ):
        load_posterior(MODEL, corpus.train, store=store)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(key=jax.random.key(4)), r"key data: the run has \[0, 3\], now \[0, 4\]"),
        (dict(num_samples=20), "settings num_samples: the run has 25, now 20"),
        (dict(max_tree_depth=4), "settings max_tree_depth: the run has 3, now 4"),
        (dict(start="prior"), "settings start: the run has random, now prior"),
        (
            dict(chain_method="vectorised"),
            "placement method: the run has (parallel|batches), now vectorised",
        ),
    ],
)
def test_it_refuses_to_go_on_as_another_run(store, corpus, changed, message):
    before = (store / "store.json").read_bytes()
    with pytest.raises(InputError, match=f"cannot be resumed bit for bit.*{message}"):
        sample(corpus, store, **changed)
    assert (store / "store.json").read_bytes() == before


def test_it_refuses_other_models_data_precisions_and_versions(store, corpus):
    with pytest.raises(InputError, match=r"model barrier_weight: the run has 0\.05, now 0\.5"):
        sample_posterior(
            LanguageModel(4, 5, 2, barrier_weight=0.5), corpus.train, **SETTINGS, store=store
        )
    with pytest.raises(InputError, match="data: the run has"):
        sample_posterior(MODEL, corpus.train[1:], **SETTINGS, store=store)
    with pytest.raises(InputError, match="a run of another model or of other data"):
        load_posterior(MODEL, corpus.train[1:], store=store)
    config = json.loads((store / "store.json").read_text())
    for part, change in {
        "precision": "float16",
        "versions": config["versions"] | {"jax": "0.0.1"},
    }.items():
        (store / "store.json").write_text(json.dumps(config | {part: change}))
        with pytest.raises(InputError, match=f"{part}.*: the run has (float16|0.0.1)"):
            sample(corpus, store)


def test_a_run_that_is_being_sampled_is_refused_and_left_alone(store, corpus, uninterrupted):
    config = json.loads((store / "store.json").read_text())
    (store / "chunks" / "00005.zip").unlink()
    other = PosteriorStore(store)
    other.open(config)
    before = {path.name: path.read_bytes() for path in (store / "chunks").iterdir()}
    for go_on in (
        lambda: sample(corpus, store, num_samples=31),
        lambda: resume_posterior(MODEL, corpus.train, store=store, progress=False),
    ):
        with pytest.raises(InputError, match=f"{store}: another process is sampling into it; wait"):
            go_on()
    assert {path.name: path.read_bytes() for path in (store / "chunks").iterdir()} == before
    assert json.loads((store / "store.json").read_text()) == config
    assert load_posterior(MODEL, corpus.train, store=store).shape == (2, 20)  # reading may go on
    other.close()
    assert_same(uninterrupted, sample(corpus, store))
    assert sorted(path.name for path in store.iterdir()) == ["chunks", "store.json"]


def test_a_run_that_failed_lets_others_in(store, corpus, monkeypatch):
    (store / "chunks" / "00005.zip").unlink()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(posterior, "chain_kernel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sample(corpus, store)
    assert sample(corpus, store).shape == (2, 25)


def test_a_run_that_another_process_is_beginning_is_no_other_folder(tmp_path, corpus, store):
    config = json.loads((store / "store.json").read_text())
    begun = tmp_path / "begun"
    (begun / "chunks").mkdir(parents=True)
    (begun / ".lock").touch()
    PosteriorStore(begun).open(config)
    (begun / "store.json").unlink()
    (begun / "chunks" / "00000.zip").touch()
    with pytest.raises(InputError, match="exists and is no posterior run"):
        PosteriorStore(begun).open(config)


def test_data_of_another_precision_are_the_same_data(tmp_path):
    """What is computed with is float32 where the data are float64, in a store too."""
    assert DATA.dtype == np.float64
    few = SETTINGS | dict(num_chains=1)
    fit = sample_posterior(Line(), DATA, **few, store=tmp_path / "store")
    for data in (DATA, jax.numpy.asarray(DATA)):
        assert load_posterior(Line(), data, store=tmp_path / "store").density == fit.density
    assert fit_map(Line(), DATA, key=KEY, num_steps=10, progress=False).density == fit.density


def test_damage_of_its_configuration_is_told(store, corpus, tmp_path):
    (store / "store.json").write_text('{"format"')
    with pytest.raises(InputError, match=r"store\.json is damaged"):
        sample(corpus, store)
    with pytest.raises(InputError, match="no posterior run"):
        resume_posterior(MODEL, corpus.train, store=tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="exists and is no posterior run"):
        sample(corpus, tmp_path / "other")


def test_a_full_disk_is_told_and_loses_no_chunk(tmp_path, corpus, uninterrupted, monkeypatch):
    left = [3]

    def fsync(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(array_file.os, "fsync", fsync)
    with pytest.raises(
        FitError, match=r"00003.zip: could not be written \(No space left on device\).*resume"
    ):
        sample(corpus, tmp_path / "store")
    assert names(tmp_path / "store") == ["00000.zip", "00001.zip", "00002.zip"]
    monkeypatch.undo()
    # `undo` takes back what the module's fixture set too.
    monkeypatch.setattr(chain_program, "CHUNK_ITERATIONS", 10)
    monkeypatch.setattr("probattn.inference.fitting.posterior.CHUNK_ITERATIONS", 10)
    assert_same(uninterrupted, sample(corpus, tmp_path / "store"))


def test_draws_stay_on_disk_until_they_are_asked_for(store, monkeypatch):
    """What a run is takes reading each chunk once; an array is then read once, by itself, from the
    chunks with draws."""
    read = []

    def reading(*what):
        arrays, about = array_file.read_arrays(*what)
        read.append((what[0].name, list(arrays)))
        return arrays, about

    monkeypatch.setattr(posterior_store, "read_arrays", reading)
    run = PosteriorStore(store)
    draws = run.arrays("draws")
    assert "n_steps" in run.arrays("stats")
    assert run.seconds() > 0
    assert run.gradients() > 0
    assert [name for name, arrays in read if len(arrays) > 1] == names(store)
    read.clear()  # the type checker of the tests has read the first array of each kind
    assert "value" in draws
    assert not read
    assert draws["value"].shape == draws["value"].shape == (2, 25, 1, 2, 2)
    assert read == [(name, ["value"]) for name in names(store)[3:]]


def test_nothing_of_the_draws_stays_on_the_device(tmp_path, corpus):
    """What lives on the device after a run of 25 draws and after one of 250 is the same, to the
    size of a few chunks."""

    def alive(num_samples):
        fit = sample(corpus, tmp_path / str(num_samples), num_samples=num_samples)
        assert fit.planned == num_samples
        return sum(array.nbytes for array in jax.live_arrays())

    alive(20)
    assert alive(250) == alive(20)


def test_each_function_compiles_once(tmp_path, caplog):
    """Chunks of 10, 5, 10, 10 and 5 iterations are one program, in warmup and after it, of a model
    that no other test has."""
    with jax.log_compiles(), caplog.at_level("WARNING"):
        sample_posterior(Line(), DATA, **SETTINGS, store=tmp_path / "store")
    compiled = [
        record.getMessage()
        for record in caplog.records
        if "Finished XLA compilation" in record.getMessage()
    ]
    of_chunks = [line for line in compiled if "sharded" in line or "on_one_device" in line]
    assert len(of_chunks) == 3, of_chunks  # begin, chunk, values


def test_nothing_in_it_executes_when_loaded(store):
    assert {path.suffix for path in store.rglob("*") if path.is_file()} == {".json", ".zip"}
    assert PosteriorStore(store).config["format"] == 7


@pytest.mark.parametrize("path", ["", b"store", 3, None])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(InputError, match=f"store: expected the path of a folder, got {path!r}"):
        PosteriorStore(path)


def test_no_path_is_refused_before_anything_is_sampled(corpus):
    with pytest.raises(InputError, match="store: expected the path of a folder, got ''"):
        sample(corpus, "")


def test_a_fit_read_from_it_goes_whole_to_another_process(store, corpus, uninterrupted):
    sent = pickle.dumps(load_posterior(MODEL, corpus.train, store=store))
    shutil.rmtree(store)
    assert_same(uninterrupted, pickle.loads(sent))
