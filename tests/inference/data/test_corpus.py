"""Corpora: the split is fixed, nothing held out is trained on, and bad files are told apart."""

import re

import numpy as np
import pytest

from probattn import InputError
from probattn.inference import load_corpus
from probattn.inference.data.corpus import load_elsewhere


@pytest.fixture
def write(tmp_path):
    def write(content, name="words.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


WORDS = "\n".join(f"{a}{b}{c}" for a in "xyz" for b in "xyz" for c in "xyz")


def test_cmudict_has_the_documented_shape_and_split():
    corpus = load_corpus(train_size=300)
    assert len(corpus.symbols) == 40
    assert corpus.symbols[0] == "<end>"
    assert corpus.train.shape == (300, 10)
    assert corpus.heldout.shape == (2000, 10)
    larger = load_corpus(train_size=3000)
    np.testing.assert_array_equal(larger.train[:300], corpus.train)
    np.testing.assert_array_equal(larger.heldout, corpus.heldout)
    train, heldout = ({tuple(row) for row in part} for part in (larger.train, corpus.heldout))
    assert len(heldout) == 2000
    assert not train & heldout
    assert (corpus.heldout[:, -1] == 0).all()


def test_encode_takes_phonemes_and_dictionary_words():
    corpus = load_corpus(train_size=1)
    assert corpus.decode(corpus.encode("K AE T")) == "K AE T"
    np.testing.assert_array_equal(corpus.encode("cat"), corpus.encode("K AE T"))
    with pytest.raises(InputError, match="unknown symbol 'qqq'"):
        corpus.encode("qqq")
    with pytest.raises(InputError, match="has 10 symbols, the model of length 10 takes 9"):
        corpus.encode(" ".join(["K"] * 10))
    with pytest.raises(InputError, match="empty"):
        corpus.encode("  ")


def test_a_text_file_is_one_sequence_a_line(write):
    corpus = load_corpus(write(WORDS + "\n\nxyz\n"))
    assert corpus.symbols == ("<end>", "x", "y", "z")
    assert corpus.length == 4
    assert len(corpus.train) + len(corpus.heldout) == 27
    assert len(corpus.heldout) == 5
    assert {corpus.decode(row) for row in np.concatenate([corpus.train, corpus.heldout])} == set(
        WORDS.split()
    )
    reordered = load_corpus(write("\n".join(reversed(WORDS.split())), "other.txt"))
    assert reordered.digest() == corpus.digest()


def test_running_text_is_cut_in_order_and_its_end_is_held_out(write):
    corpus = load_corpus(write("to be or\nnot to be " * 20), length=7, stream=True)
    text = " ".join(("to be or\nnot to be " * 20).split())
    pieces = [corpus.decode(row) for row in (*corpus.train, *corpus.heldout)]
    assert "".join(pieces) == text[: 7 * len(pieces)]
    assert (corpus.train != 0).all()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "the file is empty"),
        (" \n\n", {}, "the file is empty"),
        ("aa\na\naaa", {}, "at least two different symbols, got 1"),
        ("abc", {}, "at least two different sequences, one to hold out, got 1"),
        (b"\xff\xfe\x00", {}, "cannot be read as UTF-8 text"),
        ("ab\nabcdef\nba", {"length": 4}, "line 2 has 6 characters, length 4 takes 3"),
        ("ab\nba\nbb", {"train_size": 50}, "has 2 training sequences, got 50"),
        ("ab\nba\nbb", {"train_size": 0}, "train size: expected at least 1, got 0"),
        ("ab\nba\nbb", {"length": 1}, "length: expected at least 2"),
        ("ab ba bb", {"stream": True}, "running text needs one; give --length"),
    ],
)
def test_bad_files_are_refused(write, content, options, message):
    with pytest.raises(InputError, match=message):
        load_corpus(write(content), **options)


def test_missing_files_are_named():
    with pytest.raises(InputError, match=re.escape("nowhere.txt: no such file")):
        load_corpus("nowhere.txt")
    with pytest.raises(InputError, match="leave --stream out"):
        load_corpus("cmudict", stream=True)


def test_other_texts_are_read_in_the_symbols_of_a_corpus(write):
    corpus = load_corpus(write(WORDS), train_size=10)
    own = corpus.decode(corpus.heldout[0])
    tokens, skipped = load_elsewhere(write(f"zz\n\nxyzx\nabc\n x \n{own}\n", "other.txt"), corpus)
    assert [corpus.decode(row) for row in tokens] == [
        "zz",
        "x",
    ]  # xyzx is too long, abc has other symbols, one is its own
    assert skipped == 3
    words = load_corpus(train_size=10)
    tokens, skipped = load_elsewhere(write("cat\nK AE T\nqqqq\n", "names.txt"), words)
    assert [words.decode(row) for row in tokens] == ["K AE T", "K AE T"]
    running = load_corpus(
        write("the cat sat on the mat and the dog sat on the cat", "a.txt"), length=4, stream=True
    )
    tokens, skipped = load_elsewhere(write("the dog\nand the cat zzzz", "b.txt"), running)
    assert ["".join(running.symbols[token] for token in row) for row in tokens] == ["dog ", "and "]
    assert skipped == 4  # "the " twice and "cat " are pieces of its own, "zzzz" is foreign
    with pytest.raises(InputError, match=r"at least two sequences in the symbols of words\.txt"):
        load_elsewhere(write("qqq\nzz\n", "none.txt"), corpus)
