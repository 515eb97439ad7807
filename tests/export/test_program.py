"""Every family of models exports, for its example's batch size and for any other."""

import types

import jax
import numpy as np
import pytest
from model_rows import DROPS, MODELS, TEXT

from jaxtl.data.preprocess import Preprocess
from jaxtl.export import program
from jaxtl.models import GPT2, Bert

FAMILIES = {
    **MODELS,
    "bert-max": (
        Bert(outputs=3, hidden=20, pooling="max", normalize=True, **DROPS),
        TEXT,
    ),
    "gpt2-class": (GPT2(outputs=3, predict="class", **DROPS), TEXT),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_exports_for_any_batch_size(name, tmp_path):
    model, x = FAMILIES[name]
    x = x if isinstance(x, dict) else {"x": x}
    single = list(x) == ["x"]
    network = model.pure()
    shapes = jax.eval_shape(network.init, jax.random.key(0), x["x"] if single else x)
    rng = np.random.default_rng(0)
    params, stats = jax.tree.map(
        lambda s: rng.uniform(0.05, 0.5, s.shape).astype(np.float32), shapes
    )
    inputs = {
        k: {"shape": list(v.shape[1:]), "dtype": str(v.dtype)} for k, v in x.items()
    }
    trained = types.SimpleNamespace(
        directory=tmp_path,
        network=network,
        params=params,
        stats=stats,
        preprocess=Preprocess(),
        task="classification",
        dtype="float32",
        meta={"single": single, "inputs": inputs},
        dataset=None,
    )
    exported = program.export_program(trained)
    weights = program.weights_by_path(trained)
    rows = {k: np.asarray(v)[:3] for k, v in exported.inputs.items()}
    outputs = exported.program.call(weights, rows)
    for key, values in outputs.items():
        want = exported.outputs[key][:3]
        np.testing.assert_allclose(values, want, rtol=1e-4, atol=1e-5, err_msg=key)
