"""How a ledger stands, looked at without changing anything."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ae_models.errors import InputError
from flows.ledger.database import Database, shown
from flows.ledger.schema import is_current
from flows.ledger.tables import META
from flows.ledger.values import utc_now
from flows.processes import this_process


@dataclass(frozen=True)
class LedgerState:
    """A ledger that can be read and written.

    Attributes:
        address: without its password.
        there: whether it was made already.
        current: whether it is of this reconwatch's version, and not of one before.
        now: the time of the database's own clock, aware; None where it has none.
    """

    address: str
    there: bool
    current: bool
    now: datetime | None


def inspect_ledger(url: str) -> LedgerState:
    """How the ledger at `url` stands; raises InputError where it cannot be read, written, or is of a newer version."""
    database = Database.of(url, utc_now, this_process, delays=())
    address = shown(database.url)
    if database.url.get_backend_name() == "sqlite" and not Path(str(database.url.database)).exists():
        return LedgerState(address, there=False, current=False, now=None)
    try:
        with database.transaction() as connection:
            there, current = sa.inspect(connection).has_table(META.name), is_current(connection, database.url)
            server = connection.dialect.name != "sqlite"
            now = connection.execute(sa.select(sa.func.now())).scalar_one() if server else None
        if there:
            _try_to_write(database)
    finally:
        database.close()
    return LedgerState(address, there, current, now)


def _try_to_write(database: Database) -> None:
    try:
        with database.transaction() as connection:
            connection.execute(sa.update(META).values(value=META.c.value))
            connection.rollback()
    except DBAPIError as error:
        raise InputError(
            f"the ledger {shown(database.url)} cannot be written ({' '.join(str(error.orig).split())}): "
            "give its user the right to, or name the server that takes writes"
        ) from error
