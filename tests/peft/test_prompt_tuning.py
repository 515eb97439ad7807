"""Prompts and prefixes: by numpy, by transformers, with caches, from any stage."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import GPT2, MLP, Albert, Bert, Llama, ViT, generation
from jaxtl.models.layers import attention
from jaxtl.peft import PrefixTuning, PromptTuning
from jaxtl.pretrained import convert

rng = np.random.default_rng(0)
SMALL = {"vocab": 29, "width": 16, "layers": 2, "heads": 4, "context": 16}
LENGTH = 6
TEXT = {
    "input_ids": rng.integers(1, 29, (3, LENGTH)).astype(np.int32),
    "attention_mask": np.arange(LENGTH) < np.array([[LENGTH], [3], [5]]),
}
IMAGES = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
MODELS = {
    "bert": (Bert(outputs=3, hidden=20, **SMALL), TEXT),
    # Its layers share their weights; the second has none of its own.
    "albert": (Albert(outputs=3, hidden=20, token_width=8, **SMALL), TEXT),
    "gpt2": (GPT2(**SMALL), TEXT),
    "llama": (Llama(hidden=20, kv_heads=2, **SMALL), TEXT),
    "vit": (
        ViT(outputs=3, size=8, patch=4, width=16, layers=2, heads=4, hidden=20),
        IMAGES,
    ),
}
METHODS = {"prompt": PromptTuning(length=3), "prefix": PrefixTuning(length=3)}


def filled(tree, scale=0.5, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(x) + scale * rng.normal(size=x.shape).astype("f4"), tree
    )


def prepared(name, method):
    """Returns (wrapped network, base, merged, statistics, inputs, δ)."""
    model, x = MODELS[name]
    network = model.pure()
    params, stats = network.init(jax.random.key(0), x)
    params = filled(params, 0.1)
    method.check(network, params)
    delta = filled(method.init(jax.random.key(1), params))
    merged = method.merge(params, delta, method.constants(params))
    return method.network(network), params, merged, stats, x, delta


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_shapes_stay_and_runs_from_any_stage_go_on(name, method):
    wrapped, params, merged, stats, x, _ = prepared(name, METHODS[method])
    plain = MODELS[name][0].pure()
    full = wrapped.apply(merged, stats, x)
    before = plain.apply(params, stats, x)
    assert full.logits.shape == before.logits.shape
    assert np.abs(full.logits - before.logits).max() > 1e-3
    same = trees.flatten(merged)
    assert all(same[p] is leaf for p, leaf in trees.flatten(params).items())
    assert not any(jax.tree.leaves(METHODS[method].adapted_mask(params)))
    assert tuple(full.features) == wrapped.stages
    added = 3 if method == "prompt" else 0
    assert full.features["layer_0"].states.shape[1] == (
        before.features["layer_0"].states.shape[1] + added
    )
    last = before.features["layer_1"]
    assert full.features["layer_1"].states.shape == last.states.shape
    np.testing.assert_array_equal(full.features["layer_1"].mask, last.mask)
    for i, stage in enumerate(wrapped.stages[:-1]):
        half = wrapped.apply(merged, stats, x, stop=stage).logits
        rest = wrapped.apply(merged, stats, half, start=wrapped.stages[i + 1])
        np.testing.assert_array_equal(rest.logits, full.logits)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_padding_is_not_seen(name, method):
    wrapped, _, merged, stats, x, _ = prepared(name, METHODS[method])
    mask = x["attention_mask"]
    other = {**x, "input_ids": np.where(mask, x["input_ids"], 7)}
    a, b = (np.asarray(wrapped.apply(merged, stats, v).logits) for v in (x, other))
    if a.ndim == 3:
        a, b = a[mask], b[mask]
    np.testing.assert_array_equal(a, b)
    short = jax.tree.map(lambda v: v[1:2, :3], x)
    c = np.asarray(wrapped.apply(merged, stats, short).logits[0])
    full = np.asarray(wrapped.apply(merged, stats, x).logits[1])
    np.testing.assert_allclose(c, full[:3] if full.ndim == 2 else full, atol=1e-4)


def attention_by_hand(p, x, mask, heads, kv_heads, causal):
    """Attention behind a prefix in float64, query by query and head by head."""
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), p)
    size = x.shape[-1] // heads
    q, k, v = (
        x @ p[name]["kernel"] + p[name]["bias"] for name in ("query", "key", "value")
    )
    out = np.zeros((*x.shape[:2], heads * size))
    for text in range(len(x)):
        for head in range(heads):
            own = head // (heads // kv_heads)
            where, place = slice(own * size, own * size + size), head * size
            for i in range(x.shape[1]):
                seen = [j for j in range(x.shape[1]) if mask[text, j]]
                seen = [j for j in seen if not causal or j <= i]
                keys = [*p["prefix_key"][:, where], *k[text, seen][:, where]]
                values = [*p["prefix_value"][:, where], *v[text, seen][:, where]]
                scores = np.stack(keys) @ q[text, i, place : place + size]
                e = np.exp(scores / size**0.5 - max(scores) / size**0.5)
                got = (e / e.sum()) @ np.stack(values)
                out[text, i, place : place + size] = got
    return out @ p["out"]["kernel"] + p["out"]["bias"]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_prefix_is_seen_by_every_query(causal, kv_heads):
    module = attention.Attention(4, kv_heads, causal=causal)
    x, mask = rng.normal(size=(3, LENGTH, 8)).astype("f4"), TEXT["attention_mask"]
    params = filled(module.init(jax.random.key(0), x, mask)["params"])
    width = params["key"]["kernel"].shape[1]
    prefix = {
        name: rng.normal(size=(2, width)).astype("f4")
        for name in ("prefix_key", "prefix_value")
    }
    params = {**params, **prefix}
    got, _ = module.apply({"params": params}, x, mask)
    expected = attention_by_hand(params, x, mask, 4, kv_heads, causal)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.fixture(scope="module")
def gpt2():
    """(transformers' GPT-2, our parameters of it)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=29,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    network = transformers.GPT2LMHeadModel(config).eval()
    tensors = {k: v.detach().numpy() for k, v in network.state_dict().items()}
    tensors.pop("lm_head.weight")
    weights = convert.to_weights(tensors, MODELS["gpt2"][0].layouts()["hf"])
    return network, jax.tree.map(np.asarray, weights.params)


def _theirs(torch, added):
    mask = torch.tensor(TEXT["attention_mask"]).long()
    longer = torch.cat([torch.ones(3, added, dtype=torch.long), mask], 1)
    where = torch.arange(LENGTH)[None].expand(3, -1)
    return torch.tensor(TEXT["input_ids"]).long(), longer, where


def test_prefixes_are_past_keys_and_values_of_transformers(gpt2):
    torch, transformers = (pytest.importorskip(n) for n in ("torch", "transformers"))
    network, params = gpt2
    method = PrefixTuning(length=3)
    delta = filled(method.init(jax.random.key(1), params))
    cache = transformers.DynamicCache()
    for i in range(2):
        own = delta[f"layer_{i}"]["attention"]
        pair = (
            torch.tensor(own[n]).reshape(3, 4, 4).transpose(0, 1).expand(3, 4, 3, 4)
            for n in ("prefix_key", "prefix_value")
        )
        cache.update(*pair, i)
    ids, mask, where = _theirs(torch, 3)
    with torch.no_grad():
        theirs = network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=where,
            past_key_values=cache,
        ).logits.numpy()
    merged = method.merge(params, delta, {})
    ours = np.asarray(MODELS["gpt2"][0].pure().apply(merged, {}, TEXT).logits)
    real = TEXT["attention_mask"]
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4)


def test_prompts_are_embedded_tokens_of_transformers(gpt2):
    torch = pytest.importorskip("torch")
    network, params = gpt2
    method = PromptTuning(length=3)
    delta = filled(method.init(jax.random.key(1), params))
    ids, mask, where = _theirs(torch, 3)
    where = torch.cat([torch.arange(3)[None].expand(3, -1), where], 1)
    with torch.no_grad():
        positions = network.transformer.wpe.weight
        # Ours are put in behind the positions, which transformers adds to all.
        prompt = torch.tensor(delta["embeddings"]["prompt"]) - positions[:3]
        tokens = network.transformer.wte(ids)
        inputs = torch.cat([prompt[None].expand(3, -1, -1), tokens], 1)
        theirs = network(
            inputs_embeds=inputs, attention_mask=mask, position_ids=where
        ).logits.numpy()[:, 3:]
    wrapped = method.network(MODELS["gpt2"][0].pure())
    ours = np.asarray(wrapped.apply(method.merge(params, delta, {}), {}, TEXT).logits)
    real = TEXT["attention_mask"]
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_generation_with_a_cache_reads_the_prefix(name):
    model, method = MODELS[name][0], METHODS["prefix"]
    network, params, _, _, _, delta = prepared(name, method)
    merged = method.merge(params, jax.tree.map(lambda x: 9 * x, delta), {})
    prompts = {"input_ids": TEXT["input_ids"]}
    got = np.asarray(generation.generate(model, merged, prompts, 4))
    ids = np.concatenate([TEXT["input_ids"], got], 1)
    for tree, reads in ((merged, True), (params, False)):
        logits = network.apply(tree, {}, {"input_ids": ids}).logits
        likely = np.asarray(logits.argmax(-1))[:, LENGTH - 1 : -1]
        assert (likely == got).all() == reads


def test_rematerialised_and_half_precision_networks_read_the_prefix():
    model, x = MODELS["gpt2"]
    method = METHODS["prefix"]
    _, _, merged, stats, _, _ = prepared("gpt2", method)
    exact = model.pure().apply(merged, stats, x).logits
    again = model.clone(remat=True).pure().apply(merged, stats, x).logits
    np.testing.assert_allclose(again, exact, atol=1e-5)
    half = model.clone(dtype="bfloat16").pure().apply(merged, stats, x)
    assert half.features["layer_0"].states.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.logits, exact, atol=0.1)


def test_select_takes_some_layers():
    *_, delta = prepared("bert", PrefixTuning(select="layer_1"))
    assert set(delta) == {"layer_1"}
    _, _, merged, stats, x, delta = prepared("bert", PromptTuning(select="layer_0"))
    assert set(delta) == {"layer_0"}
    wrapped = PromptTuning().network(MODELS["bert"][0].pure())
    out = wrapped.apply(merged, stats, x)
    assert out.features["embeddings"].states.shape[1] == LENGTH
    assert out.features["layer_0"].states.shape[1] == LENGTH + 10
    assert out.features["layer_1"].states.shape[1] == LENGTH


def test_errors():
    model, x = MODELS["bert"]
    network = model.pure()
    params = jax.eval_shape(network.init, jax.random.key(0), x)[0]
    other = MLP(outputs=3).pure()
    vectors = jax.eval_shape(other.init, jax.random.key(0), IMAGES)[0]
    for method in METHODS.values():
        short = dataclasses.replace(method, length=0)
        with pytest.raises(UserError, match=r"peft.length=0"):
            short.check(network, params)
    with pytest.raises(UserError, match=r"a transformer's layers .*has none"):
        PromptTuning().check(other, vectors)
    with pytest.raises(UserError, match=r"PrefixTuning gives keys .* layer1"):
        PrefixTuning().check(other, vectors)
    with pytest.raises(UserError, match=r"matches none; did you mean 'embeddings'"):
        PromptTuning(select="embedings").check(network, params)
    with pytest.raises(UserError, match=r"matches \['embeddings', 'layer_0'\]"):
        PromptTuning(select=".*").check(network, params)
