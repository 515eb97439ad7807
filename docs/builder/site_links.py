"""The links of the built site."""

import html.parser
import os
import pathlib
import urllib.parse


class _Page(html.parser.HTMLParser):
    """Collects where a page's links lead, and the places in it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        self.targets |= {values[key] for key in ("href", "src") if key in values}


def broken(site: pathlib.Path) -> list[str]:
    """The links within a site that lead nowhere, a line each.

    Args:
      site: folder of HTML files; its links are relative.
    """
    pages = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = _Page()
        pages[path].feed(path.read_text(encoding="utf-8"))
    lines = []
    for path, page in pages.items():
        for target in sorted(page.targets):
            url = urllib.parse.urlsplit(target)
            if url.scheme or url.netloc:
                continue
            place = path.parent / urllib.parse.unquote(url.path) if url.path else path
            place = pathlib.Path(os.path.normpath(place))
            anchor = urllib.parse.unquote(url.fragment)
            is_page = place in pages and anchor
            if not place.exists() or (is_page and anchor not in pages[place].anchors):
                lines.append(f"{path.relative_to(site)}: {target} leads nowhere")
    return lines
