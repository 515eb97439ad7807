"""The contract's rows of distillation, and the teacher that they read."""

import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
from rows import row

import jaxtl as tl
from jaxtl.core import checkpoint

distillation = tl.distillation
PLACE = f"{tempfile.gettempdir()}/jaxtl_teacher_{os.getpid()}"
_MODEL = tl.models.MLP(outputs=3, widths=(7, 6))
_TEACHER = {"teacher": tl.pretrained.FromCheckpoint(PLACE), "teacher_model": _MODEL}
_SOFT = [{"temperature": 2.0}, {"temperature": 4.0}]


def write_teacher():
    """Writes the weights of the rows' teacher, for inputs of the bench."""
    params, _ = _MODEL.pure().init(jax.random.key(9), jnp.zeros((1, 5)))
    checkpoint.write_tree(pathlib.Path(PLACE), {"params": params}, {})


ROWS = [
    row(distillation.KD, *_SOFT, **_TEACHER),
]
