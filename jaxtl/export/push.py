"""Writes a run as a repository of Hugging Face's hub, and uploads it."""

import pathlib
import re
import tempfile
from typing import Any

from jaxtl.core import atomic
from jaxtl.core.errors import UserError, first_line
from jaxtl.data.tokenizer import TOKENIZER
from jaxtl.evaluation import evaluate
from jaxtl.export import hub_card, weights
from jaxtl.pretrained import hub_repository
from jaxtl.pretrained.external import FromHub
from jaxtl.training import run_dir, run_paths
from jaxtl.training.load_model import TrainedModel, load_model

_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*", re.ASCII)


def push(
    run: str | pathlib.Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
) -> str:
    """Uploads a run's best model, with its card, labels and preprocessing.

    A run that began from a directory of transformers is written in that form, any other
    in jaxtl's own; `tl.pretrained.FromHub(repository)` reads both.

    Args:
      run: its directory.
      repository: "owner/name", created if it is missing.
      private: whether a repository that is created is private.
      revision: branch to write to, created if it is missing; None is the main one.
      licence: of the model, for the card.

    Returns:
      The address of the commit.

    Raises:
      UserError: a wrong name, no permission, no network, offline mode, or no
        huggingface_hub; a run without a finished checkpoint.
    """
    check_name(repository)
    hub = _library()
    if hub.constants.HF_HUB_OFFLINE:
        raise UserError(f"{repository} can't be written while HF_HUB_OFFLINE is set.")
    directory = run_paths.one_run(run)
    with tempfile.TemporaryDirectory(prefix="jaxtl-") as temporary:
        folder = write_repository(
            directory, pathlib.Path(temporary) / "model", repository, licence
        )
        api = hub.HfApi(library_name="jaxtl")
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=f"Model of {directory.name}",
            )
        except Exception as error:
            raise UserError(_reason(repository, error)) from None
    return str(commit.commit_url)


def check_name(repository: str) -> None:
    """Raises UserError for a name that is not of the form owner/name."""
    if not _NAME.fullmatch(repository):
        raise UserError(
            f"{repository!r} is no name of a repository; expected owner/name, "
            "of letters, digits, '-', '_' and '.'."
        )


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError:
        raise UserError(
            "pushing needs huggingface_hub (pip install 'jaxtl[hub]')."
        ) from None
    return huggingface_hub


def write_repository(
    run: pathlib.Path, folder: pathlib.Path, repository: str, licence: str | None
) -> pathlib.Path:
    """Writes the files of the repository into a new folder.

    Args:
      run: directory of the run.
      folder: to be made.
      repository, licence: as of `push`.
    """
    model = load_model(run)
    folder, library = pathlib.Path(folder), "jaxtl"
    if _is_transformers(run, model):
        weights.write_weights(run, folder)
        library = "transformers"
    else:
        folder.mkdir(parents=True)
        hub_repository.write(
            folder, model.config, model.params, model.stats, model.meta
        )
        if (run / TOKENIZER).is_file():
            content = (run / TOKENIZER).read_bytes()
            atomic.write_bytes(folder / TOKENIZER, content)
    card = hub_card.markdown(
        repository,
        model=model.config,
        meta=model.meta,
        result=run_dir.read_json(run / "result.json"),
        intervals=_intervals(run, model),
        data=type(model.data).__name__ if model.data is not None else "unknown",
        licence=licence,
        library=library,
    )
    atomic.write_text(folder / "README.md", card)
    return folder


def _is_transformers(run: pathlib.Path, model: TrainedModel) -> bool:
    """Whether the run began from a directory of transformers, whose form it takes."""
    init = run_dir.read_experiment(run).init
    offset = (model.meta.get("preprocess") or {}).get("target_offset")
    if not isinstance(init, FromHub) or offset is not None:
        return False
    return not hub_repository.is_repository(init.folder())


def _intervals(run: pathlib.Path, model: TrainedModel) -> dict[str, Any]:
    """95 % intervals on the split that the card shows; {} without the data."""
    result = run_dir.read_json(run / "result.json")
    try:
        return dict(evaluate.bootstrap(model, "test" if "test" in result else "val"))
    except UserError:
        return {}


def _reason(repository: str, error: Exception) -> str:
    """A sentence on why a repository could not be written."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    if status in (401, 403) or kind == "LocalTokenNotFoundError":
        return (
            f"no permission to write to {repository}; log in with `hf auth "
            "login` (or HF_TOKEN) by a token that may write, or name a repository of "
            "your own."
        )
    if status == 404:
        return f"the hub knows no owner of {repository}, or hides it from you."
    if kind in ("HFValidationError", "BadRequestError"):
        return f"the hub refuses the name {repository!r}: {first_line(error)}."
    if status is None:
        return (
            f"the hub can't be reached ({kind}), so {repository} is not written; "
            "check the network."
        )
    return f"the hub refused {repository} ({status}: {first_line(error)})."
