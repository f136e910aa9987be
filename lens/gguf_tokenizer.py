"""A tokenizer from the metadata of a GGUF file: byte-level BPE, by the library tokenizers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from probattn.errors import InputError
from probattn.lens.optional import package
from probattn.lens.transformer import Tokenization

# How words are told apart before they are encoded, by `tokenizer.ggml.pre`.
GPT2_WORDS, DIGITS_ALONE = ("gpt-2", "gpt2"), ("smollm",)
LLAMA3_WORDS, QWEN2_WORDS = ("llama-bpe", "llama3", "llama-v3"), ("qwen2",)
KNOWN_WORDS = (*GPT2_WORDS, *DIGITS_ALONE, *LLAMA3_WORDS, *QWEN2_WORDS)
CONTRACTION, LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+"
PUNCTUATION, BLANKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+|\s+(?!\S)|\s+"
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens in `tokenizer.ggml.token_type`


def tokenization_of_metadata(path: Path, value: Callable[..., Any]) -> Tokenization:
    """The tokenizer that the metadata describe, or why there is none.

    Args: path of the file; value, which gives a field by its name.

    Raises: InputError for a vocabulary that contradicts itself.
    """
    names = ("model", "pre", "tokens", "merges", "token_type", "add_bos_token", "bos_token_id")
    field = {name: value(f"tokenizer.ggml.{name}", required=False) for name in names}
    if field["model"] is None or not field["tokens"]:
        return Tokenization(None, f"{path} has none")
    if field["model"] != "gpt2":
        kind = f"is of the kind {field['model']!r}, and only byte-level BPE, 'gpt2', can be built"
        return Tokenization(None, f"that of {path} {kind}")
    if field["pre"] not in KNOWN_WORDS:
        known = f"{field['pre']!r}, which is none of {', '.join(KNOWN_WORDS)}"
        return Tokenization(None, f"that of {path} tells words apart by {known}")
    try:
        library = package("tokenizers")
    except InputError as error:  # the weights can be used without it
        return Tokenization(None, str(error))
    try:
        return Tokenization(_built(library, **field), "")
    except Exception as error:  # the library raises a plain Exception
        line = " ".join(str(error).split())
        raise InputError(f"{path}: its tokens and merges make no tokenizer: {line}") from error


def _built(
    library: Any,
    pre: str,
    tokens: list[str],
    merges: list[str] | None,
    token_type: list[int] | None,
    add_bos_token: bool | None,
    bos_token_id: int | None,
    model: str,
) -> Any:
    """A tokenizer of the library from the fields of the metadata."""
    llama3 = pre in LLAMA3_WORDS
    tokenizer = library.Tokenizer(
        library.models.BPE(
            {token: number for number, token in enumerate(tokens)},
            [tuple(merge.split(" ")) for merge in merges or []],
            ignore_merges=llama3,
        )
    )
    if pre in QWEN2_WORDS:
        tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.pre_tokenizer = _words(library, pre)
    tokenizer.decoder = library.decoders.ByteLevel()
    kinds = list(zip(tokens, token_type or [], strict=False))
    tokenizer.add_special_tokens([token for token, kind in kinds if kind == CONTROL])
    tokenizer.add_tokens([token for token, kind in kinds if kind == USER_DEFINED])
    # Llama 3's files need not say that it begins with a token of its own.
    if bos_token_id is not None and (llama3 if add_bos_token is None else add_bos_token):
        first = tokens[bos_token_id]
        tokenizer.post_processor = library.processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, bos_token_id)]
        )
    return tokenizer


def _words(library: Any, pre: str) -> Any:
    """What tells words apart, as a pre-tokenizer of the library."""
    split, level = library.pre_tokenizers, library.pre_tokenizers.ByteLevel
    if pre in GPT2_WORDS:
        return level(add_prefix_space=False)
    if pre in DIGITS_ALONE:
        digits = split.Digits(individual_digits=True)
        return split.Sequence([digits, level(add_prefix_space=False)])
    numbers = r"\p{N}{1,3}" if pre in LLAMA3_WORDS else r"\p{N}"
    pattern = "|".join((CONTRACTION, LETTERS, numbers, PUNCTUATION, BLANKS))
    isolated = split.Split(library.Regex(pattern), behavior="isolated")
    return split.Sequence([isolated, level(add_prefix_space=False, use_regex=False)])
