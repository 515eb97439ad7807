"""Smoke test of an installed jaxtl, away from its checkout: the main jobs in small.

Trains, sweeps, reports, exports and predicts with the bundled digits, by the command
line, in a temporary directory. Run: python .ci/smoke.py
"""

import pathlib
import subprocess
import sys
import tempfile

EXPERIMENT = '''
"""Digits with a small perceptron."""
import jaxtl as tl


def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8,)),
        data=tl.data.Digits(labels_per_class=10, val=0.2),
        steps=30,
        batch=16,
    )


SWEEP = {"optim.lr": [1e-3, 1e-2], "seed": range(2)}
'''


def jaxtl(*arguments: str, folder: pathlib.Path) -> str:
    """Runs a command of jaxtl in a folder and returns what it printed."""
    command = [sys.executable, "-m", "jaxtl", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"jaxtl {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    import jax
    import numpy as np

    import jaxtl as package

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "digits.py").write_text(EXPERIMENT)
        assert package.__version__ in jaxtl("--version", folder=folder)
        jaxtl("run", "digits.py", "--out", "run", folder=folder)
        assert (folder / "run/result.json").exists()
        assert "accuracy" in jaxtl("eval", "run", folder=folder)
        jaxtl("sweep", "digits.py", "--out", "sweep", folder=folder)
        jaxtl("report", "sweep", folder=folder)
        assert "<style>" in (folder / "sweep/report/report.html").read_text()
        jaxtl("export", "run", "bundle", folder=folder)
        np.save(folder / "x.npy", np.zeros((2, 8, 8, 1), np.uint8))
        assert jaxtl("predict", "bundle", "x.npy", folder=folder).count("\n") >= 2
    place = pathlib.Path(package.__file__).parent
    python = sys.version.split()[0]
    print(f"smoke test passed: {place}, Python {python}, jax {jax.__version__}")


if __name__ == "__main__":
    main()
