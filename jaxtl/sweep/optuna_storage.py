"""Optuna's storages, which keep a search's trials, and the study in one of them."""

import contextlib
import importlib.util
import random
import re
import time
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from jaxtl.core.errors import UserError, first_line

CONNECT_TIMEOUT = 10  # seconds in which a database server has to answer
SQLITE_TIMEOUT = 60  # seconds that a process waits for another's transaction
CONNECT_ATTEMPTS = 5
# Attributes of a study: the settings that its processes agree in, the slots wanted, and
# the kind and seed that it was begun with.
SETTINGS, TOTAL, BEGUN = "jaxtl", "jaxtl:trials", "jaxtl:search"


def optuna() -> types.ModuleType:
    """Imports optuna, without its log messages.

    Raises:
      UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "searches need optuna, which is not installed: pip install 'jaxtl[sweep]'."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna


def connect(url: str) -> Any:
    """Opens the storage of a URL.

    Args:
      url: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE.

    Raises:
      UserError: a malformed URL, a missing driver, or no answer; the message hides the
        password.
    """
    module = optuna()
    import sqlalchemy

    target = _parse_url(url)
    is_sqlite = target.get_backend_name() == "sqlite"
    timeout = (
        {"timeout": SQLITE_TIMEOUT}
        if is_sqlite
        else {"connect_timeout": CONNECT_TIMEOUT}
    )
    options = {"connect_args": timeout, "pool_pre_ping": not is_sqlite}
    text = target.render_as_string(hide_password=False)
    text = text.replace("{", "{{").replace("}", "}}")  # Optuna formats it
    for attempt in range(1, CONNECT_ATTEMPTS + 1):
        try:
            storage = module.storages.RDBStorage(text, engine_kwargs=options)
            break
        except ImportError as error:
            raise UserError(_no_driver(url, error)) from None
        except sqlalchemy.exc.SQLAlchemyError as error:
            # Processes that start at once all create the tables; one of them succeeds.
            is_race = re.search("already exists|uplicate|UNIQUE", str(error))
            if attempt == CONNECT_ATTEMPTS or not is_race:
                raise UserError(
                    f"the storage {without_password(url)} does not answer: "
                    f"{_reason(url, error)}."
                ) from None
            time.sleep(random.uniform(0.1, 0.5))
    if is_sqlite:
        _lock_whole_transactions(storage.engine)
    return storage


def _parse_url(url: str) -> Any:
    """Parses a URL with sqlalchemy; adds an installed driver of PostgreSQL to it."""
    import sqlalchemy

    try:
        target = sqlalchemy.make_url(re.sub(r"^postgres://", "postgresql://", url))
        if target.drivername != "postgresql":
            target.get_dialect()
    except sqlalchemy.exc.SQLAlchemyError:
        raise UserError(
            f"storage={without_password(url)!r} is no URL of a database; expected "
            "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE."
        ) from None
    if target.drivername != "postgresql":
        return target
    driver = "psycopg2"
    if not importlib.util.find_spec("psycopg2") and importlib.util.find_spec("psycopg"):
        driver = "psycopg"
    return target.set(drivername=f"postgresql+{driver}")


def _lock_whole_transactions(engine: Any) -> None:
    """Makes every transaction hold SQLite's lock from its beginning.

    Optuna reads a state and then changes it, under row locks that SQLite does not have:
    two processes could take the same trial.
    """
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver starts no transactions itself

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # closes the connections that were opened before


def without_password(url: str) -> str:
    """Replaces the password in a URL by ***."""
    url = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", url)


def _no_driver(url: str, error: ImportError) -> str:
    is_postgres = url.partition(":")[0].startswith(("postgresql", "postgres"))
    remedy = (
        "pip install 'jaxtl[postgres]'" if is_postgres else "pip install the driver"
    )
    return (
        f"the storage {without_password(url)} needs a driver "
        f"({_reason(url, error.__cause__ or error)}): {remedy}."
    )


def _reason(url: str, error: BaseException) -> str:
    """The first line of an error of a storage, without the URL's password."""
    text = first_line(getattr(error, "orig", None) or error).strip(" .")
    password = re.search(r"://[^:/@]*:(.*)@", url)
    return text.replace(password[1], "***") if password and password[1] else text


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Raises a UserError in place of errors of the storage."""
    module = optuna()
    import sqlalchemy

    try:
        yield
    except (
        module.exceptions.StorageInternalError,
        sqlalchemy.exc.SQLAlchemyError,
    ) as error:
        reason = _reason(url, error.__cause__ or error)
        raise UserError(
            f"the storage {without_password(url)} failed: {reason}; what was recorded "
            "is kept, and the same command goes on."
        ) from error


def open_study(
    storage: Any,
    name: str,
    direction: str,
    settings: Mapping[str, Any],
    total: int | None,
    begun: Mapping[str, Any],
) -> Any:
    """Opens the study of a name, or creates it.

    The total is stored last: without it no process joins, so that none reads the others
    before they are there.

    Args:
      storage: from `connect`.
      name: of the study.
      direction: "maximize" or "minimize".
      settings: the settings that all processes must agree in, as JSON: "metric",
        "space", "seeds", ….
      total: slots that the study shall have; of several processes' totals the largest
        counts; None joins a study that exists.
      begun: kind and seed that a new study is begun with.

    Returns:
      An Optuna study.

    Raises:
      UserError: a study of another direction or other settings, or none of this name
        where `total` is None.
    """
    module = optuna()
    try:
        study = module.load_study(study_name=name, storage=storage)
    except KeyError:
        if total is None:
            names = ", ".join(module.get_all_study_names(storage)) or "none"
            raise UserError(
                f"there is no study {name!r} in this storage (studies: {names}); "
                "begin one with --trials N."
            ) from None
        study = module.create_study(
            study_name=name, storage=storage, direction=direction, load_if_exists=True
        )
    _check_agreement(study, direction, settings)
    attributes = study.user_attrs
    if SETTINGS not in attributes:
        study.set_user_attr(SETTINGS, dict(settings))
    if BEGUN not in attributes and total is not None:
        study.set_user_attr(BEGUN, dict(begun))
    if total is not None and total > attributes.get(TOTAL, 0):
        study.set_user_attr(TOTAL, total)
    elif TOTAL not in attributes:
        raise UserError(f"the study {name!r} has no trials yet: give --trials N.")
    return study


def _check_agreement(study: Any, direction: str, settings: Mapping[str, Any]) -> None:
    """Raises UserError if a study has another direction or other settings."""
    name, stored = study.study_name, study.user_attrs.get(SETTINGS)
    stored_direction = study.direction.name.lower()
    remedy = "choose another --study"
    if stored_direction != direction:
        raise UserError(
            f"the study {name!r} is there to {stored_direction} its value, this search "
            f"is to {direction} {settings['metric']}; {remedy}."
        )
    if stored is None:
        if study.get_trials(deepcopy=False):
            raise UserError(f"the study {name!r} was not made by jaxtl; {remedy}.")
        return
    for setting, value in settings.items():
        if stored.get(setting) != value:
            raise UserError(
                f"the study {name!r} has another {setting}: "
                f"{_difference(stored.get(setting), value)}; {remedy}."
            )


def _difference(stored: Any, value: Any) -> str:
    """Describes how a stored setting and that of this process differ."""
    if not (isinstance(stored, Mapping) and isinstance(value, Mapping)):
        return f"{stored} there and {value} here"
    name = next(
        name
        for name in (*value, *(set(stored) - set(value)))
        if stored.get(name) != value.get(name)
    )
    return (
        f"{name} is {stored.get(name, 'nothing')} there and "
        f"{value.get(name, 'nothing')} here"
    )
