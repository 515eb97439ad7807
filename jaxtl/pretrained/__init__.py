"""Weights from elsewhere: read files, convert layouts, match them to a model."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Weights": "match",
        "Row": "match",
        "Run": "run",
        "Checkpoint": "run",
    },
    modules=("match",),
)
