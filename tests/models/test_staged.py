"""Batch normalization against torch in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models import staged
from jaxtl.models.layers import batch_norm

torch = pytest.importorskip("torch", reason="the reference is torch")


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_torch_s(train):
    """Far from mean 0; torch's running variance divides by n − 1."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3.0, 2.0, (4, 5, 6, 7)))
    scale, bias, mean = (jnp.asarray(rng.normal(size=7)) for _ in range(3))
    var, ct = jnp.asarray(rng.uniform(1, 2, 7)), jnp.asarray(rng.normal(size=x.shape))
    theirs = torch.nn.BatchNorm2d(7, dtype=torch.float64).train(train)
    for name, value in zip(
        ("weight", "bias", "running_mean", "running_var"), (scale, bias, mean, var)
    ):
        getattr(theirs, name).data = torch.tensor(np.array(value))
    tx = torch.tensor(np.array(x.transpose(0, 3, 1, 2)), requires_grad=True)
    ty = theirs(tx)
    ty.backward(torch.tensor(np.array(ct.transpose(0, 3, 1, 2))))

    class Stage(nn.Module):
        @nn.compact
        def __call__(self, x, mode):
            return batch_norm.BatchNorm(name="bn")(x, mode)

    def apply(params, x):
        stats = {"bn": {"mean": mean, "var": var}}
        mode = staged.Mode(("bn",) if train else ())
        variables = {"params": {"bn": params}, "batch_stats": stats}
        return Stage().apply(variables, x, mode, mutable=["batch_stats"])

    params = {"scale": scale, "bias": bias}
    y, pull, new = jax.vjp(apply, params, x, has_aux=True)
    grads, gx = pull(ct)
    close(y, ty.detach().numpy().transpose(0, 2, 3, 1))
    close(gx, tx.grad.numpy().transpose(0, 2, 3, 1))
    close(grads["scale"], theirs.weight.grad.numpy())
    close(grads["bias"], theirs.bias.grad.numpy())
    stats = new["batch_stats"]["bn"]
    close(stats["mean"], theirs.running_mean.numpy())
    n = x.size // 7
    biased = (theirs.running_var.numpy() - 0.9 * var) * (n - 1) / n + 0.9 * var
    close(stats["var"], biased if train else var)
