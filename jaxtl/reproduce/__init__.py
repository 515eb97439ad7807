"""Published tables, run again: `jaxtl reproduce NAME`. One file is one table."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Published": "base",
        "Row": "base",
        "Study": "base",
        "NAMES": "registry",
        "study": "registry",
    },
)
