"""Report pages of a sweep and of a run, which the gallery shows."""

import pathlib
import shutil
import subprocess
import sys
import tempfile

from docs.builder.public_names import ROOT

RUN = "5_per_class/fine-tuning/seed0"  # of the quickstart
SECTION = """
Two of the pages, of [the quickstart](../experiments/quickstart.md), as `jaxtl report`
wrote them when this site was built:

- <a href="report_of_a_sweep.html">the report of the sweep</a>: seven methods, three
  numbers of labels, five seeds; its tables can be sorted and filtered
- <a href="report_of_a_run.html">the report of one run</a>: its losses, its classes, and
  the images that it gets most wrong
"""


def write(quickstart: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the pages that `SECTION` links to.

    Args:
      quickstart: directory of `jaxtl run experiments/quickstart.py`, which runs where
        it has not finished, some 90 s on 2 cores.
      folder: of the pages.
    """
    if not (quickstart / "summary.json").exists():
        _jaxtl("run", "experiments/quickstart.py", "--out", str(quickstart))
    pages = {"sweep": quickstart, "run": quickstart / RUN}
    for name, directory in pages.items():
        with tempfile.TemporaryDirectory() as written:
            _jaxtl("report", str(directory), "--out", written)
            page = pathlib.Path(written) / "report.html"
            shutil.copy(page, folder / f"report_of_a_{name}.html")


def _jaxtl(*arguments: str) -> None:
    command = [sys.executable, "-m", "jaxtl", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
