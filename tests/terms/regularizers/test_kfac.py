"""Kronecker factors against products written out and Fisher matrices by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.analysis import importance
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import CNN, MLP, Bert, Llama, foreign
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import EWC, KFAC, importance_file
from jaxtl.terms.regularizers import kfac as K


def _softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _close(ours, theirs, tolerance=1e-5):
    scale = max(1e-3, float(np.abs(theirs).max()))
    np.testing.assert_allclose(ours, theirs, atol=tolerance * scale)


def test_the_penalty_is_that_of_the_product_written_out():
    rng = np.random.default_rng(0)
    change = rng.normal(size=(4, 3))
    a, g = (m @ m.T for m in (rng.normal(size=(4, 5)), rng.normal(size=(3, 5))))
    flat = change.reshape(-1)  # rows one after the other: (in, out)
    expected = 0.5 * flat @ np.kron(a, g) @ flat
    _close(K.kfac(*(m.astype(np.float32) for m in (change, a, g))), expected)


def _network(task, batch, widths=(), seed=0):
    rng = np.random.default_rng(seed)
    network = MLP(outputs=3, widths=widths, activation="tanh").pure()
    x = rng.normal(size=(batch, 4)).astype(np.float32)
    params, stats = network.init(jax.random.key(0), x)
    params = jax.tree.map(
        lambda p: np.float32(rng.normal(size=p.shape)) / np.float32(2), params
    )
    found = K.kronecker_factors(network, params, stats, x, task=task)
    return x.astype(np.float64), params, {k: np.asarray(v) for k, v in found.items()}


def _fisher(z, task):
    """Returns the Fisher matrix of one example by its outputs before the loss."""
    if task == "classification":
        p = _softmax(z)
        return np.diag(p) - np.outer(p, p)
    if task == "multilabel":
        p = 1 / (1 + np.exp(-z))
        return np.diag(p * (1 - p))
    return np.eye(len(z))


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_one_example_of_a_linear_model_is_exact(task):
    x, params, found = _network(task, batch=1)
    head = params["head"]["dense"]
    z = (x @ head["kernel"] + head["bias"])[0]
    rows = np.append(x[0], 1.0)
    # By hand: ∂z_o/∂W_io = x_i, so F = J F_z Jᵀ over (i, o), and b as one more row.
    jacobian = np.einsum("i,op->iop", rows, np.eye(3)).reshape(-1, 3)
    expected = jacobian @ _fisher(z, task) @ jacobian.T
    _close(np.kron(found["head/dense/A"], found["head/dense/G"]), expected)


def test_a_linear_model_of_squared_error_is_exact_for_many_examples():
    x, _, found = _network("regression", batch=6)
    rows = np.concatenate([x, np.ones((6, 1))], 1)
    expected = np.mean([np.kron(np.outer(r, r), np.eye(3)) for r in rows], 0)
    _close(np.kron(found["head/dense/A"], found["head/dense/G"]), expected)


def test_hidden_layers_by_hand():
    # Two layers, tanh between them; means of both factors over the examples.
    x, params, found = _network("classification", batch=5, widths=(6,))
    first, head = params["layer1"]["dense"], params["head"]["dense"]
    a = {"layer1": [], "head": []}
    g = {"layer1": [], "head": []}
    for row in x:
        h = np.tanh(row @ first["kernel"] + first["bias"])
        f = _fisher(h @ head["kernel"] + head["bias"], "classification")
        slope = (1 - h**2)[:, None] * np.float64(head["kernel"])  # ∂z by the layer
        for name, inner, outer in (
            ("layer1", row, slope @ f @ slope.T), ("head", h, f)
        ):  # fmt: skip
            a[name].append(np.outer(np.append(inner, 1), np.append(inner, 1)))
            g[name].append(outer)
    for name in a:
        _close(found[f"{name}/dense/A"], np.mean(a[name], 0))
        _close(found[f"{name}/dense/G"], np.mean(g[name], 0))


def test_it_is_half_the_curvature_of_the_divergence():
    # KL(p₀ ‖ p) = ½ ΔᵀFΔ + O(Δ³): one example of a linear softmax model.
    x, params, found = _network("classification", batch=1)
    head = params["head"]["dense"]
    kernel, bias = np.float64(head["kernel"]), np.float64(head["bias"])
    change = 1e-3 * np.random.default_rng(5).normal(size=(5, 3))
    p0 = _softmax(x[0] @ kernel + bias)
    p = _softmax(x[0] @ (kernel + change[:4]) + bias + change[4])
    divergence = np.sum(p0 * np.log(p0 / p))
    penalty = K.kfac(change, found["head/dense/A"], found["head/dense/G"])
    np.testing.assert_allclose(penalty, divergence, rtol=5e-3)


def _by_jacobians(network, params, x, path, f_of):
    """Returns (A, G) of one text and layer by its nudges' Jacobian, in numpy."""
    out, inputs = network.taps(params, {}, x, {})
    a = np.asarray(inputs[path], np.float64)[0]
    width = trees.flatten(params)[f"{path}/kernel"].shape[1]

    zero = jnp.zeros((1, len(a), width))
    jacobian = jax.jacrev(
        lambda n: network.taps(params, {}, x, {path: n})[0].logits[0]
    )(zero)[:, 0]
    jacobian = np.asarray(jacobian, np.float64)  # (outputs, places, width)
    reached = np.abs(jacobian).sum((0, 2)) > 0
    f = f_of(np.asarray(out.logits, np.float64)[0])
    rows = np.concatenate([a, np.ones((len(a), 1))], 1)[reached]
    g = sum(jacobian[:, t].T @ f @ jacobian[:, t] for t in range(len(a)))
    return rows.T @ rows / len(rows), g, reached


def test_places_without_a_gradient_count_nothing():
    network = Bert(
        outputs=3, vocab=13, width=4, layers=1, heads=2, context=6, hidden=5
    ).pure()
    ids = np.random.default_rng(0).integers(0, 13, (1, 4))
    x = {"input_ids": ids, "attention_mask": np.array([[1, 1, 1, 0]])}
    params, _ = network.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.5 * jnp.cos(jnp.arange(p.size) * 1.0)
                          .reshape(p.shape), params)  # fmt: skip
    found = jax.jit(lambda p: K.kronecker_factors(network, p, {}, x))(params)
    # Keys of the three real tokens are read; behind them the pooler reads the first.
    for path, places in (("layer_0/attention/key", 3), ("layer_0/mlp/in", 1)):
        a, g, reached = _by_jacobians(
            network, params, x, path, lambda z: _fisher(z, "classification")
        )
        assert reached.sum() == places
        _close(found[f"{path}/A"], a, 1e-4)
        _close(found[f"{path}/G"], g, 1e-4)
    other = {**x, "input_ids": np.where(x["attention_mask"] == 1, ids, 7)}
    again = jax.jit(lambda p: K.kronecker_factors(network, p, {}, other))(params)
    for name in found:
        _close(again[name], np.asarray(found[name]), 1e-4)


def test_language_models_draw_their_tokens():
    network = Llama(
        vocab=11, width=8, layers=1, heads=2, hidden=8, context=8, tied=False
    ).pure()
    ids = np.random.default_rng(0).integers(0, 11, (1, 4))
    x = {"input_ids": ids, "attention_mask": np.array([[1, 1, 1, 0]])}
    params, _ = network.init(jax.random.key(0), x)

    def one(key):
        return K.kronecker_factors(network, params, {}, x, task="language", key=key)

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 600))
    g = np.asarray(found["head/dense/G"]).mean(0)
    # Two of the four places predict a real token from a real one.
    logits = np.asarray(network.apply(params, {}, x).logits, np.float64)[0]
    expected = sum(_fisher(z, "classification") for z in logits[:2])
    _close(g, expected, 0.15)
    states = network.taps(params, {}, x, {})[1]["head/dense"][0, :2]
    states = np.asarray(states, np.float64)
    _close(np.asarray(found["head/dense/A"][0]), states.T @ states / 2)


# --- as stored importance, and the term -----------------------------------------------


def _stored(room, path, kind="kfac", task="classification"):
    arrays = importance.KINDS[kind](
        room.network, room.source.params, room.stats,
        [room.batches["target"]], task=task, key=jax.random.key(0),
    )  # fmt: skip
    digests = importance_file.digests(room.source.params)
    importance_file.write(
        path, importance_file.Importance(kind, arrays, digests, 6, "train")
    )
    return arrays


def _value(term, room):
    term.check(room.setup)
    given = term.constants(room.setup)

    def value(params):
        return term(View(room.context(params, constants=given), "term", 0))

    return jax.jit(jax.value_and_grad(value))


def test_leaves_without_factors_have_the_diagonal():
    network = CNN(outputs=3, widths=(3,), units=4, norm=True, pool=1).pure()
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
    params, stats = network.init(jax.random.key(0), x)
    batches = [{"x": x[:3], "y": np.zeros(3, int)}, {"x": x[3:], "y": np.zeros(2, int)}]
    kinds = {
        kind: importance.KINDS[kind](
            network, params, stats, batches, task="classification",
            key=jax.random.key(0),
        )
        for kind in ("kfac", "fisher")
    }  # fmt: skip
    names = {f"{layer}/dense/{f}" for layer in ("hidden", "head") for f in "AG"}
    conv = {p for p in trees.flatten(params) if p.startswith("block1/")}
    assert set(kinds["kfac"]) == names | conv
    for path in conv:
        _close(kinds["kfac"][path], kinds["fisher"][path])


def test_the_term_is_the_product_of_what_is_stored(bench, tmp_path):
    room = bench()
    arrays = _stored(room, tmp_path / "importance" / "kfac.safetensors")
    term = KFAC(importance=str(tmp_path))
    assert "factors of 2 dense layers and the diagonal of 0" in term.describe(
        room.setup
    )
    value, grad = _value(term, room)(room.params)
    expected = 0.0
    for layer in ("layer1", "head"):
        ours, start = (t[layer]["dense"] for t in (room.params, room.source.params))
        gap = {k: np.float64(ours[k]) - np.float64(start[k]) for k in ours}
        change = np.concatenate([gap["kernel"], gap["bias"][None]])
        a, g = (np.float64(arrays[f"{layer}/dense/{n}"]) for n in "AG")
        expected += 0.5 * change.reshape(-1) @ np.kron(a, g) @ change.reshape(-1)
        slope = a @ change @ g
        _close(grad[layer]["dense"]["kernel"], slope[:-1])
        _close(grad[layer]["dense"]["bias"], slope[-1])
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    value, grad = _value(term, room)(room.source.params)
    assert value == 0.0
    assert all(not np.any(g) for g in jax.tree.leaves(grad))


def test_parts_of_a_layer_that_do_not_count_stand_still(bench, tmp_path):
    room = bench(new_head=True)
    arrays = _stored_from_whole(room, tmp_path / "k.safetensors")
    term = KFAC(
        importance=str(tmp_path / "k.safetensors"), select="layer1/dense/kernel"
    )
    value, grad = _value(term, room)(room.params)
    ours, start = (t["layer1"]["dense"]["kernel"] for t in (room.params,
                   room.source.params))  # fmt: skip
    change = (np.float64(ours) - np.float64(start)).reshape(-1)
    a, g = (np.float64(arrays[f"layer1/dense/{n}"]) for n in "AG")
    expected = 0.5 * change @ np.kron(a[:-1, :-1], g) @ change
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert not np.any(grad["layer1"]["dense"]["bias"])
    assert not np.any(jax.tree.leaves(grad["head"])[0])


def _stored_from_whole(room, path):
    """Stores importance of the source with its own head, which the room has not."""
    head = room.network.stages[-1]
    whole = {**room.source.params, head: room.source.head}
    source = dataclasses.replace(room.source, params=whole)
    kept, room.source = room.source, source
    arrays = _stored(room, path)
    room.source = kept
    return arrays


def test_with_a_single_example_its_diagonal_is_the_diagonal_fisher_s(bench, tmp_path):
    room = bench(batch=1)
    whole = _stored(room, tmp_path / "kfac.safetensors")
    diagonal = _stored(room, tmp_path / "fisher.safetensors", "fisher")
    for layer in ("layer1/dense", "head/dense"):
        found = np.outer(np.diag(whole[f"{layer}/A"]), np.diag(whole[f"{layer}/G"]))
        _close(found[:-1], diagonal[f"{layer}/kernel"])
        _close(found[-1], diagonal[f"{layer}/bias"])
    # A change of one parameter alone costs the same in both terms.
    params = trees.copy(room.source.params)
    kernel = params["layer1"]["dense"]["kernel"]
    params["layer1"]["dense"]["kernel"] = kernel.at[1, 2].add(0.3)
    values = [
        _value(cls(importance=str(tmp_path / f"{kind}.safetensors")), room)(params)[0]
        for cls, kind in ((KFAC, "kfac"), (EWC, "fisher"))
    ]
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_errors(bench, tmp_path):
    room = bench()
    with pytest.raises(UserError, match=r"no file.*jaxtl importance .* --kind kfac"):
        KFAC(importance=str(tmp_path)).check(room.setup)
    with pytest.raises(UserError, match="from scratch"):
        KFAC(importance=str(tmp_path)).check(bench(scratch=True).setup)
    path = tmp_path / "fisher.safetensors"
    _stored(room, path, "fisher")
    with pytest.raises(UserError, match=r"kind 'fisher', expected 'kfac'"):
        KFAC(importance=str(path)).check(room.setup)
    path = tmp_path / "kfac.safetensors"
    arrays = dict(_stored(room, path))
    with pytest.raises(UserError, match=r"kind 'kfac', expected 'fisher'"):
        EWC(importance=str(path)).check(room.setup)
    arrays["head/dense/G"] = arrays["head/dense/G"][:2]
    digests = importance_file.digests(room.source.params)
    path.unlink()
    importance_file.write(
        path, importance_file.Importance("kfac", arrays, digests, 6, "train")
    )
    with pytest.raises(
        UserError, match=r"'head/dense/G' has the shape .2, 3.*\(3, 3\)"
    ):
        KFAC(importance=str(path)).constants(room.setup)
    moved = dataclasses.replace(room.source, params=room.params)
    room.source = moved
    with pytest.raises(UserError, match="from another model"):
        KFAC(importance=str(path)).check(room.setup)
    plain = foreign(lambda k, x: {}, lambda p, x: x)
    with pytest.raises(UserError, match="--kind kfac is about dense layers"):
        importance.KINDS["kfac"](plain, {}, {}, [], task="regression", key=None)
