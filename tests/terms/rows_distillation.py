"""The contract's rows of distillation, and the teachers that they read."""

import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from rows import row

import jaxtl as tl
from jaxtl.core import checkpoint

distillation = tl.distillation
PLACE = f"{tempfile.gettempdir()}/jaxtl_teacher_{os.getpid()}"
_MODEL = tl.models.MLP(outputs=3, widths=(7, 6))
_TEXTS = tl.models.Llama(vocab=11, width=4, layers=1, heads=2, hidden=8, context=16)
_TEACHER = {
    "teacher": tl.pretrained.FromCheckpoint(f"{PLACE}/vectors"),
    "teacher_model": _MODEL,
}
_OF_TEXTS = {
    "teacher": tl.pretrained.FromCheckpoint(f"{PLACE}/texts"),
    "teacher_model": _TEXTS,
    "task": "language",
}
_SOFT = [{"temperature": 2.0}, {"temperature": 4.0}]
_DECOUPLED = [
    {"temperature": 2.0, "target": 1.0, "other": 2.0},
    {"temperature": 4.0, "target": 2.0, "other": 1.0},
]
_CORRELATED = [
    {"temperature": 2.0, "inter": 1.0, "intra": 2.0},
    {"temperature": 4.0, "inter": 2.0, "intra": 1.0},
]
_RELATIONS = [{"distance": 2.0, "angle": 3.0}, {"distance": 3.0, "angle": 2.0}]
_CONTRAST = [
    {"temperature": 0.5, "momentum": 0.5},
    {"temperature": 1.0, "momentum": 0.7},
]


def write_teacher():
    """Writes the weights of the rows' teachers, for inputs of the bench."""
    ids = {
        "input_ids": jnp.zeros((1, 5), jnp.int32),
        "attention_mask": jnp.ones((1, 5), bool),
    }
    pathlib.Path(PLACE).mkdir()
    rng = np.random.default_rng(9)
    for name, model, x in (
        ("vectors", _MODEL, jnp.zeros((1, 5))),
        ("texts", _TEXTS, ids),
    ):
        shapes, _ = jax.eval_shape(model.pure().init, jax.random.key(9), x)
        params = jax.tree.map(
            lambda a: rng.normal(size=a.shape).astype(np.float32), shapes
        )
        checkpoint.write_tree(pathlib.Path(PLACE, name), {"params": params}, {})


ROWS = [
    row(distillation.KD, *_SOFT, **_TEACHER),
    row(distillation.DKD, *_DECOUPLED, **_TEACHER),
    row(distillation.DIST, *_CORRELATED, **_TEACHER),
    row(distillation.FitNets, stages={"layer1": "layer2"}, **_TEACHER),
    row(distillation.AT, **_OF_TEXTS),
    row(distillation.NST, **_OF_TEXTS),
    row(distillation.SP, **_TEACHER),
    row(distillation.RKD, *_RELATIONS, **_TEACHER),
    row(distillation.PKT, **_TEACHER),
    row(distillation.VID, **_TEACHER),
    row(distillation.CRD, *_CONTRAST, width=4, negatives=3, **_TEACHER),
]
