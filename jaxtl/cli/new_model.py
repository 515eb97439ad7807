"""The model of a new experiment file: from scratch, of a family, or pretrained."""

import dataclasses
import pathlib

from jaxtl.cli.new_data import NewData, quoted
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import paths

SCRATCH = "scratch"
_SMALL = 64  # pixels of images that a small network reads from scratch
_LARGE = 224  # usual pixels of pretrained networks
# What a text model predicts, by the task.
_PREDICTS = {
    "token-classification": "token",
    "question-answering": "span",
    "text-generation": "next",
}
# Repositories of the hub that a note names, by what the data are.
_PRETRAINED = {
    "image": "microsoft/resnet-18",
    "text": "sentence-transformers/all-MiniLM-L6-v2",
    "next": "openai-community/gpt2",
}


@dataclasses.dataclass(frozen=True)
class NewModel:
    """The model of a new experiment.

    Attributes:
      model: the expression that builds it.
      weights: the expression of pretrained weights, "" from scratch.
      lr: peak of the learning rate.
      batch: examples per step.
      size: pixels to bring images to; None leaves that to the data and the weights.
      notes: what was decided, for the user.
    """

    model: str
    weights: str = ""
    lr: float = 1e-3
    batch: int = 32
    size: int | None = None
    notes: tuple[str, ...] = ()


def choose(name: str, data: NewData) -> NewModel:
    """The model that the user named.

    Args:
      name: "scratch", a family and size of `jaxtl models`, "hf:owner/name", a folder
        of weights, a file of weights, or the directory of a run.
      data: that it reads.

    Raises:
      UserError: a name that is none of these.
    """
    if name == SCRATCH:
        return _scratch(data)
    if name.startswith("hf:"):
        return _from_hub(name, data)
    place = next((p for p in paths.candidates(name) if p.exists()), None)
    if place is not None and place.is_dir():
        is_run = (place / "experiment.json").is_file()
        return _from_run(name, place) if is_run else _from_hub(name, data)
    if place is not None and place.suffix != ".py":
        return _from_file(name, data)
    family = _family(name)
    if family is None:
        raise UserError(_unknown(name))
    size = _LARGE if data.reads == "image" and (data.side or 0) > _SMALL else None
    return NewModel(family, size=size)


def _scratch(data: NewData) -> NewModel:
    """A small network of the kind that the data need."""
    if data.reads == "tabular":
        return NewModel("tl.models.MLP(widths=(64, 64))", batch=64)
    predict = _PREDICTS.get(data.task)
    example = _PRETRAINED["next" if predict == "next" else data.reads]
    note = (
        "the model begins from random weights; --model names pretrained ones, such as "
        f"hf:{example}, a file or a folder"
    )
    if data.reads == "image":
        size = _SMALL if (data.side or 0) > _SMALL else None
        model = "tl.models.CNN(widths=(32, 64, 128), units=128)"
        return NewModel(model, size=size, notes=(note,))
    shape = "width=128, layers=2, heads=4, hidden=512"
    if predict == "next":
        model = "tl.models.Llama(width=128, layers=4, heads=4, hidden=344)"
        return NewModel(model, notes=(note,))
    ending = f'predict="{predict}"' if predict else 'pooling="mean"'
    return NewModel(f"tl.models.Bert({shape}, {ending})", notes=(note,))


def _from_hub(name: str, data: NewData) -> NewModel:
    """Weights of a directory in the form of transformers."""
    predict = _PREDICTS.get(data.task)
    fields = f'predict="{predict}"' if predict and predict != "next" else ""
    reset = "" if predict == "next" else ', reset="head"'
    return NewModel(
        f"weights.model({fields})",
        f"tl.pretrained.FromHub({quoted(name)}{reset})",
        lr=1e-3 if data.reads == "image" else 3e-4,
    )


def _from_file(name: str, data: NewData) -> NewModel:
    """Weights of a file, whose family its tensors tell."""
    from jaxtl.pretrained import FromFile

    model = FromFile(name).model()
    is_small = type(model).__name__ == "ResNet"
    size = (32 if is_small else _LARGE) if data.reads == "image" else None
    weights = f'tl.pretrained.FromFile({quoted(name)}, reset="head")'
    return NewModel("weights.model(outputs=None)", weights, size=size)


def _from_run(name: str, folder: pathlib.Path) -> NewModel:
    """The model of a finished run, with a new head."""
    from jaxtl.models.staged import Staged
    from jaxtl.pretrained import describe
    from jaxtl.training import run_dir

    model = run_dir.read_experiment(folder).model
    if not isinstance(model, Staged):
        raise UserError(
            f"--model {name}: the model of that run is a function of its own file; "
            "write the experiment file by hand."
        )
    expression = describe.model_expression(model.clone(outputs=None))
    return NewModel(expression, f'tl.pretrained.FromRun({quoted(name)}, reset="head")')


def _family(name: str) -> str | None:
    """The expression of a published size, by its name in `jaxtl models`."""
    from jaxtl.pretrained import describe

    by_name = {_plain(size.name): size.model for size in describe.model_sizes()}
    return by_name.get(_plain(name))


def _plain(name: str) -> str:
    """A name without case, blanks and hyphens."""
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")


def _unknown(name: str) -> str:
    from jaxtl.pretrained import describe

    names = [size.name for size in describe.model_sizes()]
    if name.count("/") == 1:
        return (
            f"--model {name}: there is no such file or folder; a model of the hub is "
            f"written hf:{name}."
        )
    return (
        f"--model {name}: no file, folder, run or family of `jaxtl models` has this "
        f"name{nearest(name, [*names, SCRATCH])}."
    )
