"""Compiled programs on disk: where they are kept, who decides that, and that a second process
compiles nothing again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import sys, jax
from probattn.inference import keep_compiled
hits = []
def keep(event, **_):
    hits.extend([event] if event.endswith("cache_hits") else [])
jax.monitoring.register_event_listener(keep)
print(keep_compiled(*sys.argv[1:]))
assert jax.jit(lambda x: 2 * x + 1)(1.0) == 3
print(len(hits))
"""


def run(cache_home, *arguments, code=COUNT, **environment):
    """What Python prints, line by line, with the user's cache folder elsewhere."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("JAX_COMPILATION_CACHE")
    }
    inherited.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", None)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = {**inherited, "XDG_CACHE_HOME": str(cache_home), **environment}
    return subprocess.run(
        command, env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the user's cache folder has another name"
)
def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    folder = tmp_path / "probattn" / "jax"
    assert run(tmp_path) == [str(folder), "0"]
    kept = set(folder.iterdir())
    assert kept
    _, hits = run(tmp_path)
    assert int(hits) == len(kept) == len(set(folder.iterdir()))
    assert folder.stat().st_mode & 0o077 == 0  # JAX runs what it finds there


def test_the_users_own_settings_stay(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    assert run(tmp_path / "home", JAX_COMPILATION_CACHE_DIR=str(own)) == [str(own), "0"]
    assert run(tmp_path / "home", JAX_ENABLE_COMPILATION_CACHE="false") == ["None", "0"]
    assert not (tmp_path / "home").exists()
    # a folder that is named here goes before one already used
    after = f"import jax; jax.jit(lambda x: x + 2)(1.0)\n{COUNT}"
    assert run(tmp_path / "home", other, code=after, JAX_COMPILATION_CACHE_DIR=str(own)) == [
        str(other),
        "0",
    ]
    assert any(other.iterdir())


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path):
    (tmp_path / "file").touch()
    assert run(tmp_path / "file") == ["None", "0"]


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the user's cache folder has another name"
)
def test_the_command_line_keeps_them(tmp_path):
    code = "from probattn.cli.app import main; main(['env'])"
    assert f"compiled programs: {tmp_path}/probattn/jax" in run(tmp_path, code=code)
    assert "compiled programs: not kept" in run(
        tmp_path, code=code, JAX_ENABLE_COMPILATION_CACHE="false"
    )
    assert not any(Path(tmp_path, "probattn", "jax").iterdir())
