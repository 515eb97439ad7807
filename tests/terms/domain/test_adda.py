"""ADDA: two losses in one, each training one side only; the source stands still."""

import jax
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import ADDA

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _logits(own, z):
    z = np.float64(z)
    for i in range(len(own)):
        layer = jax.tree.map(np.float64, own[f"layer{i}"])
        z = (np.maximum(z, 0) if i else z) @ layer["kernel"] + layer["bias"]
    return z[:, 0]


def test_both_losses_are_numpys_and_train_one_side_each(bench):
    torch = pytest.importorskip("torch", reason="gradients are held to torch's")
    room = bench(moved=0.5)
    term = ADDA(widths=(4,))
    term.check(room.setup)
    own = term.init(jax.random.key(0), room.setup)

    def value(params, own):
        return term(View(room.context(params, term_params=own), "term", 0))

    (found, extra), (model, discriminator) = jax.value_and_grad(
        value, argnums=(0, 1), has_aux=True
    )(room.params, own)
    # The source's encoder is θ₀, not the model.
    theirs = room.network.apply(
        room.source.params, room.stats, room.batches["source"]["x"]
    ).features["layer1"]
    ours = room.network.apply(
        room.params, room.stats, room.batches["unlabelled"]["x"]
    ).features["layer1"]
    s, t = _logits(own, theirs), _logits(own, ours)
    told = 0.5 * (np.mean(np.log1p(np.exp(-s))) + np.mean(np.log1p(np.exp(t))))
    taken = np.mean(np.log1p(np.exp(-t)))
    np.testing.assert_allclose(found, told + taken, rtol=1e-5)
    np.testing.assert_allclose(extra["discriminator"], told, rtol=1e-5)
    np.testing.assert_allclose(extra["encoder"], taken, rtol=1e-5)
    hits = 0.5 * (np.mean(s > 0) + np.mean(t <= 0))
    np.testing.assert_allclose(extra["accuracy"], hits, rtol=1e-6)
    assert all((g == 0).all() for g in jax.tree.leaves(model["head"]))
    _same_as_torch(torch, room, own, theirs, model, discriminator)


def _same_as_torch(torch, room, own, theirs, model, discriminator):
    """Two optimizers' worth of gradients, as the paper's two losses give them."""

    def leaf(x):
        return torch.tensor(np.asarray(x), requires_grad=True)

    layers = [
        {k: leaf(own[f"layer{i}"][k]) for k in ("kernel", "bias")} for i in range(2)
    ]
    body = {k: leaf(v) for k, v in room.params["layer1"]["dense"].items()}

    def judge(z):
        for i, layer in enumerate(layers):
            z = (torch.relu(z) if i else z) @ layer["kernel"] + layer["bias"]
        return z[:, 0]

    x = torch.tensor(np.asarray(room.batches["unlabelled"]["x"]))
    ours = torch.relu(x @ body["kernel"] + body["bias"])
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    s, t = judge(torch.tensor(np.asarray(theirs))), judge(ours.detach())
    told = 0.5 * (bce(s, torch.ones_like(s)) + bce(t, torch.zeros_like(t)))
    told.backward()
    for i, layer in enumerate(layers):
        for k, value in layer.items():
            found = discriminator[f"layer{i}"][k]
            np.testing.assert_allclose(found, value.grad, atol=1e-6)
    t = judge(ours)
    bce(t, torch.ones_like(t)).backward()
    for k, value in body.items():
        np.testing.assert_allclose(model["layer1"]["dense"][k], value.grad, atol=1e-6)


def test_errors(bench):
    with pytest.raises(UserError, match="starts from scratch"):
        ADDA().check(bench(scratch=True).setup)
    with pytest.raises(UserError, match="did you mean 'source'"):
        ADDA(source="sources").check(bench().setup)
