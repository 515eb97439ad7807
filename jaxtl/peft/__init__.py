"""Parameter-efficient tuning: few trained numbers that reparametrize a model."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .base import Reparametrization as Reparametrization
    from .bottleneck import Adapters as Adapters
    from .ia3 import IA3 as IA3
    from .lora import LoRA as LoRA
    from .prompt_tuning import PrefixTuning as PrefixTuning
    from .prompt_tuning import PromptTuning as PromptTuning
    from .vera import VeRA as VeRA

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
