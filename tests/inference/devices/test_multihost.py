"""Eight devices, and two processes joined over loopback: the same fits as on one device, to
rounding."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from probattn import InputError
from probattn.inference import fit_map, sample_posterior
from probattn.inference.devices import multihost
from probattn.inference.devices.multihost import on_first
from probattn.models import LanguageModel

ROOT = Path(__file__).parents[3]
KEY = jax.random.key(0)
MODEL = LanguageModel(3, 3, 1)
TOKENS = np.array([[1, 2, 0], [2, 1, 1], [1, 1, 0], [2, 0, 0]] * 3 + [[1, 0, 0]])
MAP = dict(key=KEY, num_steps=20, progress=False)
CHAINS = dict(
    key=KEY,
    num_chains=4,
    num_warmup=4,
    num_samples=6,
    max_tree_depth=3,
    start="random",
    progress=False,
)
RUN = """
import sys
import jax
import numpy as np
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_enable_x64", True)
from probattn.inference.devices.multihost import is_first, join
join()
from test_multihost import CHAINS, MAP, MODEL, TOKENS
from probattn import InputError
from probattn.inference import fit_map, sample_posterior

mode = fit_map(MODEL, TOKENS, devices=8, **MAP)
batches = fit_map(MODEL, TOKENS, devices=8, batch_size=8, **MAP)
chains = sample_posterior(MODEL, TOKENS, devices=8, store=sys.argv[1] + "/store", **CHAINS)
arrays = {"mode": mode.params["embedding"], "loss": mode.stats["loss"],
          "batch loss": batches.stats["loss"],
          "draws": chains.draws["embedding"], "energy": chains.stats["potential_energy"]}
np.savez(f"{sys.argv[1]}/{jax.process_index()}.npz", **arrays)
if jax.process_count() == 2:  # what only one of them finds is bad input for both
    for devices, tokens in ((7, TOKENS), (8, TOKENS if is_first() else TOKENS[::-1])):
        try:
            fit_map(MODEL, tokens, devices=devices, **MAP)
        except InputError as error:
            print(error)
"""


def start(arguments, number, devices, **variables):
    """Start `number` processes that join each other; returns what each printed and its exit code,
    once all have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for own in range(number):
        joined = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(number),
            "JAX_PROCESS_ID": str(own),
        }
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            **variables,
        }
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                env=environment | (joined if number > 1 else {}),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return [(*process.communicate(timeout=600), process.returncode) for process in started]


@pytest.fixture(scope="module")
def alone():
    """On one device of this process."""
    mode, batches = (fit_map(MODEL, TOKENS, batch_size=size, **MAP) for size in (None, 8))
    chains = sample_posterior(MODEL, TOKENS, devices=1, **CHAINS)
    return {
        "mode": mode.params["embedding"],
        "loss": mode.stats["loss"],
        "batch loss": batches.stats["loss"],
        "draws": chains.draws["embedding"],
        "energy": chains.stats["potential_energy"],
    }


@pytest.mark.parametrize(
    ("number", "devices"), [(1, 8), (2, 4)], ids=["8 devices", "2 processes of 4"]
)
def test_eight_devices_give_what_one_gives(alone, tmp_path, tmp_path_factory, number, devices):
    """13 sequences on 8 shards, and 4 chains on 2 shards each."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    ended = start(["-c", RUN, tmp_path, cache], number, devices)
    assert [code for _, _, code in ended] == [0] * number, ended
    for process in range(number):
        found = np.load(tmp_path / f"{process}.npz")
        for name, expected in alone.items():
            # Rounding, 1e-16, is magnified by 20 steps of a MAP, and by 10 trajectories of up to 7
            # steps.
            np.testing.assert_allclose(found[name], expected, rtol=1e-7, atol=1e-7, strict=True)
    if number == 2:
        for printed, _, _ in ended:
            assert "devices: expected all 8 of the 2 processes, got 7" in printed
            assert "data: not the same in every process" in printed


WORDS = "\n".join(f"{a}{b}{c}" for a in "xyz" for b in "xyz" for c in "xyz")
FEW = (
    "--dim 1 --num-warmup 4 --num-samples 6 --num-chains 2 --max-tree-depth 3 --start random "
    "--devices 4"
)


def test_the_command_line_fits_and_resumes_in_two_processes(tmp_path):
    (tmp_path / "words.txt").write_text(WORDS)
    run = tmp_path / "run"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "XLA_FLAGS": ""}
    fit = [
        "-m",
        "probattn",
        "fit",
        tmp_path / "words.txt",
        "--method",
        "posterior",
        "--out",
        run,
        *FEW.split(),
    ]
    first, second = start(fit, 2, 2, **cache)
    assert (first[2], second[2]) == (0, 0), (first, second)
    assert "2 chains x 2 shards of the data on 4 cpu devices of 2 processes" in first[0]
    assert "posterior fit of" in first[0]
    assert not [line for line in second[0].splitlines() if line and not line.startswith("[Gloo]")]
    resume = ["-m", "probattn", "resume", run, "--num-samples", "8"]
    first, second = start(resume, 2, 2, **cache)
    assert (first[2], second[2]) == (0, 0), (first, second)
    assert "8 draws a chain" in first[0]
    again = start(fit, 2, 2, **cache)  # what the first process finds ends both
    assert [code for _, _, code in again] == [2, 2], again
    assert "exists already; resume it with `probattn resume" in again[1][1]


def test_alone_a_process_is_the_first():
    assert multihost.is_first()
    assert on_first(lambda: 3) == 3


def test_what_travels_between_processes_is_plain_data():
    value = {
        "a": (1, [2.5, None, "x"]),
        3: np.arange(6.0).reshape(2, 3),
        "none": np.zeros((0, 2), np.int64),
        "b": True,
    }
    arrays = []
    plain = json.loads(json.dumps(multihost._to_plain(value, arrays)))
    again = multihost._from_plain(plain, arrays)
    assert list(again) == list(value)
    assert again["a"] == value["a"]
    assert again["b"] is True
    np.testing.assert_array_equal(again[3], value[3], strict=True)
    np.testing.assert_array_equal(again["none"], value["none"], strict=True)
    with pytest.raises(TypeError, match="expected plain data and arrays, got LanguageModel"):
        multihost._to_plain(MODEL, [])


@pytest.mark.parametrize(
    ("variables", "detect", "message"),
    [
        (
            {"JAX_NUM_PROCESSES": "2"},
            False,
            "JAX_NUM_PROCESSES: expected JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID as well",
        ),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "here:1",
                "JAX_NUM_PROCESSES": "two",
                "JAX_PROCESS_ID": "0",
            },
            False,
            "JAX_NUM_PROCESSES: expected an integer, got 'two'",
        ),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "localhost",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "0",
            },
            False,
            "JAX_COORDINATOR_ADDRESS: expected host:port of the first process, got 'localhost'",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "here:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            False,
            "JAX_PROCESS_ID: expected 0 to JAX_NUM_PROCESSES - 1, 1, got 2",
        ),
        ({}, True, "cluster: none was found .*; leave --cluster out"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_told(monkeypatch, variables, detect, message):
    for name in multihost.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        multihost.join(detect)


def test_without_variables_nothing_is_joined(monkeypatch):
    for name in multihost.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    multihost.join()
    assert not jax.distributed.is_initialized()
