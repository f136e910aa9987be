"""The smallest model of each kind of the contract, through fit, diagnose and compare."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probattn import (
    Attention,
    AttentionProcess,
    Emission,
    EmissionProcess,
    InputError,
    SequenceProcess,
    stability_margin,
)
from probattn.inference import (
    AttentionModel,
    Model,
    ParticleModel,
    PathModel,
    TokenModel,
    compare,
    contract,
    diagnose,
    fit_map,
    sample_posterior,
)
from probattn.models import EmissionModel, LanguageModel, LatentAttention, TransformerLM

KEY = jax.random.key(0)
TOKENS = np.array([[1, 2, 0, 0], [1, 1, 2, 0], [2, 0, 0, 0], [1, 2, 2, 1]] * 3, np.int32)
MAP = dict(key=KEY, num_steps=300, progress=False)
CHAINS = dict(
    key=KEY, num_chains=2, num_warmup=30, num_samples=20, max_tree_depth=3, start="random"
)


def drawn(model):
    return {name: numpyro.sample(name, prior) for name, prior in model.priors().items()}


@dataclass(frozen=True)
class Coin:
    """A Model: sequences of normal numbers around one mean."""

    observed: ClassVar[str] = "seen"

    def __call__(self, seen=None, num_sequences=None):
        mean = numpyro.sample("mean", dist.Normal())
        with numpyro.plate("sequences", num_sequences if seen is None else len(seen)):
            numpyro.sample("seen", dist.Normal(mean, 1), obs=seen)

    def log_likelihood(self, params, seen):
        return dist.Normal(params["mean"], 1).log_prob(seen)


@dataclass(frozen=True)
class Bigram:
    """A TokenModel: the next token's logits depend on the token before."""

    vocab_size: int = 3
    length: int = 4

    observed: ClassVar[str] = "tokens"
    path_has_start: ClassVar[bool] = True

    def priors(self):
        normal = dist.Normal()
        return {
            "embedding": normal.expand((self.vocab_size, 1)).to_event(2),
            "readout": normal.expand((self.vocab_size, 1)).to_event(2),
        }

    def path(self, params, tokens):
        before = jnp.roll(tokens, 1, -1).at[..., 0].set(0)
        return jnp.asarray(params["embedding"])[before]

    def next_token_logits(self, params, tokens):
        return self.path(params, tokens) @ params["readout"].T

    def process(self, params):
        return SequenceProcess(
            self.next_token_logits,
            {name: params[name] for name in self.priors()},
            length=self.length,
            vocab_size=self.vocab_size,
        )

    def log_likelihood(self, params, tokens):
        return self.process(params).log_prob(tokens)

    def __call__(self, tokens=None, num_sequences=None):
        process = self.process(drawn(self))
        with numpyro.plate("sequences", num_sequences if tokens is None else len(tokens)):
            return numpyro.sample("tokens", process, obs=tokens)


@dataclass(frozen=True)
class Attending(Bigram):
    """An AttentionModel too: its embeddings have margins, under the contraction cap."""

    def priors(self):
        interaction = dist.Normal().expand((1, 1, 1)).to_event(3)
        return {**super().priors(), "interaction": interaction}

    def attention(self, params):
        return Attention.from_interaction(params["interaction"], contraction=0.9)

    def margins(self, params, tokens, kind="sigma_min"):
        margin = stability_margin(self.attention(params), self.path(params, tokens), kind)
        ended = jnp.cumsum(tokens == 0, -1) - (tokens == 0) > 0
        return jnp.where(ended, jnp.nan, margin)


@dataclass(frozen=True)
class Walking(Attending):
    """A PathModel: noise on its embeddings means something."""

    dim: ClassVar[int] = 1
    scale: ClassVar[float] = 1.0

    def root_mean_square(self, params, tokens):
        return jnp.sqrt((self.path(params, tokens) ** 2).mean())

    def noisy_log_likelihood(self, params, tokens, noise):
        rows = jax.nn.log_softmax((self.path(params, tokens) + noise) @ params["readout"].T)
        chosen = jnp.take_along_axis(rows, tokens[..., None], -1)[..., 0]
        ended = jnp.cumsum(tokens == 0, -1) - (tokens == 0) > 0
        return jnp.where(ended, 0, chosen).sum(-1)


@dataclass(frozen=True)
class Emitting:
    """A ParticleModel: latent embeddings of an attention process emit the tokens."""

    vocab_size: int = 3
    length: int = 4
    num_particles: int = 8

    observed: ClassVar[str] = "tokens"
    path_has_start: ClassVar[bool] = False
    latents: ClassVar[tuple] = ("u",)

    @property
    def law(self):
        return Emitting(self.vocab_size, self.length)

    def priors(self):
        normal = dist.Normal()
        return {
            "interaction": normal.expand((1, 1, 1)).to_event(3),
            "readout": normal.expand((self.vocab_size, 1)).to_event(2),
        }

    def attention(self, params):
        return Attention.from_interaction(params["interaction"], contraction=0.9)

    def logits(self, params, u):
        return u @ params["readout"].T

    def __call__(self, tokens=None, num_sequences=None):
        params = drawn(self)
        with numpyro.plate("sequences", num_sequences if tokens is None else len(tokens)):
            process = AttentionProcess(self.attention(params), scale=1.0, length=self.length)
            logits = self.logits(params, numpyro.sample("u", process))
            categorical = dist.Categorical(logits=logits).to_event(1)
            return numpyro.sample("tokens", categorical, obs=tokens)

    def process(self, params, *, num_particles=None, key=None):
        emission = Emission(
            self.attention(params), jnp.ones(()), params["readout"], jnp.zeros(self.vocab_size)
        )
        number = num_particles or self.num_particles
        return EmissionProcess(emission, length=self.length, num_particles=number, key=key)

    def log_likelihood(self, params, tokens):
        return self.process(params).log_prob(tokens)

    def margins(self, params, tokens, kind="sigma_min"):
        paths = self.process(params).filter(tokens).paths  # (num_sequences, particles, length, 1)
        return stability_margin(self.attention(params), paths, kind).mean(1)

    def emitted(self, values, tokens):
        rows = jax.nn.log_softmax(self.logits(values, values["u"]))
        return jnp.take_along_axis(rows, tokens[..., None], -1).sum()


def fitted(model, data):
    return {
        "map": fit_map(model, data, **MAP),
        "posterior": sample_posterior(model, data, **CHAINS, progress=False),
    }


def test_the_smallest_model_is_fitted_and_diagnosed():
    assert isinstance(Coin(), Model)
    assert not isinstance(Coin(), TokenModel)
    fits = fitted(Coin(), np.array([0.5, 1.5, 1.0]))
    assert float(fits["map"].params["mean"]) == pytest.approx(0.75, abs=0.02)  # sum / (n + 1)
    assert diagnose(fits["posterior"]).quantity == "training log probability"
    with pytest.raises(InputError, match=r"compare: map: expected a TokenModel.* got Coin, which"):
        compare(fits, TOKENS[:4])


def test_a_function_is_fitted_and_what_needs_more_says_what():
    def line(data=None, num_sequences=None):
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1), obs=data)

    fits = fitted(line, np.zeros(1))
    assert diagnose(fits["posterior"]).quantity == "raw parameters"
    with pytest.raises(InputError, match="got line, which lacks log_likelihood, observed"):
        fits["map"].to_datatree()


def test_a_model_of_tokens_is_refused_where_margins_are_asked_for():
    assert isinstance(Bigram(), TokenModel)
    fits = fitted(Bigram(), TOKENS)
    assert diagnose(fits["posterior"], TOKENS[:4]).quantity == "held-out log probability"
    with pytest.raises(
        InputError, match=r"AttentionModel.* got Bigram, which lacks attention, mar"
    ):
        compare(fits, TOKENS[:4])


def test_a_model_with_an_embedding_path_is_compared():
    assert isinstance(Walking(), PathModel)
    comparison = compare(fitted(Walking(), TOKENS), TOKENS[:6])
    assert {"map", "posterior"} <= {score.name for score in comparison.scores}
    assert {"map", "posterior"} == set(comparison.robustness["embedding noise"])
    assert {"map", "posterior"} == set(comparison.uniqueness)


def test_a_model_with_margins_alone_is_compared_without_what_needs_a_path():
    assert isinstance(Attending(), AttentionModel)
    comparison = compare(fitted(Attending(), TOKENS), TOKENS[:6])
    assert {"map", "posterior"} == set(comparison.margins)
    assert not comparison.uniqueness
    assert "Attending" in comparison.left_out["embedding noise"]


def test_a_model_of_particles_is_compared():
    model = Emitting()
    assert isinstance(model, ParticleModel)
    fits = fitted(model, TOKENS)
    assert set(fits["posterior"].latents) == {"u"}
    assert diagnose(fits["posterior"]).quantity.startswith("log probability of the training tokens")
    comparison = compare(fits, TOKENS[:6])
    assert "embedding noise" in comparison.left_out


def test_the_models_of_the_package_meet_their_protocols():
    assert isinstance(LanguageModel(3, 4, 1), PathModel)
    assert isinstance(EmissionModel(3, 4, 1), ParticleModel)
    assert isinstance(TransformerLM(3, 4, 2, 1, 1), contract.LayeredModel)
    assert isinstance(LatentAttention(dim=1, length=4), AttentionModel)
    assert not isinstance(LanguageModel(3, 4, 1), ParticleModel)
