"""From an Experiment to everything that a step needs, in one place, top to bottom."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import config, lazy_leaf, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.ranges import check_ranges
from jaxtl.core.types import PyTree
from jaxtl.data import device_stream, streams
from jaxtl.data.dataset import MULTITASK, Dataset
from jaxtl.optim import optimizer as optimizers
from jaxtl.optim.phases import ResolvedPhase, resolve_phases
from jaxtl.terms import losses
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.program import Program
from jaxtl.training import (
    device_mesh,
    evaluation_only,
    inputs,
    phase_program,
    stored_network,
)
from jaxtl.training.accumulation import describe_comparisons
from jaxtl.training.experiment import Experiment
from jaxtl.training.initial_model import (
    InitialModel,
    load_initial_model,
    read_initial_weights,
    too_few_outputs,
)
from jaxtl.training.step import Fixed, State, initial_state, packed_params


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PreparedTerms:
    """The terms of an experiment, checked and initialized.

    Attributes:
      terms: name -> term, the default task loss filled in.
      setups: name -> what the term was checked with.
      params, states, constants: name -> the term's arrays, for terms that have any.
      notes: name -> what the term decided for this experiment, where it tells.
    """

    terms: Mapping[str, Term]
    setups: Mapping[str, Setup]
    params: Mapping[str, PyTree]
    states: Mapping[str, PyTree]
    constants: Mapping[str, PyTree]
    notes: Mapping[str, str]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Assembled:
    """An experiment, put together; nothing has been trained yet.

    Attributes:
      datasets: stream name -> Dataset ("target" and the experiment's own streams).
      model: the model with its initial weights.
      phases: what is trainable when, at least one.
      terms: the terms, checked and initialized.
      program: the static description of the step, for the first phase.
      fixed: frozen parameters, θ₀ and other constants, placed on the mesh.
      state: the state before the first step.
      device_streams: stream name -> device-resident stream, for those that live there.
    """

    datasets: Mapping[str, Dataset]
    model: InitialModel
    phases: tuple[ResolvedPhase, ...]
    terms: PreparedTerms
    program: Program
    fixed: Fixed
    state: State
    device_streams: Mapping[str, Any]


def assemble(
    exp: Experiment,
    terms: Mapping[str, Term] | None = None,
    datasets: Mapping[str, Dataset] | None = None,
) -> Assembled:
    """Puts an experiment together.

    Args:
      exp: the experiment.
      terms: what training minimizes, {} for a run that is not trained; None takes the
        experiment's terms, or its task's loss where it has none.
      datasets: those of a stored run, of `inputs.load_datasets`; None reads the
        experiment's.

    Raises:
      UserError: for everything that can be wrong with an experiment.
    """
    check_ranges(exp)
    datasets = inputs.load_datasets(exp) if datasets is None else datasets
    if terms is None:
        terms = dict(exp.terms) or {
            "task": losses.for_task(datasets["target"].task, exp.model)
        }
    batch_sizes = inputs.batch_sizes(exp, terms, datasets)
    datasets, model = _loaded(exp, datasets, is_trained=bool(terms))
    phases = resolve_phases(
        exp,
        model.network.stages,
        model.base_params,
        model.stats,
        model.params,
        tuple(terms),
    )
    for phase in phases:
        optimizers.check(
            phase.optimizer, model.base_params, phase.base_mask, model.source
        )
    notes = {
        "batch": _repeated_rows(datasets, batch_sizes),
        "episodes": inputs.describe_episodes(datasets, batch_sizes),
    }
    program = _program(exp, datasets, model, phases, terms, batch_sizes)
    prepared = _prepare_terms(exp, datasets, model, program, terms)
    program = phase_program.of_phase(
        program, phases[0], model.peft_params, prepared.params
    )
    notes["accumulate"] = describe_comparisons(program, terms, model.stats)
    notes["tensor_shards"] = device_mesh.describe_copies(program, model)
    notes = {name: note for name, note in notes.items() if note}
    prepared = dataclasses.replace(prepared, notes={**prepared.notes, **notes})
    fixed = _fixed(model, program, prepared)
    state = _state(exp, model, phases[0], program, prepared)
    if lazy_leaf.has_lazy(model.base_params):
        model, prepared = _without_floats(exp, model, prepared, fixed, state)
    return Assembled(
        datasets=datasets,
        model=model,
        phases=phases,
        terms=prepared,
        program=program,
        fixed=fixed,
        state=state,
        device_streams=_device_streams(datasets, program),
    )


def _loaded(
    exp: Experiment, datasets: Mapping[str, Dataset], is_trained: bool
) -> tuple[Mapping[str, Dataset], InitialModel]:
    """The initial model, and the data sets in its terms where nothing is trained."""
    weights = read_initial_weights(exp, datasets)
    if weights is not None and not is_trained:
        target = evaluation_only.aligned(datasets["target"], exp.init, weights)
        datasets = {**datasets, "target": target}
    return datasets, load_initial_model(exp, datasets, weights)


def _program(
    exp: Experiment,
    datasets: Mapping[str, Dataset],
    model: InitialModel,
    phases: tuple[ResolvedPhase, ...],
    terms: Mapping[str, Term],
    batch_sizes: Mapping[str, int],
) -> Program:
    """The static description that terms are checked with, before any phase."""
    target = datasets["target"]
    reads = {
        name: streams.dataset_and_split_of(datasets, name)[0] for name in batch_sizes
    }
    example = streams.example_batch(
        target, model.preprocess["target"], batch_sizes.get("target", 2)
    )
    _, outputs = _shapes(model, example)
    if outputs < target.outputs:
        raise UserError(too_few_outputs(outputs, target))
    if exp.average is not None:
        exp.average.check()
    inputs.check_read("statistics", exp.statistics, batch_sizes)
    inputs.check_read("joint_pass", exp.joint_pass, batch_sizes)
    return Program(
        network=model.network,
        source_network=model.source_network,
        base_network=None if exp.peft is None else model.base_network,
        base_mask=phases[0].base_mask,
        trainable_mask=_trainable_in_any(phases),
        task=target.task,
        outputs=outputs,
        output_names=target.class_names if target.task == MULTITASK else (),
        batch_sizes=batch_sizes,
        preprocess={name: model.preprocess[reads[name]] for name in batch_sizes},
        joint_pass=exp.joint_pass,
        stats_streams=exp.statistics,
        episodes=inputs.episodes(datasets, batch_sizes),
        terms={n: config.without_hyperparameters(term) for n, term in terms.items()},
        peft=exp.peft and config.without_hyperparameters(exp.peft),
        average=exp.average and config.without_hyperparameters(exp.average),
        host_streams=tuple(
            name
            for name in batch_sizes
            if not device_stream.fits(datasets[reads[name]], exp.device_bytes)
        ),
        augment=exp.augment,
        accumulate=exp.accumulate,
        dtype=exp.dtype,
        mesh=device_mesh.mesh_of(exp, model),
    )


def _shapes(model: InitialModel, example: PyTree) -> tuple[Mapping[str, Any], int]:
    """Shapes of every stage's output, and the number of outputs of the head."""
    out = jax.eval_shape(model.network.apply, model.params, model.stats, example)
    return out.features, jax.tree.leaves(out.logits)[0].shape[-1]


def _trainable_in_any(phases: tuple[ResolvedPhase, ...]) -> PyTree:
    """Mask of the parameters that are trainable in any phase."""
    return functools.reduce(
        functools.partial(jax.tree.map, lambda a, b: a or b),
        [phase.trainable_mask for phase in phases],
    )


def _repeated_rows(datasets: Mapping[str, Dataset], sizes: Mapping[str, int]) -> str:
    """Says which batches are larger than their streams; refuses far larger ones."""
    notes = []
    for stream, size in sizes.items():
        name, split = streams.dataset_and_split_of(datasets, stream)
        notes.append(inputs.check_batch(stream, size, len(datasets[name].rows[split])))
    return "; ".join(note for note in notes if note)


def _ignored_weights(datasets: Mapping[str, Dataset], terms: Mapping[str, Term]) -> str:
    """Names the terms that read a stream with weights and count every example once."""
    weighted = {name for name, data in datasets.items() if data.weights is not None}
    names = [
        name
        for name, term in terms.items()
        if not term.reads_weights and weighted & set(term.streams)
    ]
    if not names:
        return ""
    return f"these terms count every example once: {', '.join(names)}"


def _prepare_terms(
    exp: Experiment,
    datasets: Mapping[str, Dataset],
    model: InitialModel,
    program: Program,
    terms: Mapping[str, Term],
) -> PreparedTerms:
    """Checks every term, then initializes its parameters, state and constants."""
    names = program.streams
    target, pre = datasets["target"], model.preprocess
    example = streams.example_batch(
        target, pre["target"], program.batch_sizes.get("target", 2)
    )
    shared = Setup(
        name="",
        program=program,
        params=model.params,
        stats=model.stats,
        source=lazy_leaf.realized(model.source),
        features=_shapes(model, example)[0],
        batches=functools.partial(
            streams.ordered_batches, datasets, pre, exp.evaluate_batch
        ),
        examples={
            n: len(datasets[streams.dataset_and_split_of(datasets, n)[0]].y)
            for n in names
        },
        label_counts=inputs.label_counts(datasets, names),
        train_rows={
            n: streams.split_rows(datasets[name], split)
            for n in names
            for name, split in [streams.dataset_and_split_of(datasets, n)]
        },
        classes=inputs.classes(datasets, names),
        steps=exp.steps,
        cache_bytes=0 if exp.cache == "off" else exp.cache_bytes,
        cache=exp.cache,
        tokenizer=target.tokenizer,
        load_run=stored_network.read,
    )
    setups = {name: dataclasses.replace(shared, name=name) for name in terms}
    for name, term in terms.items():
        term.check(setups[name])
    params, states, constants, notes = {}, {}, {}, {}
    for index, (name, term) in enumerate(terms.items()):
        key = jax.random.fold_in(jax.random.key(exp.seed), 10_000 + index)
        params[name] = term.init(key, setups[name])
        states[name] = term.init_state(setups[name])
        constants[name] = term.constants(setups[name])
        notes[name] = term.describe(setups[name])
    if note := _ignored_weights(datasets, terms):
        notes["sample_weight"] = note
    if "unlabelled" in exp.streams:
        notes["unlabelled"] = "the labels of streams['unlabelled'] are ignored"
    return PreparedTerms(
        terms=terms,
        setups=setups,
        params=_with_leaves(params),
        states=_with_leaves(states),
        constants=_with_leaves(constants),
        notes={name: note for name, note in notes.items() if note},
    )


def _with_leaves(trees_by_name: Mapping[str, PyTree]) -> dict[str, PyTree]:
    return {name: tree for name, tree in trees_by_name.items() if jax.tree.leaves(tree)}


def _fixed(model: InitialModel, program: Program, prepared: PreparedTerms) -> Fixed:
    fixed = Fixed(
        frozen=trees.partition(model.base_params, program.base_mask)[1],
        source=model.source,
        term_constants=prepared.constants,
        peft_constants=model.peft_constants,
    )
    return sharding.place(fixed, program.mesh, program.tensor_rules)


def _without_floats(
    exp: Experiment,
    model: InitialModel,
    prepared: PreparedTerms,
    fixed: Fixed,
    state: State,
) -> tuple[InitialModel, PreparedTerms]:
    """The same with a quantized base in place of the float one that terms began with.

    Nothing may keep the float weights in memory while the run trains.
    """
    # Copies: steps donate the state.
    trainable, peft = trees.copy(state.trainable), state.hypers["peft"]
    base = trees.merge(trainable["model"], fixed.frozen)
    params = packed_params(exp.peft, trees.copy(peft), trainable, fixed)
    model = dataclasses.replace(
        model, base_params=base, params=params, source=fixed.source
    )
    setups = {
        name: dataclasses.replace(setup, params=params, source=fixed.source)
        for name, setup in prepared.setups.items()
    }
    return model, dataclasses.replace(prepared, setups=setups)


def _state(
    exp: Experiment,
    model: InitialModel,
    phase: ResolvedPhase,
    program: Program,
    prepared: PreparedTerms,
) -> State:
    hypers = {
        "terms": phase_program.traced(prepared.terms),
        "peft": phase_program.traced(exp.peft),
        "average": phase_program.traced(exp.average),
        "steps": jnp.int32(exp.steps),
        "seed": jnp.uint32(exp.seed),
        **phase_program.hypers(phase),
    }
    return initial_state(
        program,
        model.base_params,
        model.stats,
        model.peft_params,
        prepared.params,
        prepared.states,
        hypers,
    )


def _device_streams(
    datasets: Mapping[str, Dataset], program: Program
) -> dict[str, device_stream.DeviceStream]:
    replicated = jax.sharding.NamedSharding(program.mesh, jax.sharding.PartitionSpec())
    device_streams = {}
    for name in program.streams:
        if name not in program.host_streams:
            read, split = streams.dataset_and_split_of(datasets, name)
            device_streams[name] = device_stream.from_split(
                datasets[read], split, replicated, labels=streams.has_labels(name)
            )
    return device_streams


def static_key(exp: Experiment) -> Any:
    """Computes a hashable value, equal for experiments that differ in numbers alone.

    These are the optimizer's (but for its groups'), and the weights of the terms.
    """
    rates = {
        k: v for k, v in config.hyperparameters(exp.optim).items() if k != "groups"
    }
    terms = {
        name: dataclasses.replace(term, weight=0.0)
        if isinstance(term.weight, int | float)
        else term
        for name, term in exp.terms.items()
    }
    optimizer = config.with_hyperparameters(
        exp.optim, jax.tree.map(lambda _: 0.0, rates)
    )
    return config.key(dataclasses.replace(exp, optim=optimizer, terms=terms))


def with_hyperparameters(assembled: Assembled, exp: Experiment) -> Assembled:
    """Assembles an experiment of the same `static_key` in little time.

    Raises:
      UserError: a number that a term refuses.
    """
    [phase] = assembled.phases
    rates = {
        k: v for k, v in config.hyperparameters(exp.optim).items() if k != "groups"
    }
    phase = dataclasses.replace(
        phase, optimizer=config.with_hyperparameters(phase.optimizer, rates)
    )
    terms = dict(exp.terms) or assembled.terms.terms
    for name, term in terms.items():
        term.check(assembled.terms.setups[name])
    changed = {"terms": phase_program.traced(terms), **phase_program.hypers(phase)}
    changed = sharding.place(changed, assembled.program.mesh)
    hypers = {**assembled.state.hypers, **changed}
    return dataclasses.replace(
        assembled,
        phases=(phase,),
        state=dataclasses.replace(assembled.state, hypers=hypers),
        terms=dataclasses.replace(assembled.terms, terms=terms),
    )
