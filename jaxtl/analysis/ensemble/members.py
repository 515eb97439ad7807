"""Members of an ensemble: finished runs, loaded, compared and evaluated."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxtl.core import config, progress, sharding
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.data import episodic, streams
from jaxtl.data.dataset import Data, Dataset
from jaxtl.evaluation import forward
from jaxtl.training import run_paths
from jaxtl.training.load_model import TrainedModel, load_model
from jaxtl.training.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One run's model and data, without what only training needs.

    Attributes:
      name: the run's directory, as short as it differs from the others.
      model: its network and how it is evaluated.
      params, stats: its weights, on the host.
      dataset: its data, with their splits.
      data: the options of its data.
    """

    name: str
    model: forward.EvaluationModel
    params: PyTree
    stats: PyTree
    dataset: Dataset
    data: Data


def load_members(
    runs: Iterable[Run | str | pathlib.Path], which: str = "best"
) -> list[Member]:
    """Loads the models of runs, and checks that they can form one ensemble.

    Args:
      runs: directories, of runs or of studies, or runs in memory.
      which: "best" or "last" weights.

    Raises:
      UserError: fewer than two runs, or two that differ in task, classes or splits.
    """
    runs = list(runs)
    in_memory = [run for run in runs if isinstance(run, Run)]
    paths = run_paths.find_runs([run for run in runs if not isinstance(run, Run)])
    if len(in_memory) + len(paths) < 2:
        received = f"one, {paths[0]}" if paths else ("one" if in_memory else "none")
        raise UserError(f"an ensemble needs at least two runs; got {received}.")
    members: list[Member] = []
    for i, run in enumerate(in_memory):
        members.append(_member_in_memory(f"run {i + 1}", run, which))
        check_agreement(members[0], members[-1])
        episodic.refuse(run.datasets["target"].episodes is not None, "an ensemble")
    named = _names(paths).items()
    for name, path in progress.track(named, "loading members", len(paths)):
        trained = load_model(path, which)
        episodic.refuse(trained.stored_learner is not None, f"an ensemble of {path}")
        members.append(_stored_member(name, trained))
        check_agreement(members[0], members[-1])
    return members


def _names(paths: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Name -> path; names are relative to the directory above all runs."""
    if not paths:
        return {}
    common = os.path.commonpath([path.resolve() for path in paths])
    above = common if len(paths) > 1 else os.path.dirname(common)
    return {os.path.relpath(path.resolve(), above): path for path in paths}


def _stored_member(name: str, trained: TrainedModel) -> Member:
    dataset = trained.datasets["target"]
    return Member(
        name=name,
        model=trained.evaluation_model(),
        params=jax.tree.map(np.asarray, trained.params),
        stats=jax.tree.map(np.asarray, trained.stats),
        dataset=dataset,
        data=trained.data,
    )


def _member_in_memory(name: str, run: Run, which: str) -> Member:
    dataset = run.datasets["target"]
    weights = run.weights("best" if which == "best" else "current")
    params, stats = jax.tree.map(np.asarray, weights)
    return Member(
        name=name,
        model=run.evaluation_model(),
        params=params,
        stats=stats,
        dataset=dataset,
        data=run.exp.data,
    )


def check_agreement(first: Member, other: Member) -> None:
    """Checks that two members were evaluated on the same examples.

    Their train rows may differ: a member may have been trained on fewer labels.

    Raises:
      UserError: if they differ in task, classes, data, or a split for evaluation.
    """
    a, b = first.dataset, other.dataset
    pair = f"{first.name} and {other.name}"
    for what, value, other_value in (
        ("task", a.task, b.task),
        ("classes", a.output_names, b.output_names),
    ):
        if value != other_value:
            raise UserError(
                f"{pair} are runs of different {what}, {value!r} and {other_value!r}; "
                "the members of an ensemble must have the same."
            )
    same_data = _content(first.data) == _content(other.data)
    if a.fingerprint != b.fingerprint and not same_data:
        raise UserError(
            f"{pair} are runs of different data ({a.name} and {b.name}, fingerprints "
            f"{a.fingerprint} and {b.fingerprint}), so they share no test examples."
        )
    for name in ("val", "test"):
        if not np.array_equal(a.rows.get(name, ()), b.rows.get(name, ())):
            raise UserError(
                f"{pair} have different {name} splits, so one may have trained on what "
                "the other is tested on; give their data the same split_seed=."
            )


def _content(data: Data) -> Hashable:
    """The options that decide which examples the data hold, not how they look."""
    defaults = {f.name: f.default for f in dataclasses.fields(Data)}
    del defaults["classes"]
    return config.key(dataclasses.replace(data, **defaults))


def predict_members(
    members: Sequence[Member], split_names: Iterable[str]
) -> dict[str, np.ndarray]:
    """{split: (members, examples, outputs)}, before the output activation.

    Members of equal architecture, shapes and input are evaluated in one program whose
    weights have a leading axis; the others in a program of their own.

    Raises:
      UserError: outputs that are not finite, or of different width.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, member in enumerate(members):
        groups.setdefault(_program_key(member), []).append(i)
    logits: dict[str, list] = {name: [None] * len(members) for name in split_names}
    for indices in groups.values():
        group_logits = _predict_group([members[i] for i in indices], list(logits))
        for name, values in group_logits.items():
            for i, member_logits in zip(indices, values):
                logits[name][i] = member_logits
    for name, values in logits.items():
        check_logits(members, values, name)
    return {name: np.stack(values) for name, values in logits.items()}


def check_logits(
    members: Sequence[Member], logits: Sequence[np.ndarray], split: str
) -> None:
    """Checks that the outputs of all members are finite and of the same width.

    Raises:
      UserError: if they are not.
    """
    for member, values in zip(members, logits):
        if not np.isfinite(values).all():
            raise UserError(
                f"the outputs of {member.name} on {split} are not all finite."
            )
        if values.shape != logits[0].shape:
            raise UserError(
                f"{members[0].name} and {member.name} have different numbers of "
                f"outputs, {logits[0].shape[-1]} and {values.shape[-1]}."
            )


def _program_key(member: Member) -> Hashable:
    """Equal for members that one compiled program can evaluate."""
    leaves, structure = jax.tree.flatten((member.params, member.stats))
    shapes = tuple((x.shape, str(x.dtype)) for x in leaves)
    model = member.model
    settings = (model.network, model.preprocess, model.dtype, model.mesh)
    return (*settings, member.dataset.fingerprint, str(structure), shapes)


def _predict_group(
    members: Sequence[Member], split_names: Iterable[str]
) -> dict[str, np.ndarray]:
    """The logits of members that share a program, (members, examples, outputs)."""
    model, dataset = members[0].model, members[0].dataset
    weights = jax.tree.map(
        lambda *leaves: np.stack(leaves), *((m.params, m.stats) for m in members)
    )
    # On CPU batched matrix products are slow. Accelerators would be mostly idle if the
    # members took turns.
    together = model.mesh.devices.flat[0].platform != "cpu"
    return forward.predict_splits(
        model,
        sharding.replicate(weights, model.mesh),
        dataset,
        {name: streams.split_rows(dataset, name) for name in split_names},
        functools.partial(stacked_logits, together=together),
        axis=1,
    )


def stacked_logits(
    network: Network,
    weights: tuple[PyTree, PyTree],
    x: PyTree,
    task: str,
    *,
    together: bool,
) -> jax.Array:
    """Logits (members, batch, outputs) of weights with a leading axis of members.

    Args:
      network, x, task: as for `forward.logits`.
      weights: (parameters, statistics), stacked.
      together: whether members are computed at the same time or in turn.
    """

    def member_logits(weights: tuple[PyTree, PyTree]) -> Any:
        return forward.logits(network, weights, x, task)

    if together:
        return jax.vmap(member_logits)(weights)
    return jax.lax.map(member_logits, weights)
