"""SIGKILL: a run that was killed again and again is, bit for bit, the run that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from probattn.inference import load_posterior
from probattn.models import LanguageModel

ROOT = Path(__file__).parents[3]
MODEL = LanguageModel(3, 4, 1, contraction=0.9)
TOKENS = np.array([[1, 1, 0, 0], [1, 2, 0, 0], [2, 2, 2, 0], [1, 1, 1, 2]] * 3)
RUN = """
import os, signal, sys
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[3])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import numpy as np
from probattn.inference import sample_posterior
from probattn.inference.data import array_file
from probattn.inference.fitting import chain_program
from probattn.inference.fitting import posterior
from probattn.models import LanguageModel

chain_program.CHUNK_ITERATIONS = posterior.CHUNK_ITERATIONS = 20
store, kill = sys.argv[1], sys.argv[2]
if kill != "never":
    number, moment = kill.split()
    replace = array_file.Path.replace
    def dying(partial, path):
        if path.name == f"{int(number):05d}.zip":
            if moment == "writing":  # half of the file under the name it has before it is whole
                partial.write_bytes(partial.read_bytes()[: partial.stat().st_size // 2])
            if moment == "written":
                replace(partial, path)
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(partial, path)
    array_file.Path.replace = dying
model = LanguageModel(3, 4, 1, contraction=0.9)
tokens = np.array([[1, 1, 0, 0], [1, 2, 0, 0], [2, 2, 2, 0], [1, 1, 1, 2]] * 3)
print("ready", flush=True)
sample_posterior(model, tokens, key=jax.random.key(5), num_chains=2, num_warmup=110,
                 num_samples=int(sys.argv[4]), max_tree_depth=4, start="random",
                 store=store, progress=False)
"""


def start(store, kill, cache, num_samples=90, wait_ready=False):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", RUN, str(store), kill, str(cache), str(num_samples)]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE if wait_ready else None
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def assert_same(one, other):
    first, second = (load_posterior(MODEL, TOKENS, store=store) for store in (one, other))
    assert first.shape == second.shape
    assert first.gradients == second.gradients
    for part in ("draws", "stats"):
        for name, value in getattr(first, part).items():
            np.testing.assert_array_equal(value, getattr(second, part)[name], strict=True)


def test_killed_in_warmup_in_sampling_and_in_the_middle_of_writes(tmp_path, cache):
    assert start(tmp_path / "whole", "never", cache).wait() == 0
    for kill in ("0 writing", "3 written", "7 writing"):
        assert start(tmp_path / "killed", kill, cache).wait() == -signal.SIGKILL
        number = int(kill.split()[0])
        names = {
            path.name
            for path in (tmp_path / "killed" / "chunks").iterdir()
            if not path.name.startswith(".")
        }
        assert len(names) == number + (kill.endswith("written"))
    assert start(tmp_path / "killed", "never", cache).wait() == 0
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_killed_at_twenty_random_moments(tmp_path, cache):
    moments = random.Random(0)
    assert start(tmp_path / "whole", "never", cache, 4000).wait() == 0
    begun = time.monotonic()
    assert start(tmp_path / "again", "never", cache, 4000).wait() == 0  # compiled by now
    duration = time.monotonic() - begun
    deaths, chunks = 0, []
    while deaths < 20:
        with start(tmp_path / "killed", "never", cache, 4000, wait_ready=True) as process:
            process.stdout.readline()
            try:
                process.wait(moments.uniform(0, duration / 3))
                break  # it finished first
            except subprocess.TimeoutExpired:
                process.kill()
                deaths += 1
        folder = tmp_path / "killed" / "chunks"
        chunks.append(len(list(folder.glob("*.zip"))) if folder.exists() else 0)
    print(f"{deaths} deaths; whole chunks after each: {chunks}")
    assert start(tmp_path / "killed", "never", cache, 4000).wait() == 0
    assert deaths >= 10
    assert_same(tmp_path / "whole", tmp_path / "killed")
