"""Few-shot and meta-learning: values and gradients against torch, in float64.

The values were computed once by torch (`program` of each case in episode_values.json)
on the same standard normal weights and examples: a network 5 → 7 → 3 with tanh, and an
episode of 3 ways, 2 shots and 2 queries; or features of such an episode.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_values

from jaxtl.core.types import Network, Output
from jaxtl.data.episodic import Episodes
from jaxtl.terms import fewshot, losses
from jaxtl.terms.fewshot import (
    feat,
    inner_loop,
    matchingnet,
    protonet,
    r2d2,
    relationnet,
)
from jaxtl.terms.fewshot.base import EpisodeNetwork

VALUES = stored_values.load("episode_values.json")
LABELS = np.repeat(np.arange(3), 2)
EPISODES = Episodes(ways=3, shots=2, queries=2)
NETWORK = Network(("body", "head"), None, None)


def _run(x, params, key=None, start=None, stop=None):
    """A network of two layers, from one of its stages to another."""
    if start != "head":
        x = jnp.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])
    if stop != "body":
        x = x @ params["head"]["kernel"] + params["head"]["bias"]
    return Output(x, {}, {})


def _tree(kernel, bias, head, head_bias):
    return {
        "body": {"kernel": kernel, "bias": bias},
        "head": {"kernel": head, "bias": head_bias},
    }


def _loss(term, params, x, term_params=None):
    network = EpisodeNetwork(
        NETWORK,
        functools.partial(_run, params=params),
        params,
        jax.tree.map(lambda _: True, params),
        term_params or {},
        jax.random.key(0),
    )
    y = jnp.asarray(EPISODES.labels(len(x)))
    return term.episode(network, x, y, EPISODES).loss


def _adapted(term):
    return lambda *arrays: _loss(term, _tree(*arrays[:4]), arrays[4])


def _meta_sgd(*arrays):
    rates, params = _tree(*arrays[:4]), _tree(*arrays[4:8])
    return _loss(fewshot.MetaSGD(), params, arrays[8], {"rates": rates})


def _relations(support, queries, kernel, bias, last, last_bias):
    params = {
        "layer0": {"kernel": kernel, "bias": bias},
        "layer1": {"kernel": last, "bias": last_bias},
    }
    scores = relationnet.relation_scores(params, support, queries)
    return relationnet.relation_loss(scores, LABELS)


def _attended(support, queries, query, key, value, output, bias):
    params = {"query": query, "key": key, "value": value, "output": output}
    params |= {"bias": bias, "scale": jnp.ones(4), "shift": jnp.zeros(4)}
    prototypes = feat.attended(params, support.mean(1))[:, None]
    logits = protonet.prototype_logits(prototypes, queries) / 8
    return losses.cross_entropy(logits, LABELS)


def _of_logits(logits):
    return lambda support, queries: losses.cross_entropy(
        logits(support, queries), LABELS
    )


_INNER = {"steps": 3, "rate": 0.3}
EQUATIONS = {
    "maml": _adapted(fewshot.MAML(**_INNER)),
    "fomaml": _adapted(fewshot.FOMAML(**_INNER)),
    "anil": _adapted(fewshot.ANIL(**_INNER)),
    "metasgd": _meta_sgd,
    "reptile": _adapted(fewshot.Reptile(**_INNER)),
    # As many iterations as parameters would solve the system exactly.
    "imaml": _adapted(fewshot.IMAML(**_INNER, strength=2.0, iterations=66)),
    "protonet": _of_logits(protonet.prototype_logits),
    "matchingnet": _of_logits(lambda s, q: matchingnet.attention_logits(s, q, 3.0)),
    "relationnet": _relations,
    "feat": _attended,
    "r2d2": _of_logits(lambda s, q: 5.0 * r2d2.ridge_outputs(s, q, 0.3) + 0.1),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_values_and_gradients_are_torchs(name):
    stored_values.assert_equal(VALUES[name], EQUATIONS[name], tolerance=1e-8)


def test_every_stored_case_is_compared():
    assert EQUATIONS.keys() == VALUES.keys()


def test_the_pass_of_the_queries_draws_apart_from_the_inner_steps():
    drawn = []

    def run(x, params, key, start):
        drawn.append(key)
        return Output(jnp.zeros((1, 3)), {}, {})

    network = EpisodeNetwork(NETWORK, run, {}, {}, {}, jax.random.key(0))
    inner_loop.classified(network, {}, None, jnp.zeros(1, int))
    steps = fewshot.MAML(steps=20).keys(network)
    assert (
        not (jax.random.key_data(steps) == jax.random.key_data(drawn[0])).all(1).any()
    )
