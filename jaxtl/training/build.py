"""From an Experiment to what a step needs: data, model, weights, Source, state."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import compilation, config, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree, Source
from jaxtl.data import dataset, device_stream, preprocess, streams
from jaxtl.optim import phase_plan
from jaxtl.optim.optimizer import PEFT, TERMS, Optimizer, check
from jaxtl.pretrained import hf_peft_folder, match
from jaxtl.terms import losses
from jaxtl.terms.base import Setup, Term
from jaxtl.training import inputs, step
from jaxtl.training.experiment import Experiment


@dataclasses.dataclass(frozen=True, eq=False)
class Assembled:
    """An experiment, put together; nothing has been trained yet.

    Attributes:
      model: the model with its number of outputs filled in (as configuration).
      network: its pure functions, as a reparametrisation changes them.
      datasets: stream name -> Dataset ("target" and the experiment's own streams).
      params, stats: initial values after loading, whole; before a reparametrisation.
      stretches: what is trainable when, at least one.
      fixed: frozen parameters, θ₀ and other constants, placed on the mesh.
      program: what is compiled in, for the first stretch.
      state: the state before the first step.
      data: stream name -> device-resident stream, for those that live there.
      rows: the table of what was loaded ([] from scratch).
      terms: name -> term, the default task loss filled in.
      notes: name -> what a term decided for this experiment, where it says so.
      preprocess: data set -> its preprocessing, with the model's mean and std.
      optimizer: of the first stretch, with its groups as a mapping.
      asked: term name -> what the term was checked with.
    """

    model: Any
    network: Network
    datasets: Mapping[str, dataset.Dataset]
    params: PyTree
    stats: PyTree
    stretches: tuple[phase_plan.ResolvedPhase, ...]
    fixed: step.Fixed
    program: step.Program
    state: step.State
    data: Mapping[str, Any]
    rows: list
    terms: Mapping[str, Term]
    notes: Mapping[str, str]
    preprocess: Mapping[str, preprocess.Preprocess]
    optimizer: Optimizer
    asked: Mapping[str, Setup]


def assemble(exp: Experiment) -> Assembled:
    """Puts an experiment together; everything that can be wrong is said here."""
    datasets = inputs.datasets_of(exp)
    target = datasets["target"]
    model, plain = _network(exp.model, target, streams.number_of_outputs(datasets))
    weights = None if exp.init is None else _weights(exp.init, model)
    pre = inputs.preprocessing(exp, weights, datasets)
    params, stats = _initial(plain, exp.seed, pre["target"], target)
    source, rows = Source(), []
    if weights is not None:
        params, stats, source, rows = match.match(
            params,
            stats,
            weights,
            _tuple(getattr(exp.init, "reset", ())),
            _tuple(getattr(exp.init, "ignore", ())),
        )
    own_network = _source_network(model, plain, params, stats, source, pre, target)
    x = streams.example_batch(target, pre["target"])
    adapted = _adapted(exp, model, plain, params, stats, x)
    network, delta, constants, params, merged = adapted
    source = _extended(source, merged)
    terms = dict(exp.terms) or {"task": losses.for_task(target.task)}
    plan = phase_plan.resolve_phases(exp, network.stages, params, stats, merged)
    for stretch in plan:
        check(stretch.optimizer, params, stretch.mask, source)
    sizes = inputs.sizes(exp, terms, target)
    facts = Setup(
        name="",
        network=network,
        params=merged,
        stats=stats,
        source=source,
        mask=_ever(plan),
        features={},
        outputs=target.outputs,
        task=target.task,
        streams=tuple(sizes),
        source_network=own_network,
        batches=functools.partial(
            streams.ordered_batches, datasets, pre, exp.evaluate_batch
        ),
        examples={
            n: len(datasets[streams.dataset_and_split_of(datasets, n)[0]].y)
            for n in sizes
        },
        classes=inputs.classes(datasets, sizes),
        bare=None if exp.peft is None else plain,
        plain=None if exp.peft is None else plan[0].mask,
    )
    asked = _asked(terms, facts, target, pre, sizes)
    own, states, given, notes = _terms(exp.seed, terms, asked)
    if "unlabelled" in exp.streams:
        notes["unlabelled"] = "the labels of streams['unlabelled'] are ignored"
    mesh = sharding.mesh(exp.devices, exp.param_shards)
    reads = {n: streams.dataset_and_split_of(datasets, n) for n in sizes}
    resident = {
        n: device_stream.fits(datasets[reads[n][0]], exp.device_bytes) for n in sizes
    }
    if exp.average is not None:
        exp.average.check()
    if exp.wise_ft and source.params is None:
        raise UserError(
            f"wise_ft={exp.wise_ft!r}: the experiment starts from scratch, so there is "
            "no θ₀ to interpolate from; give it an init=."
        )
    first = plan[0]
    program = step.Program(
        network=network,
        source_network=own_network,
        bare=facts.bare,
        terms={
            name: config.without_hyperparameters(term) for name, term in terms.items()
        },
        optimizer=config.without_hyperparameters(first.optimizer),
        peft=config.without_hyperparameters(exp.peft) if exp.peft is not None else None,
        average=config.without_hyperparameters(exp.average)
        if exp.average is not None
        else None,
        labels=_trainable_labels(first, delta, own),
        mask=first.mask,
        moving=first.moving,
        cut=None,
        cut_source=False,
        train=first.train,
        still=first.still,
        batch=sizes,
        host=tuple(n for n in sizes if not resident[n]),
        preprocess={n: pre[reads[n][0]] for n in sizes},
        augment=exp.augment,
        accumulate=exp.accumulate,
        dtype=exp.dtype,
        mesh=mesh,
        task=target.task,
        statistics=inputs.statistics(exp, sizes),
    )
    hypers = {
        "terms": _traced(config.hyperparameters(terms)),
        "peft": _traced(config.hyperparameters(exp.peft)),
        "average": _traced(config.hyperparameters(exp.average)),
        "steps": jnp.int32(exp.steps),
        "seed": jnp.uint32(exp.seed),
        **schedule(first),
    }
    frozen = trees.partition(params, first.mask)[1]
    fixed = step.Fixed(frozen, source, given, constants)
    state = step.initial_state(program, params, stats, delta, own, states, hypers)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    data = {
        n: device_stream.from_split(
            datasets[reads[n][0]], reads[n][1], whole, labels=streams.has_labels(n)
        )
        for n in sizes
        if resident[n]
    }
    return Assembled(
        model=model,
        network=network,
        datasets=datasets,
        params=params,
        stats=stats,
        stretches=plan,
        fixed=sharding.place(fixed, mesh),
        program=program,
        state=state,
        data=data,
        rows=rows,
        terms=terms,
        notes=notes,
        preprocess=pre,
        optimizer=first.optimizer,
        asked=asked,
    )


def static_key(exp: Experiment) -> Any:
    """Returns a hashable value, equal for experiments that differ in numbers alone.

    These are the optimizer's (but for its groups'), and the weights of the terms.
    """
    rates = {
        k: v for k, v in config.hyperparameters(exp.optim).items() if k != "groups"
    }
    weights = {
        name: dataclasses.replace(term, weight=0.0)
        if isinstance(term.weight, int | float)
        else term
        for name, term in exp.terms.items()
    }
    optimizer = config.with_hyperparameters(
        exp.optim, jax.tree.map(lambda _: 0.0, rates)
    )
    return config.key(dataclasses.replace(exp, optim=optimizer, terms=weights))


def with_hyperparameters(made: Assembled, exp: Experiment) -> Assembled:
    """Returns what `assemble` would, for an experiment of the same `essence`.

    Raises:
      UserError: a number that a term refuses.
    """
    [stretch] = made.stretches
    rates = {
        k: v for k, v in config.hyperparameters(exp.optim).items() if k != "groups"
    }
    stretch = dataclasses.replace(
        stretch, optimizer=config.with_hyperparameters(stretch.optimizer, rates)
    )
    terms = dict(exp.terms) or made.terms
    for name, term in terms.items():
        term.check(made.asked[name])
    new = {"terms": _traced(config.hyperparameters(terms)), **schedule(stretch)}
    new = sharding.place(new, made.program.mesh)
    state = dataclasses.replace(made.state, hypers={**made.state.hypers, **new})
    return dataclasses.replace(
        made,
        stretches=(stretch,),
        state=state,
        terms=terms,
        optimizer=stretch.optimizer,
    )


def next_program(
    program: step.Program, stretch: phase_plan.ResolvedPhase, trainable: PyTree
) -> step.Program:
    """Returns the program of another stretch of the same run, without a cache."""
    return dataclasses.replace(
        program,
        optimizer=config.without_hyperparameters(stretch.optimizer),
        labels=_trainable_labels(stretch, trainable["peft"], trainable["terms"]),
        mask=stretch.mask,
        moving=stretch.moving,
        cut=None,
        cut_source=False,
        train=stretch.train,
        still=stretch.still,
    )


def schedule(stretch: phase_plan.ResolvedPhase) -> dict:
    """Returns the traced numbers that a stretch brings its own of."""
    return {
        "optim": _traced(config.hyperparameters(stretch.optimizer)),
        "first": jnp.int32(stretch.schedule.start),
        "span": jnp.int32(len(stretch.schedule)),
    }


def _ever(plan) -> PyTree:
    """Returns the mask of what is trainable at any time."""
    return functools.reduce(
        functools.partial(jax.tree.map, lambda a, b: a or b),
        [stretch.moving for stretch in plan],
    )


def _adapted(exp, model, network: Network, params: PyTree, stats: PyTree, x):
    """Returns (network, delta, constants, base, merged parameters) of exp.peft."""
    peft = exp.peft
    if peft is None:
        return network, {}, {}, params, params
    peft.check(network, params)
    # A key of its own: the delta must not repeat the numbers of the initial weights.
    key = jax.random.fold_in(jax.random.key(exp.seed), 20_000)
    shapes = jax.eval_shape(network.apply, params, stats, x).features
    delta, constants = peft.init(key, params, shapes), peft.constants(params)
    if peft.start is not None:
        delta, constants, saved = hf_peft_folder.begin(peft, model, params)
        params = trees.map_with_path(
            lambda path, x: jnp.asarray(saved.get(path, x), x.dtype), params
        )
    merged = jax.jit(peft.merge)(params, delta, constants)
    return peft.network(network), delta, constants, params, merged


def _extended(source: Source, params: PyTree) -> Source:
    """Returns the source with None at the leaves that a reparametrisation added."""
    if source.params is None:
        return source
    return dataclasses.replace(source, params=trees.like(params, source.params))


def _weights(init: Any, model: Any):
    """Reads initial weights; another library's file in the layout of the model."""
    read_for = getattr(init, "read_for", None)
    return read_for(model) if read_for else init.read()


def _tuple(patterns) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _traced(tree):
    return jax.tree.map(lambda x: jnp.float32(x), tree)


def _network(model: Any, target: dataset.Dataset, outputs: int) -> tuple[Any, Network]:
    if isinstance(model, Network):
        return model, model
    if not callable(getattr(model, "pure", None)):
        raise UserError(
            f"model={model!r}: expected one of tl.models, or a tl.Network (any pure "
            "(init, apply) pair becomes one with tl.models.foreign)."
        )
    if model.outputs is None:
        model = dataclasses.replace(model, outputs=outputs)
    elif model.outputs < target.outputs:
        raise UserError(_narrow(model.outputs, target))
    return model, model.pure()


def _narrow(outputs: int, target: dataset.Dataset) -> str:
    kind = "classes" if target.class_names else "targets"
    return (
        f"model.outputs={outputs}, but the data have {target.outputs} {kind}; leave "
        "outputs out to let the data decide."
    )


@functools.lru_cache(maxsize=32)
def _init(network: Network):
    return jax.jit(network.init, compiler_options=compilation.once())


def _initial(network, seed, pre, target):
    """Returns the model's initial (params, stats) for one example of the data."""
    x = streams.example_batch(target, pre)
    params, stats = _init(network)(jax.random.key(seed), x)
    if not isinstance(params, dict) or set(params) - set(network.stages):
        raise UserError(
            f"the model's init must return a dict of its stages {network.stages}, got "
            f"{list(params) if isinstance(params, dict) else type(params).__name__}."
        )
    return params, stats


def _asked(terms, facts: Setup, target, pre, sizes) -> dict[str, Setup]:
    """Returns what each term is asked with, and asks whether it can work so."""
    x = streams.example_batch(target, pre["target"], sizes.get("target", 2))
    out = jax.eval_shape(facts.network.apply, facts.params, facts.stats, x)
    outputs = out.logits.shape[-1]
    if outputs < target.outputs:
        raise UserError(_narrow(outputs, target))
    asked = {}
    for name, term in terms.items():
        asked[name] = dataclasses.replace(
            facts, name=name, features=out.features, outputs=outputs
        )
        term.check(asked[name])
    return asked


def _terms(seed, terms, asked):
    """Returns {name: …} of the terms' own parameters, states, given arrays, notes."""
    own, states, given, notes = {}, {}, {}, {}
    for index, (name, term) in enumerate(terms.items()):
        key = jax.random.fold_in(jax.random.key(seed), 10_000 + index)
        for found, made in (
            (own, term.init(key, asked[name])),
            (states, term.init_state(asked[name])),
            (given, term.given(asked[name])),
        ):
            if jax.tree.leaves(made):
                found[name] = made
        if term.describe(asked[name]):
            notes[name] = term.describe(asked[name])
    return own, states, given, notes


def _source_network(model, network, params, stats, source, pre, target):
    """Returns the model with the source's number of outputs, None without a head."""
    head = network.stages[-1]
    if source.params is None:
        return None
    if head not in params:
        return network  # a tied head has no parameters of its own
    if source.head is None:
        return None
    shapes = functools.partial(jax.tree.map, lambda x: tuple(x.shape))
    if shapes(source.head) == shapes(params[head]):
        return network
    if isinstance(model, Network):
        return None
    x = streams.example_batch(target, pre["target"])
    for outputs in sorted({leaf.shape[-1] for leaf in jax.tree.leaves(source.head)}):
        found = dataclasses.replace(model, outputs=outputs).pure()
        made = jax.eval_shape(found.init, jax.random.key(0), x)[0]
        if shapes(made.get(head)) == shapes(source.head):
            return found
    return None


def _trainable_labels(stretch: phase_plan.ResolvedPhase, delta: PyTree, own: PyTree):
    return {
        "model": stretch.labels,
        "peft": jax.tree.map(lambda _: PEFT, delta),
        "terms": jax.tree.map(lambda _: TERMS, own),
    }
