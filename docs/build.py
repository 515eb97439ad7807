"""Builds the documentation site: `python docs/build.py` writes `site/index.html`.

The pages are those of `docs/`, and what `docs/builder/` generates from docstrings, the
command line's parsers, experiments and notebooks. A warning of Sphinx is an error, and
so is a link to a page or a place in a page that is not there.
"""

import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> int:
    """Builds the site and checks its links; returns the exit code."""
    from sphinx.cmd import build

    from docs.builder import assemble, site_links

    source, site = ROOT / "build/site_source", ROOT / "site"
    assemble.assemble(source)
    # Built in build/, where the notebooks' pictures are left beside it, and then moved.
    pages = ROOT / "build/site"
    for folder in (pages, site):  # nothing of a page that was removed
        shutil.rmtree(folder, ignore_errors=True)
    options = [
        "-q",
        "-W",
        "--keep-going",
        "-j",
        "auto",
        "-d",
        str(ROOT / "build/doctrees"),
    ]
    code = build.main([*options, "-b", "html", str(source), str(pages)])
    if pages.exists():
        shutil.move(pages, site)
    if code == 0 and (broken := site_links.broken(site)):
        print("\n".join(broken), file=sys.stderr)
        return 1
    if code == 0:
        print(f"open {site / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
