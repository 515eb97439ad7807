"""MNIST ↔ USPS: the protocol's data sets and network, and a short run."""

import jax
import numpy as np
import pytest

from experiments.reproduce import mnist_usps
from jaxtl.models import CNN
from jaxtl.training import setup


def test_the_network_is_caffes_lenet():
    network = CNN(
        **{**fields_of(mnist_usps.LENET), "outputs": 10},
    ).pure()
    params, _ = jax.eval_shape(
        network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), "float32")
    )
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count == 431_080  # 520 + 25,050 + 400,500 + 5,010
    assert params["hidden"]["dense"]["kernel"].shape == (4 * 4 * 50, 500)


def fields_of(model):
    names = ("widths", "kernel", "padding", "units")
    return {name: getattr(model, name) for name in names}


@pytest.fixture
def small(monkeypatch, data_dir):
    monkeypatch.setenv("JAXTL_DATA_DIR", str(data_dir))
    model = CNN(widths=(2,), units=4, pool=1, kernel=5, padding="VALID")
    monkeypatch.setattr(mnist_usps, "LENET", model)
    monkeypatch.setattr(mnist_usps, "DISCRIMINATOR", (4,))


def test_seeds_draw_2000_and_1800_images_and_no_target_label(small):
    run = setup.setup(mnist_usps.experiment("DANN", "U→M", 0))
    second = setup.setup(mnist_usps.experiment("DANN", "U→M", 1))
    source, target = (run.parts.datasets[name] for name in ("source", "target"))
    assert (len(source.rows["train"]), len(target.rows["unlabelled"])) == (1800, 2000)
    assert len(target.rows["train"]) == 0
    assert "target" not in run.parts.device_streams
    assert len(target.rows["test"]) == 10_000
    assert source.x.shape[1:] == target.x.shape[1:] == (28, 28, 1)
    rows = second.parts.datasets["source"].rows["train"]
    assert 0.1 < np.mean(np.isin(source.rows["train"], rows)) < 0.4  # 1800 of 7291
    whole = setup.setup(mnist_usps.experiment("CDAN+E, all rows", "U→M", 0))
    assert len(whole.parts.datasets["target"].rows["unlabelled"]) == 60_000


def test_a_fast_run_has_a_row_for_each_published_figure(small, monkeypatch):
    monkeypatch.setattr(mnist_usps, "FAST_STEPS", 2)
    rows = mnist_usps.run(True)
    expected = [name for name, pair in mnist_usps.PUBLISHED if pair == "M→U"]
    assert [row.method for row in rows] == expected
    assert all(0 < row.ours < 60 and row.interval is None for row in rows)
    assert all(row.verdict == "missed, below" for row in rows)
