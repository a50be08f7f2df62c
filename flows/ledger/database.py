"""The database behind the ledger: connections, transactions, and what is said where it cannot be used."""

import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from os import getpid
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy import event
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
)

from ae_models.errors import InputError
from flows.ledger.silence import bounded
from flows.processes import Process, owner_is_alive
from flows.waiting import DELAYS, patiently

LEASE = timedelta(minutes=10)  # how long a claim from another host holds without being renewed
CREATION_TIMEOUT = 60.0  # seconds
ASKED_AT_ONCE = 500  # values in one question; older versions of SQLite take 999
BUSY_TIMEOUT = 30_000  # milliseconds
LET_GO = set[str]()  # owners in this process that gave their claims back while the database could not write it


@dataclass(frozen=True)
class Database:
    """One database, its clock, and the process that asks; every method but `transaction` is one transaction."""

    url: sa.URL
    clock: Callable[[], datetime]
    process: Callable[[], Process]
    _engines: dict[int, sa.Engine]  # by process id: a forked process must not touch its parent's connections
    _delays: Sequence[float] = DELAYS

    @classmethod
    def of(
        cls,
        url: str,
        clock: Callable[[], datetime],
        process: Callable[[], Process],
        delays: Sequence[float] = DELAYS,
    ) -> Self:
        """The database at `url`, to which nothing connects yet; a server that is away is waited for by the delays.

        Raises InputError where the URL names no database that could be one.
        """
        database = cls(_parsed(url), clock, process, {}, delays)
        weakref.finalize(database, _close, database._engines)
        return database

    def close(self) -> None:
        """Closes the connections now and not when the database is let go of; a later call opens new ones."""
        _close(self._engines)

    @property
    def _engine(self) -> sa.Engine:
        if getpid() not in self._engines:
            self._engines[getpid()] = _engine_of(self.url)
        return self._engines[getpid()]

    def alive(self, owner: str, since: datetime) -> bool:
        """Whether an owner who last gave a sign of life at `since` may still be at work."""
        if not owner or owner in LET_GO:
            return False
        alive = owner_is_alive(owner, self.process().host)
        return abs(self.clock() - since) < LEASE if alive is None else alive  # no lease begins in the future

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A connection whose changes are kept together, or not at all where the block raises."""
        try:
            with self._connection() as connection, connection.begin():
                yield connection
        except DBAPIError as error:
            if not isinstance(error, OperationalError) and type(error) is not DatabaseError:
                raise
            raise InputError(
                f"the ledger {shown(self.url)} cannot be used ({' '.join(str(error.orig).split())}): "
                "check that it is a reconwatch ledger, that it can be reached and written, and that its disk has room"
            ) from error

    def _connection(self) -> sa.Connection:
        """A connection that answered. A server is waited for here, before anything is said to it, and nowhere else:
        what was said and not answered may stand."""
        delays = () if self.url.get_backend_name() == "sqlite" else self._delays
        return patiently(self._engine.connect, _may_come_back, delays)

    def rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """What a query finds."""
        with self.transaction() as connection:
            return connection.execute(query).all()

    def changed(self, table: sa.Table, where: sa.ColumnElement[bool], **values: Any) -> bool:
        """Whether there were such rows; they have these values now."""
        with self.transaction() as connection:
            return connection.execute(sa.update(table).where(where).values(values)).rowcount > 0

    def inserted(self, table: sa.Table, **row: Any) -> bool:
        """Whether the row was not there yet and is now."""
        try:
            with self.transaction() as connection:
                connection.execute(sa.insert(table).values(row))
        except IntegrityError:
            return False
        return True


def in_parts(values: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The values in parts of as many as one question may hold."""
    left = iter(values)
    while part := tuple(islice(left, ASKED_AT_ONCE)):
        yield part


def insert_once(connection: sa.Connection, table: sa.Table, **row: Any) -> bool:
    """Whether the row was not there yet and is now; the rest of the transaction stands either way."""
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(table).values(row))
    except IntegrityError:
        return False
    return True


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        parsed.get_dialect()
    except ArgumentError as error:
        unknown = "names a database that is not known" if isinstance(error, NoSuchModuleError) else "cannot be read"
        raise InputError(
            f"the ledger's URL {unknown}: write it as sqlite:////path/ledger.db "
            "or postgresql+psycopg://user:password@host/name"
        ) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InputError(f"the ledger {url} would be lost with its process: name a file, sqlite:////path/ledger.db")
    return parsed


def _may_come_back(error: Exception) -> bool:
    """Whether the server is away; one that refuses user, password or database will do so again."""
    words = str(error)
    refused = "FATAL" in words and not re.search("starting up|shutting down|recovery|too many", words)
    return isinstance(error, OperationalError) and not refused


def _engine_of(url: sa.URL) -> sa.Engine:
    """An engine with connections of its own, which takes over what the process knows of the database."""
    known = _known(url, getpid())
    return sa.Engine(
        known.pool.recreate(), known.dialect, url, hide_parameters=True, execution_options=known.get_execution_options()
    )


@lru_cache(maxsize=4)  # how each question is put takes longer to find out than the question to answer
def _known(url: sa.URL, _process: int) -> sa.Engine:
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, execution_options={"compiled_cache": {}})
    except ModuleNotFoundError as error:
        raise InputError(f"the ledger {shown(url)} needs the Python package '{error.name}': install it") from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    bounded(engine)
    return engine


def _close(engines: Mapping[int, sa.Engine]) -> None:
    if getpid() in engines:
        engines[getpid()].dispose()


def _prepare_sqlite(connection: Any, _entry: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


@contextmanager
def creation_lock(url: sa.URL) -> Iterator[None]:
    """Creation by one process at a time, where the ledger is a file; a server sees to it by itself."""
    try:
        with _file_lock(url):
            yield
    except Timeout as error:
        raise InputError(
            f"the ledger {shown(url)} is being created by another process since a minute: end it and try again"
        ) from error
    except OSError as error:
        raise InputError(
            f"the ledger {shown(url)} cannot be created ({error}): make its folder writable, or name another"
        ) from error


def _file_lock(url: sa.URL) -> AbstractContextManager[Any]:
    if url.get_backend_name() != "sqlite":
        return nullcontext()
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock", timeout=CREATION_TIMEOUT)


def shown(url: sa.URL) -> str:
    """The address without its password."""
    return url.render_as_string(hide_password=True)
