"""The schema of the ledger: its tables made where they are not there, and refused where a newer one made them."""

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import (
    IntegrityError,
    ProgrammingError,
)

from ae_models.errors import InputError
from flows.ledger.database import Database, creation_lock, shown
from flows.ledger.tables import INCIDENTS_OF_A_BATCH, META, METADATA, OUTBOX_BY_MATTER
from flows.ledger.timeline import number_earlier
from flows.store_files import note_made, require_kept

SCHEMA = 1


def create(database: Database) -> None:
    """Makes what the database lacks, one process at a time.

    Raises InputError where it cannot be used or was written by a newer reconwatch.
    """
    file = Path(str(database.url.database)) if database.url.get_backend_name() == "sqlite" else None
    with creation_lock(database.url):
        if file is not None:
            require_kept(file)
        try:
            _create_tables(database)
        except (IntegrityError, ProgrammingError):  # another process created them on the same server just before
            _create_tables(database)
        if file is not None:
            note_made(file)


def _create_tables(database: Database) -> None:
    with database.transaction() as connection:
        METADATA.create_all(connection)
        for index in (OUTBOX_BY_MATTER, INCIDENTS_OF_A_BATCH):  # ledgers from before have the tables without them
            index.create(connection, checkfirst=True)
        number_earlier(connection)
        found = connection.execute(sa.select(META.c.value).where(META.c.key == "schema")).scalar()
        if found is None:
            connection.execute(sa.insert(META).values(key="schema", value=str(SCHEMA)))
        elif not found.isdecimal() or int(found) > SCHEMA:
            raise InputError(
                f"the ledger {shown(database.url)} has schema version {found}, and this reconwatch knows "
                f"version {SCHEMA}: install the reconwatch that wrote it, or a newer one"
            )
