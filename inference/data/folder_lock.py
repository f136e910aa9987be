"""A lock that one process holds while it writes to a folder."""

import contextlib
import errno
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from probattn.errors import InputError

# Errors of a folder that cannot be written to, where there is nothing to lock.
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def only_one(file: Path, refusal: str) -> Iterator[None]:
    """Hold the lock of a file, which is made for it and removed after it.

    It is a lock of the operating system, which ends with the process, however that ends: a file
    that is left behind locks nothing. A folder that cannot be written to needs no lock and gets
    none; where the file system has no locks there is a warning.

    Args: file, in a folder that exists; refusal, the message if another process holds the lock.
    Raises: InputError with that message.
    """
    lock = FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(refusal) from None
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            warnings.warn(
                f"{file.parent}: cannot be locked ({error.strerror}); see to it that only one "
                "process writes there",
                stacklevel=3,
            )
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                file.unlink()  # before the lock ends: what waits for it looks whether it is there
        lock.release()
