"""Weights from elsewhere: read files, convert layouts, match them to a model."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Weights": "match",
        "Row": "match",
        "Run": "run",
        "Checkpoint": "run",
        "File": "foreign",
        "HF": "foreign",
        "write_file": "write",
        "write_directory": "write",
    },
    modules=("adapters", "convert", "files", "inspect", "match"),
)
