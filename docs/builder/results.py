"""Pages of the experiments: their docstrings, which hold what came out, and code."""

import ast
import pathlib
import re

from docs.builder.public_names import ROOT


def experiment_page(file: pathlib.Path) -> str:
    """The page of an experiment file: its docstring, then its code."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    title, _, body = text.partition("\n\n")
    title = " ".join(title.split()).removesuffix(".")
    path = file.relative_to(ROOT)
    code = f"```python\n{_without_docstring(file)}\n```"
    return "\n\n".join([f"# {title}", f"`{path}`", _body(body), "## Code", code]) + "\n"


_NEGATIVE = re.compile(
    r"\b(harm\w*|negative|hardly|nothing|worse|loses?|misses|below)\b", re.IGNORECASE
)
# Sentences with these words tell how an experiment was run, not what came out.
_PROCEDURE = re.compile(
    r"nothing (is|was|of a run is) (chosen|known|searched|tried|tuned)|chose nothing"
    r"|stages below|costs (next to )?nothing",
    re.IGNORECASE,
)
_NEGATIVE_PAGE = """# What did not help

Sentences of the experiments' own docstrings that tell of harm, of losses and of no
difference. The tables that they speak of are on the experiments' pages.
"""


def negative_page(files: list[pathlib.Path]) -> str:
    """The page of what harmed or changed nothing, as the experiments say it."""
    parts = [_NEGATIVE_PAGE]
    for file in files:
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        blocks = re.split(r"\n\s*\n", text)[1:]
        prose = [" ".join(b.split()) for b in blocks if not _is_laid_out(b)]
        sentences = [s for p in prose for s in re.split(r"(?<=[.?!]) (?=[A-Z])", p)]
        negative = [s for s in sentences if _NEGATIVE.search(s)]
        negative = [s for s in negative if not _PROCEDURE.search(s)]
        title = text.partition("\n")[0].removesuffix(".")
        if not negative and _NEGATIVE.search(title):
            negative = ["Its table tells it."]
        if negative:
            link = f"[{_escaped(title)}](../experiments/{file.stem}.md)"
            parts += [f"## {link}", "\n".join(f"- {_escaped(s)}" for s in negative)]
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"(?<!`)([*_<|])", r"\\\1", text)


def _body(text: str) -> str:
    """Paragraphs as they are, tables and lists of settings with their columns."""
    parts = []
    for block in re.split(r"\n\s*\n", text):
        if _is_laid_out(block):
            parts.append(f"```text\n{block}\n```")
        else:
            parts.append(_escaped(block))
    joined = "\n\n".join(parts)
    return joined.replace("\n```\n\n```text\n", "\n\n")


def _is_laid_out(block: str) -> bool:
    return any(
        re.search(r"\S {3,}\S|^ |^\w+: {2,}", line) for line in block.split("\n")
    )


def _without_docstring(file: pathlib.Path) -> str:
    source = file.read_text()
    first = ast.parse(source).body[0]
    return "\n".join(source.splitlines()[first.end_lineno :]).strip("\n")
