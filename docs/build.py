"""Builds the documentation site: `python docs/build.py` writes `site/index.html`.

The pages are those of `docs/`, and what `docs/builder/` generates from docstrings, the
command line's parsers, experiments and notebooks. A warning of Sphinx is an error, and
so is a link to a page or a place in a page that is not there.
"""

import argparse
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> int:
    """Builds the site and checks its links; returns the exit code."""
    from docs.builder import assemble, report_pages, site_links
    from jaxtl.core import progress

    arguments = _parser().parse_args()
    source, site = ROOT / "build/site_source", ROOT / "site"
    with progress.Task("writing the pages that are generated"):
        assemble.assemble(source)
    # Built in build/, where the notebooks' pictures are left beside it, and then moved.
    pages = ROOT / "build/site"
    for folder in (pages, site):  # nothing of a page that was removed
        shutil.rmtree(folder, ignore_errors=True)
    with progress.Task("building the pages with Sphinx"):
        code = _sphinx(source, pages)
    if pages.exists():
        shutil.move(pages, site)
    if code:
        return code
    report_pages.write(arguments.quickstart.resolve(), site / "gallery")
    if broken := site_links.broken(site):
        print("\n".join(broken), file=sys.stderr)
        return 1
    print(f"open {site / 'index.html'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quickstart",
        type=pathlib.Path,
        default=ROOT / "build/quickstart",
        help="directory of `jaxtl run experiments/quickstart.py`, whose reports the "
        "gallery shows; runs where it has not finished (default: build/quickstart)",
    )
    return parser


def _sphinx(source: pathlib.Path, pages: pathlib.Path) -> int:
    """Builds the pages; returns Sphinx's exit code."""
    from sphinx.cmd import build

    options = ["-q", "-W", "--keep-going", "-j", "auto"]
    options += ["-d", str(ROOT / "build/doctrees"), "-b", "html"]
    return build.main([*options, str(source), str(pages)])


if __name__ == "__main__":
    sys.exit(main())
