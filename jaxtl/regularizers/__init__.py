"""Regularizers Ω(θ, θ₀): terms that hold parameters or functions near a place."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "SpectralShrinkage": "bss",
        "WeightDecay": "weight_decay",
        "L2SP": "l2sp",
        "JacobianDifference": "jacobian",
    },
)
