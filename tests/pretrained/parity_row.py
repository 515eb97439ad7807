"""The row of a type in docs/text_types.md and docs/image_types.md."""

import pathlib
from types import ModuleType


def parity_row(
    kind: str, configurations: int, worst: dict[str, float], module: ModuleType
) -> str:
    """A row of Markdown: the type, its figures, and the lines of its modules.

    The layout of the type's files and its table of keys may be modules of their own.
    """
    path = pathlib.Path(module.__file__)
    names = [f"{path.stem}{end}.py" for end in ("", "_layout", "_config")]
    files = [path.with_name(name) for name in names if path.with_name(name).exists()]
    lines = sum(len(file.read_text().splitlines()) for file in files)
    figures = "".join(f" {value:.1e} |" for value in worst.values())
    return f"| `{kind}` | {configurations} |{figures} {lines} |"
