"""A PostgreSQL server that takes what it is told and never answers: lost after a minute; libpq would wait for ever."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

SECONDS = 60.0  # for the answer to one statement; the ledger's take milliseconds
CONNECT_SECONDS = 10  # libpq takes whole ones


def bounded(engine: sa.Engine) -> None:
    """Lets the engine's connections wait so long for an answer, and then count as lost."""
    if engine.dialect.driver != "psycopg":
        return
    from psycopg import Connection, OperationalError, errors

    class BoundedConnection(Connection[Any]):
        """A connection that ends itself where the server says nothing."""

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = SECONDS) -> Any:
            """What the server answers; raises OperationalError after the time."""
            try:
                return super().wait(gen, interval, timeout)
            except errors._WaitTimeout:
                self.pgconn.finish()  # whatever it answers later belongs to nothing
                raise OperationalError(f"the server did not answer within {timeout:g} s") from None

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: list[Any], settings: dict[str, Any]) -> Any:
        return BoundedConnection.connect(*arguments, **{"connect_timeout": CONNECT_SECONDS} | settings)
