"""The tokenizer that comes with pretrained weights."""

import pathlib
from typing import Any

from jaxtl.data.tokenizer import TOKENIZER, VOCABULARIES, Tokenizer, stored
from jaxtl.pretrained import hub_repository
from jaxtl.pretrained.external import FromHub
from jaxtl.pretrained.from_run import FromRun
from jaxtl.pretrained.from_towers import FromTowers


def tokenizer_of_weights(init: Any) -> Tokenizer | None:
    """The tokenizer of a model's directory or of a run; None for none."""
    if isinstance(init, FromTowers):
        return tokenizer_of_weights(init.text)
    if isinstance(init, FromHub):
        folder = init.folder()
        if hub_repository.is_repository(folder):
            path = folder / TOKENIZER
            return stored(path) if path.is_file() else None
        has_one = any((folder / name).is_file() for name in VOCABULARIES)
        return Tokenizer(str(folder)) if has_one else None
    path = pathlib.Path(init.path) / TOKENIZER if isinstance(init, FromRun) else None
    return stored(path) if path is not None and path.is_file() else None
