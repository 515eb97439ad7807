"""The house's statics, by AST: who may import whom, and what `import jaxtl` costs."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "jaxtl"

FLOORS = {
    0: "core _lazy tree select config snapshot schedules checkpoint compiling",
    1: "checks combine linear readout groups losses metrics models norms peft "
    "pretrained significance shift",
    2: "regularizers domain generalise noisy alignment weights criteria",
    3: "objective optim sharding data phases averaging",
    # semi: its usual views are operations on data, so it stands above both.
    4: "step dispatch stretches assemble cache cache_disk experiment evaluation run "
    "store rundir facts feeds log progress training study passes members ensembles "
    "probe statistics importance line ledger records axes axes_text sweep semi audit "
    "adapting "
    "plan fits sweeping storages trials search searching stacking scoring lanes "
    "together choosing hindsight baselines settings summary "
    "summarise verdicts",
    5: "export artefact card trained predict report plots interpolation lr_finder "
    "conclusions tables formats watch commands_report "
    "slices plots_axes plots_cells plots_domains plots_sweep page diagnosis "
    "commands_sweep commands_search slurm commands commands_weights "
    "commands_ensemble commands_importance commands_labels commands_lr "
    "commands_diagnose reproduce commands_reproduce "
    "results interactive cli __main__",
}
# Rooms of these floors may use each other, though never in a circle; methods (2) and
# what assembles them (3) stand side by side.
STAIRS = (0, 1, 4, 5)
FLOOR = {room: n for n, rooms in FLOORS.items() for room in rooms.split()}

# Which files may import a library that the rest must do without.
ONLY = {
    "flax": ("models/",),
    "orbax": ("checkpoint.py",),
    "tensorflow_datasets": ("data/",),
    "grain": ("data/",),
    "matplotlib": (
        "plots.py",
        "plots_axes.py",
        "plots_cells.py",
        "plots_domains.py",
        "plots_sweep.py",
        "data/rendered.py",
    ),
    "safetensors": ("pretrained/", "export.py", "artefact.py", "predict.py"),
    "torch": ("pretrained/",),
    "tensorflow": (),
}

FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def name(path):
    return path.relative_to(ROOT).as_posix()


def room(path):
    """Returns the package, or the module of a file that is in none."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """Yields every imported module's full name, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def neighbours(path):
    """Returns the rooms of jaxtl that a file imports, other than its own."""
    found = {m.split(".")[1] for m in imports(path) if m.startswith("jaxtl.")}
    # `from jaxtl import __version__` and the like name no room.
    return {r for r in found if (ROOT / r).is_dir() or (ROOT / f"{r}.py").is_file()}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_import_only_from_below(path):
    here = room(path)
    assert here in FLOOR, f"{here} has no floor yet: put it on one in this test"
    for other in neighbours(path) - {here}:
        same = FLOOR[other] == FLOOR[here] and FLOOR[here] in STAIRS
        assert FLOOR[other] < FLOOR[here] or same, (
            f"{name(path)} (floor {FLOOR[here]}) imports {other} (floor {FLOOR[other]})"
        )


def test_no_rooms_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(room(path), set()).update(neighbours(path) - {room(path)})
    done: set[str] = set()

    def visit(node, trail):
        assert node not in trail, " → ".join([*trail, node])
        if node not in done:
            for other in sorted(graph.get(node, ())):
                visit(other, [*trail, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])


@pytest.mark.parametrize("path", FILES, ids=name)
def test_libraries_stay_in_their_rooms(path):
    for module in imports(path):
        allowed = ONLY.get(module.split(".")[0])
        if allowed is not None:
            assert name(path).startswith(allowed), f"{name(path)} imports {module}"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("__init__.py")), ids=name)
def test_packages_only_hand_names_on(path):
    assert set(imports(path)) == {"jaxtl._lazy.attach"}


def test_importing_jaxtl_imports_nothing_heavy():
    heavy = "jax flax optax orbax numpy pydantic tensorflow tensorflow_datasets grain"
    code = (
        "import sys, jaxtl; dir(jaxtl); jaxtl.models.__name__; "
        f"print(*[m for m in {heavy.split()!r} if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
        check=True,
    )
    assert found.stdout.split() == []


def test_every_public_name_exists():
    import jaxtl

    for public in jaxtl.__all__:
        package = getattr(jaxtl, public)
        for inner in getattr(package, "__all__", ()):
            assert getattr(package, inner) is not None
    with pytest.raises(AttributeError, match=r"jaxtl has no 'Experimemt'"):
        _ = jaxtl.Experimemt
