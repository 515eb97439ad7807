"""Semi-supervised terms: what unlabelled data of the target teach."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AnnealedCrossEntropy": "uda",
        "FixMatch": "fixmatch",
        "FlexMatch": "flexmatch",
        "FreeMatch": "freematch",
        "MeanTeacher": "mean_teacher",
        "MixMatch": "mixmatch",
        "PiModel": "pi_model",
        "PseudoLabel": "pseudo_label",
        "UDA": "uda",
        "VAT": "vat",
    },
    modules=("targets", "views"),
)
