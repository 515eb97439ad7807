"""Regularizers Ω(θ, θ₀): terms that hold parameters or functions near a place."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "SpectralShrinkage": "bss",
        "WeightDecay": "weight_decay",
        "L2SP": "l2sp",
        "L1SP": "l1sp",
        "GroupLassoSP": "group_lasso",
        "CosineSP": "cosine",
        "EWC": "ewc",
        "MAS": "ewc",
        "KFAC": "kfac",
        "JacobianDifference": "jacobian",
        "DELTA": "delta",
        "AttentionTransfer": "attention_transfer",
        "FunctionDistance": "distance",
        "LwF": "lwf",
        "CoTuning": "cotuning",
        "R3F": "smoothness",
        "SMART": "smoothness",
        "L2Ball": "projections",
        "MARS": "projections",
        "SelectiveDecay": "projections",
    },
    modules=("jacobian_estimates",),
)
