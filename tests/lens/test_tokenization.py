"""Text to tokens and back, with tokenizers from files and from GGUF metadata."""

import numpy as np
import pytest
import tokenizers
from gguf_files import write_gguf
from references import REFERENCE, pair
from tokenizers import decoders, models, pre_tokenizers

from probattn import InputError
from probattn.lens import encode, load_transformer, token_texts
from probattn.lens.tokenization import BYTE_OF

SPECIAL = "<|end|>"
# A special token, one that no merge makes, some letters and digits, the bytes of a euro sign, and
# what merges make.
LETTERS = [*"etha1234'sG!", "\u0120", "\u010a", "\u00e2", "\u0124", "\u00ac", "\u00c3", "\u00a9"]
MERGES = ["t h", "th e", "\u0120 the", "1 2", "12 3", "\u0120 a", "123 4", "! a", "a t"]
TOKENS = [SPECIAL, "hat", *LETTERS, *(merge.replace(" ", "") for merge in MERGES)]
METADATA = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.token_type": [3] + [1] * (len(TOKENS) - 1),
}


def gguf_model(path, pre, **change):
    change = {key.replace("__", "."): value for key, value in change.items()}
    fields = METADATA | {"tokenizer.ggml.pre": pre} | change
    return load_transformer(write_gguf(path / "model.gguf", "llama", **fields))


@pytest.fixture
def folder(tmp_path):
    """The model llama with a tokenizer.json."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((REFERENCE / "llama" / name).read_bytes())
    made = tokenizers.Tokenizer(
        models.BPE(
            {token: number for number, token in enumerate(TOKENS)},
            [tuple(merge.split(" ")) for merge in MERGES],
        )
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([SPECIAL])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_pieces_put_together_are_the_text(folder):
    model = load_transformer(folder)
    ids = encode(model, "the at the")
    assert ids.dtype == np.int32
    assert token_texts(model, ids) == ["the", " a", "t", " the"]
    assert encode(model, SPECIAL).tolist() == [0]


def test_bytes_of_half_a_character_and_controls_are_shown_by_their_codes(folder):
    model = load_transformer(folder)
    assert token_texts(model, encode(model, "\u20ac\n")) == ["\\xe2", "\\x82", "\\xac", "\\n"]
    assert token_texts(model, [0, len(TOKENS)]) == [SPECIAL, str(len(TOKENS))]
    assert sorted(BYTE_OF.values()) == list(range(256))
    # The library's own table.
    assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())


def test_sentencepiece_spells_spaces_with_a_sign_of_its_own(folder):
    made = tokenizers.Tokenizer(models.BPE({"\u2581": 0, "a": 1, "\u2581a": 2}, [("\u2581", "a")]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    model = load_transformer(folder, tokenizer=made)
    assert token_texts(model, encode(model, "a a")) == [" a", " a"]


def test_a_tokenizer_may_be_given(folder):
    for given in (folder, folder / "tokenizer.json", str(folder / "tokenizer.json")):
        model = load_transformer(pair("llama"), tokenizer=given)
        assert token_texts(model, encode(model, "the")) == ["the"]


# What tells words apart decides which merges can happen: of digits with each other, and of a sign
# with letters.
WORDS = {
    "gpt-2": ["!", "a", "1234"],
    "smollm": ["!", "a", "1", "2", "3", "4"],
    "llama-bpe": ["!a", "123", "4"],
    "qwen2": ["!a", "1", "2", "3", "4"],
}


@pytest.mark.parametrize("pre", WORDS)
def test_a_gguf_file_has_its_tokenizer(pre, tmp_path):
    model = gguf_model(tmp_path, pre)
    assert token_texts(model, encode(model, "the the")) == ["the", " the"]
    assert encode(model, f"a{SPECIAL}").tolist() == [TOKENS.index("a"), 0]
    assert token_texts(model, encode(model, "!a1234")) == WORDS[pre]
    # Llama 3 takes a word that is a token as it is, without merges that lead to it.
    whole = ["hat"] if pre == "llama-bpe" else ["h", "at"]
    assert token_texts(model, encode(model, "hat")) == whole


def test_a_gguf_file_may_begin_texts_with_a_token(tmp_path):
    first = {"tokenizer__ggml__bos_token_id": 0}
    for pre, change, begins in (
        ("gpt-2", {}, False),
        ("gpt-2", {"tokenizer__ggml__add_bos_token": True}, True),
        ("llama-bpe", {}, True),
        ("llama-bpe", {"tokenizer__ggml__add_bos_token": False}, False),
    ):
        model = gguf_model(tmp_path, pre, **first, **change)
        assert bool(encode(model, "the")[0] == 0) is begins


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer.ggml.pre": "tekken"}, "tells words apart by 'tekken', which is none of gpt-2"),
        ({"tokenizer.ggml.model": "llama"}, "is of the kind 'llama', and only byte-level BPE"),
        ({"without": ["tokenizer.ggml.model"]}, "model.gguf has none; give token ids"),
    ],
)
def test_token_ids_work_where_text_does_not(change, says, tmp_path):
    fields = METADATA | {"tokenizer.ggml.pre": "gpt-2"} | change
    model = load_transformer(write_gguf(tmp_path / "model.gguf", "llama", **fields))
    with pytest.raises(InputError, match=says) as caught:
        encode(model, "the")
    assert "\n" not in str(caught.value)
    assert token_texts(model, [3, 1]) == ["3", "1"]


def test_a_model_without_a_tokenizer_says_so(tmp_path):
    for source in (REFERENCE / "llama", pair("llama")):
        with pytest.raises(InputError, match=r"has no tokenizer, since .*; give token ids in its"):
            encode(load_transformer(source), "the")


def test_texts_that_cannot_be_encoded_are_refused(folder):
    model = load_transformer(folder)
    for text, says in (("", "at least one"), ("\ud800", "Unicode"), (3, "expected a str")):
        with pytest.raises(InputError, match=says):
            encode(model, text)
    with pytest.raises(InputError, match="ids: expected whole numbers from 0 to 47, got 48"):
        token_texts(model, [1, 48])


def test_damaged_and_foreign_tokenizers_are_refused(folder, tmp_path):
    made = tokenizers.Tokenizer(models.WordLevel({f"t{n}": n for n in range(49)}, unk_token="t0"))
    for given, says in (
        (made, "a tokenizer with ids below 48, the rows of the embedding, got id 48"),
        (tmp_path / "none", "none: expected a tokenizer.json, found none"),
        (3, "tokenizer: expected a tokenizer.json, a folder with one, or a tokenizers.Tokenizer"),
    ):
        with pytest.raises(InputError, match=says):
            load_transformer(folder, tokenizer=given)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json: cannot be read as a tokenizer"):
        load_transformer(folder)
    fields = METADATA | {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["x y"]}
    path = write_gguf(tmp_path / "bad.gguf", "llama", **fields)
    with pytest.raises(InputError, match=r"bad.gguf: its tokens and merges make no tokenizer"):
        load_transformer(path)
