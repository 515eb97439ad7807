"""An output of a notebook's cell that is drawn again in its place.

IPython is asked only where it already runs, so that nothing here needs it installed.
"""

import sys
import time
from typing import Any

INTERVAL = 0.5  # seconds between two drawings


def is_running() -> bool:
    """Whether a notebook's kernel runs the program, whose cells show HTML."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class CellOutput:
    """One output of the cell that runs, however often it is drawn."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._due = 0.0

    def draw(self, html: str, text: str, *, now: bool = False) -> None:
        """Draws the output in its place, or passes it over if it was just drawn.

        Args:
          html: what a notebook shows.
          text: the same where HTML is not shown.
          now: whether it is drawn however short ago it was.
        """
        time_now = time.monotonic()
        if self._handle is not None and not now and time_now < self._due:
            return
        self._due = time_now + INTERVAL
        content = {"text/html": html, "text/plain": text}
        if self._handle is not None:
            self._handle.update(content, raw=True)
            return
        from IPython.display import display

        self._handle = display(content, raw=True, display_id=True)


def bar(done: float, total: float) -> str:
    """A bar in the color of the notebook's text, light or dark.

    Args:
      done: parts that are done.
      total: number of parts.
    """
    share = 100 * min(max(done / max(total, 1e-9), 0.0), 1.0)
    return (
        '<div style="border:1px solid currentColor;width:16em;height:0.6em;'
        'display:inline-block;vertical-align:middle">'
        '<div style="background:currentColor;opacity:0.6;height:100%;'
        f'width:{share:.1f}%"></div></div>'
    )
