"""Text in the cells of tables: where lines may break, and where they may not."""

import re
from typing import Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

_BREAKS = {
    # between paths
    "<br>": re.compile(r"(?<=,) (?=[a-z_]+/\w)"),
    # between the parts of a path or of a dotted name
    "<wbr>": re.compile(r"""(?<=\w{3}[/_.=(,])(?=[A-Za-z"'{\[])"""),
}


def setup(app: Any) -> dict[str, bool]:
    """Registers the transform."""
    app.add_post_transform(TableText)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class TableText(SphinxPostTransform):
    """Paths and dotted names break between their parts, "78.2 ± 3.7" and "1–2" not."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Changes the document in place."""
        for entry in self.document.findall(nodes.entry):
            for text in list(entry.findall(nodes.Text)):
                text.parent.replace(text, with_breaks(text.astext()))


def with_breaks(text: str) -> list[nodes.Node]:
    """A cell's text, with its line breaks as nodes of HTML."""
    text = text.replace(" ± ", "\u00a0±\u00a0")
    text = re.sub(r"(?<=\d)–(?=\d)", "–\u2060", text)  # a word joiner
    children: list[nodes.Node] = [nodes.Text(text)]
    for tag, place in _BREAKS.items():
        split: list[nodes.Node] = []
        for child in children:
            pieces = place.split(child) if isinstance(child, nodes.Text) else [child]
            for index, piece in enumerate(pieces):
                split += [nodes.raw("", tag, format="html")] if index else []
                split.append(nodes.Text(piece) if isinstance(piece, str) else piece)
        children = split
    return children
