"""Several processes, one for each host or each GPU, that compute one fit: the first of them reads, writes and prints."""

import os
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from probattn.errors import InputError

ADDRESS, NUMBER, OWN = VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join(detect: bool = False) -> None:
    """Join the other processes, if the environment says that there are some; before JAX's backend wakes.

    JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0) say so. With
    `detect`, JAX looks for Slurm, Open MPI, Kubernetes or Cloud TPU itself; only when asked, since jobs that have nothing
    to do with each other are started by the same.

    Raises: InputError if a variable is missing or no number, or JAX finds no cluster.
    """
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not detect and given and len(given) < len(VARIABLES):
        missing = ", ".join(name for name in VARIABLES if name not in given)
        raise InputError(
            f"{', '.join(given)}: expected {missing} as well; set all three, or none, or let JAX find out (--cluster)"
        )
    if not given and not detect:
        return
    number, own = _numbers(given) if len(given) == len(VARIABLES) else (0, 0)
    try:
        if number:  # and nothing else: a scheduler around it may count processes in another way
            jax.distributed.initialize(given[ADDRESS], number, own, cluster_detection_method="deactivate")
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
    """How many processes there are and which this is, or an InputError for values that cannot be right."""
    _, colon, port = given[ADDRESS].rpartition(":")
    if not (colon and port.isdecimal()):
        raise InputError(f"{ADDRESS}: expected host:port of the first process, got {given[ADDRESS]!r}")
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
    """What `function()` gives in the first process, in all of them; what it raises there is raised in all.

    All processes must call it, in the same order.
    """
    if jax.process_count() == 1:
        return function()
    answer: tuple[Any, BaseException | None] = (None, None)
    if is_first():
        try:
            answer = (function(), None)
        except (Exception, SystemExit) as error:
            answer = (None, error)
    # Between processes of one job, which run one program: nothing of it is stored, or comes from anywhere else.
    packed = np.frombuffer(pickle.dumps(answer), np.uint8)
    size = int(broadcast_one_to_all(np.asarray(len(packed))))
    value, failure = pickle.loads(broadcast_one_to_all(np.resize(packed, size)).tobytes())
    if failure is not None:
        raise failure
    return value


def gathered(tree: Any) -> Any:
    """The arrays of a tree on the host, whole, wherever their parts are; all processes must ask for them."""

    def one(leaf: Any) -> np.ndarray:
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
        return np.asarray(leaf if here else process_allgather(leaf, tiled=True))

    return jax.tree.map(one, tree)
