"""Noisy and weak labels: terms that learn from labels that are wrong or less than one.

Terms replace the cross-entropy (`terms={"task": tl.noisy.GCE()}`) and read a stream
whose labels are not to be trusted; the functions work on arrays.
"""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "ForwardCorrection": "transition",
        "BackwardCorrection": "transition",
        "estimate_transition": "anchors",
        "GCE": "gce",
        "SCE": "sce",
        "ELR": "elr",
        "CoTeaching": "coteaching",
        "DivideMix": "dividemix",
        "fit_two": "mixture",
        "find_label_errors": "confident",
        "LabelErrors": "confident",
        "PRODEN": "proden",
        "NNPU": "nnpu",
        "dawid_skene": "annotators",
        "Annotators": "annotators",
        "LabelProportions": "proportions",
    },
)
