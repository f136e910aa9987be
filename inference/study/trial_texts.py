"""The two texts of the trial, which every machine with Python has, cut into parts by blocks."""

import hashlib
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probattn.errors import InputError

TEXTS = ("prose", "code")
# Shares of the blocks; what rounding leaves goes to the part that is judged.
TEXT_PARTS = {"training": 0.8, "tuning": 0.05, "stopping": 0.05, "judgement": 0.1}
BLOCK = 4096  # characters; no piece crosses two blocks
LEAST_OCCURRENCES = 50  # occurrences in the training part of a symbol that is one of its own
DEAL = 0  # seed of the deal of blocks
OTHERS = 1  # id of all symbols that are not their own; 0 is the end token, which starts sequences


@dataclass(frozen=True, eq=False)
class TrialText:
    """A text as tokens, by part.

    Args:
        name: one of TEXTS.
        symbols: those with an id of their own, from id 2 on.
        parts: by name of TEXT_PARTS the characters, as blocks.
        length: tokens in a piece; it divides a block, or the end of each block is left out.
    """

    name: str
    symbols: tuple[str, ...]
    parts: dict[str, list[str]]
    length: int

    @property
    def vocab_size(self) -> int:
        """The end token, the symbol for all others, and the symbols."""
        return len(self.symbols) + 2

    def pieces(self, part: str) -> np.ndarray:
        """The tokens of a part, (num_sequences, length)."""
        return self.encode(self.parts[part])

    def encode(self, blocks: Iterable[str]) -> np.ndarray:
        """Blocks, also of another text, in the symbols of this one: (num_sequences, length)."""
        ids = {symbol: number for number, symbol in enumerate(self.symbols, OTHERS + 1)}
        found = []
        for block in blocks:
            tokens = np.array([ids.get(symbol, OTHERS) for symbol in _letters(self.name, block)])
            whole = len(tokens) // self.length * self.length
            found.append(tokens[:whole].reshape(-1, self.length))
        return np.concatenate(found)

    def digest(self) -> str:
        """SHA-256 of the characters, part by part."""
        whole = "\0".join("".join(self.parts[part]) for part in TEXT_PARTS)
        return hashlib.sha256(whole.encode()).hexdigest()


def trial_text(
    name: str,
    length: int,
    *,
    most: int | None = None,
    block: int = BLOCK,
    least: int = LEAST_OCCURRENCES,
) -> TrialText:
    """A text of the trial, cut into parts in blocks that are dealt at random with a fixed seed.

    prose   Python's manual as `pydoc_data.topics` has it, in small letters, one stream
    code    the sources of the standard library's modules in alphabetical order, as many characters

    Args:
        name: "prose" or "code".
        length: tokens in a piece.
        most: characters of the text that are used; None is all.
        block, least: characters in a block, and occurrences in the training part of a symbol of its
            own, for trials of the trial itself.

    Raises: InputError for another name, or a text with fewer blocks than its parts need.
    """
    if name not in TEXTS:
        raise InputError(f"text: expected {', '.join(TEXTS)}, got {name!r}")
    text = _prose() if name == "prose" else _code(len(_prose()))
    text = text[:most]
    blocks = [text[start : start + block] for start in range(0, len(text) - block + 1, block)]
    if len(blocks) < 1 / min(TEXT_PARTS.values()):
        raise InputError(
            f"text: {name} has {len(blocks)} blocks of {block} characters; expected at least "
            f"{round(1 / min(TEXT_PARTS.values()))}, so that each part has one"
        )
    order = np.random.default_rng(DEAL).permutation(len(blocks))
    parts, first = {}, 0
    for part, share in TEXT_PARTS.items():
        last = len(blocks) if part == "judgement" else first + round(share * len(blocks))
        parts[part] = [blocks[number] for number in order[first:last]]
        first = last
    counts = Counter("".join(parts["training"]))
    symbols = tuple(sorted(symbol for symbol, count in counts.items() if count >= least))
    return TrialText(name, symbols, parts, length)


def _letters(name: str, text: str) -> str:
    return text.lower() if name == "prose" else text


def _prose() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "text: this Python has no pydoc_data.topics, the text of its manual; use a Python that "
            "was installed with its documentation's topics"
        ) from error
    return "\n".join(topics.values()).lower()


def _code(number: int) -> str:
    folder = Path(sysconfig.get_paths()["stdlib"])
    found, length = [], 0
    for module in sorted(sys.stdlib_module_names):
        file, package = folder / f"{module}.py", folder / module
        for path in [file] if file.exists() else sorted(package.rglob("*.py")):
            found.append(path.read_text(encoding="utf-8", errors="replace"))
            length += len(found[-1])
            if length >= number:
                return "".join(found)[:number]
    raise InputError(f"text: the standard library's sources in {folder} have {length} characters")
