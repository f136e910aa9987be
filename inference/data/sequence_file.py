"""Sequences read from files: lines of characters or words, FASTA, a CSV column, a JSON field."""

import csv
import io
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from probattn.errors import InputError

FILE_FORMATS = ("lines", "words", "fasta", "csv", "jsonl")
NAMES = {"fasta": "records", "csv": "rows", "jsonl": "objects"}
FORMATS = "lines, words, fasta, csv:COLUMN or jsonl:FIELD"


@dataclass(frozen=True)
class Record:
    """One sequence of a file.

    Args:
        place: where it stands, such as "line 3".
        text: as it stands there, without its line end.
    """

    place: str
    text: str


def symbols_of(text: str, separator: str, keep_space: bool = False) -> tuple[str, ...]:
    """The symbols of a text; reading files and scoring texts both use this rule.

    With a separator, words between white space. Else characters, without the white space at both
    ends unless `keep_space`."""
    if separator:
        return tuple(text.split())
    return tuple(text if keep_space else text.strip())


def read_text(path: Path, expected: str = "the path of a text file") -> str:
    """A UTF-8 file whose lines end at \\n, \\r\\n or \\r, all read as \\n.

    Byte order marks at the start of a line are left out: joined files have one where each begins.

    Args: expected, what the caller takes, for messages.
    Raises: InputError for a folder, a device, a missing or empty file, or bytes that are no UTF-8.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; expected {expected}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe, and no file"
        raise InputError(f"{path}: is {kind}; expected {expected}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: cannot be read as UTF-8 text (byte {error.start + 1} is none of it); save it "
            "in that encoding"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    text = re.sub("^\ufeff+", "", text, flags=re.MULTILINE)
    if not text.strip():
        raise InputError(
            f"{path}: there is no text in the file; it needs at least ten "
            "sequences, or pieces of running text"
        )
    return text


def read_records(
    path: Path, format: str = "lines", expected: str = "the path of a text file"
) -> list[Record]:
    """The sequences of a file in its order; empty ones are left out.

    Of rows, objects and FASTA records that have none a warning gives the number; an empty line is
    no sequence.

    Args: format, "lines", "words" (symbols between spaces), "fasta", "csv:COLUMN" or "jsonl:FIELD";
        expected, what the caller takes, for messages.
    Raises: InputError for an unknown format or a file that does not follow it. Warns where a file
    read as lines looks like another format.
    """
    kind, _, field = format.partition(":")
    if kind not in FILE_FORMATS or bool(field) != (kind in ("csv", "jsonl")):
        raise InputError(f"format: expected {FORMATS}, got {format!r}")
    text = read_text(path, expected)
    if kind == "fasta":
        found = _fasta(path, text)
    elif kind == "csv":
        found = _csv(path, text, field)
    elif kind == "jsonl":
        found = _jsonl(path, text, field)
    else:
        found = [Record(f"line {n}", line) for n, line in enumerate(text.split("\n"), start=1)]
        if kind == "lines":
            _warn_of_another_format(path, [one.text for one in found if one.text.strip()])
    empty = [one.place for one in found if not one.text.strip()]
    if kind in NAMES and empty:
        where, share = f" in {field!r}" if field else "", len(empty) / len(found)
        warnings.warn(
            f"{path}: {len(empty):,} of {len(found):,} {NAMES[kind]} ({share:.1%}) have no "
            f"sequence{where} and are left out, the first is {empty[0]}",
            stacklevel=3,
        )
    return [one for one in found if one.text.strip()]


def separator_of(format: str) -> str:
    """What joins symbols into text: a space for words, nothing for characters."""
    return " " if format == "words" else ""


def _fasta(path: Path, text: str) -> list[Record]:
    """One sequence for each header line `>name`, of the lines that follow it joined."""
    records: list[Record] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith(">"):
            records.append(Record(f"record {len(records) + 1} (line {number})", ""))
        elif line.strip() and not line.startswith(";"):
            if not records:
                raise InputError(f"{path}: expected a header `>name` before line {number}")
            records[-1] = Record(records[-1].place, records[-1].text + "".join(line.split()))
    return records


def _csv(path: Path, text: str, column: str) -> list[Record]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if column not in (rows.fieldnames or ()):
        names = ", ".join(rows.fieldnames or ())
        raise InputError(f"{path}: expected a column {column!r}, got the columns {names}")
    try:
        return [Record(f"row {n}", row[column] or "") for n, row in enumerate(rows, start=1)]
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error


def _jsonl(path: Path, text: str, field: str) -> list[Record]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            got = f"no JSON: at column {error.colno}, {error.msg[:1].lower()}{error.msg[1:]}"
        except (ValueError, RecursionError):
            got = "a number or a nesting that is too long to be read"
        else:
            if isinstance(found, dict) and field in found:
                if not isinstance(found[field], str):
                    raise InputError(
                        f"{path}: line {number}: expected text in the field {field!r}, got "
                        f"{json.dumps(found[field])[:40]}"
                    )
                records.append(Record(f"line {number}", found[field]))
                continue
            got = (
                f"the fields {', '.join(found) or 'none'}"
                if isinstance(found, dict)
                else "no object"
            )
        raise InputError(
            f"{path}: line {number}: expected a JSON object with the field {field!r}, got {got}"
        )
    return records


def _warn_of_another_format(path: Path, lines: list[str]) -> None:
    """Warn where lines look like FASTA, JSON lines, CSV, or numbers separated by spaces."""
    looks = None
    if lines[0].startswith(">"):
        looks = ("FASTA", "fasta")
    elif all(line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in lines[:20]):
        looks = ("JSON lines", "jsonl:FIELD")
    elif path.suffix.lower() in (".csv", ".tsv"):
        looks = ("CSV", "csv:COLUMN")
    elif all(
        len(line.split()) > 1 and all(word.isdigit() for word in line.split())
        for line in lines[:20]
    ):
        looks = ("numbers separated by spaces", "words")
    if looks is not None:
        warnings.warn(
            f"{path}: looks like {looks[0]}, and each of its lines is read as a sequence of "
            f"characters; `format={looks[1]}` reads it as what it looks like",
            stacklevel=4,
        )
