"""The command `lens`: what the attention layers of a pretrained transformer do at each token."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from probattn.cli.printing import console
from probattn.cli.shared import SeedOption
from probattn.errors import InputError
from probattn.visible_text import visible_symbol

WIDEST_TOKEN = 12  # characters of position and token that a table of 80 columns has room for


def lens(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A folder of config.json and safetensors, or a .gguf file."
        ),
    ],
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The text.")] = None,
    text_file: Annotated[
        Path | None, typer.Option(help="A file with the text, in UTF-8, in place of TEXT.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(help='Token ids in place of TEXT, such as "1,2,3": needs no tokenizer.'),
    ] = None,
    reading: Annotated[
        str,
        typer.Option(
            help=(
                "What a block is the derivative of: stream (what the layer leaves in the stream), "
                "mixing (what attention mixes, without values) or theory."
            )
        ),
    ] = "stream",
    layers: Annotated[
        str | None, typer.Option(help='Which layers, such as "0,5,10-12"; all by default.')
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="Tokens looked at together; a longer text is cut. Default: at most 512."),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(help="Tokens with which the model first continues the text."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Draw the continuation at this temperature; without it, the likeliest."),
    ] = None,
    seed: SeedOption = 0,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("lens.html"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all numbers as JSON.")
    ] = None,
    netcdf: Annotated[Path | None, typer.Option(help="File for all numbers as NetCDF.")] = None,
) -> None:
    """Look at a text through the attention layers of a pretrained transformer.

    Shows at which tokens a layer nearly forgets a direction, beside the loss: prints a table and
    writes a page. Needs the extra lens, and no network.

    Example: `probattn lens model.gguf "The bridge was closed in the spring." --out lens.html`
    """
    files = {"--out": out, "--json": json_file, "--netcdf": netcdf}
    named = {option: path for option, path in files.items() if path is not None}
    if len({path.absolute() for path in named.values()}) < len(named):
        raise InputError(f"{', '.join(named)}: expected different files")
    # Imported only here, so that --help loads no JAX.
    from probattn.lens import lens as measure
    from probattn.lens import load_transformer, page_of
    from probattn.lens.jacobian_blocks import READINGS
    from probattn.lens.json_lists import as_lists

    if temperature is not None and generate is None:
        raise InputError("--temperature: expected together with --generate, which draws tokens")
    if generate is not None and generate < 1:
        raise InputError(f"--generate: expected 1 or more tokens, got {generate}")
    if reading not in READINGS:
        raise InputError(f"--reading: expected one of {', '.join(READINGS)}, got {reading!r}")
    chosen = None if layers is None else _layers(layers)
    given = _text(text, text_file, tokens)
    for path in named.values():
        _check(path)
    loaded = load_transformer(model)
    if generate is None:
        found = measure(loaded, given, reading, layers=chosen, window=window, progress=True)
    else:
        found = _of_continuation(
            loaded,
            given,
            generate,
            temperature,
            seed,
            reading=reading,
            layers=chosen,
            window=window,
        )
    page = page_of(found, f"Attention of {Path(model).absolute().name}")
    writers: dict[Path, Callable[[Path], Any]] = {
        out: lambda path: path.write_text(page, encoding="utf-8")
    }
    if json_file is not None:
        lists = json.dumps(as_lists(found), allow_nan=False)
        writers[json_file] = lambda path: path.write_text(lists, encoding="utf-8")
    if netcdf is not None:
        writers[netcdf] = lambda path: found.to_netcdf(path, engine="h5netcdf")
    _write_all(writers)
    _print(found)
    console.print(f"page: {out.resolve()}")


def _of_continuation(
    model: Any,
    given: Any,
    number: int,
    temperature: float | None,
    seed: int,
    **how: Any,
) -> Any:
    """A text and its continuation, measured, with the growth of noise at the last token given."""
    import jax

    from probattn.lens import continued, growth, lens
    from probattn.lens.measurement import as_ids
    from probattn.lens.noise_growth import with_growth

    ids, key = as_ids(model, given), jax.random.key(seed)
    drawn = None if temperature is None else key
    whole = continued(model, ids, number, key=drawn, temperature=temperature)
    found = lens(model, whole, progress=True, **how).assign_attrs(generated_from=len(ids))
    return with_growth(found, growth(model, whole, key=key, position=len(ids) - 1))


def _text(text: str | None, file: Path | None, tokens: str | None) -> Any:
    """The text, or the token ids (t,), from the one of the three that was given."""
    import numpy as np

    if sum(one is not None for one in (text, file, tokens)) != 1:
        raise InputError("text: expected one of TEXT, --text-file and --tokens")
    if tokens is not None:
        words = tokens.replace(",", " ").split()
        if not words or not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
            raise InputError(f"--tokens: expected ids such as 1,2,3, got {tokens!r}")
        return np.array([int(word) for word in words], np.int32)
    if file is not None:
        try:
            text = file.read_bytes().decode("utf-8")
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: expected UTF-8; byte {error.start} is not") from error
    if not text:
        raise InputError(f"{file or 'TEXT'}: expected a text, got an empty one")
    return text


def _layers(written: str) -> list[int]:
    """Layers written as "0,5,10-12"."""
    from probattn.lens.settings import MOST_LAYERS

    chosen: list[int] = []
    for part in written.split(","):
        bounds = re.fullmatch(r"\s*([0-9]{1,20})(?:\s*-\s*([0-9]{1,20}))?\s*", part)
        first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (1, 0)
        if not first <= last:
            raise InputError(f"--layers: expected numbers such as 0,5,10-12, got {written!r}")
        if last >= MOST_LAYERS:
            raise InputError(f"--layers: expected numbers below {MOST_LAYERS}, got {written!r}")
        chosen += range(first, last + 1)
    return chosen


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _check(path: Path) -> None:
    """Try to begin a file. Raises: InputError if the place is none for it."""
    try:
        if path.is_dir() or (path.exists() and not path.is_file()):
            raise InputError(f"{path}: expected the name of a file, got a folder or a device")
        _partial(path).touch()
        _partial(path).unlink()
    except OSError as error:
        reason = "no such folder" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: cannot be written ({reason}); choose another place") from error


def _write_all(writers: Mapping[Path, Callable[[Path], Any]]) -> None:
    """Write every file under another name, and give them theirs when all are complete."""
    path = Path()
    try:
        for path, write in writers.items():
            write(_partial(path))
        for path in writers:
            _partial(path).replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place"
        ) from error
    finally:
        for path in writers:
            with contextlib.suppress(OSError):
                _partial(path).unlink(missing_ok=True)


def _print(found: Any) -> None:
    """Each layer in a row, and what one would ask first."""
    from probattn.lens.summaries import by_layer, doubts, in_short

    table = Table(title=f"sigma_min over all tokens, reading {found.attrs['reading']}")
    for name in ("layer", "median", "10 %", "smallest"):
        table.add_column(name, justify="right")
    table.add_column("at", no_wrap=True)
    for name in ("det < 0", "sigma_max"):
        table.add_column(name, justify="right")
    for one in by_layer(found):
        symbol = visible_symbol(one.token.strip() or one.token)
        token = "" if one.position is None else f"{one.position} {symbol}"
        table.add_row(
            str(one.layer),
            *(f"{value:.3g}" for value in (*one.sigma_min[1::-1], one.smallest)),
            token[:WIDEST_TOKEN],
            f"{100 * one.beyond:.0f} %",
            f"{one.sigma_max[1]:.3g}",
        )
    console.print(table)
    for sentence in doubts(found):
        console.print(sentence, style="bold")
    for sentence in in_short(found):
        console.print(f"- {sentence}")
