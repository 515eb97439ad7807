"""Co-Tuning: probabilities of the source's classes as a second supervision."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.types import PyTree
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import source_network
from jaxtl.terms.regularizers.linear_fit import fit_linear


def direct_relationship(
    probabilities: np.ndarray, labels: np.ndarray, classes: int
) -> np.ndarray:
    """p(y_s | y_t = k), the mean of the source's predictions over examples of class k.

    Args:
      probabilities: p(y_s | x), (examples, source classes).
      labels: y_t, (examples,) in [0, classes).
      classes: number of target classes.

    Returns:
      (classes, source classes), rows summing to 1; that of a class without examples is
      the mean over all.

    References:
      You et al., Co-Tuning for Transfer Learning, NeurIPS 2020, the direct
      approach to category relationships.
    """
    table = np.tile(probabilities.mean(0), (classes, 1))
    for k in np.unique(labels):
        table[k] = probabilities[labels == k].mean(0)
    return table / table.sum(1, keepdims=True)


def reverse_relationship(
    probabilities: np.ndarray, labels: np.ndarray, classes: int, decay: float
) -> np.ndarray:
    """p(y_s | y_t) by Bayes' rule from p(y_t | y_s) · p(y_s).

    p(y_t | y_s) is the softmax of row y_s of W, a multinomial logistic regression
    without intercept of y_t on p(y_s | x): its prediction for an example whose source
    class is certain to be y_s. p(y_s) is the mean of the predictions. (The authors
    choose the decay and calibrate W on validation data; here the decay is an argument
    and W is not calibrated.)

    Args:
      probabilities, labels, classes: as in `direct_relationship`.
      decay: of W; decay/2 · ‖W‖² is added to the mean cross-entropy.

    Returns:
      (classes, source classes), rows summing to 1.

    References:
      You et al., Co-Tuning for Transfer Learning, NeurIPS 2020, the reverse
      approach to category relationships.
    """
    x, y = jnp.asarray(probabilities), jnp.asarray(labels)
    linear = fit_linear(x, y, classes, losses.cross_entropy, decay=decay, bias=False)
    conditional = np.asarray(jax.nn.softmax(linear["kernel"]), np.float64)
    joint = (conditional * probabilities.mean(0)[:, None]).T
    return joint / joint.sum(1, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoTuning(Term):
    """Cross-entropy of the source's head, which is trained, against p(y_s | y_t).

    The head starts as the source's, runs on the model's features and is a parameter of
    this term. p(y_s | y_t) is estimated once, before training, from the source's
    predictions on the stream's train data. The paper's weight is 2.3. The value is a
    mean over examples, in nats; its minimum is not 0.

    Attributes:
      approach: "direct" (`direct_relationship`) or "reverse" (`reverse_relationship`).
      temperature: divides the source's logits before the softmax, to calibrate its
        predictions (the authors' program: 1.131 for its ImageNet models).
      decay: of the regression of the "reverse" approach.
      stream: name of the stream.

    References:
      You et al., Co-Tuning for Transfer Learning, NeurIPS 2020.
    """

    approach: Literal["direct", "reverse"] = "direct"
    temperature: float = 1.0
    decay: float = 1e-3
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.task(setup, "CoTuning", "classification")
        source_network.check_head(setup, "CoTuning", trained=True)
        checks.stream(setup, "stream", self.stream)
        checks.classes(setup, "stream", self.stream)
        checks.one_of(setup, "approach", self.approach, ("direct", "reverse"))
        checks.positive(setup, "temperature", self.temperature)
        checks.positive(setup, "decay", self.decay)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        return source_network.head_init(setup)

    def constants(self, setup: Setup) -> PyTree:
        batches = []
        for out, batch in source_network.source_passes(setup, self.stream):
            p = np.asarray(jax.nn.softmax(out.logits / self.temperature))
            batches.append((p, np.asarray(batch["y"])))
        p, labels = map(np.concatenate, zip(*batches))
        classes = setup.program.outputs
        if self.approach == "direct":
            table = direct_relationship(p, labels, classes)
        else:
            table = reverse_relationship(p, labels, classes, self.decay)
        return {"relationship": jnp.asarray(table, jnp.float32)}

    def __call__(self, context: View) -> jax.Array:
        table = context.constants["relationship"]
        labels = context.batches[self.stream]["y"]
        # Labels that augmentation mixed are distributions already.
        targets = table[labels] if labels.ndim == 1 else labels @ table
        head = context.term_params
        logits = source_network.head_logits(context, head, self.stream, train=True)
        return losses.cross_entropy(logits, targets)
