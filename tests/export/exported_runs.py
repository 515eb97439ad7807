"""Runs and exports that several tests of exports share."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

import jaxtl as tl
from jaxtl.evaluation import evaluate
from jaxtl.export import write_bundle
from jaxtl.training.run import Run


def train(directory: pathlib.Path, **fields) -> Run:
    """Stores a run, by default of the initial model, which compiles less."""
    fields = {"steps": 0, "batch": 16, **fields}
    run = tl.setup(tl.Experiment(**fields), directory)
    tl.train(run, progress=False)
    return run


def logits(run: Run, split: str = "test"):
    """The best model's logits on a split, and the split's stored inputs."""
    outputs, _ = evaluate.predict_with_weights(run, *run.weights("best"), split)
    dataset = run.parts.datasets["target"]
    rows = dataset.rows[split]
    return outputs, jax.tree.map(lambda x: np.asarray(x)[rows], dataset.x)


@functools.cache
def exported_digits(root: pathlib.Path) -> tuple[Run, pathlib.Path]:
    """A trained CNN with batch statistics, as its run and its export."""
    start = train(
        root / "start",
        model=tl.models.CNN(widths=(4,), units=8, norm=True),
        data=tl.data.Digits(),
    )
    exp = dataclasses.replace(
        start.exp,
        init=tl.pretrained.FromRun(str(root / "start"), reset="head"),
        steps=20,
    )
    run = tl.setup(exp, root / "run")
    tl.train(run, progress=False)
    return run, write_bundle.export(root / "run", root / "out", licence="CC0-1.0")
