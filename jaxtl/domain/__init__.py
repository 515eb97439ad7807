"""Domain adaptation: terms that draw a labelled and an unlabelled domain together."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "DeepCORAL": "coral",
        "DANN": "dann",
        "reverse_gradient": "dann",
    },
)
