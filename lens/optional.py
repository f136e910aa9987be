"""Packages of the extra `lens`, which only files need."""

from importlib import import_module
from typing import Any

from probattn.errors import InputError


def package(name: str) -> Any:
    """The package `name`. Raises: InputError that says how to install it, if it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f'expected the package {name}, which is not installed: pip install "probattn[lens]"'
        ) from error
