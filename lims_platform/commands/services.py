"""Commands systemd runs before a service of deploy/systemd: ``prepare dagster`` and ``prepare mlflow``.

Here: what must hold before the processes start, said in one line where it does not. Not here: the services themselves.
Both databases are made or brought to the installed version by one process before several open them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from lims_platform.commands.keeping import CommandError, open_instance
from lims_platform.settings import Settings, revealed

_SCHEME = "postgresql+psycopg2://"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands of this module."""
    prepare_ = commands.add_parser("prepare", help="what a service needs before it starts: settings, key, database")
    prepare_.add_argument("service", choices=sorted(_PREPARE))


def _database(address: str | None, variable: str) -> str:
    """The address of a database of ours that lets us in; CommandError where it is absent, wrong, or does not."""
    if address is None:
        raise CommandError(f"{variable} is not set; see docs/production.md")
    if not address.startswith(_SCHEME):
        # SQLAlchemy reads postgresql:// as psycopg 3, which dagster-postgres does not work with
        raise CommandError(f"{variable} must begin with {_SCHEME}")
    import sqlalchemy

    try:
        with sqlalchemy.create_engine(address, connect_args={"connect_timeout": 10}).connect():
            return address
    except ModuleNotFoundError:
        raise CommandError(f"{variable}: no driver; pip install -c constraints.txt -e '.[production]'") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise CommandError(f"{variable}: {str(error.__cause__ or error).strip().splitlines()[0]}") from None


def prepare_dagster(settings: Settings) -> None:
    """Refuse what production refuses and bring Dagster's storage to this version."""
    from lims_platform.assets.door import Door
    from lims_platform.contracts.source import SOURCE_TABLES
    from lims_platform.lakehouse.lake import Lake

    door = Door(settings, Lake(settings.lake_dir))
    names = {name for table in SOURCE_TABLES.values() for name in door.sources.names(table)}
    print(f"pseudonym key {door.pseudonymiser.key_id}; sources: {', '.join(sorted(names))}")
    _database(revealed(settings.dagster_database), "LIMS_DAGSTER_DATABASE")
    with open_instance() as instance:
        kinds = {type(s).__name__ for s in (instance.run_storage, instance.event_log_storage, instance.schedule_storage)}
        if settings.environment == "production" and any("Sqlite" in kind for kind in kinds):
            raise CommandError(
                "DAGSTER_HOME/dagster.yaml keeps Dagster's storage in SQLite; see deploy/dagster.production.yaml"
            )
        instance.upgrade()
    print("Dagster's storage is ready")


def prepare_mlflow(settings: Settings) -> None:
    """Make MLflow's tables in an empty database, or bring them to this version."""
    address = _database(revealed(settings.mlflow_backend_store_uri), "MLFLOW_BACKEND_STORE_URI")
    from mlflow.cli import cli

    # in this process: on a command line the address, and with it the password, would be in every list of processes
    cli(["db", "upgrade", address], standalone_mode=False)
    print("MLflow's database is ready")


_PREPARE: dict[str, Callable[[Settings], None]] = {"dagster": prepare_dagster, "mlflow": prepare_mlflow}


def run(settings: Settings, given: argparse.Namespace) -> int:
    """Dispatch; what a person can mend is one line on stderr and exit code 1."""
    from lims_platform.contracts.extract import SourceError
    from lims_platform.privacy.pseudonyms import KeyFileError

    try:
        _PREPARE[given.service](settings)
    except (CommandError, SourceError, KeyFileError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
