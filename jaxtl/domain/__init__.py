"""Domain adaptation: terms that draw a labelled and an unlabelled domain together."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AdaBN": "adabn",
        "ADDA": "adda",
        "AFN": "afn",
        "BNM": "bnm",
        "BSP": "bsp",
        "CBST": "cbst",
        "CDAN": "cdan",
        "ClassWeightedCrossEntropy": "pada",
        "CMD": "cmd",
        "DAN": "dan",
        "DANN": "dann",
        "DeepCORAL": "coral",
        "DeepJDOT": "jdot",
        "EntropyMinimisation": "entropy",
        "JAN": "jan",
        "MCC": "mcc",
        "MCD": "mcd",
        "MDD": "mdd",
        "each_source": "multi_source",
        "mmd": "dan",
        "PartialDANN": "pada",
        "reverse_gradient": "adversary",
        "SHOT": "shot",
    },
)
