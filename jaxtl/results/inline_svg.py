"""SVG files as markup inside a page, in the page's colors."""

import re
from xml.etree import ElementTree

# Colors of the plots that depend on the page's: text and lines, and the background.
_PAGE_COLORS = {"#000000": "currentColor", "#ffffff": "var(--paper)"}
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_DROPPED = ("metadata", "title", "style")


def inline_svg(text: str, prefix: str, label: str) -> str:
    """Rewrites an SVG file as an element of an HTML page.

    Black becomes the page's text color and white its background, so that the plot
    follows a dark page. Ids get a prefix, as those of two files are equal; the size is
    left to the page; styles that would apply to the whole page are left out.

    Args:
      text: content of a file that matplotlib wrote.
      prefix: of the ids, different for each SVG of the page.
      label: the text that stands for the picture where it is not seen.
    """
    root = ElementTree.fromstring(text)
    _rewrite(root, prefix)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _rewrite(element: ElementTree.Element, prefix: str) -> None:
    element.tag = _local_name(element.tag)
    element.attrib = {
        _local_name(name): _attribute(_local_name(name), value, prefix)
        for name, value in element.attrib.items()
    }
    for child in list(element):
        if _local_name(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _rewrite(child, prefix)
    if not (element.text or "").strip():
        element.text = None
    element.tail = None


def _local_name(name: str) -> str:
    """A name without its namespace, which HTML knows by itself."""
    return name.rpartition("}")[2]


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href" and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    if name == "style":
        parts = [part.strip() for part in value.split(";")]
        # The page's own font has the scripts that the plot's font lacks.
        parts = [p for p in parts if p and not p.startswith("font-family")]
        value = "; ".join(parts)
        for color, replacement in _PAGE_COLORS.items():
            value = re.sub(rf"{color}\b", replacement, value)
    return _REFERENCE.sub(rf"url(#{prefix}-\1)", " ".join(value.split()))
