"""Loss correction: train through, or against, a known matrix of label noise."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.noisy import base, transition_matrix

# Above this condition number T⁻¹ is mostly rounding of an estimate's third digit.
WORST = 1e4


def forward_corrected(logits, labels, transition) -> jax.Array:
    """−log Σ_i p_i T[i, y], mean over examples: p says what the clean label is.

    Args:
      logits: (batch, K), before the softmax.
      labels: (batch,) given labels.
      transition: (K, K), T[i, j] = P(given label j | true class i).

    References:
      Patrini et al., CVPR 2017, eq. 8 (theorem 2).
    """
    log_t = jnp.log(jnp.asarray(transition))[:, labels].T
    joint = base.log_probabilities(logits) + log_t
    return -jnp.mean(jax.nn.logsumexp(joint, axis=-1))


def backward_corrected(logits, labels, inverse) -> jax.Array:
    """−Σ_j T⁻¹[y, j] log p_j, mean over examples: unbiased for the clean loss.

    Args:
      logits: (batch, K), before the softmax.
      labels: (batch,) given labels.
      inverse: (K, K), T⁻¹. Its entries may be negative, and so may the loss, which is
        then unbounded below: it is for few steps and mild noise.

    References:
      Patrini et al., CVPR 2017, eq. 5 (theorem 1).
    """
    log_p = base.log_probabilities(logits)
    return -jnp.mean(jnp.sum(jnp.asarray(inverse)[labels] * log_p, axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Corrected(Term):
    """What both corrections need: a transition matrix, checked."""

    stream: str = "target"
    transition: str | tuple = ""

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        base.check_classes(setup, type(self).__name__, self.stream)
        self._checked(setup)

    def _matrix(self, setup: Setup) -> np.ndarray:
        where = checks.where(setup, "transition")
        found = self.transition
        if isinstance(found, str):
            path = pathlib.Path(found)
            if not found or not path.is_file():
                raise UserError(
                    f"{where}={found!r}: expected a K × K matrix as nested tuples, or "
                    "a .npy file of one, such as `jaxtl labels RUN` writes."
                )
            found = np.load(path, allow_pickle=False)
        matrix = transition_matrix.check_transition(found, where)
        if len(matrix) != setup.program.outputs:
            raise UserError(
                f"{where} is {len(matrix)} × {len(matrix)}, and the model has "
                f"{setup.program.outputs} outputs."
            )
        return matrix


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardCorrection(_Corrected):
    """`forward_corrected` of a stream's batch; the model predicts clean labels.

    Attributes:
      stream: name of the stream.
      transition: T[i, j] = P(given label j | true class i): nested tuples, or a .npy
        file. `jaxtl labels RUN` estimates it from a warm-up run and writes the file,
        `noisy.estimate_transition` does from an array of predictions.

    References:
      Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017.
    """

    def _checked(self, setup: Setup) -> np.ndarray:
        matrix = self._matrix(setup)
        if (never := matrix.sum(0) == 0).any():
            raise UserError(
                f"{checks.where(setup, 'transition')}: column {int(never.argmax())} is "
                "all 0, so no class ever gives that label, and an example that has it "
                "would cost infinitely much."
            )
        return matrix

    def constants(self, setup: Setup):
        return {"transition": jnp.asarray(self._checked(setup), jnp.float32)}

    def __call__(self, context):
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        value = forward_corrected(logits, labels, context.constants["transition"])
        return value, {"accuracy": base.accuracy(logits, labels)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackwardCorrection(_Corrected):
    """`backward_corrected` of a stream's batch.

    Attributes:
      stream: name of the stream.
      transition: as in `ForwardCorrection`; it must have an inverse.

    References:
      Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017.
    """

    def _checked(self, setup: Setup) -> np.ndarray:
        matrix = self._matrix(setup)
        if not (condition := np.linalg.cond(matrix)) < WORST:
            raise UserError(
                f"{checks.where(setup, 'transition')} has (almost) no inverse (its "
                f"condition number is {condition:.3g}), which backward correction "
                "needs; ForwardCorrection does without."
            )
        return matrix

    def constants(self, setup: Setup):
        inverse = np.linalg.inv(self._checked(setup))
        return {"inverse": jnp.asarray(inverse, jnp.float32)}

    def __call__(self, context):
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        value = backward_corrected(logits, labels, context.constants["inverse"])
        return value, {"accuracy": base.accuracy(logits, labels)}
