"""Pages that stand in the repository, with their links, on the site."""

import os
import pathlib
import re
import urllib.parse

from docs.builder.public_names import ROOT

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_IMAGES = (".png", ".svg", ".jpg")


class Links:
    """Where the files of the repository stand on the site.

    Attributes:
      places: path in the repository -> path of the page on the site, both with suffix.
    """

    def __init__(self, places: dict[str, str]):
        self.places = places

    def converted(self, text: str, source: str, page: str) -> str:
        """A page's text with its relative links as they are on the site.

        Args:
          text: Markdown.
          source: its path in the repository.
          page: its path on the site.

        Raises:
          ValueError: for a link to what is neither a page nor a file.
        """

        def convert(match: re.Match[str]) -> str:
            image, label, target = match.groups()
            url = urllib.parse.urlsplit(target)
            if url.scheme or not url.path:
                return match[0]
            path = os.path.normpath(os.path.join(os.path.dirname(source), url.path))
            place = self.places.get(path)
            if place is None and path.startswith("docs/"):
                place = path.removeprefix("docs/")  # a page that is generated
            if place is not None:
                relative = os.path.relpath(place, os.path.dirname(page) or ".")
                anchor = f"#{url.fragment}" if url.fragment else ""
                return f"{image}[{label}]({relative}{anchor})"
            if (ROOT / path).exists() and not image:
                return label if label.strip("`") == path else f"{label} (`{path}`)"
            raise ValueError(f"{source}: the link to {target} leads nowhere.")

        fences = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
        fences[::2] = [_LINK.sub(convert, part) for part in fences[::2]]
        return "".join(fences)


def images(folder: pathlib.Path) -> list[pathlib.Path]:
    """The pictures below a folder."""
    return [p for p in sorted(folder.rglob("*")) if p.suffix in _IMAGES]
