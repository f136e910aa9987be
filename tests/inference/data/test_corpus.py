"""Corpora: the split is fixed, nothing held out is trained on, and bad files are told apart."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from probattn import InputError
from probattn.inference import load_corpus
from probattn.inference.data.corpus import load_elsewhere
from probattn.inference.data.sequence_file import read_records


@pytest.fixture
def write(tmp_path):
    def write(content, name="words.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


WORDS = "\n".join(f"{a}{b}{c}" for a in "xyz" for b in "xyz" for c in "xyz")
NINE = "\n".join(f"{a}{b}" for a in "xyz" for b in "xyz")


def texts(corpus):
    return {corpus.decode(row) for row in np.concatenate([corpus.train, corpus.heldout])}


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
    with pytest.raises(InputError, match="has 10 symbols, a model of length 10 takes 9"):
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
        ("", {}, "there is no text in the file"),
        (" \n\n", {}, "there is no text in the file"),
        ("aa\na\naaa", {}, "at least two different symbols, got 1"),
        (NINE, {}, "at least 10 different sequences, two of them to hold out, got 9"),
        (NINE + "\nxy", {}, "at least 10 different sequences, two of them to hold out, got 9"),
        (
            "to be " * 9,
            {"stream": True, "length": 6},
            "at least 10 pieces of 6 characters, .* got 8",
        ),
        (b"\xff\xfe\x00", {}, "cannot be read as UTF-8 text"),
        (WORDS, {"train_size": 50}, "has 22 training sequences, got 50"),
        (WORDS, {"length": 2}, "no sequence is left at length 2; give a larger `length`"),
        ("<end> a\nb a", {"format": "words"}, "<end> is the name of the end token"),
        (WORDS, {"format": "tsv"}, "format: expected lines, words, fasta, .* got 'tsv'"),
        (WORDS, {"format": "csv"}, "format: expected lines, words, fasta, .* got 'csv'"),
        (WORDS, {"format": "words:x"}, "format: expected lines, words, fasta, .* got 'words:x'"),
        (WORDS, {"format": "fasta"}, "expected a header `>name` before line 1"),
        ("name,seq\na,b", {"format": "csv:text"}, "column 'text', got the columns name, seq"),
        ('{"a": "b"}\nxyz', {"format": "jsonl:a"}, "line 2: expected a JSON object with the field"),
        ('{"a": 3}', {"format": "jsonl:a"}, "line 1: expected text in the field 'a', got 3"),
        (WORDS, {"stream": True, "length": 4, "format": "words"}, "running text has no sequences"),
        (
            "ab\nba\nbb",
            {"train_size": 0},
            "train size: expected a whole number of at least 1",
        ),
        ("ab\nba\nbb", {"length": 1}, "length: expected a whole number of at least 2"),
        ("ab ba bb", {"stream": True}, "running text needs one; give `length`"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*looks like", "ignore:.*are longer than")
def test_bad_files_are_refused(write, content, options, message):
    with pytest.raises(InputError, match=message):
        load_corpus(write(content), **options)


def test_missing_files_are_named():
    with pytest.raises(InputError, match=re.escape("nowhere.txt: no such file")):
        load_corpus("nowhere.txt")
    for options in ({"stream": True}, {"format": "words"}, {"keep_space": True}):
        with pytest.raises(InputError, match="cmudict: is a list of words and no text"):
            load_corpus("cmudict", **options)


def test_other_texts_are_read_in_the_symbols_of_a_corpus(write):
    corpus = load_corpus(write(WORDS), train_size=10)
    own = corpus.decode(corpus.heldout[0])
    tokens, said = load_elsewhere(write(f"zz\n\nxyzx\nabc\n x \n{own}\n", "other.txt"), corpus)
    assert [corpus.decode(row) for row in tokens] == [
        "zz",
        "x",
    ]  # xyzx is too long, abc has other symbols, one is its own
    assert said == (
        "1 of 5 sequences of other.txt (20.0%) have a symbol that no training sequence has, and "
        "are left out",
        "1 of 5 sequences of other.txt (20.0%) are too long, and left out",
        "1 of 5 sequences of other.txt (20.0%) are of the corpus itself, and left out",
    )
    words = load_corpus(train_size=10)
    tokens, said = load_elsewhere(write("cat\nK AE T\nqqqq\n", "names.txt"), words)
    assert [words.decode(row) for row in tokens] == ["K AE T", "K AE T"]
    running = load_corpus(
        write("the cat sat on the mat and the dog sat on the cat", "a.txt"), length=4, stream=True
    )
    tokens, said = load_elsewhere(write("the dog\nand the cat zzzz", "b.txt"), running)
    assert ["".join(running.symbols[token] for token in row) for row in tokens] == ["dog ", "and "]
    assert [sentence[:1] for sentence in said] == ["1", "3"]
    # "the " twice and "cat " are pieces of its own, "zzzz" is foreign
    with pytest.raises(InputError, match=r"at least two sequences in the symbols of words\.txt"):
        load_elsewhere(write("qqq\nzz\n", "none.txt"), corpus)


def test_symbols_are_those_of_training_and_what_has_others_is_left_out_and_counted(write):
    words = [*WORDS.split(), *(f"{letter}x" for letter in "àéîõüñçø")]
    ordered = sorted(words, key=lambda word: hashlib.sha256(word.encode()).hexdigest())
    held, train = ordered[:7], ordered[7:17]
    known = set("".join(train))
    scored = [word for word in held if set(word) <= known]
    assert 2 <= len(scored) < 7
    said = rf"{7 - len(scored)} of 7 held-out sequences .*%\) have a symbol that no training"
    with pytest.warns(UserWarning, match=said):
        corpus = load_corpus(write("\n".join(words)), train_size=10)
    assert corpus.symbols == ("<end>", *sorted(known))
    assert [corpus.decode(row) for row in corpus.train] == train
    assert [corpus.decode(row) for row in corpus.heldout] == scored
    assert corpus.left_out == 7 - len(scored)
    foreign = next(letter for letter in "àéîõüñçø" if letter not in known)
    with pytest.raises(InputError, match=f"unknown symbol '{foreign}'"):
        corpus.encode(f"x{foreign}")
    tokens, said = load_elsewhere(write(f"xx\nyy\nx{foreign}\n", "other.txt"), corpus)
    assert len(tokens) == 2
    assert said[0].startswith("1 of 3 sequences of other.txt (33.3%) have a symbol that no train")


def test_held_out_sequences_that_are_all_unknown_are_refused(write):
    with pytest.raises(InputError, match=r"at least two held-out .* got 0 of 2; give a larger"):
        load_corpus(write("\n".join(f"{i} {i + 50}" for i in range(12))), format="words")


def test_pieces_of_running_text_are_left_out_alike(write):
    text = "to be or not to be " * 20 + "quiz zoo jazz abc "
    with pytest.warns(UserWarning, match="have a symbol that no training sequence has"):
        corpus = load_corpus(write(text), length=6, stream=True)
    assert set(corpus.symbols[1:]) == set("to be or not to be")
    assert corpus.left_out == 3  # "quiz z", "oo jaz" and "z abc " with what stands before them


def test_the_alphabet_of_the_dictionary_is_known_before_its_words():
    assert load_corpus(train_size=1).symbols == load_corpus(train_size=3000).symbols


def test_a_byte_order_mark_is_no_symbol(write):
    plain, marked = load_corpus(write(WORDS)), load_corpus(write("\ufeff" + WORDS, "marked.txt"))
    assert marked.digest() == plain.digest()
    other = write("\ufeff" + "zz\nyx\nxx", "other.txt")
    assert len(load_elsewhere(other, plain)[0]) == 3


def test_byte_order_marks_of_joined_files_are_no_symbols_within_a_line_they_are(write):
    half = WORDS.split()[:13], WORDS.split()[13:]
    joined = "\n".join("\ufeff" + "\n".join(words) for words in half)
    assert load_corpus(write(joined, "joined.txt")).digest() == load_corpus(write(WORDS)).digest()
    assert "\ufeff" in load_corpus(write("\n".join(f"x\ufeff{word}" for word in half[0]))).symbols


@pytest.mark.parametrize(
    ("content", "format", "said"),
    [
        ("id,seq\n1,xy\n2,\n3\n4,yz\n", "csv:seq", "2 of 4 rows (50.0%) have no sequence in 'seq'"),
        ('{"a": "x"}\n{"a": " "}\n', "jsonl:a", "1 of 2 objects (50.0%) have no sequence in 'a'"),
        (">1\nxy\n>2\n>3\nyz\n", "fasta", "1 of 3 records (33.3%) have no sequence and are"),
    ],
)
def test_rows_without_a_sequence_are_counted(write, content, format, said):
    with pytest.warns(UserWarning, match=re.escape(said)):
        found = read_records(Path(write(content)), format)
    assert all(one.text for one in found)


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("{", "no JSON: at column 2, expecting property name enclosed in double quotes"),
        ('{"b": 1, "c": 2}', "the fields b, c"),
        ("{}", "the fields none"),
        ('["a"]', "no object"),
        ("[" * 100_000, "a number or a nesting that is too long to be read"),
    ],
)
def test_json_lines_are_refused_by_the_number_of_their_line(write, line, got):
    with pytest.raises(InputError) as refused:
        read_records(Path(write(f'{{"a": "x"}}\n\n{line}')), "jsonl:a")
    said = str(refused.value)
    assert said.endswith(f"line 3: expected a JSON object with the field 'a', got {got}")


def test_devices_and_folders_are_no_files(tmp_path):
    with pytest.raises(InputError, match="/dev/null: is a device or a pipe, and no file; expected"):
        load_corpus("/dev/null")
    with pytest.raises(InputError, match='is a folder; expected "cmudict" or the path of a text'):
        load_corpus(str(tmp_path))


def test_lines_end_at_newlines_and_carriage_returns_alone(write):
    # Where Python's splitlines parts lines.
    parted = ["x\x0by\x0cz", "x\x1cy\x1dz", "x\x1ey\x85z", "x\u2028y\u2029z"]
    for end in ("\n", "\r\n", "\r"):
        corpus = load_corpus(write(end.join([*WORDS.split(), *parted, ""])))
        assert set(parted) <= texts(corpus)
    assert {"\x0b", "\u2028", "\x85"} <= set(corpus.symbols)


def test_white_space_at_the_ends_is_treated_alike_where_texts_are_read_and_scored(write):
    file = write("\n".join(f"  {word} " for word in WORDS.split()))
    stripped, kept = load_corpus(file), load_corpus(file, keep_space=True)
    assert texts(stripped) == set(WORDS.split())
    np.testing.assert_array_equal(stripped.encode(" xyz  "), stripped.encode("xyz"))
    assert texts(kept) == {f"  {word} " for word in WORDS.split()}
    assert kept.decode(kept.encode("  xyz ")) == "  xyz "
    tokens, _ = load_elsewhere(write(" x\nyy \n", "other.txt"), kept)
    assert {kept.decode(row) for row in tokens} == {" x", "yy "}


def test_formats_give_the_sequences_that_they_hold(write):
    rows = WORDS.split()
    spaced = "\n".join(f"{60 + i % 4} 64 {70 + i // 4}" for i in range(12))
    words = load_corpus(write(spaced), format="words")
    assert texts(words) == {" ".join(line.split()) for line in spaced.split("\n")}
    assert "64" in words.symbols
    np.testing.assert_array_equal(words.encode("60  64 70 "), words.encode("60 64 70"))
    fasta = "".join(f">name {i} of it\n{row[:2]}\n{row[2:]}\n\n" for i, row in enumerate(rows))
    assert texts(load_corpus(write(fasta), format="fasta")) == set(rows)
    table = "id,seq\n" + "".join(f'{i},"{row}"\n' for i, row in enumerate(rows))
    assert texts(load_corpus(write(table), format="csv:seq")) == set(rows)
    objects = "".join(json.dumps({"seq": row, "id": i}) + "\n" for i, row in enumerate(rows))
    corpus = load_corpus(write(objects), format="jsonl:seq")
    assert texts(corpus) == set(rows)
    assert corpus.format == "jsonl:seq"


@pytest.mark.parametrize(
    ("content", "name", "looks"),
    [
        ("".join(f">{i}\n{row}\n" for i, row in enumerate(WORDS.split())), "a.txt", "FASTA"),
        ("".join(f'{{"a": "{row}"}}\n' for row in WORDS.split()), "a.txt", "JSON lines"),
        ("".join(f"{i},{row}\n" for i, row in enumerate(WORDS.split())), "a.csv", "CSV"),
        ("".join(f"{i} {i + 1}\n" for i in range(20)), "a.txt", "numbers separated by spaces"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*have a symbol that no training")
def test_a_file_that_looks_like_another_format_is_reported(write, content, name, looks):
    with pytest.warns(UserWarning, match=f"looks like {looks}, and each of its lines"):
        load_corpus(write(content, name))


def test_one_long_line_is_reported_and_a_length_leaves_it_out(write):
    file = write(WORDS + "\n" + "xyz" * 40)
    with pytest.warns(UserWarning, match=r"line 28 has 120 symbols, 95% .* `length=4` leaves"):
        assert load_corpus(file).length == 121
    many = write("\n".join([*WORDS.split() * 8, "xyz" * 40]), "many.txt")
    with pytest.warns(
        UserWarning, match=r"have at most 3; .* `length=4` leaves the longer ones out"
    ):
        load_corpus(many)
    with pytest.warns(UserWarning, match=r"1 of 28 sequences are longer .*; line 28 has 120"):
        corpus = load_corpus(file, length=4)
    assert texts(corpus) == set(WORDS.split())


def test_a_file_called_cmudict_is_a_file(write):
    corpus = load_corpus(write(WORDS, "cmudict"))
    assert (corpus.name, corpus.format) == ("cmudict", "lines")
    with pytest.raises(InputError, match="unknown symbol 'c' in 'cat'"):
        corpus.encode("cat")
