"""Puts the sources of the site together: written pages and generated ones."""

import pathlib
import re

from docs.builder import methods, public_names, reference, report_pages, results
from docs.builder.public_names import ROOT
from docs.builder.repository import Links, images

# Files elsewhere in the repository that are pages of the site.
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "benchmarks/README.md": "results/benchmarks.md",
}
_NO_SOURCES = ("builder", "build.py", "__pycache__")


def assemble(folder: pathlib.Path) -> None:
    """Writes the sources of the site into a folder, and removes what is outdated there.

    Files that stay the same are not touched, so that a second build is quick.

    Args:
      folder: is created where it is missing.
    """
    families = {n.name: n for n in public_names.namespaces() if n.is_family}
    introductions = {f.written_page: name for name, f in families.items()}
    links = Links(_places(introductions))
    files = {page: text.encode() for page, text in _generated().items()}
    for name, family in families.items():
        page = f"methods/{name}.md"
        source = f"docs/{family.written_page}"
        text = (ROOT / source).read_text() if family.written_page else ""
        text = links.converted(text, source, page)
        files[page] = methods.page(family, text).encode()
    files |= _written(links, files)
    files["howto/index.md"] += _unlisted(files).encode()
    files["gallery/index.md"] += report_pages.SECTION.encode()
    for path, content in files.items():
        _update(folder / path, content)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and str(path.relative_to(folder)) not in files:
            path.unlink()


def _places(introductions: dict[str, str]) -> dict[str, str]:
    """Path in the repository -> path on the site of every page and picture.

    Args:
      introductions: page in `docs/` -> the family that it introduces.
    """
    places = dict(_PAGES)
    for path in sorted((ROOT / "docs").rglob("*")):
        name = path.relative_to(ROOT / "docs")
        if path.is_file() and not set(name.parts) & set(_NO_SOURCES):
            family = introductions.get(str(name))
            places[f"docs/{name}"] = f"methods/{family}.md" if family else str(name)
    for path in sorted((ROOT / "experiments").glob("*.py")):
        places[f"experiments/{path.name}"] = f"experiments/{path.stem}.md"
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        places[f"notebooks/{path.name}"] = f"gallery/{path.name}"
    reports = ROOT / "experiments/reports"
    for path in [*sorted(reports.rglob("*.md")), *images(reports)]:
        name = path.relative_to(reports)
        places[f"experiments/reports/{name}"] = f"results/{name}"
    return places


def _generated() -> dict[str, str]:
    """Path on the site -> text of the pages that have no Markdown in the repository."""
    pages = {
        "reference/command_line.md": reference.command_line_page(),
        "reference/jaxtl.md": reference.top_level_page(),
    }
    for namespace in public_names.namespaces():
        if not namespace.is_family:
            pages[f"reference/{namespace.name}.md"] = reference.page(namespace)
    experiments = sorted((ROOT / "experiments").glob("*.py"))
    for file in experiments:
        pages[f"experiments/{file.stem}.md"] = results.experiment_page(file)
    pages["results/negative.md"] = results.negative_page(experiments)
    return pages


def _written(links: Links, generated: dict[str, bytes]) -> dict[str, bytes]:
    """The pages and pictures of the repository, with links of the site."""
    files = {}
    for source, page in links.places.items():
        path = ROOT / source
        if source == "README.md" or page in generated:
            continue
        if path.suffix == ".md":
            text = links.converted(path.read_text(), source, page)
            if path.name == "report.md":  # its title is that of the experiment's page
                text = text.replace("# ", "# Report: ", 1)
            files[page] = text.encode()
        else:
            files[page] = path.read_bytes()
    return files


def _unlisted(files: dict[str, bytes]) -> str:
    """A table of contents of the pages that no other one lists."""
    texts = [text.decode() for page, text in files.items() if page.endswith("index.md")]
    lines = "\n".join(texts).splitlines()
    listed = {
        line.rpartition("/")[2] for line in lines if re.fullmatch(r"[\w/.]+", line)
    }
    pattern = re.compile(r"((?:(?:start|concepts|howto)/)?(\w+))\.md")
    pages = [match for page in sorted(files) if (match := pattern.fullmatch(page))]
    entries = [f"/{match[1]}" for match in pages if match[2] not in {*listed, "index"}]
    if not entries:
        return ""
    toctree = ["```{toctree}", ":maxdepth: 1", "", *entries, "```"]
    return "\n".join(["", "## Further pages", "", *toctree, ""])


def _update(path: pathlib.Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
