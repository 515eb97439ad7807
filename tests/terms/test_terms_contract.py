"""What every term keeps: one row here per term, and no term without a row.

A row is a term with each of its float fields set, and the same term with other
numbers in them: both must run in one compiled program.
"""

import ast
import dataclasses
import importlib
import os
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest
import rows_distillation
import rows_domain
import rows_fewshot
import rows_generalization
import rows_imbalance
import rows_multitask
import rows_noisy
import rows_selfsup
import rows_semi
from conftest import Bench
from rows import library, row

import jaxtl as tl
from jaxtl.core import config, serialization
from jaxtl.core import tree as trees
from jaxtl.terms import context as terms_context
from jaxtl.terms.regularizers import (
    L2SP,
    JacobianDifference,
    WeightDecay,
    importance_file,
)

_ROOT = pathlib.Path(tl.__file__).parent


_STRONG = [{"strengths": {"layer1": 0.5}}, {"strengths": {"layer1": 2.0}}]
_PLACE = f"{tempfile.gettempdir()}/jaxtl_importance_{os.getpid()}"
_HEADS = [{"head": 0.1}, {"head": 0.2}]
_WARM = [{"temperature": 1.5}, {"temperature": 2.0}]
_BALLS = [
    {"radius": 0.1, "step_size": 0.05, "start": 0.02},
    {"radius": 0.2, "step_size": 0.1, "start": 0.04},
]
TERMS = [
    row(tl.losses.CrossEntropy, {"label_smoothing": 0.1}, {"label_smoothing": 0.2}),
    row(tl.losses.OrdinalCrossEntropy),
    row(tl.losses.BinaryCrossEntropy, task="multilabel"),
    row(tl.losses.SquaredError, task="regression"),
    row(tl.losses.NextToken, task="language"),
    row(tl.losses.SpanCrossEntropy, task="question_answering"),
    row(tl.losses.ImageTextCrossEntropy, task="contrastive"),
    row(tl.losses.ImageTextSigmoid, task="contrastive"),
    row(tl.losses.CoSENT, {"scale": 5.0}, {"scale": 8.0}, task="similarity"),
    row(
        tl.losses.MultipleNegativesRanking,
        {"scale": 5.0},
        {"scale": 8.0},
        task="similarity",
    ),
    row(WeightDecay),
    row(L2SP, {"head": 0.1, **_STRONG[0]}, {"head": 0.2, **_STRONG[1]}),
    row(tl.regularizers.L1SP, *_STRONG),
    row(tl.regularizers.GroupLassoSP, *_STRONG),
    row(tl.regularizers.CosineSP, *_STRONG),
    row(tl.regularizers.EWC, *_STRONG, importance=f"{_PLACE}/fisher.safetensors"),
    row(tl.regularizers.MAS, *_STRONG, importance=_PLACE, normalize=True),
    row(tl.regularizers.KFAC, importance=_PLACE),
    row(tl.regularizers.SpectralShrinkage),
    row(tl.regularizers.DELTA, *_HEADS),
    row(tl.regularizers.DELTA, *_HEADS, attention=False, task="language"),
    row(tl.regularizers.AttentionTransfer, task="language"),
    row(tl.regularizers.FunctionDistance, *_WARM),
    row(tl.regularizers.LwF, *_WARM),
    row(tl.regularizers.CoTuning),
    row(tl.regularizers.R3F, {"scale": 0.1}, {"scale": 0.2}),
    row(tl.regularizers.SMART, *_BALLS),
    row(JacobianDifference),
    row(JacobianDifference, wrt="inputs", estimator="exact"),
    row(JacobianDifference, every=2, probes=2, draws="orthogonal"),
    row(JacobianDifference, estimator="forward", probes=2),
    row(JacobianDifference, estimator="forward", directions=2),
    row(JacobianDifference, estimator="forward", stage_groups=2),
    row(JacobianDifference, estimator="dense"),
    row(JacobianDifference, estimator="dense_projected", probes=2),
    *rows_domain.ROWS,
    *rows_fewshot.ROWS,
    *rows_generalization.ROWS,
    *rows_imbalance.ROWS,
    *rows_multitask.ROWS,
    *rows_selfsup.ROWS,
    *rows_semi.ROWS,
    *rows_noisy.ROWS,
    *rows_distillation.ROWS,
]
_IDS = [f"{i}-{type(row.term).__name__}" for i, row in enumerate(TERMS)]


@pytest.fixture(autouse=True, scope="module")
def _stored_importance():
    """Writes importance of θ₀ and a teacher where rows expect them; removes both."""
    params = Bench().source.params
    arrays = {path: abs(leaf) + 0.1 for path, leaf in trees.flatten(params).items()}
    place, digests = pathlib.Path(_PLACE), importance_file.digests(params)
    for kind, file in (("fisher", ""), ("mas", importance_file.FOLDER)):
        made = importance_file.Importance(kind, arrays, digests, 6, "train")
        importance_file.write(place / file / f"{kind}.safetensors", made)
    layer = {"A": np.eye(6) + 0.5, "G": np.eye(8) + 0.5}
    head = {"A": np.eye(9) + 0.5, "G": np.eye(3) + 0.5}
    arrays = trees.flatten({"layer1": {"dense": layer}, "head": {"dense": head}})
    arrays = {path: np.float32(x) for path, x in arrays.items()}
    made = importance_file.Importance("kfac", arrays, digests, 6, "train")
    importance_file.write(place / importance_file.FOLDER / "kfac.safetensors", made)
    rows_distillation.write_teacher()
    yield
    shutil.rmtree(_PLACE)
    shutil.rmtree(rows_distillation.PLACE)


def _classes() -> set[tuple[str, str]]:
    """(module, class) of every public Term that computes a loss.

    A base class that leaves `__call__` to its subclasses is not one of them.
    """
    bases: dict[tuple[str, str], set[str]] = {}
    callable_names: set[str] = set()
    for path in _ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(_ROOT.parent).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef):
                continue
            names = {ast.unparse(base).split(".")[-1] for base in node.bases}
            bases[module, node.name] = names
            methods = {m.name for m in node.body if isinstance(m, ast.FunctionDef)}
            if "__call__" in methods and node.name != "Term":
                callable_names.add(node.name)
    terms = _descendants({"Term"}, bases) - {"Term"}
    losses = _descendants(callable_names & terms, bases)
    return {
        (module, name)
        for module, name in bases
        if name in terms & losses
        and not name.startswith("_")
        # Their classes are those that others derive from.
        and not module.endswith((".base", ".inner_loop", ".feature_pairs"))
    }


def _descendants(names: set[str], bases: dict[tuple[str, str], set[str]]) -> set[str]:
    """The named classes and all that derive from them, by name."""
    names, size = set(names), 0
    while len(names) > size:
        size = len(names)
        names |= {name for (_, name), parents in bases.items() if parents & names}
    return names


def test_every_term_has_a_row():
    rows = {(type(r.term).__module__, type(r.term).__name__) for r in TERMS}
    missing = _classes() - rows
    assert not missing, f"add a row to TERMS for {sorted(missing)}"


@pytest.mark.parametrize("row", TERMS, ids=_IDS)
def test_a_row_varies_every_number(row):
    ours = trees.flatten(config.hyperparameters(row.term))
    theirs = trees.flatten(config.hyperparameters(row.twin))
    assert "weight" in ours
    assert [name for name in ours if ours[name] == theirs[name]] == []


@pytest.mark.parametrize("row", TERMS, ids=_IDS)
def test_terms_are_frozen_keyword_only_dataclasses_with_a_docstring(row):
    cls = type(row.term)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.term.weight = 3.0
    assert all(f.kw_only for f in dataclasses.fields(cls))
    # dataclass writes a signature where a docstring is missing.
    assert not cls.__doc__.startswith(cls.__name__ + "(")


@pytest.mark.parametrize("row", TERMS, ids=_IDS)
def test_packages_hand_their_terms_on(row):
    cls = type(row.term)
    package = cls.__module__.rpartition(".")[0]
    if package == "jaxtl.terms":
        package = cls.__module__  # a file of its own: tl.losses.CrossEntropy
    assert getattr(importlib.import_module(package), cls.__name__) is cls


@pytest.mark.parametrize("row", TERMS, ids=_IDS)
@pytest.mark.parametrize("new_head", [False, True])
def test_it_runs_is_finite_and_compiles_once(bench, row, new_head):
    library(row)
    room = bench(row.task, new_head=new_head)
    row.term.check(room.setup)
    own = row.term.init(jax.random.key(0), room.setup)
    state = row.term.init_state(room.setup)
    given = row.term.constants(room.setup)
    blank = config.without_hyperparameters(row.term)
    assert config.key(blank) == config.key(config.without_hyperparameters(row.twin))
    traces = []

    @jax.jit
    def step(numbers, params, own, state, given):
        traces.append(1)
        term = config.with_hyperparameters(blank, numbers)

        def loss(params, own):
            context = room.context(
                params, term_params=own, state=state, constants=given
            )
            value, metrics = terms_context.loss({"term": term}, context)
            return value, (metrics, context.term_states)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, own)

    values = []
    for term in (row.term, row.twin):
        (value, (metrics, states)), grads = step(
            config.hyperparameters(term), room.params, own, state, given
        )
        assert value.shape == ()
        assert value.dtype == np.float32
        assert trees.all_finite((value, metrics, grads))
        assert all(m.shape == () for m in metrics.values())
        np.testing.assert_allclose(value, term.weight * metrics["term"], rtol=1e-6)
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), states["term"]) == shapes
        values.append(float(value))
    assert len(traces) == 1, "a number is compiled in instead of traced"
    # A ReLU layer's features are linear in its parameters: nothing to differ there.
    assert values[0] != values[1] or values == [0.0, 0.0]


@pytest.mark.parametrize("row", TERMS, ids=_IDS)
def test_it_runs_with_all_but_the_head_frozen(bench, row):
    library(row)
    body = tuple(bench(row.task).network.stages[:-1])
    room = bench(row.task, frozen=body)
    row.term.check(room.setup)
    own = row.term.init(jax.random.key(0), room.setup)
    given = row.term.constants(room.setup)
    frozen = {stage: room.params[stage] for stage in body}

    def loss(head):
        params = {**frozen, "head": head}
        state = row.term.init_state(room.setup)
        context = room.context(params, term_params=own, state=state, constants=given)
        return terms_context.loss({"term": row.term}, context)[0]

    head = room.params.get("head", {})  # that of a bi-encoder has none
    assert trees.all_finite(jax.jit(jax.grad(loss))(head))


@pytest.mark.parametrize("row", TERMS, ids=_IDS)
def test_a_missing_stream_is_an_error_that_names_it(bench, row):
    if not row.term.streams:
        pytest.skip("reads no stream")
    setup = bench(row.task).setup
    program = dataclasses.replace(setup.program, batch_sizes={"other": 6})
    setup = dataclasses.replace(setup, program=program)
    with pytest.raises(tl.UserError, match=repr(row.term.streams[0])):
        row.term.check(setup)


@pytest.mark.parametrize("row", TERMS, ids=_IDS)
def test_it_survives_the_snapshot(row):
    assert serialization.from_json(serialization.to_json(row.term)) == row.term
