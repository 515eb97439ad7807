"""Where a search's trials are kept: Optuna's storages, and the study in one of them."""

import contextlib
import importlib.util
import random
import re
import time
import warnings
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError

PATIENCE = 10  # seconds that a database has to answer
FACTS, TOTAL = "jaxtl", "jaxtl:trials"  # attributes of a study


def optuna():
    """Returns the module optuna, quiet; UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            "searches need optuna, which is not installed: pip install 'jaxtl[sweep]'."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna


def connect(url: str):
    """Returns the storage of a URL: sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DB.

    Raises:
      UserError: malformed, without its driver, or not answering; it never tells the
        password.
    """
    module = optuna()
    import sqlalchemy

    url = re.sub(r"^postgres://", "postgresql://", url)
    try:
        made = sqlalchemy.make_url(url)
        if made.drivername != "postgresql":
            made.get_dialect()
    except sqlalchemy.exc.SQLAlchemyError:
        raise UserError(
            f"storage={hidden(url)!r} is no URL of a database; expected "
            "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE."
        ) from None
    if made.drivername == "postgresql":  # of two drivers the one that is there
        own = "psycopg" if importlib.util.find_spec("psycopg") else "psycopg2"
        own = "psycopg2" if importlib.util.find_spec("psycopg2") else own
        made = made.set(drivername=f"postgresql+{own}")
    is_file = made.get_backend_name() == "sqlite"
    arguments = {"timeout": 60} if is_file else {"connect_timeout": PATIENCE}
    options = {"connect_args": arguments, "pool_pre_ping": not is_file}
    target = made.render_as_string(hide_password=False)
    target = target.replace("{", "{{").replace("}", "}}")  # Optuna formats it
    for attempt in range(5):
        try:
            storage = module.storages.RDBStorage(target, engine_kwargs=options)
            break
        except ImportError as error:
            raise UserError(_no_driver(url, error)) from None
        except sqlalchemy.exc.SQLAlchemyError as error:
            # Processes that begin at once all make the tables; one of them succeeds.
            made_by_another = re.search("already exists|uplicate|UNIQUE", str(error))
            if attempt == 4 or not made_by_another:
                raise UserError(_unanswered(url, error)) from None
            time.sleep(random.uniform(0.1, 0.5))
    if is_file:
        _one_at_a_time(storage.engine)
    return storage


def _one_at_a_time(engine) -> None:
    """Makes every transaction hold SQLite's lock from its beginning.

    Optuna reads a state and then changes it, under row locks that SQLite does not have:
    two processes could take the same trial.
    """
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def _(connection, record):
        connection.isolation_level = None  # the driver begins none of its own

    @event.listens_for(engine, "begin")
    def _(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before


def hidden(url: str) -> str:
    """Returns a URL without its password."""
    url = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", url)


def _no_driver(url: str, error: ImportError) -> str:
    kind = url.partition(":")[0]
    how = "pip install the driver"
    if kind.startswith("postgresql"):
        how = "pip install 'jaxtl[postgres]'"
    cause = error.__cause__ or error
    return f"the storage {hidden(url)} needs a driver ({_reason(url, cause)}): {how}."


def _unanswered(url: str, error: Exception) -> str:
    return f"the storage {hidden(url)} does not answer: {_reason(url, error)}."


def _reason(url: str, error: BaseException) -> str:
    error = getattr(error, "orig", None) or error
    text = (str(error).strip() or type(error).__name__).splitlines()[0].strip(" .")
    password = re.search(r"://[^:/@]*:(.*)@", url)
    return text.replace(password[1], "***") if password and password[1] else text


@contextlib.contextmanager
def answering(url: str):
    """Turns the storage's falling silent into one sentence."""
    module = optuna()
    import sqlalchemy

    try:
        yield
    except (
        module.exceptions.StorageInternalError,
        sqlalchemy.exc.SQLAlchemyError,
    ) as error:
        cause = error.__cause__ or error
        raise UserError(
            f"the storage {hidden(url)} failed: {_reason(url, cause)}; what was "
            "recorded is kept, and the same command goes on."
        ) from error


def open_(
    storage, name: str, direction: str, facts: Mapping[str, Any], total: int | None
):
    """Returns the study of a name, made where there is none.

    Args:
      storage: from `connect`.
      name: of the study.
      direction: "maximize" or "minimize".
      facts: what two processes must agree in, JSON: "metric", "space", "seeds", ….
      total: slots wanted; of several processes the most counts; None joins.

    Raises:
      UserError: a study of another direction or other facts, one that is not there
        where `total` is None.
    """
    module = optuna()
    try:
        study = module.load_study(study_name=name, storage=storage)
    except KeyError:
        if total is None:
            known = ", ".join(module.get_all_study_names(storage)) or "none"
            raise UserError(
                f"there is no study {name!r} in this storage (studies: {known}); "
                "begin one with --trials N."
            ) from None
        study = module.create_study(
            study_name=name, storage=storage, direction=direction, load_if_exists=True
        )
    _same(study, direction, facts)
    attributes = study.user_attrs
    if FACTS not in attributes:
        study.set_user_attr(FACTS, dict(facts))
    if total is not None and total > attributes.get(TOTAL, 0):
        study.set_user_attr(TOTAL, total)
    elif TOTAL not in attributes:
        raise UserError(f"the study {name!r} has no trials yet: give --trials N.")
    return study


def _same(study, direction: str, facts: Mapping[str, Any]) -> None:
    name, known = study.study_name, study.user_attrs.get(FACTS)
    there = study.direction.name.lower()
    other = "choose another --study"
    if there != direction:
        raise UserError(
            f"the study {name!r} is there to {there} its value, this search is to "
            f"{direction} {facts['metric']}; {other}."
        )
    if known is None:
        if study.get_trials(deepcopy=False):
            raise UserError(f"the study {name!r} was not made by jaxtl; {other}.")
        return
    for what in facts:
        if known.get(what) != facts[what]:
            raise UserError(
                f"the study {name!r} has another {what}: {_difference(known, facts)}; "
                f"{other}."
            )


def _difference(known: Mapping, facts: Mapping) -> str:
    what = next(name for name in facts if known.get(name) != facts[name])
    there, here = known.get(what), facts[what]
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        name = next(
            n for n in (*here, *(set(there) - set(here))) if there.get(n) != here.get(n)
        )
        there, here, what = there.get(name, "nothing"), here.get(name, "nothing"), name
        return f"{what} is {there} there and {here} here"
    return f"{there} there and {here} here"
