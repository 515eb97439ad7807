"""Mixup and MixStyle across domains: against numpy loops and torch's statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models import CNN, precision
from jaxtl.terms.context import View
from jaxtl.terms.generalization import InterDomainMixup, MixStyle, mixstyle, mixup

STREAMS = ("source", "target", "photo")


def _harness(bench, **fields):
    return bench(streams=(*STREAMS, "unlabelled"), **fields)


def _images(harness, norm=False):
    """Returns a context of a small convolutional network and three domains."""
    model = CNN(outputs=3, widths=(2, 2), units=4, norm=norm).pure()
    rng = np.random.default_rng(0)
    batches = {
        name: {
            "x": jnp.asarray(rng.normal(i, 1 + i, (4 + i, 8, 8, 1)), jnp.float32),
            "y": jnp.asarray(rng.integers(0, 3, 4 + i)),
        }
        for i, name in enumerate(STREAMS)
    }
    params, state = model.init(jax.random.key(0), batches["photo"]["x"])
    return harness.context(
        program={"network": model, "train_stages": model.stages},
        params=params,
        stats=state,
        batches=batches,
    )


def test_partners_make_one_circle_in_any_order():
    cycles = set()
    for seed in range(40):
        partner = np.asarray(mixup.random_cycle(jax.random.key(seed), 4))
        index, visited = 0, []
        for _ in range(4):
            visited.append(index)
            index = partner[index]
        assert index == 0
        assert sorted(visited) == [0, 1, 2, 3]
        cycles.add(tuple(partner))
    assert len(cycles) == 6  # (4 − 1)! circles
    np.testing.assert_array_equal(mixup.random_cycle(jax.random.key(0), 2), [1, 0])


def test_mixed_inputs_are_numpys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 2, 4))
    share = rng.uniform(size=3)
    actual = mixup.interpolate(jnp.asarray(a), jnp.asarray(b), jnp.asarray(share))
    for i in range(3):
        expected = share[i] * a[i] + (1 - share[i]) * b[i]
        np.testing.assert_allclose(actual[i], expected, rtol=1e-5, atol=1e-6)


def _shares(context, alpha):
    """Returns the partners and shares that the term draws."""
    order, beta, _ = jax.random.split(context.key, 3)
    share = jax.random.beta(beta, alpha, alpha, (3,))
    return np.asarray(mixup.random_cycle(order, 3)), np.asarray(share, np.float64)


def _network(harness, x):
    """The bench's perceptron of one example, in float64."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), harness.params)
    layer, head = params["layer1"]["dense"], params["head"]["dense"]
    hidden = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    return hidden @ head["kernel"] + head["bias"]


def test_mixup_is_a_loop_over_pairs(bench):
    harness = _harness(bench)
    term = InterDomainMixup(streams=STREAMS, alpha=0.7)
    term.check(harness.setup)
    view = View(harness.context(), "term", 0)
    value, extra = term(view)
    partner, share = _shares(view, 0.7)
    size = min(len(harness.batches[s]["y"]) for s in STREAMS)
    total, hits = 0.0, 0
    for i, stream in enumerate(STREAMS):
        first, second = harness.batches[stream], harness.batches[STREAMS[partner[i]]]
        for n in range(size):
            x = share[i] * first["x"][n] + (1 - share[i]) * second["x"][n]
            z = _network(harness, np.asarray(x, np.float64))
            log_p = z - np.log(np.exp(z).sum())
            total -= share[i] * log_p[first["y"][n]]
            total -= (1 - share[i]) * log_p[second["y"][n]]
            hits += np.argmax(z) == (first if share[i] >= 0.5 else second)["y"][n]
    np.testing.assert_allclose(value, total / (3 * size), rtol=1e-5)
    np.testing.assert_allclose(extra["accuracy"], hits / (3 * size), rtol=1e-6)


def test_shares_are_drawn_from_beta_anew_in_every_step(bench):
    harness = _harness(bench)
    views = [View(harness.context(seed=seed), "term", 0) for seed in range(200)]
    shares = np.concatenate([_shares(view, 0.5)[1] for view in views])
    assert stats.kstest(shares, stats.beta(0.5, 0.5).cdf).pvalue > 0.01
    values = {float(InterDomainMixup(streams=STREAMS)(view)[0]) for view in views[:3]}
    assert len(values) == 3


def test_tokens_can_not_be_mixed_as_inputs(bench):
    harness = _harness(bench)
    ids = {"input_ids": jnp.zeros((4, 5), jnp.int32)}
    batches = {name: {"x": ids, "y": jnp.zeros(4, jnp.int32)} for name in STREAMS}
    view = View(harness.context(batches=batches), "term", 0)
    with pytest.raises(UserError, match="tokens can't be mixed"):
        InterDomainMixup(streams=STREAMS)(view)


def test_style_is_torchs_mean_and_deviation():
    torch = pytest.importorskip("torch", reason="statistics are held to torch's")
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6, 3))
    mean, deviation = mixstyle.style_statistics(jnp.asarray(x))
    tensor = torch.tensor(x).permute(0, 3, 1, 2)
    for ours, theirs in (
        (mean, tensor.mean((2, 3))),
        (deviation, (tensor.var((2, 3)) + 1e-6).sqrt()),
    ):
        np.testing.assert_allclose(ours[:, 0, 0], theirs.numpy(), rtol=1e-5)


def test_style_of_tokens_leaves_padding_out():
    x = np.random.default_rng(0).normal(2, 3, (3, 5, 2))
    mask = np.arange(5) < np.array([[2], [5], [3]])
    mean, deviation = mixstyle.style_statistics(jnp.asarray(x), jnp.asarray(mask))
    for i, row in enumerate(x):
        real = row[mask[i]]
        np.testing.assert_allclose(mean[i, 0], real.mean(0), rtol=1e-5)
        expected = np.sqrt(real.var(0, ddof=1) + 1e-6)
        np.testing.assert_allclose(deviation[i, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 3, 2), (4, 7, 2), (4, 6)])
def test_a_mixed_example_has_the_mixed_style_and_its_own_content(shape):
    rng = np.random.default_rng(1)
    x = rng.normal(rng.normal(size=(4,) + (1,) * (len(shape) - 1)), 2, shape)
    partner, share = np.array([2, 3, 1, 0]), np.array([0.2, 0.9, 0.0, 1.0])
    actual = np.asarray(
        mixstyle.mix_styles(jnp.asarray(x), jnp.asarray(partner), jnp.asarray(share)),
        np.float64,
    )
    flat = x[..., None] if x.ndim == 2 else x
    actual = actual[..., None] if actual.ndim == 2 else actual
    for i, j in enumerate(partner):
        for c in range(flat.shape[-1]):
            first, second, mixed = flat[i, ..., c], flat[j, ..., c], actual[i, ..., c]
            mean = share[i] * first.mean() + (1 - share[i]) * second.mean()
            spread = share[i] * first.std(ddof=1) + (1 - share[i]) * second.std(ddof=1)
            content = (first - first.mean()) / first.std(ddof=1)
            np.testing.assert_allclose(mixed, content * spread + mean, atol=1e-4)


def test_no_gradient_flows_through_the_style():
    torch = pytest.importorskip("torch", reason="the gradient is held to autograd's")
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=(2, 4, 3, 3, 2))
    partner, share = np.array([1, 0, 3, 2]), np.array([0.3, 0.6, 0.1, 0.9])
    tensor = torch.tensor(x, requires_grad=True)
    mean = tensor.mean((1, 2), keepdim=True).detach()
    spread = (tensor.var((1, 2), keepdim=True) + 1e-6).sqrt().detach()
    lam = torch.tensor(share).reshape(-1, 1, 1, 1)
    mixed = (tensor - mean) / spread * (lam * spread + (1 - lam) * spread[partner])
    mixed = mixed + lam * mean + (1 - lam) * mean[partner]
    (mixed.sin() * torch.tensor(weight)).sum().backward()

    def value(x):
        mixed = mixstyle.mix_styles(x, jnp.asarray(partner), jnp.asarray(share))
        return jnp.sum(jnp.sin(mixed) * weight)

    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(x)), tensor.grad, atol=1e-4)


def test_partners_are_of_other_domains_and_all_of_them_are_drawn():
    domain = np.repeat([0, 1, 2], [2, 3, 4])
    draw = jax.jit(jax.vmap(lambda key: mixstyle.draw_partners(key, domain)))
    partners = np.asarray(draw(jax.random.split(jax.random.key(0), 3000)))
    assert (domain[partners] != domain).all()
    counts = np.bincount(partners[:, 0], minlength=9)[2:]
    assert stats.chisquare(counts).pvalue > 0.001


def test_without_mixing_it_is_pooled_risk(bench):
    context = _images(_harness(bench))
    term = MixStyle(streams=STREAMS, probability=0.0)
    value, _ = term(View(context, "term", 0))
    risks = []
    for stream in STREAMS:
        batch = context.batches[stream]
        z = context.program.network.apply(context.params, {}, batch["x"]).logits
        log_p, y = np.asarray(jax.nn.log_softmax(z)), np.asarray(batch["y"])
        risks.append(-np.mean(log_p[np.arange(len(y)), y]))
    np.testing.assert_allclose(value, np.mean(risks), rtol=1e-4)


def test_the_mixed_stage_feeds_the_next(bench):
    context = _images(_harness(bench))
    view = View(context, "term", 0)
    term = MixStyle(streams=STREAMS, stages=("block2", "block1"), probability=1.0)
    value, _ = term(view)
    sizes = [len(context.batches[s]["y"]) for s in STREAMS]
    domain = np.repeat(np.arange(3), sizes)
    x = jnp.concatenate([context.batches[s]["x"] for s in STREAMS])
    for i, (stage, start) in enumerate((("block1", None), ("block2", "block2"))):
        out = context.program.network.apply(
            context.params, {}, x, start=start, stop=stage
        )
        key, _ = jax.random.split(jax.random.fold_in(view.key, i))
        draw, beta, _ = jax.random.split(key, 3)
        share = jax.random.beta(beta, 0.1, 0.1, domain.shape)
        partner = mixstyle.draw_partners(draw, domain)
        x = mixstyle.mix_styles(out.features[stage], partner, share)
    stages = context.program.network.stages
    next_stage = stages[stages.index("block2") + 1]
    z = context.program.network.apply(context.params, {}, x, start=next_stage).logits
    labels = jnp.concatenate([context.batches[s]["y"] for s in STREAMS])
    losses = -jax.nn.log_softmax(z)[jnp.arange(len(labels)), labels]
    expected = np.mean([np.mean(losses[domain == i]) for i in range(3)])
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("cls", [MixStyle, InterDomainMixup])
def test_batchnorm_statistics_are_those_of_the_mixed_pass(bench, cls):
    context = _images(_harness(bench), norm=True)
    before = jax.tree.leaves(context.stats)
    cls(streams=STREAMS)(View(context, "term", 0))
    after = jax.tree.leaves(context.stats)
    assert len(after) == len(before)
    assert any((a != b).any() for a, b in zip(after, before))


def test_features_of_tokens_keep_their_mask():
    states = jnp.ones((2, 3, 4)) * jnp.arange(3.0)[:, None]
    feature = Tokens(states, jnp.ones((2, 3), bool))
    mixed = mixstyle.mix_domain_styles(
        jax.random.key(0), feature, np.arange(2), alpha=0.1, probability=0.5
    )
    assert isinstance(mixed, Tokens)
    assert mixed.states.shape == states.shape
    assert mixed.mask is feature.mask


def test_a_half_precision_pass_stops_at_tokens(bench):
    harness = _harness(bench, task="language")
    x = harness.batches["target"]["x"]
    network = precision.compute_in(harness.network, "bfloat16")
    stage = network.stages[1]
    out = network.apply(harness.params, harness.stats, x, stop=stage)
    assert isinstance(out.logits, Tokens)
    assert out.logits.states.dtype == jnp.float32
    assert out.logits.mask.dtype == bool


def test_stages_by_default_and_bad_ones(bench):
    setup = _harness(bench).setup
    assert "layer1" in MixStyle(streams=STREAMS).describe(setup)
    for stages, message in (
        (("layer",), "did you mean 'layer1'"),
        (("head",), "before the head"),
        ((), "before the head"),
    ):
        with pytest.raises(UserError, match=message):
            MixStyle(streams=STREAMS, stages=stages).check(setup)
