"""From an Experiment to what a step needs: data, model, weights, Source, state."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config, losses, objective, optim, sharding, step
from jaxtl import tree as trees
from jaxtl.core import Network, PyTree, Setup, Source, Term, UserError, nearest
from jaxtl.data import base, lazy, preprocess, streams
from jaxtl.experiment import Experiment
from jaxtl.pretrained import match


@dataclasses.dataclass(frozen=True, eq=False)
class Assembled:
    """An experiment, put together; nothing has been trained yet.

    Attributes:
      model: the model with its number of outputs filled in (as configuration).
      network: its pure functions.
      datasets: stream name -> Dataset ("target" and the experiment's own streams).
      params, stats: initial values after loading, whole.
      fixed: frozen parameters and θ₀, placed on the mesh.
      program: what is compiled in.
      state: the state before the first step.
      data: stream name -> device-resident stream, for those that live there.
      rows: the table of what was loaded ([] from scratch).
      terms: name -> term, the default task loss filled in.
      notes: name -> what a term decided for this experiment, where it says so.
      preprocess: data set -> its preprocessing, with the model's mean and std.
    """

    model: Any
    network: Network
    datasets: Mapping[str, base.Dataset]
    params: PyTree
    stats: PyTree
    fixed: step.Fixed
    program: step.Program
    state: step.State
    data: Mapping[str, Any]
    rows: list
    terms: Mapping[str, Term]
    notes: Mapping[str, str]
    preprocess: Mapping[str, preprocess.Preprocess]


def assemble(exp: Experiment) -> Assembled:
    """Puts an experiment together; everything that can be wrong is said here."""
    datasets = _datasets(exp)
    target = datasets["target"]
    model, network = _network(exp.model, target)
    weights = None if exp.init is None else _weights(exp.init, model)
    pre = _preprocess(exp, weights, datasets)
    params, stats = _initial(network, exp.seed, pre["target"], target)
    source, rows = Source(), []
    if weights is not None:
        params, stats, source, rows = match.match(
            params,
            stats,
            weights,
            _tuple(getattr(exp.init, "reset", ())),
            _tuple(getattr(exp.init, "ignore", ())),
        )
    terms = dict(exp.terms) or {"task": losses.for_task(target.task)}
    labels = optim.labels(exp.optim, params)
    mask = optim.trainable(exp.optim, labels)
    if exp.steps and not any(jax.tree.leaves(mask)):
        raise UserError(
            f"optim.groups={dict(exp.optim.groups)} freezes every parameter, so there "
            "is nothing to train; leave a group unfrozen, or set steps=0 to evaluate."
        )
    _check_source(exp, source)
    sizes = _streams(exp, terms, target)
    own, states, notes = _terms(
        exp, terms, network, params, stats, source, mask, target, sizes, pre, datasets
    )
    mesh = sharding.mesh(exp.devices, exp.param_shards)
    train, still = optim.modes(exp.optim, network.stages, mask, stats)
    resident = {n: streams.fits(datasets[data_of(n)], exp.device_bytes) for n in sizes}
    program = step.Program(
        network=network,
        terms={name: config.shell(term) for name, term in terms.items()},
        optimizer=config.shell(exp.optim),
        labels=_trainable_labels(labels, mask, own),
        mask=mask,
        train=train,
        still=still,
        batch=sizes,
        host=tuple(n for n in sizes if not resident[n]),
        preprocess={n: pre[data_of(n)] for n in sizes},
        augment=exp.augment,
        accumulate=exp.accumulate,
        dtype=exp.dtype,
        mesh=mesh,
        task=target.task,
    )
    hypers = {
        "terms": _traced(config.numbers(terms)),
        "optim": _traced(config.numbers(exp.optim)),
        "steps": jnp.int32(exp.steps),
        "seed": jnp.uint32(exp.seed),
    }
    frozen = trees.partition(params, mask)[1]
    fixed = sharding.place(step.Fixed(frozen, source), mesh)
    state = step.initial_state(program, params, stats, own, states, hypers)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    data = {
        n: streams.device_stream(datasets[data_of(n)], split_of(n), whole)
        for n in sizes
        if resident[n]
    }
    return Assembled(
        model=model,
        network=network,
        datasets=datasets,
        params=params,
        stats=stats,
        fixed=fixed,
        program=program,
        state=state,
        data=data,
        rows=rows,
        terms=terms,
        notes=notes,
        preprocess=pre,
    )


def _weights(init: Any, model: Any):
    """Reads initial weights; another library's file in the layout of the model."""
    read_for = getattr(init, "read_for", None)
    return read_for(model) if read_for else init.read()


def split_of(stream: str) -> str:
    """Returns the split that a stream reads: "unlabelled" its own, others "train"."""
    return "unlabelled" if stream == "unlabelled" else "train"


def data_of(stream: str) -> str:
    """Returns the name of the data set that a stream reads from."""
    return "target" if stream == "unlabelled" else stream


def _tuple(patterns) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _traced(tree):
    return jax.tree.map(lambda x: jnp.float32(x), tree)


def sources(exp: Experiment) -> dict[str, base.Data]:
    """Returns "target" and the streams, images in the size of pretrained weights.

    A size that the data name themselves stays.
    """
    framing = getattr(exp.init, "framing", None)
    wanted = framing(exp.model) if framing else {}
    found = {"target": exp.data, **exp.streams}
    if not wanted:
        return found
    return {
        name: config.replace(data, **wanted) if data.size is None else data
        for name, data in found.items()
    }


def _datasets(exp: Experiment) -> dict[str, base.Dataset]:
    for name in exp.streams:
        if name in ("target", "unlabelled", "terms"):
            raise UserError(
                f"streams: the name {name!r} is taken (target and unlabelled come from "
                "data=); choose another, such as 'source'."
            )
    found = {}
    for name, data in sources(exp).items():
        found[name] = base.prepare(data, exp.seed)
        _same_kind(name, found[name], found["target"])
    return found


def _same_kind(name, other: base.Dataset, target: base.Dataset) -> None:
    if other.example_shape != target.example_shape:
        raise UserError(
            f"streams[{name!r}] has examples of shape {other.example_shape}, the "
            f"target of shape {target.example_shape}; give both the same size= and "
            "channels=."
        )


def _network(model: Any, target: base.Dataset) -> tuple[Any, Network]:
    if isinstance(model, Network):
        return model, model
    if not callable(getattr(model, "pure", None)):
        raise UserError(
            f"model={model!r}: expected one of tl.models, or a tl.Network (any pure "
            "(init, apply) pair becomes one with tl.models.foreign)."
        )
    if model.outputs is None:
        model = config.replace(model, outputs=target.outputs)
    elif model.outputs < target.outputs:
        raise UserError(_narrow(model.outputs, target))
    return model, model.pure()


def _narrow(outputs: int, target: base.Dataset) -> str:
    kind = "classes" if target.class_names else "targets"
    return (
        f"model.outputs={outputs}, but the data have {target.outputs} {kind}; leave "
        "outputs out to let the data decide."
    )


def _preprocess(exp, weights, datasets) -> dict[str, preprocess.Preprocess]:
    """The model's mean and std travel with its weights; the scale is the data's."""
    if exp.preprocess is not None:
        return dict.fromkeys(datasets, exp.preprocess)
    own = datasets["target"].preprocess
    if weights is not None and weights.meta.get("preprocess"):
        own = preprocess.from_json(weights.meta["preprocess"])
    return {
        name: dataclasses.replace(data.preprocess, mean=own.mean, std=own.std)
        for name, data in datasets.items()
    }


@functools.lru_cache(maxsize=32)
def _init(network: Network):
    return jax.jit(network.init)


def _initial(network, seed, pre, target):
    """Returns the model's initial (params, stats) for one example of the data."""
    x = example(target, pre)
    params, stats = _init(network)(jax.random.key(seed), x)
    if not isinstance(params, dict) or set(params) - set(network.stages):
        raise UserError(
            f"the model's init must return a dict of its stages {network.stages}, got "
            f"{list(params) if isinstance(params, dict) else type(params).__name__}."
        )
    return params, stats


def example(dataset: base.Dataset, pre: preprocess.Preprocess, count: int = 1):
    """Returns the first train rows, preprocessed, as a batch."""
    rows = np.resize(dataset.rows["train"], count)
    return preprocess.apply(pre, lazy.gather(dataset.x, rows))


def _check_source(exp, source):
    if exp.optim.decay_to_source is not None and source.params is None:
        raise UserError(
            f"optim.decay_to_source={exp.optim.decay_to_source}: the experiment starts "
            "from scratch, so there is no θ₀ to stay near; give it an init=."
        )


def _streams(exp, terms, target) -> dict[str, int]:
    """Returns {stream: batch size} for the streams that the terms read."""
    there = ["target", *exp.streams]
    if "unlabelled" in target.rows:
        there.append("unlabelled")
    sizes = {}
    for name in objective.streams(terms):
        asking = [t for t, term in terms.items() if name in term.streams]
        if name == "unlabelled" and name not in there:
            raise UserError(
                f"terms[{asking[0]!r}] reads the stream 'unlabelled', but data= leaves "
                "no train rows without a label; set data.labels_per_class."
            )
        if name not in there:
            raise UserError(
                f"terms[{asking[0]!r}] reads the stream {name!r}, which does not exist"
                f"{nearest(name, there)} (streams: {', '.join(there)})."
            )
        sizes[name] = exp.batch_of(name)
        parts = exp.accumulate * exp.devices
        if sizes[name] < 1 or sizes[name] % parts:
            raise UserError(
                f"batch={sizes[name]} of the stream {name!r} must be a positive "
                f"multiple of accumulate × devices = {parts}."
            )
    return sizes


def _terms(
    exp, terms, network, params, stats, source, mask, target, sizes, pre, datasets
):
    """Checks every term and returns {name: …} of own parameters, states and notes."""
    x = example(target, pre["target"], sizes.get("target", 2))
    out = jax.eval_shape(functools.partial(network.apply), params, stats, x)
    if out.logits.shape[-1] < target.outputs:
        raise UserError(_narrow(out.logits.shape[-1], target))
    own, states, notes = {}, {}, {}
    for index, (name, term) in enumerate(terms.items()):
        facts = Setup(
            name=name,
            network=network,
            params=params,
            stats=stats,
            source=source,
            mask=mask,
            features=out.features,
            outputs=out.logits.shape[-1],
            task=target.task,
            streams=tuple(sizes),
        )
        term.check(facts)
        key = jax.random.fold_in(jax.random.key(exp.seed), 10_000 + index)
        made, state = term.init(key, facts), term.init_state(facts)
        if jax.tree.leaves(made):
            own[name] = made
        if jax.tree.leaves(state):
            states[name] = state
        if term.describe(facts):
            notes[name] = term.describe(facts)
    return own, states, notes


def _trainable_labels(labels, mask, own):
    model = jax.tree.map(lambda g, m: g if m else None, labels, mask)
    return {"model": model, "terms": jax.tree.map(lambda _: optim.TERMS, own)}
