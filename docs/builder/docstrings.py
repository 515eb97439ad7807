"""Docstrings of the code as the reStructuredText that autodoc reads.

They are written for a terminal: code in single backticks, equations in plain text.
"""

import dataclasses
import re
from typing import Any

import latex2mathml.converter
from docutils import nodes
from sphinx.application import Sphinx

from docs.builder import equations

# Emphasis, substitutions, names of links, and letters that would number a list ("T.").
_MARKUP = re.compile(r"[*|]|_(?!\w)|(?<![\w.])[A-Za-z](?=\.(?:\s|$))")
_DOTALL = re.DOTALL | re.MULTILINE
_TYPESET = ("jaxtl.terms.", "jaxtl.peft.", "jaxtl.optim.", "jaxtl.models.merging")
_TYPESET += ("jaxtl.analysis.alignment.", "jaxtl.fewshot", "jaxtl.training.")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the conversion of docstrings, and MathML for equations.

    MathML needs neither a script nor a network, so that the site can be opened from
    disk.
    """
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def process(
    app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Converts the lines of a docstring in place; the signature is autodoc's."""
    text = "\n".join(lines)
    module = getattr(value, "__module__", "") or ""
    if what in ("class", "function") and module.startswith(_TYPESET):
        text = with_equation(text)
    if what == "class" and (
        dataclasses.is_dataclass(value) or issubclass(value, tuple)
    ):
        # Its attributes are what it is constructed from.
        text = re.sub(r"^Attributes:", "Args:", text, flags=re.MULTILINE)
    lines[:] = escaped(with_lists(text)).split("\n")


def with_equation(text: str) -> str:
    """A docstring whose first paragraph has its equation on a line of its own."""
    paragraph, *sections = re.split(r"\n\s*\n", text, maxsplit=1)
    paragraph = " ".join(paragraph.split())
    place = equations.find(paragraph)
    if place is None:
        return text
    start, end = place
    before, formula, after = paragraph[:start], paragraph[start:end], paragraph[end:]
    block = f".. math:: {equations.latex(formula)}"
    parts = [before.rstrip(), block, re.sub(r"^[.,:;]\s*", "", after.strip())]
    return "\n\n".join([part for part in parts if part] + sections)


def with_lists(text: str) -> str:
    """A docstring whose lists have the empty lines around them that reST wants.

    Indented lines before the sections, as below "The estimators:", are lists as well.
    """
    description, section = re.match(r"(.*?)(^[A-Z]\w+:$.*|\Z)", text, _DOTALL).groups()
    description = re.sub(r"^  (?=[^\s-])", "- ", description, flags=re.MULTILINE)
    description = re.sub(r"^    (?=\S)", "  ", description, flags=re.MULTILINE)
    lines: list[str] = []
    item = None  # indentation of the list's items
    for line in (description + section).split("\n"):
        indent = len(line) - len(line.lstrip())
        is_item = line.lstrip().startswith("- ")
        begins = is_item and item is None
        ends = item is not None and line.strip() and indent <= item and not is_item
        if (begins or ends) and lines and lines[-1].strip():
            lines.append("")
        item = indent if is_item else (None if ends else item)
        lines.append(line)
    return "\n".join(lines)


def escaped(text: str) -> str:
    """A docstring in which only backticks, sections and equations are markup."""
    lines = []
    for line in text.split("\n"):
        if not line.lstrip().startswith(".. math::"):
            pieces = re.split(r"(`[^`]*`)", line)
            pieces[::2] = [_MARKUP.sub(r"\\\g<0>", piece) for piece in pieces[::2]]
            line = "".join(pieces)
        lines.append(line)
    return "\n".join(lines)


def _mathml(text: str, display: str) -> str:
    return latex2mathml.converter.convert(text, display=display)


def _inline(translator: Any, node: nodes.Node) -> None:
    translator.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.Node) -> None:
    math = _mathml(node.astext(), "block")
    translator.body.append(f'<div class="equation">{math}</div>\n')
    raise nodes.SkipNode
