"""Heads of encoders: what they refuse, and choices under a method of tuning."""

import jax
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.models import Bert, generation
from jaxtl.peft import PromptTuning

SMALL = {"vocab": 29, "width": 8, "layers": 1, "heads": 2, "hidden": 6, "context": 9}
IDS = np.random.default_rng(0).integers(1, 29, (2, 3, 5))


def test_the_next_token_needs_a_causal_model_and_a_decoder_generates():
    x = {"input_ids": IDS[0]}
    with pytest.raises(UserError, match="needs causal=True"):
        jax.eval_shape(Bert(predict="next", **SMALL).pure().init, jax.random.key(0), x)
    model = Bert(predict="next", causal=True, **SMALL)
    with pytest.raises(UserError, match="Bert is an encoder"):
        generation.generate(model, {}, x, 2)


def test_a_choice_with_a_prompt_is_scored_as_the_text_alone():
    """The law of the head: a choice's logit depends on its own text and no other."""
    network = Bert(predict="choice", outputs=3, **SMALL).pure()
    params, _ = network.init(jax.random.key(0), {"input_ids": IDS})
    method = PromptTuning(length=2)
    wrapped, delta = method.network(network), method.init(jax.random.key(1), params)
    merged = method.merge(params, delta, method.constants(params))
    together = wrapped.apply(merged, {}, {"input_ids": IDS}).logits
    assert together.shape == (2, 3)
    alone = wrapped.apply(merged, {}, {"input_ids": IDS[:, 1:2]}).logits
    np.testing.assert_allclose(together[:, 1:2], alone, atol=1e-6)
