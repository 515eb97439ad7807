"""Experiments of earlier versions are the same experiments: their JSON did not grow.

A sweep knows its finished cells by the hash of that JSON, and would train them again. A
field that is added later is a `serialization.later_field`.
"""

import hashlib
import json

import jaxtl as tl
from jaxtl.core import serialization

# Printed by `_digest` at the commit f494122.
DIGEST = "8c579c098559c6e561f0177fee183df9ae718c4ae16672c9d41f167366ab2afa"


def _digest() -> str:
    experiment = tl.Experiment(
        model=tl.models.CNN(widths=(4,)),
        init=tl.pretrained.FromRun("runs/source", reset="head"),
        data=tl.data.Arrays("digits.npz"),
        streams={"source": tl.data.Arrays("source.npz")},
        terms={
            "task": tl.losses.CrossEntropy(),
            "l2sp": tl.regularizers.L2SP(weight=0.1),
            "jacobian": tl.regularizers.JacobianDifference(weight=0.1),
            "align": tl.domain.DANN(),
            "dino": tl.selfsup.DINO(),
            "distilled": tl.distillation.KD(teacher=tl.pretrained.FromRun("runs/big")),
            "tasks": tl.multitask.MultiTask(balancer=tl.multitask.CAGrad()),
        },
        optim=tl.optim.AdamW(lr=1e-3),
        steps=10,
    )
    stored = json.dumps(serialization.to_json(experiment), sort_keys=True)
    return hashlib.sha256(stored.encode()).hexdigest()


def test_an_experiment_of_an_earlier_version_has_its_hash():
    assert _digest() == DIGEST
