"""Signatures as Sphinx can parse them.

One that it can't parse is cut at every comma, also at those between brackets.
"""

import dataclasses
import inspect
import re
from typing import Any

_FACTORY = "<factory>"
# The fields that linen adds to every module.
_OF_LINEN = re.compile(r",? parent: [^=]* = <[^>]*>, name: str \| None = None")


def setup(app: Any) -> dict[str, bool]:
    """Registers the conversion of signatures."""
    app.connect("autodoc-process-signature", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def process(
    app: Any,
    what: str,
    name: str,
    value: Any,
    options: Any,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """The signature of a documented object, and its return annotation."""
    if signature is None:
        return signature, returned
    if dataclasses.is_dataclass(value):
        defaults = iter(_factory_defaults(value))
        signature = re.sub(_FACTORY, lambda _: next(defaults), signature)
    signature = re.sub(r"<function ([\w.]+)>", r"\1", signature)
    return _OF_LINEN.sub("", signature), returned


def _factory_defaults(value: Any) -> list[str]:
    """What the default factories of a dataclass make, in the order of its arguments."""
    factories = {
        field.name: field.default_factory for field in dataclasses.fields(value)
    }
    parameters = inspect.signature(value).parameters.items()
    return [
        _factory_text(factories[name])
        for name, p in parameters
        if repr(p.default) == _FACTORY
    ]


def _factory_text(factory: Any) -> str:
    if factory in (dict, list):
        return repr(factory())
    is_class = inspect.isclass(factory) and factory.__module__.startswith("jaxtl.")
    return f"{factory.__name__}()" if is_class else "..."
