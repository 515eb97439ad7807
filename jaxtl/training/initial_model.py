"""The model of an experiment before training: network, initial and source weights."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import compilation, lazy_leaf, token_ids
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, short_repr
from jaxtl.core.types import Network, PyTree, Source
from jaxtl.data import streams, task_outputs
from jaxtl.data.dataset import Dataset
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.tokenizer import TrainedTokenizer
from jaxtl.models.staged import Staged
from jaxtl.models.two_towers import TwoTowers
from jaxtl.models.zero_shot import ZeroShotClassifier
from jaxtl.optim.phases import resolve_phases
from jaxtl.peft import quantized_base
from jaxtl.pretrained import hf_peft_read, initial_weights, match, reorder
from jaxtl.pretrained.from_prompts import FromPrompts
from jaxtl.terms.selfsup import MaskedLanguageModel
from jaxtl.training import inputs
from jaxtl.training.experiment import Experiment


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class InitialModel:
    """A model with its initial weights.

    Attributes:
      config: the model with its number of outputs filled in (as configuration).
      base_network: its pure functions, before a reparametrization.
      network: the same with what a reparametrization adds.
      source_network: the model with the source's own number of outputs, None where the
        source has no head.
      base_params: initial parameters after loading, before a reparametrization.
      params: the parameters as `network` reads them.
      stats: initial BatchNorm statistics.
      source: θ₀.
      peft_params, peft_constants: of the reparametrization ({} without one).
      preprocess: data set -> its preprocessing, with the weights' mean and std.
      loading: the table of loaded, re-initialized and skipped leaves ([] from scratch).
      output_names: of the head's outputs in order, as far as they have names.
      meta: of the weights, {} without any.
      notes: "init.head", "init.columns" -> how names of the weights were matched to the
        data's, where that was not as they are; "init.tensors" -> what the file lacks
        or has beyond the model.
    """

    config: Any
    base_network: Network
    network: Network
    source_network: Network | None
    base_params: PyTree
    params: PyTree
    stats: PyTree
    source: Source
    peft_params: PyTree
    peft_constants: PyTree
    preprocess: Mapping[str, Preprocess]
    loading: list
    output_names: tuple[str, ...]
    meta: Mapping[str, Any]
    notes: Mapping[str, str]


def read_initial_weights(
    exp: Experiment, datasets: Mapping[str, Dataset]
) -> match.Weights | None:
    """The weights of `exp.init` for a model of the data's outputs; None without."""
    if exp.init is None:
        return None
    outputs = streams.number_of_outputs(datasets)
    config, _ = _network(exp.model, datasets["target"], outputs)
    init = exp.init
    if isinstance(init, FromPrompts):
        init = init.for_classes(streams.output_names(datasets))
    return _named_weights(init, config)


def load_initial_model(
    exp: Experiment, datasets: Mapping[str, Dataset], weights: match.Weights | None
) -> InitialModel:
    """Builds the model, initializes it, loads weights, adds the reparametrization.

    Args:
      exp: the experiment.
      datasets: of the experiment.
      weights: of `read_initial_weights`.
    """
    target = datasets["target"]
    if isinstance(exp.model, Staged):
        kind = f"data={type(exp.data).__name__}"
        exp.model.check_targets(target.task, target.y_clean, kind)
    config, network = _network(exp.model, target, streams.number_of_outputs(datasets))
    tokenizers = _check_inputs(exp, config, datasets)
    weights, output_names, notes = _ordered_weights(exp, config, datasets, weights)
    pre = inputs.preprocessing(exp, weights, datasets)
    x = streams.example_batch(target, pre["target"])
    network = network.for_inputs(x)
    params, stats = _initialize(network, exp.seed, x)
    source = Source()
    loading: list = []
    if weights is not None:
        params, stats, source, loading = match.match(
            params,
            stats,
            weights,
            getattr(exp.init, "reset", ()),
            getattr(exp.init, "ignore", ()),
        )
    if exp.wise_ft and source.params is None:
        raise UserError(
            f"wise_ft={exp.wise_ft!r}: the experiment starts from scratch, so there is "
            "no θ₀ to interpolate from; give it an init=."
        )
    source_network = _source_network(config, network, params, source, x)
    model = InitialModel(
        config=config,
        base_network=network,
        network=network,
        source_network=source_network,
        base_params=params,
        params=params,
        stats=stats,
        source=source,
        peft_params={},
        peft_constants={},
        preprocess=pre,
        loading=loading,
        output_names=output_names,
        meta={} if weights is None else weights.meta,
        notes={**notes, **tokenizers},
    )
    return model if exp.peft is None else _reparametrized(exp, model, x)


def _check_inputs(
    exp: Experiment, model: Any, datasets: Mapping[str, Dataset]
) -> dict[str, str]:
    """Notes on tokenizers that have fewer ids than the model.

    Raises:
      UserError: tokenizers or ids beyond the model's vocabulary.
    """
    if not isinstance(model, Staged | TwoTowers | ZeroShotClassifier):
        return {}
    notes, vocab = {}, model.id_sizes().get("input_ids")
    for name in ("target", *exp.streams):
        owner = "data" if name == "target" else f"streams[{name!r}]"
        data = exp.data if name == "target" else exp.streams[name]
        kind = f"{owner}={type(data).__name__}"
        model.check_kind(datasets[name].example_shape, kind)
        tokenizer = datasets[name].tokenizer
        if vocab and tokenizer is not None:
            tokens = tokenizer.vocab
            token_ids.check_vocabulary(tokens, vocab, owner)
            if tokens < vocab and not isinstance(tokenizer, TrainedTokenizer):
                notes[f"{owner}.tokenizer"] = (
                    f"it has {tokens:,} ids, the model's vocabulary {vocab:,}: is it "
                    "the model's own?"
                )
        model.check_inputs(datasets[name].x, owner)
    return notes | _note_on_hidden_tokens(exp, model, datasets["target"])


def _note_on_hidden_tokens(
    exp: Experiment, model: Any, target: Dataset
) -> dict[str, str]:
    """A note where a model of hidden tokens is measured on texts without labels.

    Raises:
      UserError: such a model without the term that trains it.
    """
    if target.task != "language" or getattr(model, "predict", None) != "mask":
        return {}
    terms = exp.terms.values()
    if not any(isinstance(term, MaskedLanguageModel) for term in terms):
        raise UserError(
            "model.predict='mask': texts without labels are a task of predicting the "
            "next token, which this model reads as its input; expected predict='next', "
            "or the term tl.selfsup.MaskedLanguageModel(stream='target')."
        )
    return {
        "model.predict": "perplexity, nll and accuracy of an evaluation are of the "
        "next token, which this model reads as its input, so they say nothing; read "
        "the term's own loss and accuracy"
    }


def _network(config: Any, target: Dataset, outputs: int) -> tuple[Any, Network]:
    """The model with its number of outputs, and its pure functions."""
    if isinstance(config, Network):
        return config, config
    if not callable(getattr(config, "pure", None)):
        raise UserError(
            f"model={short_repr(config)}: expected one of tl.models, or a tl.Network "
            "(tl.models.wrap makes one of a module of flax, equinox or haiku, or of a "
            "pair of functions)."
        )
    if (heads := getattr(config, "task_heads", None)) is not None:
        task_outputs.check_heads(heads.outputs, target.class_names, target.task)
    if config.outputs is None:
        config = dataclasses.replace(config, outputs=outputs)
    elif config.outputs < target.outputs:
        raise UserError(too_few_outputs(config.outputs, target))
    elif config.outputs < outputs:
        raise UserError(
            f"model.outputs={config.outputs}, but a stream has the target's classes "
            f"and more, {outputs} in all; leave outputs out to let the data decide."
        )
    return config, config.pure()


def too_few_outputs(outputs: int, target: Dataset) -> str:
    """The message for a model with fewer outputs than the data need."""
    kind = "classes" if target.class_names else "targets"
    return (
        f"model.outputs={outputs}, but the data have {target.outputs} {kind}; leave "
        "outputs out to let the data decide."
    )


def _named_weights(init: Any, model: Any) -> match.Weights:
    """Reads initial weights, with the names that the user gives to their outputs."""
    weights = initial_weights.read_weights(init, model)
    names = initial_weights.named_outputs(init)
    return (
        weights if names is None else dataclasses.replace(weights, output_names=names)
    )


def _ordered_weights(
    exp: Experiment,
    config: Any,
    datasets: Mapping[str, Dataset],
    weights: match.Weights | None,
) -> tuple[match.Weights | None, tuple[str, ...], dict[str, str]]:
    """The weights in the order of the data's names, names of all outputs, and notes."""
    target, names = datasets["target"], streams.output_names(datasets)
    if weights is None:
        return None, names, {}
    skipped = [
        pattern
        for field in ("reset", "ignore")
        for pattern in match.patterns(field, getattr(exp.init, field, ()))
    ]
    loading = reorder.Loading(
        config,
        streams.example_batch(target, target.preprocess),
        weights,
        tuple(skipped),
        initial_weights.weights_name(exp.init),
    )
    weights, columns = reorder.order_columns(loading, target.feature_names)
    loading = dataclasses.replace(loading, weights=weights)
    weights, names, head = reorder.order_head(loading, names)
    notes = {
        "init.head": head,
        "init.columns": columns,
        "init.tensors": weights.note(),
    }
    return weights, names, {name: note for name, note in notes.items() if note}


@functools.lru_cache(maxsize=32)
def _init(network: Network):
    return jax.jit(network.init, compiler_options=compilation.once())


def _initialize(network: Network, seed: int, x: PyTree) -> tuple[PyTree, PyTree]:
    """The model's initial (params, stats) for inputs like x."""
    if network.weights is None:
        params, stats = _init(network)(jax.random.key(seed), x)
    else:
        # Compiling them in as constants takes minutes for a large module; the module's
        # own arrays stay its own, since training donates its buffers.
        params, stats = trees.copy(network.init(jax.random.key(seed), x))
    if not isinstance(params, dict) or set(params) - set(network.stages):
        raise UserError(
            f"the model's init must return a dict of its stages {network.stages}, got "
            f"{list(params) if isinstance(params, dict) else type(params).__name__}."
        )
    return params, stats


def _source_network(
    config: Any, network: Network, params: PyTree, source: Source, x: PyTree
) -> Network | None:
    """The model with the source's number of outputs, None without a source head."""
    head = network.stages[-1]
    if source.params is None:
        return None
    if head not in params:
        return network  # a tied head has no parameters of its own
    if source.head is None:
        return None
    shapes = functools.partial(jax.tree.map, lambda leaf: tuple(leaf.shape))
    if shapes(source.head) == shapes(params[head]):
        return network
    if isinstance(config, Network):
        return None
    for outputs in sorted({leaf.shape[-1] for leaf in jax.tree.leaves(source.head)}):
        candidate = dataclasses.replace(config, outputs=outputs).pure()
        initial = jax.eval_shape(candidate.init, jax.random.key(0), x)[0]
        if shapes(initial.get(head)) == shapes(source.head):
            return candidate
    return None


def _reparametrized(exp: Experiment, model: InitialModel, x: PyTree) -> InitialModel:
    """The model with the parameters of `exp.peft`."""
    peft, network, params = exp.peft, model.base_network, model.base_params
    quantized_base.check(peft)
    peft.check(network, params)
    adapter, notes = None, dict(model.notes)
    if peft.start is not None:
        adapter, note = hf_peft_read.read_start(
            peft, model.config, params, x, model.output_names
        )
        whole = adapter.whole
        params = trees.map_with_path(
            lambda p, leaf: jnp.asarray(whole.get(p, leaf), leaf.dtype), params
        )
        notes |= {"peft.start": note} if note else {}
    source = model.source
    if peft.base != quantized_base.FLOAT:
        params, source = _quantized(exp, model, params)
        network = quantized_base.stagewise(network)
        notes["peft.base"] = quantized_base.describe(peft, network, params)
    floats = lazy_leaf.realized(params)
    if adapter is None:
        # A key that the initial weights do not use: their numbers must not repeat.
        key = jax.random.fold_in(jax.random.key(exp.seed), 20_000)
        shapes = jax.eval_shape(network.apply, params, model.stats, x).features
        peft_params, constants = peft.init(key, floats, shapes), peft.constants(floats)
    else:
        peft_params, constants = adapter.delta, adapter.constants
    merged = jax.jit(peft.merge)(floats, peft_params, constants)
    if source.params is not None:  # None at the leaves that the reparametrization added
        source = dataclasses.replace(source, params=trees.like(merged, source.params))
    adapted = peft.network(model.base_network)
    is_float = peft.base == quantized_base.FLOAT
    return dataclasses.replace(
        model,
        base_network=network,
        network=adapted if is_float else quantized_base.stagewise(adapted),
        base_params=params,
        params=merged,
        source=source,
        peft_params=peft_params,
        peft_constants=constants,
        notes=notes,
    )


def _quantized(
    exp: Experiment, model: InitialModel, params: PyTree
) -> tuple[PyTree, Source]:
    """The base with the matrices quantized that no phase trains, and θ₀ likewise."""
    phases = resolve_phases(
        exp, model.base_network.stages, params, model.stats, params, ()
    )
    trained = functools.reduce(
        functools.partial(jax.tree.map, lambda a, b: a or b),
        [phase.base_mask for phase in phases],
    )
    matrices = quantized_base.quantizable(model.base_network, params, trained)
    quantized = quantized_base.quantized(exp.peft, params, matrices)
    leaves, source = trees.flatten(quantized), model.source
    before = trees.flatten(model.base_params)

    def same(path: str, leaf: Any) -> Any:
        # A leaf that peft.start replaced is not θ₀'s.
        is_quantized = path in matrices and matrices[path] is before[path]
        return leaves[path] if is_quantized else leaf

    return quantized, dataclasses.replace(
        source, params=trees.map_with_path(same, source.params)
    )
