"""Domain generalisation: terms over several labelled domains, for one never seen."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "PooledERM": "erm",
        "GroupDRO": "group_dro",
        "IRM": "irm",
        "MixStyle": "mixstyle",
        "InterDomainMixup": "mixup",
        "MLDG": "mldg",
        "VREx": "vrex",
    },
)
