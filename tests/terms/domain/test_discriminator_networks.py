"""The perceptrons of adversarial terms against torch's modules of the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import CDAN, DANN, MCD, adversarial

WIDTHS = (5, 4, 3)
KEY = jax.random.key(0)


def _moved(params):
    """Parameters with no zeros or ones among them."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return tree.unflatten([x + rng.normal(size=x.shape) for x in leaves])


def _torch_twin(torch, params):
    """`tllib`'s DomainDiscriminator with these weights: Linear, BatchNorm1d, ReLU."""
    layers = []
    for i in range(len(params)):
        layer = {k: torch.tensor(np.array(v)) for k, v in params[f"layer{i}"].items()}
        linear = torch.nn.Linear(*layer["kernel"].shape, dtype=torch.float64)
        linear.load_state_dict({"weight": layer["kernel"].T, "bias": layer["bias"]})
        layers.append(linear)
        if "scale" in layer:
            norm = torch.nn.BatchNorm1d(len(layer["scale"]), dtype=torch.float64)
            norm.weight.data, norm.bias.data = layer["scale"], layer["shift"]
            layers.append(norm)
        if i < len(params) - 1:
            layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers).train()


@pytest.mark.parametrize("norm", [False, True])
def test_outputs_and_gradients_are_torchs(norm):
    torch = pytest.importorskip("torch", reason="the networks are held to torch's")
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = _moved(adversarial.perceptron_init(KEY, WIDTHS, 2, norm=norm))
        x, weights = rng.normal(size=(6, 5)), rng.normal(size=(6, 2))

        def scalar(params, x):
            return jnp.sum(weights * adversarial.perceptron(params, x))

        value, grads = jax.value_and_grad(scalar, argnums=(0, 1))(params, x)
        twin, z = _torch_twin(torch, params), torch.tensor(x, requires_grad=True)
        expected = (torch.tensor(weights) * twin(z)).sum()
        expected.backward()
        np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
        np.testing.assert_allclose(grads[1], z.grad, atol=1e-12)
        kernel = twin[0].weight.grad.T
        np.testing.assert_allclose(grads[0]["layer0"]["kernel"], kernel, atol=1e-12)


def test_a_normalized_discriminator_takes_both_domains_as_one_batch(bench):
    torch = pytest.importorskip("torch", reason="the networks are held to torch's")
    harness = bench()
    term = DANN(widths=(4,), norm=True)
    params = _moved(term.init(KEY, harness.setup))
    view = View(harness.context(term_params=params), "term", 0)
    features = [np.float64(term.features(view, s)) for s in ("source", "unlabelled")]
    with jax.enable_x64(True):
        twin = _torch_twin(torch, jax.tree.map(np.float64, params))
    logits = twin(torch.tensor(np.concatenate(features)))[:, 0]
    label = torch.tensor(np.repeat([1.0, 0.0], [len(x) for x in features]))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, label, reduction="none"
    )
    expected = 0.5 * (losses[label == 1].mean() + losses[label == 0].mean())
    np.testing.assert_allclose(term(view)[0], expected.item(), rtol=1e-5)
    assert term.compares
    assert not DANN(widths=(4,)).compares


def test_dropout_keeps_the_mean_and_its_share_of_units():
    eye = {"kernel": jnp.eye(1000), "bias": jnp.zeros(1000)}
    params = {"layer0": eye, "layer1": eye}
    outputs = adversarial.perceptron(params, jnp.ones((20, 1000)), 0.25, KEY)
    assert set(np.unique(outputs)) == {0.0, np.float32(1 / 0.75)}
    # Four standard deviations of a share of 20,000 draws.
    assert abs(np.mean(outputs == 0.0) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 20_000)
    still = adversarial.perceptron(params, jnp.ones((1, 1000)), 0.0, KEY)
    np.testing.assert_array_equal(still, 1.0)


@pytest.mark.parametrize(
    ("initializer", "deviation"),
    [("he", (2 / 300) ** 0.5), ("xavier", (2 / 400) ** 0.5), (0.01, 0.01)],
)
def test_kernels_have_the_declared_deviation(initializer, deviation):
    params = adversarial.perceptron_init(KEY, (300,), 100, initializer=initializer)
    kernel = np.asarray(params["layer0"]["kernel"])
    # Of n draws, σ̂ has the relative deviation 1/√(2n).
    assert abs(kernel.std() / deviation - 1) < 4 / np.sqrt(2 * kernel.size)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (CDAN(dropout=1.0), r"terms.term.dropout=1.0: expected a share in \[0, 1\)"),
        (DANN(widths=(0,)), r"terms.term.widths=\(0,\): expected widths of at least 1"),
        (MCD(initializer="xavir"), r"initializer='xavir'.*did you mean 'xavier'"),
        (MCD(initializer=-0.1), r"terms.term.initializer=-0.1"),
    ],
)
def test_mistakes_are_told(bench, term, message):
    with pytest.raises(UserError, match=message):
        term.check(bench().setup)
