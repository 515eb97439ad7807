"""Reparametrizations in runs: what is trained, kept, resumed, deployed, handed on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.core import tree as trees
from jaxtl.core.types import FROZEN
from jaxtl.evaluation import evaluate
from jaxtl.export import write_bundle
from jaxtl.peft import Adapters, LoRA, PrefixTuning
from jaxtl.terms.base import Term
from jaxtl.training import checkpointing, setup

MODEL = tl.models.MLP(widths=(12, 8))
LORA = LoRA(rank=2, alpha=4.0, select="layer.*")
ADAPTERS = Adapters(width=3, select="layer.*")


@pytest.fixture(scope="module")
def source(tmp_path_factory, request):
    """The directory of a run that others start from."""
    folder = tmp_path_factory.mktemp("source") / "run"
    exp = tl.Experiment(
        model=MODEL,
        data=tl.data.Digits(),
        optim=tl.optim.AdamW(lr=1e-2),
        steps=30,
        batch=32,
    )
    tl.train(tl.setup(exp, folder), progress=False)
    return folder


def _exp(digits, source, peft, **changes):
    init = tl.pretrained.FromRun(str(source), reset="head")
    fields = {"model": MODEL, "init": init, "peft": peft, "steps": 8, "cache": "off"}
    return digits(**{**fields, **changes})


@pytest.mark.parametrize("peft", [LORA, ADAPTERS])
def test_only_the_delta_and_the_head_are_trained(digits, source, peft):
    run = tl.setup(_exp(digits, source, peft))
    base = jax.tree.map(np.array, run.fixed.frozen)
    delta = jax.tree.map(np.array, run.state.trainable["peft"])
    list(run)
    for path, leaf in trees.flatten(base).items():
        np.testing.assert_array_equal(leaf, trees.flatten(run.fixed.frozen)[path])
    assert set(run.state.trainable["model"]["head"]["dense"]) == {"kernel", "bias"}
    assert jax.tree.leaves(run.state.trainable["model"]["layer1"]) == []
    moved = trees.sub(run.state.trainable["peft"], delta)
    assert float(trees.sum_squares(moved)) > 0
    # Two moments of what is trained, and a count for each group.
    both = trees.nbytes(run.state.trainable)
    assert trees.nbytes(run.state.opt) == 2 * both + 2 * 4


def test_groups_may_train_the_base_as_well(digits, source):
    groups = {"head|layer2": 1.0, ".*": FROZEN}
    optim = tl.optim.AdamW(lr=1e-2, groups=groups)
    run = tl.setup(_exp(digits, source, LORA, optim=optim))
    before = np.array(run.state.trainable["model"]["layer2"]["dense"]["kernel"])
    list(run)
    after = run.state.trainable["model"]["layer2"]["dense"]["kernel"]
    assert np.any(before != after)


def test_l2sp_of_lora_is_half_the_square_of_its_product(digits, source):
    terms = {"task": tl.losses.CrossEntropy(), "near": tl.regularizers.L2SP()}
    run = tl.setup(_exp(digits, source, LORA, terms=terms))
    run.advance(5)
    total = 0.0
    for stage in ("layer1", "layer2"):
        pair = run.state.trainable["peft"][stage]["dense"]["kernel"]
        product = np.float64(pair["a"]) @ np.float64(pair["b"])
        total += 0.5 * np.sum((4.0 / 2 * product) ** 2)
    np.testing.assert_allclose(run.step()["near"], total, rtol=1e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SourceLogits(Term):
    """Reports the mean of the source's features and of the inputs."""

    def __call__(self, context):
        found = context.source_forward().features["layer2"]
        return jnp.float32(0.0), {"mean": jnp.mean(found)}


@pytest.mark.parametrize("peft", [LORA, ADAPTERS])
def test_the_source_stays_what_it_was(digits, source, peft):
    terms = {"task": tl.losses.CrossEntropy(), "source": _SourceLogits()}
    data = tl.data.Digits(labels_per_class=4, val=0.1)
    exp = _exp(digits, source, peft, terms=terms, data=data, batch=40, steps=30)
    run = tl.setup(exp)
    rows = run.parts.datasets["target"].rows["train"]
    x = run.parts.datasets["target"].x[rows]
    x = tl.data.preprocess.apply(run.preprocess, x)
    layers = tl.pretrained.FromRun(str(source)).read().params
    h = np.float64(np.asarray(x)).reshape(len(x), -1)
    for stage in ("layer1", "layer2"):
        dense = layers[stage]["dense"]
        h = np.maximum(h @ np.float64(dense["kernel"]) + dense["bias"], 0)
    # A batch is the whole of the 40 labelled examples, at every step.
    for row in run.advance(30)[::10]:
        np.testing.assert_allclose(row["source/mean"], h.mean(), rtol=1e-5)


@pytest.mark.parametrize("peft", [LORA, ADAPTERS])
def test_resumed_runs_end_bit_for_bit_the_same(digits, source, tmp_path, peft):
    exp = _exp(digits, source, peft, evaluate_every=4)
    whole = tl.setup(exp, tmp_path / "whole")
    tl.train(whole, progress=False)
    part = tl.setup(exp, tmp_path / "part")
    part.advance(4)
    part.update_best(tl.evaluate(part))
    checkpointing.save(part)
    again = tl.resume(tmp_path / "part")
    tl.train(again, progress=False)
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(again.state)):
        np.testing.assert_array_equal(a, b)
    ours, theirs = (r.weights("best")[0] for r in (whole, again))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("peft", [LORA, ADAPTERS])
def test_the_stored_model_evaluates_exports_and_predicts(
    digits, source, tmp_path, peft, capsys
):
    run = tl.setup(_exp(digits, source, peft), tmp_path / "run")
    result = tl.train(run, progress=False)
    again = setup.reopen(tmp_path / "run")
    assert tl.evaluate(again, "val") == result["val"]
    assert main.main(["eval", str(tmp_path / "run"), "--split", "val"]) == 0
    write_bundle.export(tmp_path / "run", tmp_path / "out")
    dataset = run.parts.datasets["target"]
    rows = dataset.rows["test"][:16]
    from jaxtl.export import bundle

    found = bundle.load(tmp_path / "out")(dataset.x[rows])
    logits, _ = evaluate.predict_with_weights(run, *run.weights("best"), "test")
    wanted = jax.nn.softmax(logits[:16])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_merged_weights_are_a_plain_model_to_others(digits, source, tmp_path):
    run = tl.setup(_exp(digits, source, LORA), tmp_path / "run")
    result = tl.train(run, progress=False)
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    plain = tl.setup(digits(model=MODEL, init=init, steps=0))
    assert tl.evaluate(plain, "val") == result["val"]


def test_frozen_stages_below_the_adapted_ones_are_cached(digits, source):
    peft = dataclasses.replace(LORA, select="layer2")
    runs = []
    for cache in ("memory", "off"):
        run = tl.setup(_exp(digits, source, peft, cache=cache))
        list(run)
        runs.append(run)
    assert runs[0].cached.stages == ("layer1",)
    for a, b in zip(*(jax.tree.leaves(run.params) for run in runs)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_jacobians_compare_with_the_source_as_it_was(digits, source):
    term = tl.regularizers.JacobianDifference(wrt="inputs", estimator="exact")
    init = tl.pretrained.FromRun(str(source))
    terms = {"task": tl.losses.CrossEntropy(weight=0.0), "jacobian": term}
    optim = tl.optim.SGD(lr=0.5, groups={".*": FROZEN})
    exp = _exp(digits, source, ADAPTERS, init=init, terms=terms, optim=optim, batch=8)
    run = tl.setup(exp)
    # An adapter whose second map is 0 changes nothing.
    assert run.step()["jacobian"] < 1e-8
    moved = jax.tree.map(lambda x: x + 0.3, run.state.trainable)
    run.state = dataclasses.replace(run.state, trainable=moved)
    assert run.step()["jacobian"] > 1e-3


def test_jacobians_of_a_lora_are_by_the_merged_weights(digits, source):
    term = tl.regularizers.JacobianDifference(estimator="forward", stage_groups=3)
    init = tl.pretrained.FromRun(str(source))
    terms = {"task": tl.losses.CrossEntropy(), "jacobian": term}
    run = tl.setup(_exp(digits, source, LORA, init=init, terms=terms, batch=8))
    # The kernels of both layers and the whole head, not the factors of rank 2.
    count = 64 * 12 + 12 * 8 + 8 * 10 + 10
    assert f"by {count} parameters of head, layer1, layer2" in run.notes["jacobian"]
    values = [row["jacobian"] for row in run.advance(8)]
    assert values[0] == 0.0
    assert all(value > 0 for value in values[1:])


def test_alpha_is_a_number_that_compiles_once(digits, source):
    runs = [
        tl.setup(_exp(digits, source, dataclasses.replace(LORA, alpha=alpha)))
        for alpha in (1.0, 8.0)
    ]
    assert runs[0].program.key() == runs[1].program.key()
    [first], [second] = (run.compile().dispatches.values() for run in runs)
    assert first is second


def test_what_cannot_be_adapted_is_told(digits, source):
    for peft, match in (
        (LoRA(rank=100, select="layer.*"), "rank"),
        (LoRA(rank=2, select="layr1"), "did you mean 'layer1'"),
        (PrefixTuning(), "keys and values to attention"),
        ("lora", r"tl\.peft\.LoRA"),
    ):
        with pytest.raises(tl.UserError, match=match):
            tl.setup(_exp(digits, source, peft))


def test_a_runs_adapter_opens_in_peft_and_begins_another_run(digits, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    hf = pytest.importorskip("peft")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
        num_labels=2,
    )
    base = transformers.BertForSequenceClassification(config)
    base.save_pretrained(tmp_path / "base")
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 40, (60, 6)).astype(np.int32)
    mask = np.arange(6) < rng.integers(2, 7, (60, 1))
    np.savez(
        tmp_path / "texts.npz", input_ids=ids, attention_mask=mask, y=ids[:, 0] % 2
    )
    init = tl.pretrained.FromHub(str(tmp_path / "base"))
    peft = LoRA(rank=2, alpha=4.0, select=r"layer_\d/attention/(query|value)")
    exp = digits(
        model=init.model(),
        init=init,
        data=_Texts(path=str(tmp_path / "texts.npz")),
        peft=peft,
        batch=16,
        steps=5,
    )
    run = tl.setup(exp, tmp_path / "run")
    tl.train(run, progress=False)
    target = str(tmp_path / "adapter")
    assert main.main(["convert", str(tmp_path / "run"), target, "--adapter"]) == 0
    theirs = hf.PeftModel.from_pretrained(
        transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base"),
        target,
    ).eval()
    with torch.no_grad():
        inputs = {
            "input_ids": torch.tensor(ids).long(),
            "attention_mask": torch.tensor(mask).long(),
        }
        wanted = theirs(**inputs).logits.numpy()
    x = {"input_ids": ids, "attention_mask": mask}
    ours = run.network.apply(*run.weights("best"), x).logits
    np.testing.assert_allclose(ours, wanted, atol=2e-5)
    second = dataclasses.replace(exp, peft=dataclasses.replace(peft, start=target))
    begun = tl.setup(second)
    np.testing.assert_allclose(
        begun.network.apply(*begun.weights(), x).logits, wanted, atol=2e-5
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Texts(tl.data.Data):
    path: str = ""

    def read(self):
        with np.load(self.path) as file:
            x = {name: file[name] for name in ("input_ids", "attention_mask")}
            return tl.data.Table(x=x, y=file["y"])


def test_runs_without_adapters_have_none_to_write(source, tmp_path, capsys):
    target = str(tmp_path / "adapter")
    assert main.main(["convert", str(source), target, "--adapter"]) == 1
    assert "peft=None" in capsys.readouterr().err
