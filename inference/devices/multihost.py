"""Several processes, one for each host or each GPU, that compute one fit together.

Only the first process reads, writes and prints.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from probattn.errors import FitError, InputError

ADDRESS, NUMBER, OWN = VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)
# Exceptions that an error in the first process keeps in the others: they travel by name.
FAILURES = {kind.__name__: kind for kind in (FitError, InputError, OSError, SystemExit)}


def join(detect: bool = False) -> None:
    """Join the other processes that the environment names; call it before JAX's backend starts.

    The variables are JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES
    and JAX_PROCESS_ID (from 0); without them and without `detect`, nothing happens. With `detect`,
    JAX itself looks for Slurm, Open MPI, Kubernetes or Cloud TPU; this is not the default, since
    the same schedulers also start jobs that have nothing to do with each other.

    Raises: InputError if some of the variables are missing or malformed, or if JAX finds no cluster
        or cannot join it.
    """
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not detect and given and len(given) < len(VARIABLES):
        missing = ", ".join(name for name in VARIABLES if name not in given)
        raise InputError(
            f"{', '.join(given)}: expected {missing} as well; set all three, or none, or let "
            "JAX detect the cluster (`cluster=True`)"
        )
    if not given and not detect:
        return
    number, own = _numbers(given) if len(given) == len(VARIABLES) else (0, 0)
    try:
        if number:  # without detection: a scheduler around this may count processes differently
            jax.distributed.initialize(
                given[ADDRESS], number, own, cluster_detection_method="deactivate"
            )
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        if given:
            found = ", ".join(f"{name}={value}" for name, value in given.items())
            raise InputError(f"cluster: could not be joined: {error} ({found})") from error
        raise InputError(
            f"cluster: none was found ({error}); leave `cluster` out, or set {', '.join(VARIABLES)}"
        ) from error


def _numbers(given: dict[str, str]) -> tuple[int, int]:
    """The number of processes and the index of this one.

    Raises: InputError for variables that are malformed or contradict each other.
    """
    _, colon, port = given[ADDRESS].rpartition(":")
    if not (colon and port.isdecimal()):
        raise InputError(
            f"{ADDRESS}: expected host:port of the first process, got {given[ADDRESS]!r}"
        )
    for name in (NUMBER, OWN):
        if not given[name].isdecimal():
            raise InputError(f"{name}: expected an integer, got {given[name]!r}")
    number, own = int(given[NUMBER]), int(given[OWN])
    if not own < number:
        raise InputError(f"{OWN}: expected 0 to {NUMBER} - 1, {number - 1}, got {own}")
    return number, own


def is_first() -> bool:
    """Whether this process is the one that reads, writes and prints; a single process is."""
    return jax.process_index() == 0


def on_first[T](function: Callable[[], T]) -> T:
    """Call `function` in the first process alone, and return its value in all processes.

    All processes must call this, in the same order. If there are several, the value is sent as
    plain data: numbers, strings, None, arrays, and lists, tuples and dictionaries of these.

    Raises: what `function` raises, in all processes; an error that is not one of `FAILURES` is a
        RuntimeError in the others. TypeError for a value that is not plain data.
    """
    if jax.process_count() == 1:
        return function()
    failure: BaseException | None = None
    value, raised = None, None
    arrays: list[np.ndarray] = []
    if is_first():
        try:
            value = _to_plain(function(), arrays)
        except (Exception, SystemExit) as error:
            failure, raised = error, _kind_and_arguments(error)
    value, raised, shapes = _broadcast_json(
        [value, raised, [(array.shape, array.dtype.str) for array in arrays]]
    )
    if not is_first():
        arrays = [np.empty(shape, dtype) for shape, dtype in shapes]
    # Sent as bytes, since JAX would cut 64-bit numbers down to 32 bits.
    arrays = [
        _broadcast_bytes(array.tobytes(), array.nbytes).view(array.dtype).reshape(array.shape)
        for array in arrays
    ]
    if failure is not None:  # raised only now: the other processes wait for the broadcasts above
        raise failure
    if raised is not None:
        kind, arguments = raised
        raise FAILURES.get(kind, RuntimeError)(*arguments)
    return _from_plain(value, arrays)


def _kind_and_arguments(error: BaseException) -> tuple[str, list[Any]]:
    """The name of an error in `FAILURES`, or "", and the arguments to make it again from.

    Integers stay integers, so that an OSError keeps its number and text.
    """
    for kind, known in FAILURES.items():
        if isinstance(error, known):
            return kind, [
                each if each is None or isinstance(each, int) else str(each) for each in error.args
            ]
    return "", [f"{type(error).__name__} in the first process: {error}"]


def _to_plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """`value` as JSON, with its arrays appended to `arrays`.

    Containers are tagged with their type, since JSON has no tuples.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, Mapping):
        return {
            "dict": [
                [_to_plain(key, arrays), _to_plain(item, arrays)] for key, item in value.items()
            ]
        }
    if type(value) in (list, tuple):
        return {type(value).__name__: [_to_plain(item, arrays) for item in value]}
    raise TypeError(
        f"between processes: expected plain data and arrays, got {type(value).__name__}"
    )


def _from_plain(plain: Any, arrays: list[np.ndarray]) -> Any:
    """The value that `_to_plain` turned into `plain` and `arrays`."""
    if not isinstance(plain, dict):
        return plain
    (kind, content), *_ = plain.items()
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {_from_plain(key, arrays): _from_plain(item, arrays) for key, item in content}
    return {"list": list, "tuple": tuple}[kind](_from_plain(item, arrays) for item in content)


def _broadcast_json(value: Any) -> Any:
    """The first process's value, in all processes."""
    packed = json.dumps(value).encode() if is_first() else b""
    size = int(broadcast_one_to_all(np.asarray(len(packed))))
    return json.loads(_broadcast_bytes(packed, size).tobytes())


def _broadcast_bytes(packed: bytes, size: int) -> np.ndarray:
    """The first process's `size` bytes, in all processes, as uint8 of shape (size,)."""
    mine = np.frombuffer(packed, np.uint8) if is_first() else np.zeros(size, np.uint8)
    return np.asarray(broadcast_one_to_all(mine)) if size else np.zeros(0, np.uint8)


def gathered(tree: Any) -> Any:
    """The arrays of a tree, each whole and on the host, wherever its shards are.

    All processes must call this.
    """

    def one(leaf: Any) -> np.ndarray:
        here = (
            not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
        )
        return np.asarray(leaf if here else process_allgather(leaf, tiled=True))

    return jax.tree.map(one, tree)
