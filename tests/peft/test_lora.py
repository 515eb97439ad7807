"""LoRA and DoRA: the equations by numpy and torch, the laws, where they begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core import config
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import CNN, MLP
from jaxtl.peft import LoRA
from jaxtl.peft.lora import dora, lora

rng = np.random.default_rng(0)
PARAMS = {
    "embeddings": {"token": {"embedding": rng.normal(size=(9, 6)).astype("f4")}},
    "layer_0": {
        "conv": {
            "kernel": rng.normal(size=(3, 2, 4, 5)).astype("f4"),
            "bias": rng.normal(size=5).astype("f4"),
        },
        "dense": {"kernel": rng.normal(size=(6, 5)).astype("f4")},
        "norm": {"scale": np.ones(5, "f4")},
    },
    "head": {"kernel": rng.normal(size=(5, 3)).astype("f4")},
}
NETWORK = MLP(outputs=2).pure()
sizes = st.integers(1, 5)


def filled(delta, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype("f4"), delta)


def by_hand(weight, a, b, scale):
    """W + s · A · B in float64, one number at a time."""
    flat = np.asarray(weight, np.float64).reshape(-1, weight.shape[-1]).copy()
    for i in range(flat.shape[0]):
        for o in range(flat.shape[1]):
            for r in range(len(b)):
                flat[i, o] += scale * float(a[i, r]) * float(b[r, o])
    return flat.reshape(weight.shape)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_update_by_hand(rslora):
    method = LoRA(select="embeddings|layer_0", rank=3, alpha=5.0, rslora=rslora)
    delta = filled(method.init(jax.random.key(0), PARAMS))
    merged = method.merge(PARAMS, delta, {})
    scale = 5.0 / (3**0.5 if rslora else 3)
    for path in ("embeddings/token/embedding", "layer_0/conv/kernel"):
        stage, module, leaf = path.split("/")
        own, weight = delta[stage][module][leaf], PARAMS[stage][module][leaf]
        expected = by_hand(weight, own["a"], own["b"], scale)
        np.testing.assert_allclose(merged[stage][module][leaf], expected, atol=1e-5)


def test_a_convolution_by_a_low_rank_kernel_is_two_convolutions():
    # The first with `rank` outputs, the second 1×1: as peft computes it.
    x = rng.normal(size=(2, 7, 7, 4)).astype("f4")
    a, b = rng.normal(size=(3 * 3 * 4, 2)), rng.normal(size=(2, 5))
    a, b = a.astype("f4"), b.astype("f4")

    def conv(x, kernel):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=dims
        )

    whole = conv(x, lora(jnp.zeros((3, 3, 4, 5)), a, b, 0.5))
    parts = 0.5 * conv(conv(x, a.reshape(3, 3, 4, 2)), b.reshape(1, 1, 2, 5))
    np.testing.assert_allclose(whole, parts, atol=1e-4)


@given(rows=sizes, columns=sizes, rank=sizes, seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_the_update_has_no_more_than_its_rank_and_is_linear_in_the_base(
    rows, columns, rank, seed
):
    rng = np.random.default_rng(seed)
    w, v = rng.normal(size=(2, rows, columns))
    a, b = rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))
    update = np.asarray(lora(np.zeros_like(w), a, b, 0.7), np.float64)
    values = np.linalg.svd(update, compute_uv=False)
    assert (values[rank:] <= 1e-5 * max(1.0, values[0])).all()
    both = lora(w + v, a, b, 0.7)
    np.testing.assert_allclose(both, lora(w, a, b, 0.7) + v, atol=1e-5)
    np.testing.assert_allclose(
        lora(2 * w, 2 * a, b, 0.7), 2 * lora(w, a, b, 0.7), atol=1e-5
    )


def test_dora_by_torch_with_its_gradients():
    torch = pytest.importorskip("torch")
    w, a, b = (rng.normal(size=s).astype("f4") for s in ((6, 4), (6, 2), (2, 4)))
    m, g = rng.normal(size=4).astype("f4"), rng.normal(size=(6, 4)).astype("f4")

    def loss(w, a, b, m):
        return (dora(lora(w, a, b, 0.5), m) * g).sum()

    grads = jax.grad(loss, argnums=(1, 2, 3))(w, a, b, m)
    tw, ta, tb, tm = (torch.tensor(x, requires_grad=True) for x in (w, a, b, m))
    v = tw + 0.5 * ta @ tb
    merged = tm * v / torch.linalg.vector_norm(v, dim=0).detach()
    (merged * torch.tensor(g)).sum().backward()
    ours = dora(lora(w, a, b, 0.5), m)
    np.testing.assert_allclose(ours, merged.detach(), atol=1e-5)
    for got, x in zip(grads, (ta, tb, tm)):
        np.testing.assert_allclose(got, x.grad, atol=1e-5)


def test_dora_gives_outputs_their_magnitude():
    method = LoRA(select=".*", rank=2, dora=True)
    delta = filled(method.init(jax.random.key(0), PARAMS))
    merged = trees.flatten(method.merge(PARAMS, delta, {}))
    for path in method.targets(PARAMS):
        kernel = np.asarray(merged[path], np.float64)
        norm = np.sqrt((kernel.reshape(-1, kernel.shape[-1]) ** 2).sum(0))
        own = trees.flatten(delta)[f"{path}/magnitude"]
        np.testing.assert_allclose(norm, np.abs(own), rtol=1e-5)


def test_it_begins_at_the_base_bit_for_bit():
    method = LoRA(select=".*", rank=2)
    delta = method.init(jax.random.key(0), PARAMS)
    merged = jax.jit(method.merge)(PARAMS, delta, {})
    for path, x in trees.flatten(PARAMS).items():
        np.testing.assert_array_equal(trees.flatten(merged)[path], x)
    # DoRA divides a norm by itself, computed twice.
    method = LoRA(select=".*", rank=2, dora=True)
    merged = jax.jit(method.merge)(PARAMS, method.init(jax.random.key(0), PARAMS), {})
    for path, x in trees.flatten(PARAMS).items():
        np.testing.assert_allclose(trees.flatten(merged)[path], x, rtol=1e-6)


def test_an_output_without_weights_stays_without_and_finite():
    params = {"head": {"kernel": np.zeros((4, 3), "f4")}}
    method = LoRA(select="head", rank=2, dora=True)
    delta = method.init(jax.random.key(0), params)
    assert not np.any(method.merge(params, delta, {})["head"]["kernel"])


def test_initial_values():
    method = LoRA(select=".*", rank=2)
    params = {
        "head": {"kernel": np.zeros((400, 3), "f4")},
        "stem": {"embedding": np.zeros((5, 900), "f4")},
    }
    delta = method.init(jax.random.key(0), params)
    a = np.asarray(delta["head"]["kernel"]["a"])
    # Uniform within ±1/√inputs: peft's Kaiming with a = √5.
    assert 0.045 < np.abs(a).max() <= 0.05
    np.testing.assert_allclose(a.std(), 0.05 / 3**0.5, rtol=0.1)
    table = delta["stem"]["embedding"]
    assert not np.any(table["a"])
    np.testing.assert_allclose(np.asarray(table["b"]).std(), 1.0, rtol=0.1)


def test_other_leaves_stay_the_same_objects():
    method = LoRA(select="layer_0", rank=2)
    merged = method.merge(PARAMS, method.init(jax.random.key(0), PARAMS), {})
    mask = trees.flatten(method.adapted_mask(PARAMS))
    assert [p for p, m in mask.items() if m] == [
        "layer_0/conv/kernel",
        "layer_0/dense/kernel",
    ]
    for path, x in trees.flatten(PARAMS).items():
        assert (trees.flatten(merged)[path] is x) != mask[path]
    assert method.deployable
    assert method.network(NETWORK) is NETWORK


def test_half_precision_bases_get_single_precision_factors():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    method = LoRA(select="head", rank=2)
    delta = method.init(jax.random.key(0), params)
    assert {x.dtype for x in jax.tree.leaves(delta)} == {jnp.dtype("float32")}
    merged = method.merge(params, delta, {})
    assert merged["head"]["kernel"].dtype == jnp.bfloat16


def test_alpha_is_traced_and_the_merge_differentiable_in_the_base():
    assert config.hyperparameters(LoRA()) == {"alpha": 16.0}
    method = LoRA(select="head", rank=2)
    delta = filled(method.init(jax.random.key(0), PARAMS))

    def total(alpha, base):
        filled = config.with_hyperparameters(
            config.without_hyperparameters(method), {"alpha": alpha}
        )
        return filled.merge(base, delta, {})["head"]["kernel"].sum()

    by_alpha, by_base = jax.jit(jax.grad(total, argnums=(0, 1)))(2.0, PARAMS)
    own = delta["head"]["kernel"]
    expected = np.sum(np.asarray(own["a"]) @ np.asarray(own["b"])) / 2
    np.testing.assert_allclose(by_alpha, expected, rtol=1e-4)
    assert (by_base["head"]["kernel"] == 1).all()


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (LoRA(select="haed"), r"matches no parameter; did you mean 'head'"),
        (LoRA(select=".*/(bias|scale)"), r"adapts kernels and embedding tables, and"),
        (LoRA(select="head", rank=4), r"'head/kernel' is a matrix of 5×3, so a rank"),
        (LoRA(select="head", rank=0), r"peft.rank=0: expected 1 or more"),
    ],
)
def test_errors(method, says):
    with pytest.raises(UserError, match=says):
        method.check(NETWORK, PARAMS)


def test_the_usual_selection_is_a_transformers():
    params = CNN(outputs=2).pure().init(jax.random.key(0), np.zeros((1, 8, 8, 3)))[0]
    with pytest.raises(UserError, match=r"peft.select.*matches no parameter"):
        LoRA().check(NETWORK, params)
