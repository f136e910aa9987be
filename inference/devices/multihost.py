"""Several processes, one for each host or each GPU, that compute one fit: the first of them reads,
writes and prints."""

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
# What the first process can raise in all of them as itself.
FAILURES = {kind.__name__: kind for kind in (FitError, InputError, OSError, SystemExit)}


def join(detect: bool = False) -> None:
    """Join the other processes, if the environment says that there are some; before JAX's backend
    wakes.

    JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID
    (from 0) say so. With `detect`, JAX looks for Slurm, Open MPI, Kubernetes or Cloud TPU itself;
    only when asked, since jobs that have nothing to do with each other are started by the same.

    Raises: InputError if a variable is missing or no number, or JAX finds no cluster.
    """
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not detect and given and len(given) < len(VARIABLES):
        missing = ", ".join(name for name in VARIABLES if name not in given)
        raise InputError(
            f"{', '.join(given)}: expected {missing} as well; set all three, or none, or let "
            "JAX find out (--cluster)"
        )
    if not given and not detect:
        return
    number, own = _numbers(given) if len(given) == len(VARIABLES) else (0, 0)
    try:
        if number:  # and nothing else: a scheduler around it may count processes in another way
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
            f"cluster: none was found ({error}); leave --cluster out, or set {', '.join(VARIABLES)}"
        ) from error


def _numbers(given: dict[str, str]) -> tuple[int, int]:
    """How many processes there are and which this is, or an InputError for values that cannot be
    right."""
    _, colon, port = given[ADDRESS].rpartition(":")
    if not (colon and port.isdecimal()):
        raise InputError(
            f"{ADDRESS}: expected host:port of the first process, got {given[ADDRESS]!r}"
        )
    for name in (NUMBER, OWN):
        if not given[name].isdecimal():
            raise InputError(f"{name}: expected a whole number, got {given[name]!r}")
    number, own = int(given[NUMBER]), int(given[OWN])
    if not own < number:
        raise InputError(f"{OWN}: expected 0 to {NUMBER} - 1, {number - 1}, got {own}")
    return number, own


def is_first() -> bool:
    """Whether this process is the one that reads, writes and prints; where there is one, it is."""
    return jax.process_index() == 0


def on_first[T](function: Callable[[], T]) -> T:
    """What `function()` gives in the first process, in all of them; what it raises there is raised
    in all.

    All processes must call it, in the same order. Where there are several, the value travels as
    plain data: numbers, texts, None, arrays, and lists, tuples and dictionaries of these.

    Raises: TypeError for another value; in the other processes a failure that is none of `FAILURES`
    is a RuntimeError."""
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
    # As bytes: JAX would cut 64-bit numbers down to 32.
    arrays = [
        _broadcast_bytes(array.tobytes(), array.nbytes).view(array.dtype).reshape(array.shape)
        for array in arrays
    ]
    if failure is not None:
        raise failure
    if raised is not None:
        kind, arguments = raised
        raise FAILURES.get(kind, RuntimeError)(*arguments)
    return _from_plain(value, arrays)


def _kind_and_arguments(error: BaseException) -> tuple[str, list[Any]]:
    """Which of `FAILURES` it is, and what it was made of: an OSError keeps its number and text."""
    for kind, known in FAILURES.items():
        if isinstance(error, known):
            return kind, [
                each if each is None or isinstance(each, int) else str(each) for each in error.args
            ]
    return "", [f"{type(error).__name__} in the first process: {error}"]


def _to_plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """`value` as JSON, with its arrays put into a list; containers are tagged, since JSON knows no
    tuples."""
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
    if not isinstance(plain, dict):
        return plain
    (kind, content), *_ = plain.items()
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {_from_plain(key, arrays): _from_plain(item, arrays) for key, item in content}
    return {"list": list, "tuple": tuple}[kind](_from_plain(item, arrays) for item in content)


def _broadcast_json(value: Any) -> Any:
    packed = json.dumps(value).encode() if is_first() else b""
    size = int(broadcast_one_to_all(np.asarray(len(packed))))
    return json.loads(_broadcast_bytes(packed, size).tobytes())


def _broadcast_bytes(packed: bytes, size: int) -> np.ndarray:
    """The first process's bytes, `size` of them, in all."""
    mine = np.frombuffer(packed, np.uint8) if is_first() else np.zeros(size, np.uint8)
    return np.asarray(broadcast_one_to_all(mine)) if size else np.zeros(0, np.uint8)


def gathered(tree: Any) -> Any:
    """The arrays of a tree on the host, whole, wherever their parts are; all processes must ask for
    them."""

    def one(leaf: Any) -> np.ndarray:
        here = (
            not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
        )
        return np.asarray(leaf if here else process_allgather(leaf, tiled=True))

    return jax.tree.map(one, tree)
