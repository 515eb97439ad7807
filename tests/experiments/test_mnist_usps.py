"""MNIST ↔ USPS: the protocols' data sets, networks and budgets, and a short run."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from experiments import cdan_digits
from experiments.reproduce import mnist_usps
from jaxtl.core.errors import UserError
from jaxtl.data import preprocess
from jaxtl.models import CNN
from jaxtl.optim import schedules
from jaxtl.results.records import Collection, Record
from jaxtl.training import setup


def shapes_of(model):
    network = model.clone(outputs=10).pure()
    example = jax.ShapeDtypeStruct((1, 28, 28, 1), "float32")
    return jax.eval_shape(network.init, jax.random.key(0), example)[0]


def test_the_networks_are_those_of_the_programs():
    params = shapes_of(mnist_usps.LENET)
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count == 431_080  # 520 + 25,050 + 400,500 + 5,010
    assert params["hidden"]["dense"]["kernel"].shape == (4 * 4 * 50, 500)
    # SHOT's netB: Linear(800, 256), BatchNorm1d(256), Dropout, and no activation.
    params = shapes_of(mnist_usps.BOTTLENECK_LENET)
    assert params["hidden"]["dense"]["kernel"].shape == (800, 256)
    assert params["hidden"]["bn"]["scale"].shape == (256,)


def test_budgets_are_those_of_the_programs():
    experiments = mnist_usps.experiment()
    assert set(mnist_usps.variants()) < set(experiments)
    steps = {name: exp.steps for name, exp in experiments.items()}
    # train_uspsmnist.py: 10 epochs of 937 whole batches of 64 of MNIST's 60,000.
    assert steps["full/MU/CDAN+E"] == steps["full/UM/CDAN"] == 9370
    # uda_digit.py: 30 epochs of ⌈n / 64⌉ batches, of the source and of the target.
    assert steps["full/MU/SHOT's source"] == steps["full/UM/SHOT"] == 30 * 938
    assert steps["full/UM/SHOT's source"] == steps["full/MU/SHOT"] == 30 * 117
    assert steps["sampled/UM/ADDA"] == 10_000
    # Its rate is lr · (1 + 10 · i / max_iter) ** −0.75.
    rate = experiments["full/MU/SHOT"].optim.lr
    value = schedules.value(rate, np.int32(1755), np.int32(3510))
    np.testing.assert_allclose(value, 0.01 * 6**-0.75, rtol=1e-6)


def test_the_example_of_cdan_is_the_tables_row():
    rows, example = mnist_usps.experiment(), cdan_digits.experiment()
    assert example["M → U"] == rows["full/MU/CDAN+E"]
    assert example["U → M"] == rows["full/UM/CDAN+E"]


@pytest.fixture
def small(monkeypatch, data_dir):
    monkeypatch.setenv("JAXTL_DATA_DIR", str(data_dir))
    model = CNN(widths=(2,), units=4, pool=1, kernel=5, padding="VALID")
    for name in ("LENET", "DROPOUT_LENET", "BOTTLENECK_LENET"):
        monkeypatch.setattr(mnist_usps, name, model)
    monkeypatch.setattr(mnist_usps, "DISCRIMINATOR", (4,))


def run_of(name, seed=0):
    exp = dataclasses.replace(mnist_usps.experiment()[name], seed=seed)
    return setup.setup(exp)


def test_seeds_draw_2000_and_1800_images_and_no_target_label(small):
    run, second = (run_of("sampled/UM/DANN", seed) for seed in (0, 1))
    source, target = (run.parts.datasets[name] for name in ("source", "target"))
    assert (len(source.rows["train"]), len(target.rows["unlabelled"])) == (1800, 2000)
    assert len(target.rows["train"]) == 0
    assert "target" not in run.parts.device_streams
    assert len(target.rows["test"]) == 10_000
    assert source.x.shape[1:] == target.x.shape[1:] == (28, 28, 1)
    rows = second.parts.datasets["source"].rows["train"]
    assert 0.1 < np.mean(np.isin(source.rows["train"], rows)) < 0.4  # 1800 of 7291


def test_all_images_are_in_minus_one_to_one(small):
    whole = run_of("full/UM/MCC")
    assert len(whole.parts.datasets["target"].rows["unlabelled"]) == 60_000
    for name, largest in (("source", 2000), ("target", 255)):
        pre = whole.parts.model.preprocess[name]
        ends = preprocess.apply(pre, np.array([[0], [largest]], np.uint16))
        np.testing.assert_allclose(ends, [[-1.0], [1.0]], atol=1e-6)


def test_shot_has_the_sizes_of_its_programs_split(small):
    target = run_of("full/UM/SHOT's source").parts.datasets["target"]
    assert (len(target.rows["train"]), len(target.rows["test"])) == (7438, 1860)
    assert target.x.shape[1:] == (28, 28, 1)
    published = run_of("full/UM/MCC").parts.datasets["source"]
    train, x = published.rows["train"], np.asarray(published.x)
    # Train and test rows in the order of the files, and resized as there.
    np.testing.assert_array_equal(np.asarray(target.x)[:7291], x[train])


def test_a_fast_run_has_a_row_for_each_protocol(small, monkeypatch):
    monkeypatch.setattr(mnist_usps, "FAST_STEPS", 2)
    rows = mnist_usps.run(True)
    assert [(row.method, row.setting) for row in rows] == [
        ("source only", "M→U, sampled"),
        ("ADDA", "M→U, sampled"),
        ("CDAN+E", "M→U, full"),
    ]
    assert all(0 < row.ours < 60 and row.interval is None for row in rows)
    assert all(row.verdict == "missed, below" for row in rows)


def cell(variant, seed, accuracy, folder="a"):
    result = {"test": {"accuracy": accuracy}}
    labels = {"variant": variant, "seed": seed}
    return Record(labels=labels, result=result, folder=pathlib.Path(folder))


def test_rows_of_several_sweeps_are_means_over_seeds():
    waiting = Record(labels={"variant": "full/UM/MCC", "seed": 0}, status="waiting")
    cells = [
        cell("full/MU/SHOT", 1, 0.98, "b"),
        cell("full/MU/SHOT", 0, 0.96),
        cell("full/MU/CDAN", 0, 0.90),
        waiting,
    ]
    cdan, shot = mnist_usps.rows(cells)
    assert (cdan.method, cdan.setting, cdan.interval) == ("CDAN", "M→U, full", None)
    assert shot.ours == pytest.approx(97.0)
    # 12.706 is Student's t of one degree of freedom, the standard error is 1.
    assert shot.interval == pytest.approx(12.706, abs=1e-3)


def test_a_cell_that_two_sweeps_have_is_an_error():
    cells = [cell("full/MU/SHOT", 0, 0.96), cell("full/MU/SHOT", 0, 0.97, "b")]
    with pytest.raises(UserError, match=r"b: full/MU/SHOT, seed 0 is there twice"):
        mnist_usps.rows(cells)


@pytest.mark.parametrize(
    "meta",
    [
        {"overrides": ["terms.adapt.stage=head"], "axes": {"variant": [], "seed": []}},
        {"overrides": [], "axes": {"terms.adapt.stage": [], "seed": []}},
    ],
)
def test_cells_with_a_changed_setting_are_no_rows(monkeypatch, meta):
    sweep = Collection(records=(cell("sampled/MU/ADDA", 0, 0.9),), axes={}, meta=meta)
    monkeypatch.setattr(mnist_usps.records, "read", lambda folders: sweep)
    with pytest.raises(UserError, match=r"b was run with terms\.adapt\.stage"):
        mnist_usps.cells_of([pathlib.Path("b")])


def test_cells_of_several_sweeps_are_joined(monkeypatch):
    meta = {"overrides": [], "axes": {"variant": [], "seed": []}}
    sweeps = {
        name: Collection(records=(cell("full/MU/CDAN", seed, 0.9),), axes={}, meta=meta)
        for name, seed in (("a", 0), ("b", 1))
    }
    monkeypatch.setattr(mnist_usps.records, "read", lambda paths: sweeps[str(*paths)])
    cells = mnist_usps.cells_of(map(pathlib.Path, sweeps))
    assert [c.labels["seed"] for c in cells] == [0, 1]
