"""Data: sources, splits, the stateless order, streams and preprocessing."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Arrays": "arrays",
        "CSV": "table",
        "Crop": "augment",
        "Data": "base",
        "Dataset": "base",
        "DeviceStream": "streams",
        "Digits": "digits",
        "Flip": "augment",
        "ImageFolder": "images",
        "Jitter": "augment",
        "Lines": "lines",
        "Preprocess": "preprocess",
        "RenderedDigits": "rendered",
        "TFDS": "tfds_source",
        "Table": "base",
        "Text": "text",
        "Tokenizer": "tokens",
        "available": "catalogue",
        "device_stream": "streams",
        "evaluation_batches": "streams",
        "fits": "streams",
        "host_batches": "streams",
        "indices": "order",
        "load_splits": "splits",
        "prepare": "base",
        "sample": "streams",
        "save_splits": "splits",
        "take": "streams",
    },
    modules=("augment", "order", "preprocess", "splits", "streams"),
)
