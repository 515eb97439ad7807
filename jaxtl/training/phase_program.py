"""What a phase changes: the program of its steps, and the numbers that they read."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import config
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.optim import optimizer as optimizers
from jaxtl.optim.phases import ResolvedPhase
from jaxtl.terms.program import Program


def of_phase(
    program: Program, phase: ResolvedPhase, peft_params: PyTree, term_params: PyTree
) -> Program:
    """The program of one phase of the run, without cached features.

    Args:
      program: of the run, or of another phase of it.
      phase: the phase.
      peft_params, term_params: what is trained beside the model's parameters.
    """
    return dataclasses.replace(
        program,
        optimizer=config.without_hyperparameters(phase.optimizer),
        labels={
            "model": phase.labels,
            "peft": jax.tree.map(lambda _: optimizers.PEFT, peft_params),
            # A run reopened to evaluate it has no terms, but keeps their groups.
            "terms": _term_labels(program, phase, term_params),
        },
        base_mask=phase.base_mask,
        trainable_mask=phase.trainable_mask,
        train_stages=phase.train_stages,
        frozen_stats=phase.frozen_stats,
        phase_terms=phase.terms,
        idle_terms=None,
        variants={},
        cached_until=None,
        cached_source=False,
    )


def _term_labels(
    program: Program, phase: ResolvedPhase, term_params: PyTree
) -> dict[str, PyTree]:
    """Optimizer groups of the terms' parameters, which a phase may leave alone.

    Terms that begin in one phase share no state of the optimizer with earlier ones.
    """
    if not program.terms:
        return {}  # A run reopened to evaluate it has no terms, but keeps their groups.

    def label(path: str, group: str) -> str:
        name = path.split("/")[0]
        if name not in phase.terms_since:
            return optimizers.IDLE
        since = phase.terms_since[name]
        return f"{group}{optimizers.SINCE}{since}" if since else group

    groups = optimizers.term_labels(phase.optimizer, term_params)
    return trees.map_with_path(label, groups)


def hypers(phase: ResolvedPhase) -> dict[str, Any]:
    """The traced numbers that differ from phase to phase."""
    return {
        "optim": traced(phase.optimizer),
        "first": jnp.int32(phase.schedule_steps.start),
        "span": jnp.int32(len(phase.schedule_steps)),
        "term_starts": {name: jnp.int32(s) for name, s in phase.term_starts.items()},
    }


def traced(value: Any) -> PyTree:
    """The numbers of a value that an ablation varies, as float32 arrays."""
    return jax.tree.map(lambda x: jnp.float32(x), config.hyperparameters(value))
