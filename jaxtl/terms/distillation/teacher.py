"""Teachers: which trained networks a term reads, and whether they fit the data."""

from typing import Any

import jax
import numpy as np

from jaxtl.core import config
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import difference, listing, match_names
from jaxtl.core.types import Output, PyTree
from jaxtl.data import preprocess
from jaxtl.data.preprocess import Preprocess
from jaxtl.pretrained import FromRun
from jaxtl.pretrained.initial_weights import named_outputs
from jaxtl.pretrained.trained_network import TrainedNetwork, from_weights
from jaxtl.terms import checks
from jaxtl.terms.base import Setup


def load(setup: Setup, source: Any, model: Any, stream: str) -> TrainedNetwork:
    """A teacher's network, checked against the inputs of a stream.

    Args:
      setup: of the experiment.
      source: its weights, as an experiment's `init` takes them.
      model: its architecture; None for a run's own, or that of the weights.
      stream: whose batches it will see.

    Raises:
      UserError: no weights, or a network that can't read these inputs.
    """
    _check_source(setup, source, model)
    key = ("teacher", config.key((source, model)), stream)
    return setup.memo.once(key, lambda: _load(setup, source, model, stream))


def _check_source(setup: Setup, source: Any, model: Any) -> None:
    field = checks.where(setup, "teacher")
    if not (hasattr(source, "read") or hasattr(source, "read_for")):
        raise UserError(
            f"{field}={source!r}: expected trained weights, such as "
            'tl.pretrained.FromRun("<directory>"), or a tuple of them.'
        )
    if getattr(source, "is_init_only", False):
        raise UserError(
            f"{field}={type(source).__name__}({source.name!r}): a teacher is not "
            f"trained by this file; train {source.name!r} first and take "
            f'tl.pretrained.FromRun("<directory of {source.name}>").'
        )
    named_outputs(source, field)
    if reset := getattr(source, "reset", ()):
        raise UserError(
            f"{field}.reset={reset!r}: a teacher is not trained here, so none of its "
            "weights can begin anew; leave it out."
        )
    if isinstance(source, FromRun) and source.ignore:
        raise UserError(
            f"{field}.ignore={source.ignore!r}: the model of the run {source.path!r} "
            "is stored with it and has all of its weights; leave ignore out."
        )
    if isinstance(source, FromRun) and model is not None:
        raise UserError(
            f"{checks.where(setup, 'teacher_model')}={type(model).__name__}(…): the "
            f"model of the run {source.path!r} is stored with it; leave teacher_model "
            "out."
        )


def _load(setup: Setup, source: Any, model: Any, stream: str) -> TrainedNetwork:
    field = checks.where(setup, "teacher")
    x = _first_inputs(setup, stream)
    try:
        if isinstance(source, FromRun):
            assert setup.load_run is not None
            network = setup.load_run(source)
        else:
            if hasattr(source, "for_classes"):
                source = source.for_classes(model_outputs(setup))
            network = from_weights(source, model, x, setup.program.outputs)
    except UserError as error:
        raise UserError(f"{field}: {str(error).removeprefix('init: ')}") from None
    _check_inputs(setup, network, x, stream)
    return network


def _first_inputs(setup: Setup, stream: str) -> PyTree:
    """The inputs of one train example of a stream, preprocessed."""

    def first() -> PyTree:
        batch = next(iter(setup.batches(stream)))
        return jax.tree.map(lambda a: a[:1], batch["x"])

    return setup.memo.once(("first inputs", stream), first)


def model_outputs(setup: Setup) -> tuple[str, ...]:
    """Names of the model's outputs in order, () where they have none."""
    target = setup.classes.get("", ())
    longer = [n for n in setup.classes.values() if n[: len(target)] == target]
    return max(longer, key=len, default=target) if target else ()


def _check_inputs(
    setup: Setup, network: TrainedNetwork, x: PyTree, stream: str
) -> None:
    """Raises UserError for inputs that are not what the teacher was trained on."""
    pre = setup.program.preprocess[stream]
    owner = f"{checks.where(setup, 'teacher')}: the model of {network.where}"
    of_teacher = dict(network.inputs)
    of_data = {name: a.shape[1:] for name, a in _named(x).items()}
    if of_teacher and of_teacher.keys() != of_data.keys():
        raise UserError(
            f"{owner} reads the inputs {', '.join(of_teacher)}, and the stream "
            f"{stream!r} has {', '.join(of_data)}."
        )
    if of_teacher and not isinstance(x, dict):
        # Columns that mark holes follow the stored ones.
        *first, last = of_data["x"]
        stored = (*first, last - len(pre.indicators))
        if of_teacher["x"] != stored:
            raise UserError(
                f"{owner} reads examples of the shape {of_teacher['x']}, and those of "
                f"the stream {stream!r} have {stored}; for pictures size= and "
                "channels= of the data bring them to it."
            )
    tokenizer = setup.tokenizer if network.tokenizer else None
    if tokenizer is not None and tokenizer.to_json() != network.tokenizer:
        raise UserError(
            f"{owner} reads texts by another tokenizer than this experiment's data, so "
            "that its ids would mean other words; give both the same tokenizer."
        )
    _check_preprocess(owner, network.preprocess, pre, x)
    try:
        shapes(setup, network, stream)
    except UserError as error:
        raise UserError(f"{owner} can't read the stream {stream!r}: {error}") from None


def _named(x: PyTree) -> dict[str, Any]:
    return x if isinstance(x, dict) else {"x": x}


def _check_preprocess(
    owner: str, trained: Preprocess | None, pre: Preprocess, x: PyTree
) -> None:
    """Raises UserError where values can't be brought to the teacher's preprocessing."""
    if trained is None or isinstance(x, dict):
        return
    fields = ["indicators"]
    fields += ["scale"] if x.ndim != 4 else []  # images are in [0, 1] after it
    fields += ["fill"] if trained.fill and pre.fill else []
    for field in fields:
        of_teacher, of_data = getattr(trained, field), getattr(pre, field)
        same = np.shape(of_teacher) == np.shape(of_data)
        if not (same and np.allclose(of_teacher, of_data, rtol=1e-6)):
            raise UserError(
                f"{owner} was trained with preprocess.{field}={of_teacher}, and this "
                f"experiment has {of_data}; give it the teacher's by "
                f"preprocess=tl.data.Preprocess({field}=…)."
            )
    if unseen := sorted(set(pre.unseen) - set(trained.unseen)):
        raise UserError(
            f"{owner} was trained on the one-hot columns {unseen}, which no train row "
            "of this experiment has, so that they are read as 0; give it train rows "
            "with these categories."
        )


def inputs_of(network: TrainedNetwork, pre: Preprocess, x: PyTree) -> PyTree:
    """Inputs of a batch in the teacher's normalization.

    Args:
      network: the teacher.
      pre: preprocessing that the inputs have.
      x: the inputs, augmented or not.
    """
    trained = network.preprocess
    if trained is None or (trained.mean, trained.std) == (pre.mean, pre.std):
        return x
    trained = preprocess.stored_like(trained, pre)
    return preprocess.normalize(trained, preprocess.restore(pre, x))


def shapes(setup: Setup, network: TrainedNetwork, stream: str) -> Output:
    """The shapes of a teacher's outputs for one example of a stream."""
    pre, x = setup.program.preprocess[stream], _first_inputs(setup, stream)

    def forward(network: TrainedNetwork, x: PyTree) -> Output:
        return network.forward(inputs_of(network, pre, x))

    return jax.eval_shape(forward, network, x)


def check_logits(setup: Setup, network: TrainedNetwork, stream: str) -> None:
    """Raises UserError for a teacher whose outputs are not the model's classes."""
    owner = f"{checks.where(setup, 'teacher')}: the model of {network.where}"
    task = setup.program.task
    if not network.has_head:
        raise UserError(
            f"{owner} has no trained head, and this term reads its outputs; take one "
            "of its features, such as tl.distillation.FitNets."
        )
    if network.task not in ("", task):
        raise UserError(
            f"{owner} was trained for {network.task!r}, and the task of this "
            f"experiment is {task!r}."
        )
    trained, names = network.output_names, model_outputs(setup)
    match = match_names(trained, names)
    differ = match is None or (match.kind != "place" and len(trained) != len(names))
    # A single regression target may have any name.
    if differ and not (task == "regression" and len(trained) == len(names) == 1):
        raise UserError(
            f"{owner} has the outputs {listing(trained)}, and this experiment's are "
            f"{listing(names)}{difference(trained, names)}; a teacher needs the same "
            "ones, in any order."
        )
    outputs = jax.tree.leaves(shapes(setup, network, stream).logits)[0].shape[-1]
    if outputs != setup.program.outputs:
        raise UserError(
            f"{owner} has {outputs} outputs, and the model of this experiment "
            f"{setup.program.outputs}."
        )
    if task == "regression" and network.preprocess is not None:
        try:
            preprocess.check_targets(
                network.preprocess, setup.program.preprocess[stream]
            )
        except UserError as error:
            raise UserError(f"{owner}: {error}") from None


def output_order(setup: Setup, network: TrainedNetwork) -> np.ndarray | None:
    """The place in the teacher's outputs of each of the model's; None if the same."""
    match = match_names(network.output_names, model_outputs(setup))
    return None if match is None or match.is_identity else np.array(match.places)


def check_stage(
    setup: Setup, network: TrainedNetwork, field: str, stage: str, stream: str
) -> None:
    """Raises UserError if a teacher has no such stage, or shows no feature of it."""
    stages = tuple(shapes(setup, network, stream).features)
    if stage not in stages:
        raise UserError(
            f"{checks.where(setup, field)}={stage!r}: the teacher of {network.where} "
            f"has no such stage{nearest(stage, stages)} (stages: {', '.join(stages)})."
        )
