"""Loss correction: a known matrix of label noise enters the cross-entropy."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxtl.core import numpy_files
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.noisy.base import NoisyLabelTerm, log_probabilities
from jaxtl.terms.noisy.transition_matrix import check_transition

# Above this condition number T⁻¹ is mostly rounding of an estimate's third digit.
_LARGEST_CONDITION_NUMBER = 1e4


def forward_corrected(
    logits: jax.Array, labels: jax.Array, transition: ArrayLike
) -> jax.Array:
    """−log Σ_i p_i T[i, y], mean over examples; p predicts the clean label.

    Args:
      logits: (batch, K), before the softmax.
      labels: y, (batch,) observed labels.
      transition: T, (K, K), T[i, j] = P(observed label j | true class i).

    Returns:
      A scalar in nats.

    References:
      Patrini et al., CVPR 2017, eq. 8 (theorem 2).
    """
    log_t = jnp.log(jnp.asarray(transition))[:, labels].T
    joint = log_probabilities(logits) + log_t
    return -jnp.mean(jax.nn.logsumexp(joint, axis=-1))


def backward_corrected(
    logits: jax.Array, labels: jax.Array, inverse: ArrayLike
) -> jax.Array:
    """−Σ_j T⁻¹[y, j] log p_j, mean over examples: unbiased for the clean loss.

    Args:
      logits: (batch, K), before the softmax.
      labels: y, (batch,) observed labels.
      inverse: T⁻¹, (K, K). Its entries may be negative, and so may the loss, which is
        then unbounded below: suited to few steps and mild noise.

    Returns:
      A scalar in nats.

    References:
      Patrini et al., CVPR 2017, eq. 5 (theorem 1).
    """
    log_p = log_probabilities(logits)
    return -jnp.mean(jnp.sum(jnp.asarray(inverse)[labels] * log_p, axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _LossCorrection(NoisyLabelTerm):
    """Base class of both corrections: reads and checks the transition matrix."""

    transition: str | tuple = ""

    def check(self, setup: Setup) -> None:
        super().check(setup)
        self._checked_matrix(setup)

    def _checked_matrix(self, setup: Setup) -> np.ndarray:
        """The matrix, checked for what the correction needs."""
        return self._matrix(setup)

    def _matrix(self, setup: Setup) -> np.ndarray:
        name = checks.where(setup, "transition")
        matrix: Any = self.transition
        if isinstance(matrix, str):
            path = pathlib.Path(matrix)
            if not matrix or not path.is_file():
                raise UserError(
                    f"{name}={matrix!r}: expected a K × K matrix as nested tuples, or "
                    "a .npy file of one, such as `jaxtl labels RUN` writes."
                )
            matrix = numpy_files.read_npy(path)
        matrix = check_transition(matrix, name)
        if len(matrix) != setup.program.outputs:
            raise UserError(
                f"{name} is {len(matrix)} × {len(matrix)}, and the model has "
                f"{setup.program.outputs} outputs."
            )
        return matrix


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardCorrection(_LossCorrection):
    """`forward_corrected` of a stream's batch; the model predicts clean labels.

    Attributes:
      stream: name of the stream.
      transition: T[i, j] = P(observed label j | true class i): nested tuples, or a .npy
        file. `jaxtl labels RUN` estimates it from a warm-up run and writes the file;
        `noisy.estimate_transition` estimates it from an array of predictions.

    References:
      Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017.
    """

    def _checked_matrix(self, setup: Setup) -> np.ndarray:
        matrix = self._matrix(setup)
        if (is_zero := matrix.sum(0) == 0).any():
            raise UserError(
                f"{checks.where(setup, 'transition')}: column {int(is_zero.argmax())} "
                "is all 0, so no class ever gives that label, and the loss of an "
                "example that has it would be infinite."
            )
        return matrix

    def constants(self, setup: Setup) -> PyTree:
        return {"transition": jnp.asarray(self._checked_matrix(setup), jnp.float32)}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        value = forward_corrected(logits, labels, context.constants["transition"])
        return value, {"accuracy": losses.label_accuracy(logits, labels)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackwardCorrection(_LossCorrection):
    """`backward_corrected` of a stream's batch.

    Attributes:
      stream: name of the stream.
      transition: as in `ForwardCorrection`; it must have an inverse.

    References:
      Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017.
    """

    def _checked_matrix(self, setup: Setup) -> np.ndarray:
        matrix = self._matrix(setup)
        if not (condition := np.linalg.cond(matrix)) < _LARGEST_CONDITION_NUMBER:
            raise UserError(
                f"{checks.where(setup, 'transition')} has (almost) no inverse (its "
                f"condition number is {condition:.3g}), which backward correction "
                "needs; use ForwardCorrection, which needs none."
            )
        return matrix

    def constants(self, setup: Setup) -> PyTree:
        inverse = np.linalg.inv(self._checked_matrix(setup))
        return {"inverse": jnp.asarray(inverse, jnp.float32)}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        value = backward_corrected(logits, labels, context.constants["inverse"])
        return value, {"accuracy": losses.label_accuracy(logits, labels)}
