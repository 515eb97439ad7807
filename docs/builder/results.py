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


def _body(text: str) -> str:
    """Paragraphs as they are, tables and lists of settings with their columns."""
    parts = []
    for block in re.split(r"\n\s*\n", text):
        if _is_laid_out(block):
            parts.append(f"```text\n{block}\n```")
        else:
            parts.append(re.sub(r"(?<!`)([*_<|])", r"\\\1", block))
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
