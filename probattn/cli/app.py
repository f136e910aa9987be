"""The command line, which alone imports models, inference and the theory together."""

import errno
import functools
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from probattn.cli.checking import check, prior
from probattn.cli.comparing import compare
from probattn.cli.fitting import demo, fit, resume
from probattn.cli.learning_study import learning_curve
from probattn.cli.model_choice import evidence
from probattn.cli.pretrained import lens
from probattn.cli.printing import in_options, visible
from probattn.cli.reading import calibrate, diagnose, env, generate, margins
from probattn.cli.robustness_study import robustness
from probattn.cli.robustness_trial import trial
from probattn.errors import FitError, InputError


def _keeping_compiled(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(**options: Any) -> None:
        # Imported only when a command runs, so that --help loads no JAX.
        from probattn.inference import keep_compiled

        keep_compiled()
        command(**options)

    return run


class Command(TyperCommand):
    """A command whose usage names its arguments without braces."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The options and arguments of the usage line."""
        return [
            piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)
        ]


class Group(TyperGroup):
    """A group whose commands refuse an option without the words of the library that checks it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(said := getattr(error, "message", None), str):
                said = visible(said.removeprefix("Value error, "))
                error.message = said  # type: ignore[attr-defined]
            raise


# Errors of a disk or device that takes no more, wherever the output goes.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

app = typer.Typer(
    name="probattn",
    cls=Group,
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
    prior,
    fit,
    resume,
    learning_curve,
    diagnose,
    check,
    compare,
    evidence,
    calibrate,
    generate,
    margins,
    lens,
    env,
):
    app.command(cls=Command)(_keeping_compiled(command))
study = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Studies of many trainings. A study that was killed can be resumed.",
)
study.command(cls=Command)(_keeping_compiled(robustness))
study.command(cls=Command)(_keeping_compiled(trial))
app.add_typer(study, name="study")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error is printed as one line and sets the exit code.

    The code is 2 for bad input, 1 for a failed fit, and 3 under --strict for a fit that has not
    converged.
    """
    warnings.showwarning = _print_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe or terminal that has not every character
            stream.reconfigure(errors="replace")
    try:
        app(args=arguments, standalone_mode=True)
    except InputError as error:
        _stop(error, 2)
    except FitError as error:
        _stop(error, 1)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _stop_output(error)
    finally:
        _end_output()


def _end_output() -> None:
    """Write what is left of the output now: an error of it would be no message later."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush
        if error.errno == errno.EPIPE:  # who reads from a pipe may stop
            raise SystemExit(1) from None
        _stop_output(error)


def _stop_output(error: OSError) -> None:
    _stop(InputError(f"the output cannot be written ({error.strerror})"), 1)


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"probattn: warning: {in_options(message)}", file=sys.stderr)


def _stop(error: Exception, code: int) -> None:
    print(f"probattn: {in_options(error)}", file=sys.stderr)
    raise SystemExit(code)
