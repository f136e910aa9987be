"""Floats of every type are computed with in JAX's default float, to the last bit.

All inputs here are small integers, which each type holds exactly: whatever type they come in, the
results are those of inputs in the default float, in its type."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import seed, substitute
from numpyro.infer.util import log_density

import probattn
from probattn import (
    Attention,
    AttentionProcess,
    AttentionTransform,
    CachedStep,
    Emission,
    EmissionProcess,
    InputError,
    ProcessMixture,
    SequenceProcess,
    expected_roots,
)
from probattn.checks import as_float_array
from probattn.models import EmissionModel, LanguageModel, LatentAttention, TransformerLM
from probattn.sequence.shared_prefixes import prefix_tree

KEY = jax.random.key(0)
TOKENS = np.array([[1, 2, 0], [2, 1, 1]])
LENGTH, VOCAB, DIM = 3, 3, 2
# Of the arrays, in turn: mixed types come together in every function.
KINDS = {
    "half": ("float16",),
    "half of two kinds": ("bfloat16", "float16"),
    "single beside the default": ("float32", "default"),
    "the default beside single": ("default", "float32"),
    "double of NumPy": ("numpy",),
    "double of JAX": ("float64",),
    "integers": ("int32", "default"),
}


def integers(*shape, seed=0, low=-1, high=3):
    return np.random.default_rng(seed).integers(low, high, shape)


ARRAYS = {
    "query": integers(1, DIM, DIM),
    "key": integers(1, DIM, DIM, seed=1),
    "value": integers(1, DIM, DIM, seed=2),
    "origin": integers(DIM, seed=3),
    "position_bias": integers(1, LENGTH, seed=4),
    "u": integers(2, LENGTH, DIM, seed=5),
    "scale": np.array(2),
    "symmetric": np.array([[[1, 1], [1, -2]]]),
    "line": np.array([[[3]]]),
    "past": np.array([[-1], [1]]),
    "readout": integers(VOCAB, DIM, seed=6),
    "draws": integers(2, VOCAB, VOCAB, seed=7),
    "bias": integers(VOCAB, seed=8),
    "table": integers(VOCAB, VOCAB, seed=9),
}
MODELS = {
    "language": LanguageModel(VOCAB, LENGTH, DIM),
    "transformer": TransformerLM(VOCAB, LENGTH, DIM, 1, 1, barrier_weight=0.5, placement="own"),
    "emission": EmissionModel(VOCAB, LENGTH, DIM, num_particles=4),
    "latent": LatentAttention(DIM, LENGTH),
}


def as_kind(array, kind):
    if kind == "numpy":
        return np.asarray(array, float)
    if kind == "default":
        return jnp.asarray(array, float)
    with jax.enable_x64(kind == "float64" or jax.config.jax_enable_x64):
        return jnp.asarray(array, kind)


def in_kinds(arrays, name):
    """The arrays, each in one of the types in turn."""
    return {
        key: as_kind(array, kind)
        for (key, array), kind in zip(arrays.items(), itertools.cycle(KINDS[name]), strict=False)
    }


def same(found, expected):
    """Equal to the last bit, and of the default float where it is a float."""
    leaves, structure = jax.tree.flatten(found)
    others, other = jax.tree.flatten(expected)
    assert structure == other
    for leaf, wanted in zip(leaves, others, strict=True):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            assert jnp.result_type(leaf) == jnp.result_type(float)
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(wanted))


def capped(a, **others):
    names = ("query", "key", "value", "origin")
    bias = a["position_bias"]
    return Attention(*(a[name] for name in names), 0.9, position_bias=bias, **others)


def bigram(table, tokens):
    return table[jnp.zeros_like(tokens).at[1:].set(tokens[:-1])]


STEP = CachedStep(
    lambda table: table[0],
    lambda table, cache, previous, position: (
        cache,
        jnp.where(position == 0, cache, table[previous]),
    ),
)


def of_tokens(a):
    if jnp.issubdtype(a["table"].dtype, jnp.integer):  # logits are to be real
        a = a | {"table": jnp.asarray(a["table"], float)}
    process = SequenceProcess(bigram, a["table"], length=LENGTH, vocab_size=VOCAB, cached_step=STEP)
    mixture = ProcessMixture(process, a["draws"])
    return [
        (
            law.params,
            law.log_prob(TOKENS),
            law.next_token_log_probs(TOKENS),
            law.sample(KEY, (3,)),
            law.set_law().value,
            law.survival(2, method="monte_carlo", num_samples=4).value,
        )
        for law in (process, mixture, process.at(a["table"]))
    ]


def of_embeddings(a):
    attention, u, scale = capped(a), a["u"], a["scale"]
    free = Attention(*(a[name] for name in ("query", "key", "value")), mask="inclusive")
    names = ("attention_mean", "residuals", "jacobian_blocks", "log_det", "support_weights")
    return (
        [getattr(probattn, name)(one, u) for name in names for one in (attention, free)],
        [probattn.stability_margin(attention, u, kind) for kind in ("sigma_min", "spectral")],
        probattn.path_log_density(attention, u, scale),
        probattn.certified(Attention(a["query"], a["key"]), u),
        probattn.barrier_loss(free, u, 2.0, "bounded", scale=scale),
        probattn.matrix_inequality_slack(
            Attention.from_interaction(a["symmetric"], symmetric=True), u
        ),
    )


def of_noise(a):
    transform = AttentionTransform(capped(a))
    process = AttentionProcess(capped(a), a["scale"], LENGTH)
    negative = Attention.from_interaction(-(a["symmetric"] ** 2))
    return (
        transform(a["u"]),
        transform.inv(a["u"]),
        AttentionTransform(negative, "fixed_point")(a["u"]),
        process.sample(KEY, (2,)),
        process.log_prob(a["u"]),
    )


def of_roots(a):
    line = Attention.from_interaction(a["line"])
    plane = Attention(a["query"], a["key"])
    return (
        expected_roots(line, a["past"], a["scale"]),
        expected_roots(plane, a["u"][0], a["scale"], key=KEY, num_samples=2, num_starts=2),
    )


def of_emissions(a):
    emission = Emission(capped(a), a["scale"], a["readout"], a["bias"])
    process = EmissionProcess(emission, length=LENGTH, num_particles=4)
    return (
        process.params,
        process.filter(TOKENS, predict=True),
        process.sample(KEY, (2,)),
        process.at(emission).filter(TOKENS, predict=True),
        emission.log_prob(jnp.asarray(a["u"][0].T)),
    )


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("function", [of_embeddings, of_noise, of_roots, of_tokens, of_emissions])
def test_theory_computes_in_the_default_float(function, kinds):
    wanted = function({name: jnp.asarray(array, float) for name, array in ARRAYS.items()})
    same(function(in_kinds(ARRAYS, kinds)), wanted)


def of_model(model, params, data):
    """What every method of the model that takes parameters gives."""
    values = params | dict.fromkeys(("embeddings", "noise"), data["u"])
    sequences = data["u"] if isinstance(model, LatentAttention) else TOKENS
    about = ("log_likelihood", "outside_domain", "root_mean_square", "path_log_density", "path")
    found = [
        getattr(model, name)(params, sequences)
        for name in (*about, "next_token_logits")
        if hasattr(model, name)
    ]
    given = {name: values[name] for name in (*params, *getattr(model, "latents", ())[:1])}
    found.append(log_density(seed(model, KEY), (sequences,), {}, given)[0])
    found.append(seed(substitute(model, params), KEY)(num_sequences=2))
    if hasattr(model, "quantities"):
        found.append(model.quantities(values, sequences))
    if isinstance(model, LanguageModel):
        found.append(model.generate(params, 2, key=KEY))
        tree = prefix_tree(TOKENS, VOCAB)
        found.append(model.log_likelihood(params, tree))
        found.append(log_density(seed(model, KEY), (tree,), {}, params)[0])
    if hasattr(model, "emitted"):
        found.append(model.emitted(values, TOKENS))
    if hasattr(model, "noisy_log_likelihood"):
        found.append(model.noisy_log_likelihood(params, TOKENS, data["u"]))
    if hasattr(model, "logits_at"):
        u = jnp.asarray(data["u"])
        found.append((model.logits_at(params, u), model.attentions(params, u)))
    process = model.process(params)
    return [*found, process.params if hasattr(process, "params") else process.scale]


@pytest.mark.parametrize("name", MODELS)
def test_models_compute_in_the_default_float(name):
    model = MODELS[name]
    params = {
        key: integers(*prior.event_shape, seed=number, low=0 if key == "scale" else -1)
        + (key == "scale")
        for number, (key, prior) in enumerate(model.priors().items())
    }
    data = {"u": ARRAYS["u"]}
    wanted = of_model(model, *jax.tree.map(lambda array: jnp.asarray(array, float), (params, data)))
    for kinds in KINDS:
        if kinds not in ("integers", "double of JAX"):
            same(of_model(model, in_kinds(params, kinds), in_kinds(data, kinds)), wanted)


DIFFERENTIABLE = {
    "density": lambda a: AttentionProcess(capped(a), a["scale"], LENGTH).log_prob(a["u"]).sum(),
    "roots": lambda a: AttentionTransform(capped(a))(a["u"]).sum(),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_those_of_the_default_float_rounded_to_the_type_of_the_input(name):
    function = DIFFERENTIABLE[name]
    wanted = jax.grad(function)({key: jnp.asarray(array, float) for key, array in ARRAYS.items()})
    for kinds in ("half of two kinds", "single beside the default"):
        arrays = in_kinds(ARRAYS, kinds)
        for key, found in jax.grad(function)(arrays).items():
            assert found.dtype == arrays[key].dtype
            np.testing.assert_array_equal(found, wanted[key].astype(found.dtype))


@pytest.mark.parametrize("kinds", ["half", "single beside the default"])
def test_it_holds_under_jit_and_vmap(kinds):
    arrays = in_kinds(ARRAYS, kinds)
    wanted = AttentionProcess(capped(ARRAYS), 2.0, LENGTH).log_prob(ARRAYS["u"])
    found = jax.jit(
        lambda a: jax.vmap(AttentionProcess(capped(a), a["scale"], LENGTH).log_prob)(a["u"])
    )(arrays)
    assert found.dtype == jnp.result_type(float)
    np.testing.assert_allclose(found, wanted, rtol=32 * jnp.finfo(found.dtype).eps)


def test_arrays_of_an_attention_may_change_their_type_after_construction():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), capped(ARRAYS))
    u = jnp.asarray(ARRAYS["u"], jnp.float16)
    same(
        AttentionProcess(half, 2.0, LENGTH).sample(KEY),
        AttentionProcess(capped(ARRAYS), 2.0, LENGTH).sample(KEY),
    )
    same(probattn.log_det(half, u), probattn.log_det(capped(ARRAYS), ARRAYS["u"]))


def test_a_cache_that_changes_its_type_is_refused():
    step = CachedStep(
        lambda table: jnp.zeros(VOCAB, jnp.float16),
        lambda table, cache, previous, position: (table[0], table[0]),
    )
    with pytest.raises(InputError, match=r"start gave, float16\[3\], got float\d\d\[3\]"):
        SequenceProcess(
            lambda table, tokens: jnp.broadcast_to(table[0], (LENGTH, VOCAB)),
            jnp.zeros((VOCAB, VOCAB)),
            length=LENGTH,
            vocab_size=VOCAB,
            cached_step=step,
        )


def test_what_is_too_large_for_the_default_float_is_refused():
    if not jax.config.jax_enable_x64:
        with pytest.raises(InputError, match="finite numbers of float32"):
            as_float_array("x", np.array([1e300]))
