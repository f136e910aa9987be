"""The command line. It alone knows models, inference and the theory together."""

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import typer

from probattn.cli.fitting import demo, fit, resume
from probattn.cli.learning_study import learning_curve
from probattn.cli.reading import calibrate, compare, diagnose, env, generate, margins
from probattn.cli.robustness_study import robustness
from probattn.errors import FitError, InputError


def _keeping_compiled(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(**options: Any) -> None:
        from probattn.inference import (
            keep_compiled,
        )  # only when a command runs: --help loads no JAX

        keep_compiled()
        command(**options)

    return run


app = typer.Typer(
    name="probattn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "Causal self-attention as a probabilistic model: fit it by MAP and by full posterior "
        "sampling, and compare."
    ),
)
for command in (
    demo,
    fit,
    resume,
    learning_curve,
    diagnose,
    compare,
    calibrate,
    generate,
    margins,
    env,
):
    app.command()(_keeping_compiled(command))
study = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Studies of many trainings, that may be killed and go on.",
)
study.command()(_keeping_compiled(robustness))
app.add_typer(study, name="study")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input is one line and exit code 2, a failed fit one line and exit
    code 1.

    Under --strict a fit that has not converged is exit code 3.
    """
    warnings.showwarning = _print_warning
    try:
        app(args=arguments, standalone_mode=True)
    except InputError as error:
        _stop(error, 2)
    except FitError as error:
        _stop(error, 1)


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"probattn: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _stop(error: Exception, code: int) -> None:
    print(f"probattn: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(code)
