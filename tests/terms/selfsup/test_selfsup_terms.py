"""Self-supervised terms: closed forms, states, whole runs, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.terms.context import View
from jaxtl.terms.selfsup import (
    barlow_twins,
    dino,
    masked_language,
    moco,
    momentum,
    projector,
    rotation,
)
from jaxtl.terms.selfsup.simclr import nt_xent

selfsup = tl.selfsup
NOISE = (tl.data.Noise(scale=0.5),)


def _bench(bench, **fields):
    """A bench whose batches have 6, 7 and 8 examples."""
    return bench("classification", **fields)


def test_nt_xent_of_equal_projections_is_that_of_chance():
    z = jnp.ones((5, 3))
    np.testing.assert_allclose(nt_xent(z, z, 0.5), np.log(9), rtol=1e-6)


def test_barlow_twins_is_zero_for_uncorrelated_features_that_agree():
    # Columns of a Hadamard matrix have mean 0, variance 1 and no correlation.
    z = jnp.array([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
    assert barlow_twins.cross_correlation_loss(z, z, 1.0) < 1e-8
    flipped = barlow_twins.cross_correlation_loss(z, -z, 1.0)
    np.testing.assert_allclose(flipped, 3 * 4, rtol=1e-4)


def test_a_teacher_of_equal_prototypes_has_the_entropy_of_chance():
    z = jnp.zeros((4, 5))
    value = dino.self_distillation((z, z), (z, z), jnp.zeros(5), (0.1, 0.04))
    np.testing.assert_allclose(value, np.log(5), rtol=1e-6)


def test_small_crops_are_read_by_the_student_alone(bench):
    """At views that are the inputs themselves, further equal views change nothing."""
    room = _bench(bench)
    shared = dict(layers=(8, 4), prototypes=5, views=())
    term = selfsup.DINO(**shared)
    own = term.init(jax.random.key(1), room.setup)
    values, states = [], []
    far = lambda key, x: 5 * x + 1  # noqa: E731
    for local in (
        {},
        {"local_views": 3, "local": ()},
        {"local_views": 3, "local": (far,)},
    ):
        term = selfsup.DINO(**shared, **local)
        context = room.context(room.params, own, term.init_state(room.setup), step=0)
        view = View(context, "term", 0)
        value, metrics = term(view)
        values.append([float(value), float(metrics["entropy"])])
        states.append(view.term_states["term"]["center"])
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5)
    assert abs(values[2][0] - values[0][0]) > 1e-4
    np.testing.assert_allclose(values[2][1], values[0][1], rtol=1e-6)
    np.testing.assert_allclose(states[2], states[0], rtol=1e-6)


def test_momentum_rises_by_half_a_cosine():
    # BYOL's paper: τ = 1 − (1 − τ₀)(cos(πk/K) + 1)/2.
    values = [momentum.cosine_rise(0.996, step, 100) for step in (0, 50, 100)]
    np.testing.assert_allclose(values, [0.996, 0.998, 1.0], rtol=1e-6)


def test_the_queue_drops_the_oldest_keys():
    queue, keys = jnp.arange(6.0)[:, None], jnp.array([[10.0], [11.0]])
    assert moco.enqueued(queue, keys)[:, 0].tolist() == [10, 11, 0, 1, 2, 3]


def test_quarter_turns_are_numpys():
    x = np.random.default_rng(0).random((2, 3, 3, 1)).astype(np.float32)
    turned, angles = rotation.quarter_turns(jnp.asarray(x))
    assert angles.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(turned[5], np.rot90(x[1], 2))
    np.testing.assert_array_equal(turned[2], np.rot90(x[0], 1))


def test_words_are_hidden_in_berts_shares():
    ids = jnp.full((300, 100), 7)
    is_word = jnp.arange(100) < 80
    changed, chosen = masked_language.masked_words(
        jax.random.key(0), ids, jnp.broadcast_to(is_word, ids.shape), 0.15, 3, 1000
    )
    assert not chosen[:, 80:].any()
    np.testing.assert_allclose(chosen[:, :80].mean(), 0.15, atol=0.01)
    np.testing.assert_array_equal(changed[~chosen], 7)
    hidden = changed[chosen]
    np.testing.assert_allclose((hidden == 3).mean(), 0.8, atol=0.03)
    np.testing.assert_allclose((hidden == 7).mean(), 0.1, atol=0.02)


def test_the_head_of_words_is_transformers():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.bert import modeling_bert

    settings = modeling_bert.BertConfig(vocab_size=9, hidden_size=4)
    theirs = modeling_bert.BertLMPredictionHead(settings)
    state = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    states = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    params = {
        "kernel": state["transform.dense.weight"].T,
        "bias": state["transform.dense.bias"],
        "scale": state["transform.LayerNorm.weight"],
        "shift": state["transform.LayerNorm.bias"],
        "output": state["decoder.bias"],
    }
    ours = masked_language.vocabulary_logits(params, states, state["decoder.weight"])
    expected = theirs(torch.from_numpy(states)).detach().numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_spread_tells_a_collapse():
    z = np.random.default_rng(0).normal(size=(4000, 8))
    np.testing.assert_allclose(projector.spread(jnp.asarray(z)), 1.0, rtol=0.02)
    assert projector.spread(jnp.ones((5, 3))) < 1e-6


@pytest.mark.parametrize("step", [0, 3])
def test_the_encoder_begins_as_the_network_and_follows_it_slowly(bench, step):
    room = _bench(bench)
    term = selfsup.BYOL(
        projector=(4,), predictor=(4,), views=NOISE, momentum=0.75, rises=False
    )
    own = term.init(jax.random.key(1), room.setup)
    state = term.init_state(room.setup)
    moved = jax.tree.map(lambda x: x + 1.0, room.params)
    context = room.context(moved, own, state, step=step)
    encoder = term.encoder(View(context, "term", 0))
    share = 1.0 if step == 0 else 0.25
    for ours, before in zip(
        jax.tree.leaves(encoder["network"]), jax.tree.leaves(room.params)
    ):
        np.testing.assert_allclose(ours, before + share, rtol=1e-5, atol=1e-6)
    first = encoder["heads"]["projector"]["layer0"]["kernel"]
    kernel = own["projector"]["layer0"]["kernel"]
    np.testing.assert_allclose(first, share * kernel, rtol=1e-5)


REFUSED = {
    "batch": (
        selfsup.SimCLR(views=NOISE),
        {"batch": 1, "further": 0},
        "compares the examples of a batch, and the stream 'unlabelled' gives 1",
    ),
    "small queue": (selfsup.MoCo(views=NOISE, queue=4), {}, r"queue=4: .* such as 8"),
    "odd queue": (selfsup.MoCo(views=NOISE, queue=20), {}, r"queue=20: .*batch of 8"),
    "projector": (selfsup.VICReg(views=NOISE, projector=(0,)), {}, r"projector=\(0,\)"),
    "predictor": (
        selfsup.BYOL(views=NOISE, projector=(8,), predictor=(4, 16)),
        {},
        r"predictor=\(4, 16\): .* predicts, 8; expected \(4, 8\)",
    ),
    "vectors": (selfsup.SimSiam(), {}, "views=None: there are no default views"),
    "stage": (selfsup.DINO(views=NOISE, stage="lay"), {}, "'layer1'"),
    "small crops of vectors": (
        selfsup.DINO(views=NOISE, local_views=2),
        {},
        "local_views=2: only images have small crops",
    ),
    "operations of no crops": (
        selfsup.DINO(views=NOISE, local=NOISE),
        {},
        "local_views=0 asks for none; .* such as local_views=8",
    ),
    "number of crops": (
        selfsup.DINO(views=NOISE, local_views=-1),
        {},
        "local_views=-1",
    ),
    "operation": (selfsup.BYOL(views=(3,)), {}, r"views=\(3,\): expected callables"),
    "images": (selfsup.RotationPrediction(), {}, "turns square images, and the inputs"),
}


REFUSED_OF = {
    "no patches": (selfsup.MAE(), "classification", "has no row of patches"),
    "all hidden": (selfsup.MAE(masked=0.99), "images", r"masked=0.99: .* shows 0"),
    "decoder": (selfsup.MAE(width=6), "images", "width=6: expected a multiple of 4"),
    "no mask token": (
        selfsup.MaskedLanguageModel(),
        "masked_language",
        r"the tokenizer has no mask token \(special tokens: none\)",
    ),
    "mask beyond": (
        selfsup.MaskedLanguageModel(mask_id=11),
        "masked_language",
        "mask_id=11: expected an id of the model's 11",
    ),
    "no texts": (
        selfsup.MaskedLanguageModel(),
        "classification",
        "hides words of tokenized texts",
    ),
}


@pytest.mark.parametrize("name", REFUSED_OF)
def test_what_a_model_or_its_data_lack_is_told_in_one_sentence(bench, name):
    term, task, message = REFUSED_OF[name]
    with pytest.raises(tl.UserError, match=message) as error:
        term.check(bench(task).setup)
    assert "\n" not in str(error.value)


def test_the_mask_token_and_what_is_never_hidden_are_the_tokenizers(bench, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = tl.data.Tokenizer(str(tmp_path / "vocab.txt"))
    setup = dataclasses.replace(bench("masked_language").setup, tokenizer=tokenizer)
    term = selfsup.MaskedLanguageModel()
    term.check(setup)
    constants = term.constants(setup)
    assert int(constants["mask_id"]) == 4
    assert constants["is_special"].tolist() == [True] * 5 + [False] * 6


def test_special_tokens_and_padding_are_not_hidden(bench, monkeypatch):
    """With share=1 the term predicts every word, and [CLS] and [SEP] stay in place."""
    room = bench("masked_language")
    term = selfsup.MaskedLanguageModel(share=1.0, mask_id=4)
    x = room.batches["unlabelled"]["x"]
    special = x["input_ids"][0, 0]  # as if it were [CLS]
    constants = {
        "is_special": term.constants(room.setup)["is_special"].at[special].set(True),
        "mask_id": jnp.int32(4),
    }
    hide, seen = masked_language.masked_words, []

    def spy(*args):
        seen.append(hide(*args))
        return seen[-1]

    monkeypatch.setattr(masked_language, "masked_words", spy)
    own = term.init(jax.random.key(1), room.setup)
    context = room.context(room.params, own, constants=constants)
    term(View(context, "term", 0))
    [(changed, chosen)] = seen
    is_word = (x["input_ids"] != special) & (x["attention_mask"] > 0)
    assert is_word.any()
    assert (~is_word & (x["attention_mask"] > 0)).any()
    np.testing.assert_array_equal(chosen, is_word)
    np.testing.assert_array_equal(changed[~is_word], x["input_ids"][~is_word])


def test_a_model_of_hidden_words_is_not_measured_on_the_next_word_unsaid(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "texts.txt").write_text("a b c d\n" * 20)
    tokenizer = tl.data.Tokenizer(str(tmp_path / "vocab.txt"), max_length=8)
    exp = tl.Experiment(
        model=tl.models.Bert(vocab=11, width=8, layers=1, heads=2, predict="mask"),
        data=tl.data.Lines(str(tmp_path / "texts.txt"), tokenizer=tokenizer),
        steps=1,
        batch=4,
    )
    with pytest.raises(
        tl.UserError, match=r"predict='mask': .* expected predict='next'"
    ):
        tl.setup(exp)
    terms = {"mlm": selfsup.MaskedLanguageModel(stream="target")}
    run = tl.setup(dataclasses.replace(exp, terms=terms))
    assert "say nothing" in run.notes["model.predict"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_told_in_one_sentence(bench, name):
    term, fields, message = REFUSED[name]
    with pytest.raises(tl.UserError, match=message) as error:
        term.check(_bench(bench, **fields).setup)
    assert "\n" not in str(error.value)


def test_a_micro_batch_of_one_is_refused(bench):
    setup = _bench(bench).setup
    program = dataclasses.replace(setup.program, accumulate=8)
    setup = dataclasses.replace(setup, program=program)
    with pytest.raises(tl.UserError, match=r"in a micro-batch; expected .* least 16"):
        selfsup.SimCLR(views=NOISE).check(setup)


DIGITS = (tl.data.RandomResizedCrop(scale=(0.4, 1.0)),)


def _experiment(**changes):
    fields = {
        "model": tl.models.MLP(widths=(32,)),
        "data": tl.data.Digits(labels=0, val=100, test=100),
        "terms": {"ssl": selfsup.SimCLR(projector=(16,), views=DIGITS)},
        "batch": 32,
        "steps": 4,
        "evaluate_every": 2,
    }
    return tl.Experiment(**{**fields, **changes})


def test_a_run_without_any_label_is_chosen_without_labels(tmp_path):
    added = {"rankme": tl.metrics.RankMe(), "knn": tl.metrics.KNNAccuracy()}
    run = tl.setup(_experiment(metrics=added))
    result = tl.train(run)
    assert run.monitor == "rankme"
    assert "without labels" in run.notes["monitor"]
    assert [set(added) <= set(row) for row in run.curve["val"]] == [True, True]
    assert 0.5 < result["test"]["knn"] <= 1.0
    assert "rankme" not in result["test"]
    assert "choosing" not in result


def test_nothing_chooses_where_no_metric_says_anything():
    run = tl.setup(_experiment())
    assert run.monitor is None
    assert "no term trains the head" in run.notes["monitor"]


def test_labels_of_val_that_choose_are_told():
    run = tl.setup(
        _experiment(metrics={"knn": tl.metrics.KNNAccuracy()}, monitor="knn")
    )
    assert "ORACLE" in run.notes["monitor"]


def test_pretraining_and_a_few_labels_are_phases_of_one_run():
    run = tl.setup(
        _experiment(
            data=tl.data.Digits(labels_per_class=2, val=100, test=100),
            terms={
                "ssl": selfsup.SimCLR(projector=(16,), views=DIGITS),
                "task": tl.losses.CrossEntropy(),
            },
            phases=(
                tl.optim.Phase(until=0.5, terms=("ssl",)),
                tl.optim.Phase(terms=("task",)),
            ),
            optim=tl.optim.SGD(lr=0.1),
        )
    )
    head = np.asarray(run.params["head"]["dense"]["kernel"])
    run.advance(2)
    assert np.array_equal(run.params["head"]["dense"]["kernel"], head)
    run.advance(2)
    assert not np.array_equal(run.params["head"]["dense"]["kernel"], head)
    assert run.monitor == "accuracy"
