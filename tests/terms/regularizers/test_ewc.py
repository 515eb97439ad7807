"""EWC and MAS: the equation, what a stored importance must be, and every refusal."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.pretrained import tensor_files
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import EWC, L2SP, MAS, importance_file
from jaxtl.terms.regularizers.ewc import ewc


def _ones(params):
    return {path: np.ones(leaf.shape, np.float32) for path, leaf in params.items()}


def _some(params):
    rng = np.random.default_rng(5)
    return {p: rng.random(leaf.shape).astype(np.float32) for p, leaf in params.items()}


@pytest.fixture
def store(tmp_path, bench):
    """Returns a function: stores importance of the bench's θ₀; returns its path."""
    source = bench().source.params
    flat = trees.flatten(source)

    def made(arrays=_some, kind="fisher", name=None, **changes):
        arrays = arrays(flat) if callable(arrays) else arrays
        found = importance_file.Importance(
            kind, arrays, importance_file.digests(source), 6, "train"
        )
        path = tmp_path / (name or f"{kind}.safetensors")
        importance_file.write(path, dataclasses.replace(found, **changes))
        return str(path)

    return made


def _value(term, room, params=None):
    context = room.context(params, constants=term.constants(room.setup))
    found = term(View(context, "term", 0))
    return found[0] if isinstance(found, tuple) else found


def test_the_equation():
    a, b, weights = np.random.default_rng(0).random((3, 4, 2))
    expected = 0.0
    for i in np.ndindex(4, 2):
        expected += 0.5 * weights[i] * (a[i] - b[i]) ** 2
    found = ewc(jnp.asarray(a), jnp.asarray(b), jnp.asarray(weights))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("cls", "kind"), [(EWC, "fisher"), (MAS, "mas")])
@pytest.mark.parametrize("normalize", [False, True])
def test_importance_of_ones_is_l2sp(bench, store, cls, kind, normalize):
    room, strengths = bench(), {"head": 0.5}
    path = store(lambda p: {k: 2.0 * x for k, x in _ones(p).items()}, kind)
    if not normalize:
        path = store(_ones, kind)
    term = cls(importance=path, normalize=normalize, strengths=strengths)
    term.check(room.setup)
    ours = jax.value_and_grad(lambda p: _value(term, room, p))(room.params)
    plain = L2SP(strengths=strengths)
    theirs = jax.value_and_grad(lambda p: _value(plain, room, p))(room.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_normalized_importance_has_mean_1_over_what_counts(bench, store):
    room, path = bench(), store()
    flat = {
        k: np.asarray(v, np.float64) for k, v in tensor_files.read(path).tensors.items()
    }
    term = EWC(importance=path, normalize=True, select=".*/kernel")
    given = term.constants(room.setup)
    assert sorted(given) == ["head/dense/kernel", "layer1/dense/kernel"]
    mean = np.concatenate([flat[k].ravel() for k in given]).mean()
    for name, found in given.items():
        np.testing.assert_allclose(found, flat[name] / mean, rtol=1e-6)


def test_a_new_head_is_nobodys_and_costs_nothing(bench, store):
    room = bench(new_head=True)
    term = EWC(importance=store())
    term.check(room.setup)
    assert sorted(term.constants(room.setup)) == [
        "layer1/dense/bias",
        "layer1/dense/kernel",
    ]
    grad = jax.grad(lambda p: _value(term, room, p))(room.params)
    assert not any(np.any(g) for g in jax.tree.leaves(grad["head"]))


def test_a_run_directory_stands_for_its_file(bench, store, tmp_path):
    setup = bench().setup
    store(name="importance/fisher.safetensors")
    store(kind="mas", name="importance/mas.safetensors")
    EWC(importance=str(tmp_path)).check(setup)
    MAS(importance=str(tmp_path)).check(setup)
    note = EWC(importance=str(tmp_path)).describe(setup)
    assert note.startswith("fisher importance of 6 examples of the train split, from ")
    EWC(importance=store(kind="empirical")).check(setup)


def _refused(term, setup, match):
    def ask():
        term.check(setup)
        term.constants(setup)

    with pytest.raises(UserError, match=match) as found:
        ask()
    assert "\n" not in str(found.value)


def test_without_a_source(bench, store):
    _refused(EWC(importance=store()), bench(scratch=True).setup, "from scratch.*init=")


def test_importance_of_another_model(bench, store):
    room, path = bench(), store()
    moved = jax.tree.map(lambda x: x, room.source.params)
    kernel = moved["layer1"]["dense"]["kernel"]
    moved["layer1"]["dense"]["kernel"] = kernel.at[0, 0].add(1e-6)
    source = dataclasses.replace(room.source, params=moved)
    setup = dataclasses.replace(room.setup, source=source)
    match = (
        r"term\.importance=.*fisher\.saf.*another model.*'layer1/dense/kernel' first"
    )
    _refused(EWC(importance=path), setup, match)
    missing = store(digests={}, name="none.safetensors")
    _refused(
        MAS(importance=missing), room.setup, "kind 'fisher', expected 'mas'.*kind mas"
    )
    _refused(EWC(importance=missing), room.setup, "another model.*'head/dense/bias'")


def test_missing_and_damaged_files(bench, store, tmp_path):
    setup = bench().setup
    _refused(EWC(importance=""), setup, r"importance='': expected the path of a run")
    run = tmp_path / "run"
    match = rf"no file .*make it with `jaxtl importance {run} --kind fisher`\."
    _refused(EWC(importance=str(run)), setup, match)
    gone = tmp_path / "gone.safetensors"
    match = rf"no file.*`jaxtl importance FILE --kind mas --out {gone}`\."
    _refused(MAS(importance=str(gone)), setup, match)
    path = pathlib.Path(store())
    whole = path.read_bytes()
    for part in (whole[:100], whole[:-10], b""):
        path.write_bytes(part)
        _refused(EWC(importance=str(path)), setup, "is damaged.*make it anew with `jax")
    plain = tmp_path / "plain.safetensors"
    tensor_files.write(plain, {"x": np.zeros(2)})
    _refused(EWC(importance=str(plain)), setup, "tensors, but no importance.*make it")
    (tmp_path / "x.npz").write_bytes(b"")
    _refused(EWC(importance=str(tmp_path / "x.npz")), setup, "should be a .safetensors")


def test_arrays_that_do_not_fit_and_importance_of_zeros(bench, store):
    setup = bench().setup
    path = store(lambda p: {**_some(p), "head/dense/bias": np.ones(4, np.float32)})
    _refused(
        EWC(importance=path), setup, r"'head/dense/bias' has the shape \(4,\).*\(3,\)"
    )
    path = store({})
    _refused(EWC(importance=path), setup, r"has the shape None.*damaged")
    path = store(lambda p: {k: 0 * x for k, x in _ones(p).items()})
    EWC(importance=path).constants(setup)
    _refused(EWC(importance=path, normalize=True), setup, "every importance is 0")


def test_digests_tell_bytes_dtype_and_shape():
    a = np.arange(4, dtype=np.float32)
    assert importance_file.digest(a) == importance_file.digest(jnp.asarray(a))
    others = [a[::-1], a.reshape(2, 2), a.astype(np.float64), a.view(np.int32)]
    assert len({importance_file.digest(x) for x in [a, *others]}) == 5
    negative = np.array(-0.0, np.float32)
    assert importance_file.digest(negative) != importance_file.digest(np.float32(0.0))


def test_importance_that_is_not_stored_is_that_of_the_target_at_the_source(bench):
    room = bench(source_outputs=5)
    found = MAS().constants(room.setup)
    # The source's own perceptron by hand: one hidden layer, five classes.
    head = room.source.head["dense"]
    w, c = np.float64(head["kernel"]), np.float64(head["bias"])
    inner = room.source.params["layer1"]["dense"]
    v, b = np.float64(inner["kernel"]), np.float64(inner["bias"])
    x, wanted = np.float64(room.batches["target"]["x"]), np.zeros_like(v)
    for row in x:
        h = np.maximum(row @ v + b, 0)
        wanted += np.abs(np.outer(row, (w @ (2 * (h @ w + c))) * (h > 0)))
    got = found["layer1/dense/kernel"]
    np.testing.assert_allclose(got, wanted / len(x), rtol=2e-4, atol=1e-6)
    assert "head/dense/kernel" not in found


def test_a_fisher_that_is_not_stored_is_of_labels_drawn_by_the_source(bench):
    room = bench(source_outputs=5)
    found = EWC().constants(room.setup)["layer1/dense/bias"]
    head, inner = room.source.head["dense"], room.source.params["layer1"]["dense"]
    w, c = np.float64(head["kernel"]), np.float64(head["bias"])
    x = np.float64(room.batches["target"]["x"])
    h = np.maximum(x @ np.float64(inner["kernel"]) + np.float64(inner["bias"]), 0)
    z = h @ w + c
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    # Whatever labels were drawn, each example's share is one of five.
    shares = [((np.eye(5) - p[i]) @ w.T * (h[i] > 0)) ** 2 for i in range(len(x))]
    low = np.mean([share.min(0) for share in shares], 0)
    high = np.mean([share.max(0) for share in shares], 0)
    assert np.all((low - 1e-6 <= found) & (found <= high + 1e-6))
    assert np.any(found > low + 1e-6)


def test_importance_at_a_source_without_a_head_is_told(bench):
    room = bench()
    program = dataclasses.replace(room.program, source_network=None)
    setup = dataclasses.replace(room.setup, program=program)
    with pytest.raises(UserError, match="brings no head of its own"):
        EWC().check(setup)
