"""What a kill leaves at each moment of making and replacing a directory goes on."""

import pytest
from moments import moments_of

import jaxtl as tl
from jaxtl.results.database import DATABASE_FILE
from jaxtl.sweep.grid import build_grid
from jaxtl.sweep.sweep_folder import build_sweep, open_database
from jaxtl.training import experiment_file, run_dir, setup, variants

FILE = """
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(4,)), data=tl.data.Digits(labels_per_class=10),
        steps=STEPS, batch=16)

SEEDS = (0, 1)
"""


@pytest.fixture
def file(tmp_path):
    """Returns a function: the experiment file with so many steps, as it is read."""

    def read(steps=0):
        path = tmp_path / f"file{steps}.py"
        path.write_text(FILE.replace("STEPS", str(steps)))
        return experiment_file.read_file(path)

    return read


def contents(folder):
    """Path -> bytes of all files but the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != run_dir.LOCK
    }


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_directory(tmp_path, file, overwrite):
    out, read = tmp_path / "run", file()
    [exp] = read.variants.values()

    def begin(path, **settings):
        return setup.setup(exp, path, file=read.path, **settings)

    if overwrite:
        (out / "checkpoints" / "3").mkdir(parents=True)
        (out / "lock").touch()
        for name in ("experiment.json", "result.json", "checkpoints/3/x", "a.png"):
            (out / name).write_text("an older run's")
    before = contents(out)
    with moments_of(out) as moments:
        begin(out, overwrite=overwrite)
    whole = contents(out)
    states = []
    for moment in moments:
        left = contents(moment)
        states.append((moment / run_dir.MARK).exists())
        if not states[-1]:
            begin(moment)
        elif left != before:
            assert tl.resume(moment).steps_done == 0
        else:
            begin(moment, overwrite=True)
        assert contents(moment) == whole
    assert len(states) > 10
    assert states[-1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_study(tmp_path, file, overwrite):
    out, read = tmp_path / "study", file()
    if overwrite:
        variants.prepare(file(1), out)
        (out / "seed0").mkdir()
        (out / "seed0" / "experiment.json").write_text("an older run's")
    before = contents(out)
    with moments_of(out) as moments:
        variants.prepare(read, out, overwrite=overwrite)
    whole = contents(out)
    for moment in moments:
        if not (moment / run_dir.STUDY).exists():
            variants.prepare(read, moment)
        elif contents(moment) == before:
            variants.prepare(read, moment, overwrite=True)
        assert contents(moment) == whole
        assert variants.reopen(moment).variants == read.variants


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_folder_of_a_sweep(tmp_path, file, overwrite):
    def sweep(out, read):
        grid = build_grid(read, {"optim.lr": [0.1, 0.2]})
        return build_sweep(read, grid, out)

    out, read = tmp_path / "out", file()
    if overwrite:
        open_database(sweep(out, file(1))).close()
        (out / "sources").mkdir()
        (out / "sources" / "x").write_text("an older sweep's")
    with moments_of(out) as moments:
        open_database(sweep(out, read), overwrite=overwrite).close()
    for moment in moments:
        is_old = (moment / "sources").exists() and (moment / DATABASE_FILE).exists()
        with open_database(sweep(moment, read), overwrite=is_old) as database:
            assert database.counts() == {"waiting": 4}
        names = {p.name for p in moment.iterdir()}
        assert names == {"lock", "experiment.py", DATABASE_FILE}
        assert (moment / "experiment.py").read_text() == read.path.read_text()
