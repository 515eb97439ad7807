"""Benchmarks: every script runs and prints its tables; their counts are right."""

import importlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.data import sampler

pytestmark = pytest.mark.usefixtures("all_optimizations")


FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A function: imports a script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_each_section_of_the_readme_has_its_script():
    text = (FOLDER / "README.md").read_text()
    for path in FOLDER.glob("*.py"):
        parts = (
            "timing",
            "in_memory",
            "torch_models",
            "method_cost_groups",
            "grid_torch",
            "streams_torch",
            "gpu_attention",
            "gpu_networks",
            "gpu_parts",
            "gpu_profile",
        )
        if path.stem not in parts:
            assert f"python benchmarks/{path.name}" in text, path.name


@pytest.mark.parametrize("name", ["overhead", "startup", "meta", "multitask"])
def test_quick_mode_prints_its_table(script, name, capsys, tmp_path):
    path = tmp_path / "rows.json"
    [rows] = script(name).main(["--quick", "--json", str(path)])
    output = capsys.readouterr().out
    assert all(f"| {next(iter(row.values()))}" in output for row in rows)
    content = json.loads(path.read_text())
    assert content["tables"] == [rows]
    assert jax.__version__ in content["machine"]


@pytest.mark.slow
def test_a_cached_teacher_costs_no_operations(script):
    [[plain, kd]] = script("distillation").main(["--quick"])
    assert (plain["step"], kd["step"]) == ("plain", "KD")
    assert kd["FLOPs, cached"] < 1.05 < kd["FLOPs, at every step"]


@pytest.mark.parametrize(
    ("family", "method"), [("domain", "DANN"), ("peft", "LoRA"), ("optim", "HeadOnly")]
)
def test_the_cost_of_a_step_is_that_on_the_site(script, family, method, tmp_path):
    content = json.loads((FOLDER / "../docs/builder/method_costs.json").read_text())
    if content["counted"] != f"XLA for {jax.default_backend()}, jax {jax.__version__}":
        pytest.skip(f"counted by {content['counted']}")
    rows = script("method_costs").family_rows(family, (method,))
    [(name, row)] = rows.items()
    stored = content["methods"][name]
    assert row["flops"] == pytest.approx(stored["flops"], rel=0.02)
    script("method_costs").write(tmp_path / "costs.json", {"a.B": stored})
    script("method_costs").write(tmp_path / "costs.json", rows)
    written = json.loads((tmp_path / "costs.json").read_text())
    assert written == {**content, "methods": {"a.B": stored, **rows}}


def test_episodes_are_classified_as_by_hand(script, capsys):
    prototypes, methods = script("episodes").main(["--quick"])
    assert [row["5-way 5-shot, 15 queries"] for row in prototypes][:2] == [
        "draw",
        "numpy, by hand",
    ]
    assert len(methods) == 11
    assert "episodes/s" in capsys.readouterr().out


def test_results_are_stored_and_summarized(script, capsys):
    stages, [whole] = script("store").main(["--quick"])
    assert whole["cells"] == 500
    assert [row["stage"] for row in stages][1:4] == ["read", "summary", "Markdown"]
    assert "read to Markdown, s" in capsys.readouterr().out


def test_sources_are_read_next_to_other_libraries(script, capsys):
    speeds, [listed] = script("sources").main(["--quick"])
    assert {"SVMLight", "WebDataset"} <= {row["source"] for row in speeds}
    assert all(row["rows/s"] > 0 for row in speeds)
    assert listed["files listed"] == 200
    assert "its rows/s" in capsys.readouterr().out


def test_models_are_the_same_in_torch(script, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    networks, readers = script("models").main(["--quick"])
    assert "transformers" in capsys.readouterr().out
    assert all(row["logits apart"] < 1e-5 for row in networks)
    assert [row["reader"] for row in readers] == ["jaxtl", "transformers"]


def test_features_are_cached_four_ways(script, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    [rows] = script("feature_cache").main(["--quick"])
    assert "no_grad" in capsys.readouterr().out
    assert all(row["epochs/s"] > 0 for row in rows)


def test_adapters_train_the_same_share_in_peft(script, capsys):
    for library in ("torch", "transformers", "peft"):
        pytest.importorskip(library)
    [rows] = script("peft_tuning").main(["--quick"])
    by_name = {row["tuning"]: row for row in rows}
    ours, theirs = by_name["jaxtl, LoRA"], by_name["torch + PEFT, LoRA"]
    assert ours["trainable, %"] == pytest.approx(theirs["trainable, %"], rel=1e-6)
    assert ours["optimizer, kB"] == pytest.approx(theirs["optimizer, kB"], rel=0.05)


def test_regularizers_are_timed_against_the_plain_step(script, capsys):
    pytest.importorskip("torch")
    [rows] = script("regularizers").main(["--quick"])
    assert rows[0]["step"] == "plain"
    assert rows[0]["of a plain step's"] == 1


def test_convolutions_are_timed_three_ways(script, capsys):
    pytest.importorskip("torch")
    module = script("convolutions")
    [rows] = module.main(["--quick"])
    assert capsys.readouterr().out.count("\n| ") == len(rows) + 2
    assert [row["what"] for row in rows] == ["value", "by input", "by kernel"]
    # All three ways compute the same; the order of torch's axes differs.
    for operation, ways in module.works(module.LAYERS[0]._replace(batch=2)).items():
        ours, xla, theirs = (np.asarray(way()) for way in ways.values())
        axes = (2, 3, 1, 0) if operation == "by kernel" else (0, 2, 3, 1)
        for expected in (xla, theirs.transpose(axes)):
            np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(ours).max())


def test_batch_normalization_is_timed_near_0_and_far_away(script, capsys):
    module = script("normalization")
    [rows] = module.main(["--quick"])
    assert "precise" in capsys.readouterr().out
    assert [row["mean"] for row in rows] == [0, 1000]
    x, ones = jnp.float32(np.random.default_rng(0).normal(size=(64, 8))), jnp.ones(8)
    (ours, _), (theirs, _) = (f(x, ones, ones) for f in (module.precise, module.former))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_frozen_stages_cost_a_forward_pass(script, capsys):
    [rows] = script("freezing").main(["--quick"])
    assert capsys.readouterr().out.count("\n| ") == len(rows) + 2
    nothing, some, head, zeroed, forward = rows
    # All but the head: the forward pass, and the gradient of the head.
    assert head["MFLOP"] < 1.01 * forward["MFLOP"]
    assert forward["MFLOP"] < some["MFLOP"] < nothing["MFLOP"]
    assert zeroed["MFLOP"] > 0.98 * nothing["MFLOP"]
    assert head["temporary, MB"] < 0.5 * nothing["temporary, MB"]
    # Adam's two moments of the head: 64 inputs, 10 outputs, 4 bytes each.
    assert head["optimizer, kB"] == pytest.approx(2 * 4 * 650 / 1e3, abs=0.01)
    assert zeroed["optimizer, kB"] > 100 * head["optimizer, kB"]


def test_the_jacobian_benchmark_counts_flops_and_is_unbiased(script, capsys):
    costs, estimates, deviations = script("jacobian").main(["--quick"])
    assert "reverse over reverse" in capsys.readouterr().out
    costs = {row["step"]: row for row in costs}
    full, part = costs["projected"], costs["projected, a quarter of the batch"]
    assert costs["forward"]["FLOPs"] < full["FLOPs"] < 6
    # Arithmetic beyond the plain step shrinks with the number of examples.
    assert (part["FLOPs"] - 1) < 0.5 * (full["FLOPs"] - 1)
    assert costs["exact, vmapped"]["temporary, MB"] > 5 * full["temporary, MB"]
    for row in estimates:
        assert abs(row["bias, standard errors"]) < 3
    assert (
        estimates[1]["relative deviation of one"]
        < 0.7 * estimates[0]["relative deviation of one"]
    )
    computed = {(row["Jacobian"], row["draws"]): row for row in deviations}
    # The computed deviation is that of 200 draws, up to a twentieth or so.
    cases = [("by params, 32 examples", draws) for draws in (1, 4)]
    for row, case in zip(estimates, [*cases, ("by inputs", 1)]):
        drawn = row["relative deviation of one"]
        assert drawn == pytest.approx(computed[case]["signs"], rel=0.25)
    # Zero for sixteen orthogonal draws of ten outputs where examples never meet.
    for name in ("by inputs", "the same, dense_projected"):
        assert computed[name, 16]["orthogonal"] == 0
    for row in deviations:
        if row["draws"] == 1:
            assert row["orthogonal"] == pytest.approx(row["signs"])


def test_the_ways_to_the_jacobian_difference_take_the_same_step(script):
    module = script("jacobian")
    init, metrics = module.source(True), {}
    for name, term in module.ways(True).items():
        if isinstance(term, tl.regularizers.JacobianDifference) and (
            term.wrt == "params" and term.fraction == 1.0
        ):
            run = tl.setup(module.experiment(True, term, init))
            metrics[name] = run.advance(4)[-1]
    for a, b in (
        ("projected", "reverse over reverse"),
        ("exact, vmapped", "exact, one by one"),
        ("dense layers, exact", "exact, one by one"),  # all its layers are dense
    ):
        assert metrics[a]["jacobian"] > 0
        for key in ("jacobian", "grad_norm", "loss"):
            np.testing.assert_allclose(metrics[a][key], metrics[b][key], rtol=2e-4)


def test_the_loop_by_hand_does_the_same_job(script):
    module = script("overhead")
    [job] = module.jobs(quick=True)
    run = tl.setup(module.experiment(job))
    rows, steps = run.parts.datasets["target"].rows["train"], 6
    drawn = sampler.indices(0, 0, steps * job.batch, len(rows))
    dataset = run.parts.datasets["target"]
    data = jnp.asarray(dataset.x), jnp.asarray(dataset.y)
    init, step = module.by_hand(run.network, run.preprocess, job.batch)
    state = init(*tl.tree.copy((run.parts.model.base_params, run.parts.model.stats)))
    for t, ours in enumerate(run.advance(steps)):
        state, theirs = step(state, data, jnp.asarray(rows[drawn]), t)
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
        np.testing.assert_allclose(ours["task/accuracy"], theirs["accuracy"], atol=1e-6)


def test_a_quantized_base_takes_the_bytes_of_its_codes(script, capsys):
    [rows] = script("quantized_bases").main(["--quick"])
    by_name = {row["base"]: row for row in rows}
    # Two layers: queries and outputs 64², keys and values 64 × 32, three of 64 × 160.
    matrices = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160)
    outputs = 2 * (2 * 64 + 2 * 32 + 2 * 160 + 64)
    floats = 4 * (1000 * 64 + 5 * 64)  # the table, and the scales of five norms
    expected = {
        "float32": 4 * matrices + floats,
        "int8": matrices + 4 * outputs + floats,
        "nf4": matrices // 2 + matrices // 16 + floats,
    }
    for name, nbytes in expected.items():
        assert by_name[name]["base, MB"] == nbytes / 1e6, name
    for name in ("int8", "nf4", "nf4, double"):
        for memory in ("arguments, MB", "temporary, MB"):
            assert by_name[name][memory] < by_name["float32, remat"][memory]
    assert "| nf4, double " in capsys.readouterr().out


def test_works_take_turns_and_ratios_pair_rounds(script):
    timing, called = script("timing"), []
    works = {name: lambda n=name: called.append(n) for name in "ab"}
    times = timing.alternate(works, 3)
    assert "".join(called) == "ab" + "abbaab"
    assert [len(v) for v in times.clock.values()] == [3, 3]
    # Ratios are taken within rounds, so that a slow round favors neither side.
    seconds = {"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 3.0]}
    assert timing.ratio(seconds, "a", "b") == 0.5


def test_tables_are_markdown(script):
    rows = [{"job": "one", "ms": 0.12345, "bytes": 12345}]
    rows.append({"job": "another", "ms": 1234.5, "bytes": 7})
    assert script("timing").table(rows).splitlines() == [
        "| job     | ms    | bytes  |",
        "| ------- | ----- | ------ |",
        "| one     | 0.123 | 12,345 |",
        "| another | 1,234 | 7      |",
    ]


def test_a_second_stream_is_timed_and_dann_is_the_same_in_torch(script, capsys):
    pytest.importorskip("torch")
    steps, [kernels], [epoch] = script("streams").main(["--quick"])
    assert [row["step"] for row in steps] == ["DANN", "FixMatch"]
    assert kernels["jaxtl, ms"] > 0
    assert epoch["first losses apart"] < 1e-4
    assert "× torch" in capsys.readouterr().out


def test_collectives_of_a_compiled_program_are_counted(script):
    text = """
      %a = f32[8,4]{1,0} all-gather(%p), replica_groups={{0,1}}, dimensions={0}
      %b = (f32[2]{0}, /*index=5*/bf16[3,2]{1,0}) all-reduce(%c, %d), replica_groups=[2,4]<=[8], to_apply=%add
      %e = f32[16]{0} fusion(%all-gather.1), kind=kLoop
    """  # noqa: E501, a line of a program
    scaling = script("scaling")
    # A ring of two sends half of what it gathers, one of four 2 · 3/4 of what it adds.
    sent = 128 / 2 + 2 * 20 * 3 / 4
    expected = {"gathered": 128, "reduced": 8 + 12, "sent": sent}
    assert scaling.communicated(text) == expected


def test_a_machine_is_told_by_the_cores_that_may_be_used(script, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5})
    assert ", 3 usable cores, " in script("timing").machine()


def test_parts_that_have_no_time_left_are_stopped_and_named(
    script, tmp_path, monkeypatch
):
    """In place of Python runs a program that is ready at once and takes a minute."""
    program = tmp_path / "part"
    program.write_text("#!/bin/sh\necho READY\nread line\nexec sleep 60\n")
    program.chmod(0o700)
    gpu, start = script("gpu"), time.perf_counter()
    monkeypatch.setattr(gpu.sys, "executable", str(program))
    outcomes = dict(gpu.outcomes_of_parts(["peaks", "export"], True, start + 2.0))
    assert outcomes["peaks"]["error"] == "stopped: the time is over"
    assert outcomes["export"]["error"] == "left out: the time is over"
    assert time.perf_counter() - start < 30
