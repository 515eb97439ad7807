"""The rooms of the package, by their syntax trees: which may import which others."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "jaxtl"

# From the ground up. A room imports only from rooms of rows above its own.
FLOORS = (
    ("core",),
    ("data", "models"),
    ("peft", "optim"),
    ("pretrained",),
    ("terms",),
    ("evaluation",),
    ("training",),
    ("results", "export"),
    ("analysis",),
    ("sweep",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Which files may import a library that the rest must do without.
ONLY = {
    "flax": ("models/",),
    "orbax": ("core/orbax_module.py",),
    "tensorflow_datasets": ("data/",),
    "grain": ("data/",),
    "matplotlib": ("results/plots/", "data/sources/rendered_digits.py"),
    "safetensors": ("pretrained/", "export/"),
    "torch": ("pretrained/",),
    "tensorflow": (),
}

FILES = sorted(ROOT.rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]


def name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: pathlib.Path) -> str:
    return "jaxtl." + ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: pathlib.Path):
    """Yields every imported module's full name, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_module_lies_flat_at_the_top():
    flat = {path.name for path in ROOT.glob("*.py")}
    assert flat == {"__init__.py", "__main__.py"}
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} - {
        "__pycache__"
    } == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_room_imports_only_from_below(path):
    room = path.relative_to(ROOT).parts[0]
    if room not in FLOOR:  # __main__.py
        return
    for target in imports(path):
        parts = target.split(".")
        if parts[0] != "jaxtl" or len(parts) < 2 or parts[1] in (room, "__version__"):
            continue
        assert parts[1] in FLOOR, f"{name(path)} imports {target}: name its room"
        assert FLOOR[parts[1]] < FLOOR[room], (
            f"{name(path)} (floor {FLOOR[room]}) imports {target} "
            f"(floor {FLOOR[parts[1]]})"
        )


def test_no_two_modules_import_each_other():
    modules = {module_of(path): path for path in MODULES}
    graph = {}
    for module, path in modules.items():
        targets = set(imports(path))
        found = {t for t in targets if t in modules}
        graph[module] = found | {
            t.rpartition(".")[0] for t in targets if t.rpartition(".")[0] in modules
        }
    finished: set[str] = set()

    def visit(module, trail):
        assert module not in trail, " → ".join([*trail, module])
        if module not in finished:
            for other in sorted(graph[module]):
                visit(other, [*trail, module])
            finished.add(module)

    for module in sorted(graph):
        visit(module, [])


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_libraries_stay_in_their_rooms(path):
    for module in imports(path):
        allowed = ONLY.get(module.split(".")[0])
        if allowed is not None:
            assert name(path).startswith(allowed), f"{name(path)} imports {module}"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("__init__.py")), ids=name)
def test_packages_only_hand_names_on(path):
    """An `__init__` holds a docstring, and exports that editors can see."""
    body = ast.parse(path.read_text()).body[1:]
    for node in body:
        if isinstance(node, ast.If):
            assert node.test.id == "TYPE_CHECKING"
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom)
                assert statement.level == 1
                assert all(alias.asname == alias.name for alias in statement.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module in ("typing", "jaxtl.core")
        else:
            assert isinstance(node, ast.Assign)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("__init__.py")), ids=name)
def test_no_exported_name_is_hidden_by_a_module(path):
    """Importing a module binds its name in the package, in place of the export."""
    modules = {child.stem for child in path.parent.iterdir()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            assert not {alias.name for alias in node.names} & modules


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
