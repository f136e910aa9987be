"""The suite itself: compiled programs that cannot be read are thrown away, and what hangs is killed
and named."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ONE = "tests/probattn/attention/test_barrier.py::test_what_bounds_a_runaway_determinant"


def run(*arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_unreadable_programs_are_thrown_away(tmp_path):
    kept = tmp_path / "programs"
    assert run(ONE, JAX_COMPILATION_CACHE_DIR=str(kept)).returncode == 0
    programs = [path for path in kept.iterdir() if path.name.endswith("-cache")]
    assert programs
    for program in programs:
        program.write_bytes(b"no program")
    again = run(ONE, JAX_COMPILATION_CACHE_DIR=str(kept))
    assert again.returncode == 0, again.stdout
    assert not any(path.exists() and path.read_bytes() == b"no program" for path in programs)


def test_what_hangs_is_killed_and_named(tmp_path):
    hanging = tmp_path / "test_hanging.py"
    hanging.write_text("import time\n\ndef test_it_never_ends():\n    time.sleep(600)\n")
    found = run(
        "--confcutdir",
        str(tmp_path),
        "-c",
        "pyproject.toml",
        "--timeout",
        "2",
        "-n",
        "1",
        str(hanging),
    )
    assert found.returncode != 0
    assert "test_it_never_ends" in found.stdout + found.stderr
