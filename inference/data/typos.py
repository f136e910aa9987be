"""Sequences with typos, and a mask of the tokens that no typo has touched."""

import numpy as np

TYPO_KINDS = ("swap", "drop", "insert", "substitute")
MOST_TYPOS = 2  # in one sequence, by default


def room_for_typos(tokens: np.ndarray, number: int) -> np.ndarray:
    """Which sequences can have `number` typos of any kind, a mask of shape (num_sequences,).

    They need two symbols for each typo and one more, and, if they end, room for inserted symbols.
    """
    symbols = (tokens != 0).sum(1)
    ends = (tokens == 0).any(1)
    longest = np.where(ends, tokens.shape[1] - 1 - number, tokens.shape[1])
    return (symbols >= 1 + 2 * number) & (symbols <= longest)


def with_typos(
    tokens: np.ndarray, kind: str, number: int, *, vocab_size: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences with `number` typos each at random places, and a mask of the unaffected tokens.

    swap        two different neighbours change places; the mask leaves both out
    drop        a symbol is removed; the mask keeps all others
    insert      a random symbol is added; the mask leaves it out
    substitute  a symbol is replaced by another; the mask leaves it out

    Symbols are swapped, dropped and replaced only where no typo has touched them, and a swap is
    skipped if no such pair is left. The mask keeps the end token. A sequence without an end token
    is cut to its length; a dropped symbol makes it one shorter, and padding follows, which the mask
    leaves out.

    Args: tokens, (num_sequences, length); kind, one of `TYPO_KINDS`.
    Returns: tokens and mask, both (num_sequences, length); the mask is False after the end token.

    Example:

        >>> import numpy as np
        >>> from probattn.inference import with_typos
        >>> typed, own = with_typos(np.array([[1, 2, 3, 0]]), "swap", 1, vocab_size=4)
        >>> print(typed, own)
        [[1 3 2 0]] [[ True False False  True]]
    """
    rng = np.random.default_rng([seed, TYPO_KINDS.index(kind), number])
    results = [
        _with_typos(row[row != 0], bool((row == 0).any()), kind, number, vocab_size, rng, len(row))
        for row in tokens
    ]
    changed, own = zip(*results, strict=True)
    return np.stack(changed).astype(tokens.dtype), np.stack(own)


def _with_typos(symbols, ends, kind, number, vocab_size, rng, length):
    """One sequence with typos, and its mask; both (length,). `ends`: it has an end token."""
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
            # A cyclic shift among the symbols 1 to vocab_size - 1, by 1 or more: always another.
            typed[i] = (
                (typed[i][0] + int(rng.integers(1, vocab_size - 1)) - 1) % (vocab_size - 1) + 1,
                False,
            )
    typed = ([*typed, (0, ends)])[:length]
    row, own = np.zeros(length, int), np.zeros(length, bool)
    row[: len(typed)], own[: len(typed)] = zip(*typed, strict=True)
    return row, own
