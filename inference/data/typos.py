"""Sequences with typos in them, and which of their tokens are still the writer's own."""

import numpy as np

KINDS = ("swap", "drop", "insert", "substitute")
MOST_TYPOS = 2


def room_for_typos(tokens: np.ndarray, number: int) -> np.ndarray:
    """Which sequences can have so many typos of each kind: two symbols for each and one more, and
    room to insert them."""
    symbols = (tokens != 0).sum(1)
    ends = (tokens == 0).any(1)
    longest = np.where(ends, tokens.shape[1] - 1 - number, tokens.shape[1])
    return (symbols >= 1 + 2 * number) & (symbols <= longest)


def with_typos(
    tokens: np.ndarray, kind: str, number: int, *, vocab_size: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences with `number` typos each at random places, and a mask of tokens that are the
    writer's own.

    swap        two different neighbours change places; both count as typed wrong
    drop        a symbol is missing; nothing that is there is wrong
    insert      a random symbol too many; it is wrong
    substitute  another symbol in place of one; it is wrong

    The end token is the writer's own. A sequence without an end is cut to its length, or one short
    of it where a symbol was dropped.

    Returns: tokens and mask, both (num_sequences, length); positions after the end are not the
        writer's.

    Example:

        >>> import numpy as np
        >>> from probattn.inference import with_typos
        >>> typed, own = with_typos(np.array([[1, 2, 3, 0]]), "swap", 1, vocab_size=4)
        >>> print(typed, own)
        [[1 3 2 0]] [[ True False False  True]]
    """
    rng = np.random.default_rng([seed, KINDS.index(kind), number])
    results = [
        _one(row[row != 0], bool((row == 0).any()), kind, number, vocab_size, rng, len(row))
        for row in tokens
    ]
    changed, own = zip(*results, strict=True)
    return np.stack(changed).astype(tokens.dtype), np.stack(own)


def _one(symbols, ends, kind, number, vocab_size, rng, length):
    typed: list[tuple[int, bool]] = [(int(symbol), True) for symbol in symbols]
    for _ in range(number):
        untouched = [i for i, (_, own) in enumerate(typed) if own]
        if kind == "insert":
            typed.insert(
                int(rng.integers(len(typed) + 1)), (int(rng.integers(1, vocab_size)), False)
            )
        elif kind == "swap":
            pairs = [
                i
                for i in untouched
                if i + 1 < len(typed) and typed[i + 1][1] and typed[i][0] != typed[i + 1][0]
            ]
            if pairs:
                i = pairs[rng.integers(len(pairs))]
                typed[i], typed[i + 1] = (typed[i + 1][0], False), (typed[i][0], False)
        elif kind == "drop":
            del typed[untouched[rng.integers(len(untouched))]]
        else:
            i = untouched[rng.integers(len(untouched))]
            typed[i] = (
                (typed[i][0] + int(rng.integers(1, vocab_size - 1)) - 1) % (vocab_size - 1) + 1,
                False,
            )
    typed = ([*typed, (0, ends)])[:length]
    row, own = np.zeros(length, int), np.zeros(length, bool)
    row[: len(typed)], own[: len(typed)] = zip(*typed, strict=True)
    return row, own
