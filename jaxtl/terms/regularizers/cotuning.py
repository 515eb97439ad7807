"""Co-Tuning: the source's classes as a second supervision."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.regularizers import linear_fit, source_network


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
    without intercept of y_t on p(y_s | x): what it predicts where the source is sure of
    y_s. p(y_s) is the mean of the predictions. (The authors choose the decay and
    calibrate W on validation data; here both are as given.)

    Args:
      probabilities, labels, classes: as for `direct_relationship`.
      decay: of W, beside the mean cross-entropy: decay/2 · ‖W‖².

    Returns:
      (classes, source classes), rows summing to 1.

    References:
      You et al., Co-Tuning for Transfer Learning, NeurIPS 2020, the reverse
      approach to category relationships.
    """
    x, y = jnp.asarray(probabilities), jnp.asarray(labels)
    fitted = linear_fit.fit(
        x, y, classes, losses.cross_entropy, decay=decay, bias=False
    )
    given = np.asarray(jax.nn.softmax(fitted["kernel"]), np.float64)
    joint = (given * probabilities.mean(0)[:, None]).T
    return joint / joint.sum(1, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoTuning(Term):
    """Cross-entropy of the source's head, trained along, against p(y_s | y_t).

    The head starts as the source's, runs on the model's features and is this term's own
    parameters. p(y_s | y_t) is learned once, before training, from the source's
    predictions on the stream's train data. The paper's weight is 2.3. The value is a
    mean over examples, in nats, and not 0 at its least.

    Attributes:
      approach: "direct" (`direct_relationship`) or "reverse" (`reverse_relationship`).
      temperature: the source's logits are divided by it before they become
        probabilities; calibrates them (the authors' program: 1.131 for its ImageNet
        models).
      decay: of the "reverse" approach's regression.
      stream: name of the stream.

    References:
      You et al., Co-Tuning for Transfer Learning, NeurIPS 2020.
    """

    approach: Literal["direct", "reverse"] = "direct"
    temperature: float = 1.0
    decay: float = 1e-3
    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.task(setup, "CoTuning", "classification")
        source_network.needs_head(setup, "CoTuning", trained=True)
        checks.stream(setup, "stream", self.stream)
        checks.one_of(setup, "approach", self.approach, ("direct", "reverse"))
        checks.positive(setup, "temperature", self.temperature)
        checks.positive(setup, "decay", self.decay)

    def init(self, key, setup):
        return source_network.head_init(setup)

    def constants(self, setup: Setup):
        known, labels = [], []
        for out, batch in source_network.passes(setup, self.stream):
            known.append(np.asarray(jax.nn.softmax(out.logits / self.temperature)))
            labels.append(np.asarray(batch["y"]))
        known, labels = np.concatenate(known), np.concatenate(labels)
        if self.approach == "direct":
            table = direct_relationship(known, labels, setup.program.outputs)
        else:
            table = reverse_relationship(
                known, labels, setup.program.outputs, self.decay
            )
        return {"relationship": jnp.asarray(table, jnp.float32)}

    def __call__(self, context):
        table, labels = (
            context.constants["relationship"],
            context.batches[self.stream]["y"],
        )
        # Labels that augmentation mixed are distributions already.
        wanted = table[labels] if labels.ndim == 1 else labels @ table
        logits = source_network.head_logits(
            context, context.term_params, self.stream, train=True
        )
        return losses.cross_entropy(logits, wanted)
