"""A lock that one process holds: others are refused, and a process that is killed frees it."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from probattn import InputError
from probattn.inference.data import folder_lock
from probattn.inference.data.folder_lock import only_one

HOLD = """
import sys, time
from pathlib import Path
from probattn.inference.data.folder_lock import only_one
with only_one(Path(sys.argv[1]), "held"):
    print("holds", flush=True)
    time.sleep(600)
"""


def test_another_process_is_refused_until_the_first_is_killed(tmp_path):
    file = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "holds\n"
            refused = pytest.raises(InputError, match="come back later")
            with refused, only_one(file, "come back later"):
                pytest.fail("two processes hold one lock")
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    assert file.exists()  # left behind, and locks nothing
    with only_one(file, "held"):
        pass
    assert not file.exists()


def test_an_error_inside_frees_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), only_one(tmp_path / "lock", "held"):
        raise KeyboardInterrupt
    with only_one(tmp_path / "lock", "held"):
        with pytest.raises(InputError, match="held"), only_one(tmp_path / "lock", "held"):
            pytest.fail("two hold one lock")
        assert (tmp_path / "lock").exists()
    assert not list(tmp_path.iterdir())


def test_without_locks_there_is_a_warning_and_without_writing_no_need(tmp_path, monkeypatch):
    def failing(number):
        def acquire(lock):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(folder_lock.FileLock, "acquire", acquire)

    failing(errno.ENOLCK)
    warned = pytest.warns(UserWarning, match=r"cannot be locked .*only one process")
    with warned, only_one(tmp_path / "lock", "held"):
        pass
    failing(errno.EROFS)
    with only_one(tmp_path / "lock", "held"):
        pass
