"""What the documentation prints works as it is printed: its commands and its Python.

Every fenced command is parsed by the program's own parser, and every Python block is
compiled and run. The commands of `RUN_PAGES` are then run in order, in one folder, on a
small experiment: `PLACEHOLDERS` says what stands for FILE, RUN and the like. The first
block of README is run by `.ci/run`, in a fresh environment.
"""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import json
import pathlib
import re
import shlex
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxtl as tl
from docs.builder import methods, public_names
from jaxtl.cli import main
from jaxtl.models import staged
from jaxtl.models.layers.heads import DenseHead
from jaxtl.training import experiment_file, variants

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
)
BLOCK = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LANGUAGES = {"bash", "python", "text", "{toctree}", "{literalinclude}", "{raw}"}
# Their commands run; those of other pages are parsed.
RUN_PAGES = (
    "docs/start/experiment.md",
    "docs/start/quickstart.md",
    "docs/howto/sweeps.md",
    "docs/weights.md",
)
FIGURE = r"\d+(?:\.\d+)? ± \d+(?:\.\d+)?"
DECIMAL = r"\d+\.\d+"
INLINE = re.compile(r"`(jaxtl [^`]*)`")

SOURCE = """
import jaxtl as tl


def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(16,)),
        data=tl.data.Digits(limit=200),
        steps=40,
        batch=32,
    )
"""
FILE = '''
"""A small transfer between digits."""
import jaxtl as tl

SWEEP = {"optim.lr": [1e-3, 1e-2]}


def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(16,)),
        init=tl.pretrained.FromRun("runs/source"),
        data=tl.data.Digits(limit=200, split_seed=0, val=0.2),
        streams={"source": tl.data.Digits(limit=200)},
        terms={
            "task": tl.losses.CrossEntropy(),
            "l2sp": tl.regularizers.L2SP(weight=0.01),
        },
        steps=4,
        batch=32,
    )
'''
VARIANTS = (
    FILE.replace("return ", "tuned = ").replace(
        'tl.pretrained.FromRun("runs/source")', 'tl.Variant("source")'
    )
    + """
    model = tl.models.MLP(widths=(16,))
    data = tl.data.Digits(limit=200)
    return {
        "source": tl.Experiment(model=model, data=data, steps=4, batch=8),
        "tuned": tuned,
    }
"""
)
# Word of the documentation -> what it stands for here.
PLACEHOLDERS = {
    "FILE": "file.py",
    "RUN": "runs/A",
    "OUT": "out",
    "NAME": "study",
    "URL": "sqlite:///search.db",
    "runs/mine": "runs/A",
    "runs/quickstart": "runs/A",
    "cuda:1": "cpu",
    "50": "4",  # trials
    "200": "4",  # steps
}
# Parsed, and executed by other tests: published tables take their data and minutes, a
# directory for transformers a run that began from one (tests/export), a run's report
# that of the recipes (tests/experiments).
ELSEWHERE = ("reproduce NAME", "convert runs/mine tuned", "report runs/quickstart")
# Of more than a second: with `-m slow` alone.
DEAR = ("data FILE --out data.png", "diagnose RUN")


def public_callables():
    """(path below `jaxtl`, function) of the functions and methods that the site shows.

    A method that overrides one of the package has that one's docstring to look at.
    """
    members = dict(public_names.top_level())
    for namespace in public_names.namespaces():
        members |= dict(namespace.members())
    members |= _functions_beside_methods()
    for path, member in members.items():
        if inspect.isfunction(member):
            yield path, member
        elif inspect.isclass(member):
            yield from _public_methods(path, member)


def _functions_beside_methods():
    """Path -> function of the modules of methods: their equations, on their pages."""
    families = [n for n in public_names.namespaces() if n.is_family]
    classes = [c for n in families for _, c in n.members() if inspect.isclass(c)]
    return {
        f"{c.__module__.removeprefix('jaxtl.')}.{name}": function
        for c in classes
        for name, function in methods.functions_beside(c)
    }


def _public_methods(path, member):
    bases = [c for c in member.__mro__[1:] if c.__module__.startswith("jaxtl")]
    inherited = {name for base in bases for name in vars(base)}
    for name, value in vars(member).items():
        function = getattr(value, "__func__", value)  # of a classmethod
        is_public = not name.startswith("_") and name not in inherited
        if is_public and inspect.isfunction(function):
            yield f"{path}.{name}", function


def unsaid(function):
    """What the docstring of a function with arguments lacks: sections, arguments."""
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    parameters = set(signature.parameters) - {"self", "cls"}
    if not parameters:
        return []
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    heads = re.findall(
        r"^  (?! )([\w*, ]+):", section[1] if section else "", re.MULTILINE
    )
    named = {name.strip(" *") for head in heads for name in head.split(",")}
    lacking = ["Args"] if not section else sorted(parameters ^ named)
    is_said = "Returns:" in text or "Yields:" in text
    if not is_said and signature.return_annotation not in (None, "None"):
        lacking.append("Returns")
    return lacking


def test_public_functions_and_methods_say_what_they_take_and_return():
    callables = dict(public_callables())
    lacking = {path: unsaid(function) for path, function in callables.items()}
    assert {path: what for path, what in lacking.items() if what} == {}
    assert len(callables) > 500


def test_a_docstring_without_args_or_returns_is_told():
    def function(x: int) -> int:
        """Doubles x."""

    def complete(x: int) -> None:
        """Doubles x.

        Args:
          x: a number.
        """

    def renamed(x: int, *others: int) -> None:
        """Doubles x.

        Args:
          y: a number.
          *others: further numbers.
        """

    assert unsaid(function) == ["Args", "Returns"]
    assert unsaid(complete) == []
    assert unsaid(renamed) == ["x", "y"]
    assert unsaid(lambda self: 1) == []
    assert [name for name, _ in _public_methods("A", tl.metrics.Metric)]
    assert not [n for n, _ in _public_methods("A", tl.domain.DANN) if "check" in n]


def blocks(page, language):
    """(line, text) of the fenced blocks of a language in a page."""
    text = (ROOT / page).read_text()
    return [
        (text[: match.start()].count("\n") + 2, match[2])
        for match in BLOCK.finditer(text)
        if match[1] == language
    ]


def commands(page):
    """The command lines of a page's blocks, as words without comments."""
    for _, text in blocks(page, "bash"):
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                yield words[:end]
                words = words[end + 1 :]


def test_every_block_says_what_it_is():
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert text.count("```") == 2 * len(BLOCK.findall(text)), page
        assert {language for language, _ in BLOCK.findall(text)} <= LANGUAGES, page


def blocks_with_figures(text):
    """(experiments that it links, its figures) of each paragraph, item and table row.

    A figure is "a ± b", or in a table row also a number with decimals.
    """
    for block in re.split(r"\n\s*\n|\n(?=[|-])", re.sub(BLOCK, "", text)):
        files = re.findall(r"\]\([./]*(experiments/\w+\.py)\)", block)
        shown = " ".join(re.sub(r"\]\([^)]*\)", "]", block).split())
        is_row = block.startswith("|")
        pattern = rf"{FIGURE}|{DECIMAL}" if is_row else FIGURE
        if files:
            yield files, re.findall(pattern, shown)


def _has_figure(text, figure):
    return re.search(rf"(?<![\d.]){re.escape(figure)}(?!\.?\d)", text)


@pytest.mark.parametrize("page", PAGES)
def test_figures_beside_a_link_to_an_experiment_are_its_docstring_s(page):
    text = (ROOT / page).read_text()
    for files, figures in blocks_with_figures(text):
        docstrings = [
            ast.get_docstring(ast.parse((ROOT / f).read_text())) for f in files
        ]
        printed = " ".join(" ".join(docstrings).split())
        missing = [figure for figure in figures if not _has_figure(printed, figure)]
        assert not missing, (page, files, missing)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/start/quickstart.md", ("quickstart", "usps_mnist")),
        ("docs/kinds_of_transfer.md", ("kinds_of_transfer",)),
        ("docs/self_supervised.md", ("selfsup_digits", "selfsup_cifar")),
        ("docs/multitask.md", ("office_tasks", "multi_mnist")),
        ("docs/meta_learning.md", ("omniglot_one_shot_learners",)),
        ("docs/distillation.md", ("distillation_cifar",)),
        ("docs/domain.md", ("office_caltech",)),
    ],
)
def test_a_page_copies_the_tables_of_its_experiments(page, names):
    files = [ROOT / f"experiments/{name}.py" for name in names]
    printed = " ".join(ast.get_docstring(ast.parse(f.read_text())) for f in files)
    figures = re.findall(FIGURE, (ROOT / page).read_text())
    assert figures
    assert [f for f in figures if not _has_figure(printed, f)] == []


def test_the_tables_of_transfers_have_figures():
    text = (ROOT / "docs/results/transfers.md").read_text()
    found = [figures for files, figures in blocks_with_figures(text) if figures]
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert len(found) == len(rows) > 5
    assert sum(map(len, found)) > 30


def test_figures_of_published_tables_are_those_of_their_reports():
    text = (ROOT / "docs/results/reproduced.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    folder = ROOT / "experiments/reports/reproduce"
    assert {name for name, _ in rows} == {path.stem for path in folder.glob("*.md")}
    for name, row in rows:
        report = (folder / f"{name}.md").read_text()
        for figure in re.findall(rf"{FIGURE}|{DECIMAL}", row):
            assert _has_figure(report, figure), (name, figure)
        if counted := re.search(r"(\d+) of (\d+) ", row):
            verdicts = re.findall(
                r"\| (reproduced|in our 95 % interval|missed, \w+) \|$",
                report,
                re.MULTILINE,
            )
            expected = (str(verdicts.count("reproduced")), str(len(verdicts)))
            assert counted.groups() == expected, name


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_of_the_program(page):
    for program, *arguments in commands(page):
        line = shlex.join([program, *arguments])
        if program == "jaxtl":
            args = main.parse(arguments)  # exits where it refuses
            if str(getattr(args, "file", "")).startswith("experiments/"):
                file = experiment_file.read_file(ROOT / args.file, *args.overrides)
                assert args.variant is None or variants.only(file, args.variant), line
        elif program == "python" and arguments[0] != "-m":
            assert (ROOT / arguments[0]).exists(), line
        elif program == "python":
            assert arguments[1] == "pytest", line
            tests = [word for word in arguments if word.startswith("tests/")]
            assert all((ROOT / test).exists() for test in tests), line
        else:
            assert program in ("pip", ".ci/run"), line


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_the_text_exists_with_its_options(page):
    choices = main._parser()._subparsers._group_actions[0].choices
    for text in INLINE.findall((ROOT / page).read_text()):
        _, name, *words = re.sub(r"[\[\]…]", " ", text).split()
        if name in ("COMMAND", "stages"):  # of the text on adding a command
            continue
        options = choices[name]._option_string_actions
        assert {word for word in words if word.startswith("--")} <= set(options), text


def parts(text):
    """A block as statements; its last part may be arguments of an experiment."""
    text = text.replace("…", "...")
    with contextlib.suppress(SyntaxError):
        return [compile(text, "block", "exec")]
    *statements, arguments = text.strip().split("\n\n")
    call = f"experiment = tl.Experiment(model=tiny, data=digits, {arguments})"
    return [compile(part, "block", "exec") for part in (*statements, call)]


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_is_python(page):
    for line, text in blocks(page, "python"):
        assert parts(text), f"{page}:{line}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a reader has: the experiment, two runs of it, a picture."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "source.py").write_text(SOURCE)
    (folder / "file.py").write_text(FILE)
    (folder / "variants.py").write_text(VARIANTS)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "picture.png")
    with contextlib.chdir(folder):
        for line in (
            "run source.py --out runs/source",
            "run file.py --out runs/A",
            "run file.py seed=1 --out runs/B",
            "sweep file.py --search random --trials 2 --out runs/search "
            "--storage sqlite:///search.db --study study",
        ):
            assert main.main(line.split()) == 0, line
    return folder


@pytest.fixture
def reader(folder, monkeypatch):
    """The folder as the working directory."""
    monkeypatch.chdir(folder)
    return folder


def test_the_page_of_a_run_s_directory_names_what_runs_write(folder):
    page = (ROOT / "docs/reference/run_directory.md").read_text()
    words = set(re.findall(r"`([^`]+)`", page))
    run = folder / "runs/A"
    files = {path.name + "/" * path.is_dir() for path in run.iterdir()}
    assert {"source.json", "checkpoints/"} <= files
    assert files - {"splits-source.npz"} - words == set()
    rows = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    terms = {
        key for row in rows for key in row if key.split("/")[0] in ("task", "l2sp")
    }
    trained = {key for row in rows if row["kind"] == "train" for key in row} - terms
    named = re.split(r"^## ", page, flags=re.MULTILINE)
    [of_lines] = [part for part in named if part.startswith("`metrics.jsonl`")]
    assert {key for key in trained if f"`{key}`" not in of_lines} == set()
    assert set(json.loads((run / "result.json").read_text())) - words == set()
    assert set(json.loads((run / "experiment.json").read_text())) - words == set()
    [step] = (run / "checkpoints").iterdir()
    assert {path.name for path in step.iterdir() if path.is_dir()} <= words


def _real(words):
    """The words of a command with what stands for the placeholders."""
    if "--variant" in words:
        return [{"FILE": "variants.py", "NAME": "tuned"}.get(w, w) for w in words]
    if "runs/FILE/TIME" in words:
        return [*words[:-1], str(max(pathlib.Path("runs/file").iterdir()))]
    return [PLACEHOLDERS.get(word, word) for word in words]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_commands_run_in_order(
    every, folder, tmp_path, monkeypatch, request, capsys
):
    shutil.copytree(folder, tmp_path / "reader")
    monkeypatch.chdir(tmp_path / "reader")
    for program, *arguments in itertools.chain.from_iterable(map(commands, RUN_PAGES)):
        line = " ".join(arguments)
        is_here = program == "jaxtl" and line not in ELSEWHERE
        is_long = "experiments/quickstart.py" in line or (line in DEAR and not every)
        if not is_here or is_long:
            continue
        if line == "inspect resnet20.th":
            data = request.getfixturevalue("data_dir") / "pretrained"
            shutil.copy(data / "resnet20-12fca82f.th", "resnet20.th")
        code = main.main(_real(arguments))
        error = capsys.readouterr().err
        assert code == 0, f"jaxtl {line}: {error}"
        assert "Traceback" not in error, f"jaxtl {line}: {error}"
    for path in ("p.png", "lr.png", "out", "runs/s/report/report.html"):
        assert pathlib.Path(path).exists(), path


def _names():
    """Names that the blocks take as imported or defined before."""
    return {
        "tl": tl,
        "dataclasses": dataclasses,
        "jnp": jnp,
        "staged": staged,
        "DenseHead": DenseHead,
        "tiny": tl.models.MLP(widths=(16,)),
        "digits": tl.data.Digits(limit=200),
        "__name__": "documentation",
    }


def _write_your_data(folder):
    """The folder, the table and the texts of docs/start/your_data.md."""
    rng = np.random.default_rng(0)
    for i in range(40):
        path = folder / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    rows = [f"{i},{'ab'[i % 2]},{'no' if i % 3 else 'yes'}" for i in range(60)]
    (folder / "table.csv").write_text("\n".join(["size,kind,y", *rows]))
    rows = [f"{'good' if i % 2 else 'bad'} film {i},{i % 2}" for i in range(40)]
    (folder / "reviews.csv").write_text("\n".join(["review,stars", *rows]))


# Texts take seconds to compile: tests/experiments trains on some of every kind.
@pytest.mark.parametrize(
    "name", ["photos.py", "table.py", pytest.param("texts.py", marks=pytest.mark.slow)]
)
def test_a_file_for_ones_own_data_trains(name, tmp_path, monkeypatch, capsys):
    _write_your_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    texts = [text for _, text in blocks("docs/start/your_data.md", "python")]
    [text] = [text for text in texts if text.startswith(f"# {name}")]
    assert len(text.strip().splitlines()) <= 12
    pathlib.Path(name).write_text(text)
    short = ["steps=1", *["data.size=8"] * (name == "photos.py")]
    code = main.main(["run", name, *short, "--out", "runs/short"])
    assert code == 0, capsys.readouterr().err


def _python_pages():
    """The pages with Python; tests/models runs that on models of one's own."""
    pages = (page for page in PAGES if page != "docs/own_models.md")
    return [page for page in pages if blocks(page, "python")]


@pytest.mark.parametrize("page", _python_pages())
def test_the_python_of_a_page_runs_in_order(page, reader):
    names = _names()
    for line, text in blocks(page, "python"):
        text = text.replace("experiments/usps_mnist.py", "file.py")
        text = text.replace('"runs/s"', '"runs/t"').replace("steps=200", "steps=4")
        for code in parts(text):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(code, names)
            except Exception as error:
                raise AssertionError(f"{page}:{line}") from error
    if page == "docs/howto/own_term.md":
        assert names["LogitNorm"](radius=2.0).radius == 2.0
    if page == "docs/metrics.md":
        assert names["experiment"].monitor == "auroc"
    if page == "docs/howto/sweeps.md":
        assert pathlib.Path("runs/t/sweep.sqlite").exists()
    if page == "CONTRIBUTING.md":
        terms = {
            "task": tl.losses.CrossEntropy(),
            "norm": names["LogitNorm"](weight=0.1),
        }
        exp = tl.Experiment(
            model=names["Linear"](),
            data=names["Moons"](),
            terms=terms,
            metrics={"margin": names["Margin"]()},
            steps=2,
        )
        tl.train(tl.setup(exp, "runs/moons"))
