"""The schema of the ledger, brought up to date when it is opened, and refused where a newer reconwatch wrote it.

Each change is a migration in `migrations/versions`. What stands in `tables.py` is what all of them together give.
"""

from pathlib import Path

import sqlalchemy as sa

from ae_models.errors import InputError
from flows.ledger.database import Database, creation_lock, shown
from flows.store_files import note_made, require_kept

SCHEMA = "0003"  # the last of the migrations
BEFORE_MIGRATIONS = "1"  # what a ledger of reconwatch 0.1.0 says of itself
VERSION_TABLE = "ledger_version"  # not Alembic's usual name, which MLflow takes in a database that both share
MIGRATIONS = Path(__file__).parent / "migrations"
ADVISORY_LOCK = 0x7265636F6E  # "recon"


def bring_up_to_date(database: Database) -> None:
    """Makes what the database lacks, one process at a time, whole or not at all.

    Raises InputError where it cannot be used or was written by a newer reconwatch.
    """
    file = Path(str(database.url.database)) if database.url.get_backend_name() == "sqlite" else None
    with creation_lock(database.url):
        if file is not None:
            require_kept(file)
        _bring_up_to_date(database)
        if file is not None:
            note_made(file)


def _bring_up_to_date(database: Database) -> None:
    with database.transaction() as connection:
        if is_current(connection, database.url):
            return
    with database.transaction() as connection:
        _alone(connection)
        if not is_current(connection, database.url):
            _migrate(connection)


def is_current(connection: sa.Connection, url: sa.URL) -> bool:
    """Whether there is nothing to bring up to date; raises InputError where a newer reconwatch wrote it."""
    inspector = sa.inspect(connection)
    if inspector.has_table(VERSION_TABLE):
        found, known = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")), SCHEMA
    elif inspector.has_table("meta"):
        found, known = connection.scalar(sa.text("SELECT value FROM meta WHERE key = 'schema'")), BEFORE_MIGRATIONS
    else:
        return False
    if found is not None and found > known:
        raise InputError(
            f"the ledger {shown(url)} has schema version {found}, and this reconwatch knows "
            f"version {known}: install the reconwatch that wrote it, or a newer one"
        )
    return bool(found == SCHEMA)


def _alone(connection: sa.Connection) -> None:
    """Lets nobody else migrate before this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
    elif connection.dialect.name == "sqlite":
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE"
        )  # Python would begin one with the first row only, not with a table


def _migrate(connection: sa.Connection) -> None:
    from alembic import command  # takes a while, and most often there is nothing to do
    from alembic.config import Config

    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")
