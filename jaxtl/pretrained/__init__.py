"""Weights from elsewhere: read files, convert layouts, match them to a model."""

from typing import TYPE_CHECKING

from jaxtl.core import lazy_exports

if TYPE_CHECKING:
    from .external import FromFile as FromFile
    from .external import FromHub as FromHub
    from .from_module import FromModule as FromModule
    from .from_prompts import FromPrompts as FromPrompts
    from .from_run import FromCheckpoint as FromCheckpoint
    from .from_run import FromRun as FromRun
    from .from_towers import FromTowers as FromTowers
    from .match import Weights as Weights
    from .write import write_directory as write_directory
    from .write import write_file as write_file

__getattr__, __dir__, __all__ = lazy_exports.attach(__name__, __file__)
