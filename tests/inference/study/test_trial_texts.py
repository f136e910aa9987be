"""Texts of the trial: parts that share no block, symbols, and ranges of the families."""

import numpy as np
import pytest

from probattn import InputError
from probattn.inference.study.trial_families import (
    RATES,
    TRIAL_FAMILIES,
    Range,
    family,
    in_group,
    split,
)
from probattn.inference.study.trial_texts import BLOCK, OTHERS, TEXT_PARTS, trial_text
from probattn.models import TransformerLM


@pytest.mark.parametrize("name", ["prose", "code"])
def test_parts_are_dealt_by_blocks(name):
    text = trial_text(name, 64)
    numbers = {part: len(blocks) for part, blocks in text.parts.items()}
    total = sum(numbers.values())
    assert total > 100
    for part, share in TEXT_PARTS.items():  # to the rounding of four parts
        assert abs(numbers[part] - share * total) <= 2
    blocks = [block for part in text.parts.values() for block in part]
    assert {len(block) for block in blocks} == {BLOCK}
    pieces = text.pieces("judgement")
    assert pieces.shape == (numbers["judgement"] * BLOCK // 64, 64)
    assert pieces.min() >= OTHERS  # a text has no end
    assert pieces.max() < text.vocab_size
    # The first piece, read back.
    letters = dict(enumerate(text.symbols, OTHERS + 1))
    back = "".join(letters.get(token, "?") for token in pieces[0].tolist())
    first = text.parts["judgement"][0][:64]
    assert all(one in (other, "?") for one, other in zip(back, first, strict=True))
    training = "".join(text.parts["training"])
    assert set(text.symbols) == {one for one in set(training) if training.count(one) >= 50}
    assert text.digest() == trial_text(name, 64).digest()


def test_texts_are_as_long_and_prose_is_small():
    prose, code = (trial_text(name, 64) for name in ("prose", "code"))
    assert {part: len(of) for part, of in prose.parts.items()} == {
        part: len(of) for part, of in code.parts.items()
    }
    assert not any(symbol.isupper() for symbol in prose.symbols)
    assert any(symbol.isupper() for symbol in code.symbols)
    upper = prose.encode(["DEF" * 64])
    np.testing.assert_array_equal(upper, prose.encode(["def" * 64]))
    assert OTHERS not in upper


def test_bad_texts():
    with pytest.raises(InputError, match="text: expected prose, code, got 'verse'"):
        trial_text("verse", 64)
    with pytest.raises(InputError, match="has 2 blocks of 4096 characters; expected at least 20"):
        trial_text("prose", 64, most=9000)


def test_ranges():
    assert Range(1.0, 16.0).at(0.25) == pytest.approx(2)
    assert Range(0.0, 0.5, log=False).at(0.25) == pytest.approx(0.125)


def test_the_families_are_those_of_the_plan():
    assert len(TRIAL_FAMILIES) == 20
    assert len(in_group("barrier")) == 7
    assert sum(one.of is None for one in TRIAL_FAMILIES) == 16


@pytest.mark.parametrize("name", [one.name for one in TRIAL_FAMILIES if one.of is None])
def test_configurations_fill_their_ranges_and_make_models(name):
    one = family(name)
    found = one.configurations(9)
    assert found == one.configurations(9)
    assert found[:2] == one.configurations(2)
    ranges = one.ranges | {"learning_rate": Range(*RATES)}
    for key, of in ranges.items():
        values = np.array([configuration[key] for configuration in found])
        assert ((values >= of.low) & (values <= of.high)).all()
        # Sobol's first 8 points have one in each eighth of each axis.
        shares = (
            (np.log(values / of.low) / np.log(of.high / of.low))
            if of.log
            else ((values - of.low) / (of.high - of.low))
        )
        assert len(set(np.floor(8 * shares[:8]))) == 8
    for configuration in found:
        fields, training = split(configuration)
        model = TransformerLM(5, 4, dim=4, layers=1, heads=2, **fields)
        assert (model.barrier_weight > 0) == (one.group == "barrier")
        assert set(training) >= {"learning_rate"}
