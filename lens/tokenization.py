"""Text to tokens and back, by the library tokenizers."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from probattn.errors import InputError
from probattn.lens.optional import package
from probattn.lens.transformer import Tokenization, Transformer
from probattn.visible_text import visible

TOKENIZER_FILE = "tokenizer.json"
# Byte-level vocabularies spell a byte by itself if it is visible in Latin-1, and otherwise by the
# next character from code 256 on.
SHOWN_BYTES = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
OTHER_BYTES = sorted({*range(256)} - SHOWN_BYTES)
BYTE_OF = {chr(byte): byte for byte in SHOWN_BYTES} | {
    chr(256 + number): byte for number, byte in enumerate(OTHER_BYTES)
}


def encode(model: Transformer, text: Any) -> Int[np.ndarray, "t"]:
    """Token ids of a text, with the special tokens that the model's tokenizer puts around it.

    Raises: InputError if the model has no tokenizer, and for an empty text.
    """
    if not isinstance(text, str):
        raise InputError(f"text: expected a str, got {type(text).__name__}")
    chosen = model.tokenization
    if chosen.tokenizer is None:
        raise InputError(
            f"text: the model has no tokenizer, since {chosen.reason}; give token ids in its place"
        )
    try:
        ids = chosen.tokenizer.encode(text).ids
    except (TypeError, ValueError) as error:  # a lone surrogate
        raise InputError(f"text: expected Unicode text, got {visible(text)!r}") from error
    if not ids:
        raise InputError("text: expected at least one token, got none")
    return np.asarray(ids, np.int32)


def token_texts(model: Transformer, ids: Any) -> list[str]:
    """The piece of text of each token id, to be looked at.

    Control characters and bytes that are no whole character are shown by their codes, such as \\n
    and \\xe2. Without a tokenizer a token's text is its id.

    Raises: InputError for an id that the tokenizer does not have and the model neither.
    """
    texts = []
    for one in np.asarray(ids).ravel().tolist():
        if not isinstance(one, int) or not 0 <= one < len(model.embedding):
            raise InputError(
                f"ids: expected whole numbers from 0 to {len(model.embedding) - 1}, got {one!r}"
            )
        tokenizer = model.tokenization.tokenizer
        piece = None if tokenizer is None else tokenizer.id_to_token(one)
        texts.append(str(one) if piece is None else visible(_text_of(tokenizer, piece)))
    return texts


def as_tokenization(tokenizer: Any) -> Tokenization:
    """A tokenizer that a caller gives: None, a file, a folder, or one of the library.

    Raises: InputError for anything else, and for a file that is missing or damaged.
    """
    if tokenizer is None:
        return Tokenization()
    if isinstance(tokenizer, (str, PathLike)):
        path = Path(tokenizer)
        return _from_file(path / TOKENIZER_FILE if path.is_dir() else path)
    if not isinstance(tokenizer, package("tokenizers").Tokenizer):
        raise InputError(
            "tokenizer: expected a tokenizer.json, a folder with one, or a tokenizers.Tokenizer, "
            f"got {type(tokenizer).__name__}"
        )
    return Tokenization(tokenizer, "")


def tokenization_of_folder(folder: Path) -> Tokenization:
    """The tokenizer.json of a folder; none, and why, if the file or the package is missing."""
    if not (folder / TOKENIZER_FILE).is_file():
        return Tokenization(None, f"{folder} has no {TOKENIZER_FILE}")
    try:
        package("tokenizers")
    except InputError as error:  # the weights can be used without it
        return Tokenization(None, str(error))
    return _from_file(folder / TOKENIZER_FILE)


def _from_file(path: Path) -> Tokenization:
    tokenizers = package("tokenizers")
    if not path.is_file():
        raise InputError(f"{path}: expected a {TOKENIZER_FILE}, found none")
    try:
        return Tokenization(tokenizers.Tokenizer.from_file(str(path)), "")
    except Exception as error:  # the library raises a plain Exception
        line = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a tokenizer: {line}") from error


def _text_of(tokenizer: Any, piece: str) -> str:
    """The text of a token as the vocabulary spells it."""
    if "ByteLevel" not in repr(tokenizer.decoder):
        return piece.replace("\u2581", " ")  # how SentencePiece spells a space
    if not all(symbol in BYTE_OF for symbol in piece):  # a special token, spelled as it is
        return piece
    return bytes(BYTE_OF[symbol] for symbol in piece).decode("utf-8", "backslashreplace")
