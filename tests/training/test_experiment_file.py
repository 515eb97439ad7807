"""Experiment files: read, overridden, stored, and told what is wrong with them."""

import sys
import textwrap

import pytest

import jaxtl as tl
from jaxtl.training import experiment_file, run_dir

SINGLE = '''
"""A digits experiment.

Run:  jaxtl run
"""
import dataclasses
import jaxtl as tl
from jaxtl.terms.base import Term

@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Term):
    """A term of the file's own."""
    scale: float = 2.0
    def __call__(self, context):
        return self.scale * context.forward().logits.mean() ** 2

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(4,)), data=tl.data.Digits(), steps=2, batch=8,
        terms={"task": tl.losses.CrossEntropy(), "own": Own()})
'''

VARIANTS = """
import dataclasses
import jaxtl as tl

SEEDS = range(3)

def experiment():
    model, data = tl.models.MLP(widths=(4,)), tl.data.Digits()
    base = tl.Experiment(model=model, data=data, steps=2)
    l2 = {"task": tl.losses.CrossEntropy(), "l2": tl.regularizers.WeightDecay()}
    return {"plain": base, "decay": dataclasses.replace(base, terms=l2)}
"""


@pytest.fixture
def file(tmp_path):
    """Returns a function that writes an experiment file of its own name."""

    def write(text, name="exp"):
        path = tmp_path / f"{name}_{tmp_path.name}.py"
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_a_file_gives_its_experiment_with_overrides(file):
    found = tl.load(file(SINGLE), "steps=5", "terms.own.scale=3", "model.widths=(7,)")
    assert isinstance(found, tl.Experiment)
    assert found.steps == 5
    assert found.terms["own"].scale == 3.0
    assert found.model.widths == (7,)
    assert experiment_file.read_file(file(SINGLE)).doc.startswith(
        "A digits experiment."
    )


def test_variants_take_the_overrides_that_fit_them(file):
    path = file(VARIANTS)
    found = tl.load(path, "steps=9", "terms.l2.weight=0.5", "plain.batch=16")
    assert list(found) == ["plain", "decay"]
    assert [e.steps for e in found.values()] == [9, 9]
    assert [e.batch for e in found.values()] == [16, 64]
    assert found["decay"].terms["l2"].weight == 0.5
    assert dict(found["plain"].terms) == {}


def test_seeds_come_from_the_file_or_the_command_line(file):
    assert experiment_file.read_file(file(VARIANTS)).seeds == (0, 1, 2)
    assert experiment_file.read_file(file(VARIANTS), "SEEDS=4,5").seeds == (4, 5)
    assert experiment_file.read_file(file(VARIANTS), "SEEDS=4").seeds == (4,)
    assert experiment_file.read_file(file(SINGLE)).seeds is None
    with pytest.raises(tl.UserError, match="SEEDS='a': expected whole numbers"):
        experiment_file.read_file(file(VARIANTS), "SEEDS=a")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stepz=3", "no field 'stepz'; did you mean 'steps'?"),
        ("steps", "the override 'steps' has no '='"),
        ("terms.l3.weight=1", "terms: there is no 'l3'"),
        ("decay.terms.l3.weight=1", "terms: there is no 'l3'"),
        ("plain.terms.l2.weight=1", "terms: there is no 'l2'"),
        ("optim.lr=fast", "optim.lr='fast': expected a number"),
    ],
)
def test_an_override_that_fits_no_variant_is_told(file, override, expected):
    with pytest.raises(tl.UserError) as caught:
        tl.load(file(VARIANTS), override)
    assert expected in str(caught.value)


def test_a_wrong_value_is_told_though_another_variant_has_no_such_field(file):
    with pytest.raises(tl.UserError, match=r"terms\.l2\.weight='x': expected a number"):
        tl.load(file(VARIANTS), "terms.l2.weight=x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1", r"defines no function experiment\(\)"),
        ("def experiment():\n    return 3", "must return a tl.Experiment.* got int"),
        ("def experiment():\n    return {'a': 3}", "got int for 'a'"),
        ("import jaxtl\n\nx = 1 / 0", r"line 3: ZeroDivisionError"),
        ("def experiment(:\n    pass", r"line 1: SyntaxError"),
        ("import no_such_module", "line 1: ModuleNotFoundError"),
    ],
)
def test_broken_files_name_the_line(file, text, expected):
    with pytest.raises(tl.UserError, match=expected):
        tl.load(file(text))


def test_a_file_that_breaks_inside_its_function_names_the_line(file):
    text = "import jaxtl as tl\n\ndef experiment():\n    return tl.Experimemt()\n"
    with pytest.raises(tl.UserError, match="line 4: AttributeError"):
        tl.load(file(text))


def test_a_missing_file_names_the_nearest(file):
    path = file(SINGLE)
    with pytest.raises(tl.UserError, match=f"did you mean '{path.name}'"):
        tl.load(path.with_name(path.name.replace("exp", "exq")))


def test_a_stored_run_finds_the_classes_of_its_file(file, tmp_path, monkeypatch):
    path = file(SINGLE, "own")
    exp = tl.load(path)
    tl.setup(exp, tmp_path / "run", file=path)
    # Another process has not imported the file, and the original may be gone.
    monkeypatch.delitem(sys.modules, experiment_file.MODULE + path.stem)
    path.unlink()
    found = run_dir.read_experiment(tmp_path / "run")
    assert found.terms["own"].scale == 2.0
    assert type(found.terms["own"]).__name__ == "Own"


def test_a_variant_stands_for_another_and_reads_nothing_itself(digits):
    with pytest.raises(
        tl.UserError, match=r"init=Variant\('source'\) stands for anoth"
    ):
        tl.setup(digits(init=tl.Variant("source")))


def test_batches_may_differ_by_stream(digits):
    exp = digits(batch={"target": 8, "source": 4})
    assert exp.batch_of("source") == 4
    with pytest.raises(tl.UserError, match="no size for the stream 'sorce'; did you m"):
        exp.batch_of("sorce")


def test_weights_of_one_run_start_the_next(digits, tmp_path):
    tl.train(tl.setup(digits(), tmp_path / "first"))
    init = tl.pretrained.FromRun(str(tmp_path / "first"), reset="head", which="last")
    terms = {"task": tl.losses.CrossEntropy(), "l2sp": tl.regularizers.L2SP(weight=0.1)}
    optim = tl.optim.AdamW(lr=0.01, decay_to_source=0.1)
    run = tl.setup(digits(init=init, terms=terms, optim=optim, seed=1), tmp_path / "b")
    assert run.source.params["head"]["dense"]["kernel"] is None
    assert run.source.head["dense"]["kernel"].shape == (16, 10)
    assert run.step()["l2sp"] == 0.0, "it starts at its source"
    assert run.step()["l2sp"] > 0.0
    assert "re-initialized" in (tmp_path / "b" / "loaded.json").read_text()


def test_a_relative_path_names_the_line_as_well(file, monkeypatch):
    path = file("def experiment():\n    return 1 / 0\n")
    monkeypatch.chdir(path.parent)
    with pytest.raises(tl.UserError, match="line 2: ZeroDivisionError"):
        tl.load(path.name)


def test_an_edit_of_the_same_length_within_a_second_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "edited.py"
    for steps in range(1, 9):
        path.write_text(SINGLE.replace("steps=2", f"steps={steps}"))
        assert experiment_file.read_file(path).variants[""].steps == steps
    assert [p.name for p in tmp_path.iterdir()] == ["edited.py"]
