"""Sequence processes for the tests, each with its whole law by slow, independent loops in numpy."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probattn import CachedStep, ProcessMixture, SequenceProcess
from probattn.models import LanguageModel


def recurrent_logits(params, tokens):
    """A causal model that is no attention: the state before token t gives its logits."""

    def step(state, token):
        return jnp.tanh(params["W"] @ state + params["E"][token]), params["O"] @ state

    return jax.lax.scan(step, params["start"], tokens)[1]


def _recurrent_step(params, state, previous, position):
    moved = jnp.tanh(params["W"] @ state + params["E"][previous])
    state = jnp.where(position == 0, state, moved)
    return state, params["O"] @ state


RECURRENT_STEP = CachedStep(lambda params: params["start"], _recurrent_step)


def recurrent_params(seed, vocab_size, *number, dim=3):
    shapes = {"W": (dim, dim), "E": (vocab_size, dim), "O": (vocab_size, dim), "start": (dim,)}
    draw = np.random.default_rng(seed).standard_normal
    return {name: draw((*number, *shape)).astype(float) for name, shape in shapes.items()}


def bigram_logits(params, tokens):
    """Logits by previous token; the end token 0 stands for the start."""
    return params[jnp.concatenate([jnp.zeros(1, int), tokens[:-1]])]


# After token 1 comes token 1 for ever: with probability one half a sequence never ends.
STARVED = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class Case:
    name: str
    process: Any
    # law of the next token after a prefix, by numpy; for a mixture a list, one for each draw
    rows: Any

    @property
    def law(self):
        """Probability of each array of tokens, shape (V, ..., V)."""
        return _law(self.name)


def _recurrent_rows(params):
    def rows(prefix):
        state = params["start"]
        for token in prefix:
            state = np.tanh(params["W"] @ state + params["E"][token])
        return _softmax(params["O"] @ state)

    return rows


def _softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _model_rows(model, params):
    def rows(prefix):
        tokens = np.array([*prefix, *[0] * (model.length - len(prefix))])
        return _softmax(
            np.asarray(model.next_token_logits(params, tokens), np.float64)[len(prefix)]
        )

    return rows


@cache
def cases():
    """By name."""
    recurrent = recurrent_params(0, 4)
    draws = recurrent_params(1, 3, 4)
    model = LanguageModel(3, 4, 2, heads=2)
    params = {
        name: np.random.default_rng(2).standard_normal(prior.shape())
        for name, prior in model.priors().items()
    }
    base = SequenceProcess(recurrent_logits, recurrent_params(0, 3), length=6, vocab_size=3)
    listed = [
        Case(
            "recurrent",
            SequenceProcess(
                recurrent_logits, recurrent, length=6, vocab_size=4, cached_step=RECURRENT_STEP
            ),
            _recurrent_rows(recurrent),
        ),
        Case(
            "another end token",
            SequenceProcess(recurrent_logits, recurrent, length=4, vocab_size=4, end_token=2),
            _recurrent_rows(recurrent),
        ),
        Case("language model", model.process(params), _model_rows(model, params)),
        Case(
            "starved",
            SequenceProcess(
                bigram_logits,
                np.log(STARVED, where=STARVED > 0, out=np.full((3, 3), -np.inf)),
                length=5,
                vocab_size=3,
            ),
            lambda prefix: STARVED[prefix[-1] if prefix else 0],
        ),
        Case(
            "mixture",
            ProcessMixture(base, draws),
            [_recurrent_rows({name: value[i] for name, value in draws.items()}) for i in range(4)],
        ),
    ]
    return {case.name: case for case in listed}


NAMES = ("recurrent", "another end token", "language model", "starved", "mixture")


@cache
def _law(name):
    case = cases()[name]
    process = case.process
    laws = []
    for rows in case.rows if isinstance(case.rows, list) else [case.rows]:
        law = np.zeros((process.vocab_size,) * process.length)

        def walk(prefix, probability, law=law, rows=rows):
            if len(prefix) == process.length:
                law[prefix] = probability
            elif process.end_token in prefix:
                walk((*prefix, process.end_token), probability)
            else:
                for token, share in enumerate(rows(prefix)):
                    walk((*prefix, token), probability * share)

        walk((), 1.0)
        laws.append(law)
    return np.mean(laws, axis=0)


def every_array(process):
    """All arrays of tokens, padded or not, (V^length, length)."""
    grid = np.indices((process.vocab_size,) * process.length)
    return grid.reshape(process.length, -1).T


def visited_before_end(process, tokens):
    """The set of tokens before the end, or None where there is no end."""
    tokens = list(tokens)
    if process.end_token not in tokens:
        return None
    return frozenset(tokens[: tokens.index(process.end_token)])
