"""What all tests share: a compilation cache, the data folder, a context for terms."""

import contextlib
import ctypes
import dataclasses
import gc
import importlib.metadata
import os
import pathlib
import signal
import tempfile
import zlib

# The key that signs runs lies in the user's state folder; tests have one of their own.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="jaxtl-state-")

# Several test processes share one accelerator, and on CPU keep out of each other's way:
# XLA's threads wait actively, and two processes on all cores are slower than one.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[number % len(cores) :: workers])

# jaxlib 0.10 can compile fused kernels for CPUs in two ways. The older one takes two
# fifths less of the suite's processor time; later versions have no choice. `.ci/slow`
# compiles as users do.
if os.environ.get("JAXTL_SLOW") != "1" and importlib.metadata.version(
    "jaxlib"
).startswith("0.10."):
    _FLAGS = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_cpu_use_fusion_emitters=false".strip()

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from punctuation import doubles

from jaxtl.core import compilation
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Output, Source
from jaxtl.data.episodic import Episodes
from jaxtl.data.preprocess import Preprocess
from jaxtl.evaluation import feature_cache
from jaxtl.models import MLP, Bert, BiEncoder, Llama, TwoTowers, ViT
from jaxtl.terms.base import Setup
from jaxtl.terms.context import Context
from jaxtl.terms.program import Program

# A full collection walks all that jax and the libraries hold, thousands of times in a
# suite; what exists after the imports is exempt, and collections are rare.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

# A busy machine is slow at drawing and at running; that is no fault of a test.
settings.register_profile(
    "jaxtl", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("jaxtl")

_CACHE = pathlib.Path(__file__).parents[1] / ".jax_cache"
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


# Tests of values compile with few optimizations: compiling is most of their time, and
# many programs run once. Counted operations and bytes, and rounding that must be the
# same in two programs, are tested with all optimizations.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def default_hangup():
    """SIGHUP ends a process, as on a terminal; below nohup it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def pytest_collection_finish(session):
    """Notes where the random generators of the modules of tests begin."""
    for module in {item.getparent(pytest.Module).obj for item in session.items}:
        _generators[module] = {
            name: value.bit_generator.state
            for name, value in vars(module).items()
            if isinstance(value, np.random.Generator)
        }


_generators: dict = {}


def pytest_runtest_setup(item):
    """Lets a test draw the same values whichever tests came before it."""
    module = item.getparent(pytest.Module).obj
    for name, state in _generators.get(module, {}).items():
        getattr(module, name).bit_generator.state = state


@pytest.fixture(scope="module")
def all_optimizations():
    """Compiles a module's programs as users do."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


# Bytes, and mappings, of a process above which it lets go of what it compiled: a
# program takes some mappings, and at Linux's limit of 65,530 XLA crashes. Not earlier,
# as what follows compiles again: that costs a third of its time.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
ENOUGH, MAPPED = _MEMORY / (2 * _WORKERS), 40_000


def _is_large() -> bool:
    """Whether this process is large, after its garbage went back to the system.

    glibc keeps freed memory, so that a process which was large once would seem so for
    ever, and compile everything again after every module.
    """
    process = pathlib.Path("/proc/self")
    if not (process / "maps").exists():
        return False

    def size() -> int:
        return int((process / "statm").read_text().split()[1])

    pages = ENOUGH / os.sysconf("SC_PAGE_SIZE")
    if size() > pages:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    mappings = (process / "maps").read_bytes().count(b"\n")
    return size() > pages or mappings > MAPPED


@pytest.fixture(scope="module", autouse=True)
def let_go():
    """Keeps a test process small: compiled programs pile up over hundreds of tests."""
    yield
    if _is_large():
        compilation.clear()
        feature_cache.clear()
        jax.clear_caches()
        _is_large()  # collects what was let go of


@pytest.fixture(scope="session", autouse=True)
def single_punctuation():
    """Holds every message that any test meets to single punctuation marks."""
    doubled, initialize = [], UserError.__init__

    def recorded(self, message=""):
        initialize(self, message)
        doubled.extend([str(self)] if doubles(str(self)) else [])

    UserError.__init__ = recorded
    yield
    UserError.__init__ = initialize
    assert not doubled


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data sets, named by JAXTL_DATA_DIR."""
    path = os.environ.get("JAXTL_DATA_DIR")
    if not path or not pathlib.Path(path).is_dir():
        pytest.skip("needs real data: set JAXTL_DATA_DIR to the folder that holds it")
    return pathlib.Path(path)


# Tests of more than about seven seconds of processor time whose fact a quicker test, or
# a quicker case of the same test, states as well. `.ci/slow` runs them.
SLOW = (
    # 17 blocks, which those of the EfficientNet row are like
    "[mobilenet-v2]",
    "test_runner.py::test_a_sweep_that_is_stopped_and_killed_continues",
    "test_images.py::test_resnet20_on_the_jpeg_test_images_has_its_known_accuracy",
    "test_jacobian.py::test_exactly_zero_at_the_source[resnet-params-projected]",
    "test_jacobian.py::test_exactly_zero_at_the_source[batchnorm-params-exact]",
    "test_jacobian.py::test_exactly_zero_at_the_source[cnn-params-projected]",
    "test_jacobian_dense.py::"
    "test_it_is_the_exact_jacobian_difference_of_those_parameters[bert]",
    "test_vision_models.py::test_resnet_equals_torch_at_every_stage[64-50]",
    "test_vectorized_runs.py::test_replicas_end_as_they_would_alone[adapted-map]",
    "test_vectorized_runs.py::test_replicas_end_as_they_would_alone[regression-map]",
    "test_feature_cache.py::test_tokens_are_cached_with_their_masks[pooler]",
    "test_example_weights.py::test_kliep_converges_to_the_true_ratio",
    *(
        f"test_benchmarks.py::{name}"
        for name in (
            "test_quick_mode_prints_its_table[startup]",
            "test_quick_mode_prints_its_table[overhead]",
            "test_quick_mode_prints_its_table[meta]",
            "test_a_second_stream_is_timed_and_dann_is_the_same_in_torch",
            "test_the_jacobian_benchmark_counts_flops_and_is_unbiased",
            "test_regularizers_are_timed_against_the_plain_step",
            "test_adapters_train_the_same_share_in_peft",
            "test_a_quantized_base_takes_the_bytes_of_its_codes",
            "test_features_are_cached_four_ways",
            "test_models_are_the_same_in_torch",
            "test_frozen_stages_cost_a_forward_pass",
            "test_the_ways_to_the_jacobian_difference_take_the_same_step",
        )
    ),
    "test_notebooks.py::test_it_runs_from_start_to_end[06_your_own_model_and_data]",
    "test_published.py::test_a_part_of_office_caltech",
    "test_resume.py::test_a_run_killed_again_and_again_ends_as_if_it_had_not_been",
    "test_search.py::test_a_killed_workers_trials_are_retried_by_others_with_sqlite",
    "test_runner.py::test_processes_may_start_a_sweep_at_once",
    "test_mnist_usps.py::test_a_fast_run_has_a_row_for_each_protocol",
    "test_kfac.py::test_places_without_a_gradient_count_nothing",
    "test_peft_runs.py::test_a_runs_adapter_opens_in_peft_and_begins_another_run",
    "test_models_contract.py::"
    "test_bfloat16_is_near_float32_with_parameters_in_float32[mobilenet]",
    "test_models_contract.py::"
    "test_bfloat16_is_near_float32_with_parameters_in_float32[vgg]",
    "test_models_contract.py::"
    "test_rematerialization_changes_no_value_and_no_gradient[roberta]",
    "test_models_contract.py::"
    "test_rematerialization_changes_no_value_and_no_gradient[convnext]",
    "test_models_contract.py::test_vmapped_initialization_equals_single_ones[bottleneck]",
    "test_quantized_base.py::test_five_steps_are_those_of_the_float_base[bfloat16]",
    "test_quantized_base.py::test_wrapped_modules_have_quantized_bases",
    "test_quantized_base.py::test_every_method_merges_what_is_quantized[VeRA]",
    "test_peft_contract.py::test_two_steps[mobilenet-rslora]",
    "test_peft_contract.py::test_two_steps[bottleneck-ia3]",
    "test_vision_models.py::test_vgg_equals_torch[16-96-False]",
    "test_vision_models.py::test_resnet_equals_torch_at_every_stage[45-50]",
    "test_text_models.py::test_gradients_of_every_tensor_equal_transformers[gpt2-untied]",
    "test_accumulation_contract.py::"
    "test_accumulated_gradients_are_the_whole_batchs[3-NextToken]",
    "test_pipelines.py::"
    "test_a_pipeline_gives_the_run_s_own_predictions[resnet-multilabel]",
    "test_selection_cost.py::test_replicas_choose_as_runs_alone_do[all moves-map]",
    "test_vectorized_runs.py::test_replicas_end_as_they_would_alone[multilabel-map]",
)

# Tests of many like cases, of which one in k runs; `.ci/slow` runs all. Which ones is
# drawn once and for all from the case's name, so that each value of a parameter runs
# with some values of the others, and each model keeps most of its contract.
ONE_IN_K = {
    "test_peft_contract.py::test_two_steps": 14,
    "test_quantized_base.py::"
    "test_outputs_and_gradients_are_those_of_the_float_base": 14,
    "test_composition.py::test_every_combination_takes_two_steps": 6,
    "test_vectorized_runs.py::test_replicas_end_as_they_would_alone": 3,
    "test_models_contract.py::"
    "test_rematerialization_changes_no_value_and_no_gradient": 6,
    "test_models_contract.py::test_vmapped_initialization_equals_single_ones": 8,
    "test_models_contract.py::"
    "test_bfloat16_is_near_float32_with_parameters_in_float32": 6,
    "test_models_contract.py::test_every_parameter_has_a_gradient": 4,
    "test_models_contract.py::test_parameters_may_be_stored_in_bfloat16": 6,
    "test_models_contract.py::"
    "test_training_moves_only_the_statistics_of_the_stages_that_train": 4,
    "test_models_contract.py::test_stages_order_the_parameters_and_end_with_head": 3,
    "test_models_contract.py::"
    "test_evaluation_is_deterministic_and_does_not_change_statistics": 3,
    "test_jacobian.py::test_exactly_zero_at_the_source": 2,
    "test_conv.py::test_derivatives_of_every_order_are_those_of_lax": 3,
    "test_terms_contract.py::test_it_runs_with_all_but_the_head_frozen": 6,
    "test_terms_contract.py::test_it_runs_is_finite_and_compiles_once": 6,
    "test_accumulation_contract.py::test_accumulated_gradients_are_the_whole_batchs": 8,
    "test_multitask_programs.py::test_the_balance_is_the_programs": 2,
    "test_generalization_runs.py::test_cached_features_change_nothing": 2,
    "test_importance.py::test_importance_for_other_tasks_is_finite_and_not_negative": 2,
    "test_mixmatch.py::test_the_value_is_both_parts_of_the_mixed_batch": 2,
    "test_bottleneck.py::test_the_bottleneck_by_numpy": 2,
    "test_hf_peft.py::test_peft_opens_what_we_write_and_we_read_it_again": 2,
    "test_pipelines.py::test_a_pipeline_gives_the_run_s_own_predictions": 3,
    "test_describe.py::test_the_listed_number_of_parameters_is_the_networks": 8,
    "test_program.py::test_every_family_exports_for_any_batch_size": 3,
    "test_config_parity.py::test_a_key_that_is_honored_gives_transformers_logits": 2,
    "test_text_models.py::test_every_hidden_state_equals_transformers": 2,
    "test_text_models.py::test_gradients_of_every_tensor_equal_transformers": 2,
    "test_vision_models.py::test_vgg_equals_torch": 2,
    "test_image_types.py::test_the_usual_configuration_gives_transformers_outputs": 2,
    "test_prompt_tuning.py::test_shapes_stay_and_runs_from_any_stage_go_on": 2,
    "test_semi_runs.py::test_a_run_moves_what_is_trainable_and_nothing_else": 2,
}


def _is_slow(item) -> bool:
    case = item.nodeid.rpartition("/")[2]
    k = ONE_IN_K.get(case.partition("[")[0], 1)
    return case.endswith(SLOW) or zlib.crc32(case.encode()) % k != 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leaves the slow tests out, unless they are asked for."""
    for item in items:
        if _is_slow(item):
            item.add_marker(pytest.mark.slow)
    if os.environ.get("JAXTL_SLOW") == "1" or "slow" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


STREAMS = ("target", "source", "unlabelled")


def _batch(seed: int, size: int, task: str, outputs: int, width: int = 5):
    rng = np.random.default_rng(seed)
    if task in ("language", "question_answering", "contrastive", "masked_language"):
        ids = jnp.asarray(rng.integers(0, 11, (size, width)), jnp.int32)
        mask = jnp.arange(width) < rng.integers(2, width + 1, (size, 1))
        x = {"input_ids": ids, "attention_mask": mask}
        if task == "question_answering":
            spans = np.sort(rng.integers(0, width, (size, 2)), axis=1)
            return {"x": x, "y": jnp.asarray(spans, jnp.int32)}
        if task == "contrastive":
            x["image"] = jnp.asarray(rng.normal(size=(size, width)), jnp.float32)
        return {"x": x, "y": jnp.zeros(size, jnp.int32)}
    if task == "similarity":
        ids = jnp.asarray(rng.integers(0, 11, (size, 2, width)), jnp.int32)
        mask = jnp.arange(width) < rng.integers(2, width + 1, (size, 2, 1))
        x = {"input_ids": ids, "attention_mask": mask}
        return {"x": x, "y": jnp.asarray(rng.random(size), jnp.float32)}
    shape = (size, 8, 8, 3) if task == "images" else (size, width)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    if task == "episodes":
        return {"x": x, "y": jnp.asarray(_EPISODES.labels(size))}
    if task in ("classification", "images"):
        return {"x": x, "y": jnp.asarray(rng.integers(0, outputs, size))}
    if task == "multitask":  # of `_TASKS`; the first example lacks the class
        classes = np.where(np.arange(size) == 0, np.nan, rng.integers(0, 2, size))
        y = np.stack([classes, rng.normal(size=size)], axis=1)
        return {"x": x, "y": jnp.asarray(y, jnp.float32)}
    y = rng.normal(size=(size, outputs))
    y = (y > 0) if task == "multilabel" else y
    return {"x": x, "y": jnp.asarray(y, jnp.float32)}


_TASKS = ("kind=0", "kind=1", "size")  # outputs of the multi-task bench
_EPISODES = Episodes(ways=3, shots=1, queries=1, tasks=1)  # one batch of 6
_LLAMA = Llama(vocab=11, width=8, layers=1, heads=2, hidden=8, context=16)
_SPANS = dataclasses.replace(_LLAMA, predict="span")


def _init_words(key, x):
    return {"head": {"table": jax.random.normal(key, (11, 4))}}, {}


def _apply_words(params, stats, x, **settings):
    vectors = params["head"]["table"][x["input_ids"]]
    out = (vectors * x["attention_mask"][..., None]).sum(1)
    return Output(out, {"head": out}, stats)


_PAIRS = TwoTowers(
    image=MLP(widths=(8,)),
    text=Network(("head",), _init_words, _apply_words),
    width=4,
)
_MODELS = {
    "language": _LLAMA,
    "question_answering": _SPANS,
    "contrastive": _PAIRS,
    "masked_language": Bert(
        vocab=11,
        width=8,
        layers=1,
        heads=2,
        hidden=8,
        context=16,
        outputs=3,
        dropout=0.0,
    ),
    "images": ViT(size=8, patch=2, width=8, layers=1, heads=2, hidden=8, outputs=3),
    "similarity": BiEncoder(encoder=_LLAMA, dense_width=6),
}


EXAMPLES = 20  # of each stream's data set


def _streamed(batch: dict, stream: str) -> dict:
    """Returns a batch as the step hands it on; "unlabelled" has no labels."""
    size = len(batch["y"])
    if stream == "unlabelled":
        del batch["y"]
    return {**batch, "row": jnp.asarray(_train_rows(size)[:size])}


def _train_rows(size: int) -> np.ndarray:
    """Rows of a stream's train examples, those of its batch first."""
    rows = np.random.default_rng(size).permutation(EXAMPLES)[: max(size, 8)]
    return rows.astype(np.int32)


class Bench:
    """A tiny network with everything a term needs, changed at will.

    `Bench(task=…, model=…, new_head=True, frozen=("layer1",))`; then `.setup` for
    `Term.check`/`init` and `.context(params=…, term=…)` for its call. Each stream's
    batch has `further` examples more than the one before. With
    `source_outputs=5` the source has a head of its own, of 5 outputs.
    """

    def __init__(
        self,
        task="classification",
        model=None,
        *,
        new_head=False,
        scratch=False,
        frozen=(),
        batch=6,
        further=1,
        streams=STREAMS,
        moved=0.1,
        source_outputs=None,
    ):
        outputs = 3
        usual = _MODELS.get(task, MLP(outputs=outputs, widths=(8,)))
        self.network = (model or usual).pure()
        self.batches = {
            name: _streamed(_batch(i, batch + i * further, task, outputs), name)
            for i, name in enumerate(streams)
        }
        x = self.batches["target"]["x"]
        start, self.stats = self.network.init(jax.random.key(0), x)
        noise, _ = self.network.init(jax.random.key(1), x)
        self.params = jax.tree.map(lambda a, b: a + moved * (b + 0.3), start, noise)
        head = start.get(self.network.stages[-1])
        self.source_network = None if scratch else self.network
        if source_outputs is not None:
            other = MLP(outputs=source_outputs, widths=(8,))
            self.source_network = other.pure()
            head = self.source_network.init(jax.random.key(2), x)[0]["head"]
            new_head = True
        if new_head:
            blank = jax.tree.map(lambda _: None, head)
            start = {**start, self.network.stages[-1]: blank}
        self.source = Source() if scratch else Source(start, self.stats, head)
        self.mask = {
            stage: jax.tree.map(lambda _, s=stage: s not in frozen, tree)
            for stage, tree in self.params.items()
        }
        usual_names = {
            "similarity": "regression",
            "episodes": "classification",
            "images": "classification",
            "masked_language": "classification",
        }
        self.task = usual_names.get(task, task)
        self.episodes = {"target": _EPISODES} if task == "episodes" else {}
        self.outputs = outputs

    @property
    def _batch_sizes(self) -> dict[str, int]:
        return {
            name: len(jax.tree.leaves(batch["x"])[0])
            for name, batch in self.batches.items()
        }

    @property
    def program(self) -> Program:
        return Program(
            network=self.network,
            source_network=self.source_network,
            base_mask=self.mask,
            trainable_mask=self.mask,
            train_stages=self.network.stages,
            task=self.task,
            outputs=self.outputs,
            output_names=_TASKS if self.task == "multitask" else (),
            batch_sizes=self._batch_sizes,
            preprocess=dict.fromkeys(self.batches, Preprocess()),
            episodes=self.episodes,
        )

    @property
    def setup(self) -> Setup:
        shapes = jax.eval_shape(
            lambda x: self.network.apply(self.params, self.stats, x).features,
            self.batches["target"]["x"],
        )
        return Setup(
            name="term",
            program=self.program,
            params=self.params,
            stats=self.stats,
            source=self.source,
            features=shapes,
            batches=lambda stream: iter([self.batches[stream]]),
            examples=dict.fromkeys(self.batches, EXAMPLES),
            classes={"": tuple("012"[: self.outputs])},
            label_counts=dict.fromkeys(self.batches, (5, 2, 1)),
            train_rows={n: _train_rows(size) for n, size in self._batch_sizes.items()},
        )

    def context(
        self,
        params=None,
        term_params=None,
        state=None,
        constants=None,
        step=3,
        seed=0,
        program=None,
        **changes,
    ) -> Context:
        """A fresh Context; call a term with `View(context, "term", 0)`.

        `program` holds changed fields of the Program, all others are fields of the
        Context.
        """
        fields = {
            "program": dataclasses.replace(self.program, **(program or {})),
            "params": self.params if params is None else params,
            "stats": self.stats,
            "source": self.source,
            "batches": self.batches,
            "key": jax.random.key(seed),
            "step": jnp.asarray(step),
            "steps": jnp.asarray(10),
            "term_params": {"term": term_params or {}},
            "term_states": {"term": state or {}},
            "constants": {"term": constants or {}},
        }
        return Context(**{**fields, **changes})


@pytest.fixture
def bench():
    """Returns the class `Bench`."""
    return Bench


def _digits(**changes):
    import jaxtl as tl

    fields = {
        "model": tl.models.MLP(widths=(16,)),
        "data": tl.data.Digits(),
        "optim": tl.optim.AdamW(lr=1e-2),
        "steps": 6,
        "batch": 32,
    }
    return tl.Experiment(**{**fields, **changes})


@pytest.fixture
def assert_resumes(tmp_path):
    """Returns a function: a run resumed at a step must end bit for bit the same."""
    import jaxtl as tl
    from jaxtl.training import checkpointing

    def assert_it(exp, stop):
        whole = tl.setup(exp, tmp_path / "whole")
        whole.advance(exp.steps)
        part = tl.setup(exp, tmp_path / "part")
        part.advance(stop)
        checkpointing.save(part)
        again = tl.resume(tmp_path / "part")
        assert again.steps_done == stop
        again.advance(exp.steps - stop)
        for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(again.state)):
            np.testing.assert_array_equal(a, b)

    return assert_it


@pytest.fixture(scope="session")
def digits():
    """Returns a function: a small experiment on the digits, changed at will."""
    return _digits
