"""Parameter-efficient tuning: few trained numbers that reparametrise a model."""

from jaxtl._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Reparametrisation": "base",
        "LoRA": "lora",
        "IA3": "ia3",
        "VeRA": "vera",
        "Adapters": "adapters",
        "PromptTuning": "prompts",
        "PrefixTuning": "prompts",
    },
)
