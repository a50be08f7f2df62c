"""Images listed in a table of a database, by path or with their bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from ae_models.errors import InputError
from ae_models.images import UnreadableImage
from flows.config import DataConfig, TableSource
from flows.fence import Fence
from flows.items import Item, Seen
from flows.remote import SourceUnavailable

CHUNK = 1000  # rows that are read at once


def table_items(source: TableSource, data: DataConfig) -> Iterator[Item]:
    """The images of the rows, with what is known of each; bytes are read only when an image is needed.

    Raises:
        InputError: the table or a column is not there, or a row names what lies outside of the root.
        SourceUnavailable: the database did not answer, or refused.
    """
    database = _Database(source)
    place = source.key_column or source.path_column or ""
    names = {
        "batch": source.batch_column,
        "group": source.group_column,
        "timestamp": source.time_column,
        "label": source.label_column,
    }
    wanted = {field: name for field, name in names.items() if name is not None}
    content = source.path_column or source.bytes_column or ""
    table = database.table([place, content, *wanted.values()])
    columns = [table.c[place].label("place"), *(table.c[name].label(field) for field, name in wanted.items())]
    own = table.c[content]
    columns.append((own if source.path_column else sa.func.length(own)).label("content"))
    fence = Fence(source.root, data)
    for row in database.rows(sa.select(*columns).order_by(table.c[place])):
        known: dict[str, Any] = {field: _text(getattr(row, field)) for field in wanted}
        if row.content is None or row.place is None:
            raise InputError(f"the table {source.table} has a row without a value for {place} or its image: correct it")
        if source.path_column:
            item = fence.named(str(row.content), f"the table {source.table}")
        else:
            read = partial(database.content, table.c[place], row.place, own)
            uri = f"table://{quote(source.table)}/{quote(str(row.place))}"
            item = Item(uri, read, seen=Seen(f"{row.content} {known.get('timestamp')}"), waits=True)
        yield replace(item, **known)


class _Database:
    """The database of a source: every failure is one sentence, without the password."""

    def __init__(self, source: TableSource) -> None:
        self._source = source
        try:
            self._url = sa.make_url(source.database.get_secret_value())
            # Without a pool nothing is left open: batches are listed every few seconds, for months.
            self._engine = sa.create_engine(self._url, poolclass=sa.NullPool)
        except sa.exc.ArgumentError as error:
            raise InputError(
                f"database of the table {source.table} is no SQLAlchemy URL, such as postgresql+psycopg://host/name"
            ) from error
        except ImportError as error:
            raise InputError(
                f"the database {self._url.drivername}:// needs a package that is not installed ({error}): install it"
            ) from error

    def table(self, columns: list[str]) -> sa.TableClause:
        """The table with these columns, all of which it has."""
        schema, _, name = self._source.table.rpartition(".")
        with self._one_sentence():
            inspector = sa.inspect(self._engine)
            known = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
            if name not in known:
                raise InputError(
                    f"{self._shown()} has no table {self._source.table}: it has {', '.join(sorted(known)) or 'none'}"
                )
            there = [str(column["name"]) for column in inspector.get_columns(name, schema or None)]
        if absent := [column for column in dict.fromkeys(columns) if column not in there]:
            raise InputError(
                f"the table {self._source.table} has no column {', '.join(absent)}: it has {', '.join(there)}"
            )
        return sa.table(name, *map(sa.column, dict.fromkeys(columns)), schema=schema or None)

    def rows(self, query: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
        """The rows, read in chunks."""
        with self._one_sentence(), self._engine.connect() as connection:
            yield from connection.execution_options(yield_per=CHUNK).execute(query)

    def content(self, key: sa.ColumnElement[Any], value: object, column: sa.ColumnElement[Any]) -> bytes:
        """The bytes of one image."""
        with self._one_sentence(), self._engine.connect() as connection:
            found = connection.execute(sa.select(column).where(key == value)).first()
        if found is None or found[0] is None:
            raise UnreadableImage("does not exist")
        if isinstance(found[0], str):
            raise UnreadableImage("is text in the database, not bytes")
        return bytes(found[0])

    def _shown(self) -> str:
        return f"the database {self._url.set(query={}).render_as_string(hide_password=True)}"

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            words = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
            if self._url.password:
                words = words.replace(str(self._url.password), "***")
            raise SourceUnavailable(f"{self._shown()} did not answer, and its batches stay due: {words}") from error


def _text(value: object) -> str | None:
    if value is None:
        return None
    return value.isoformat() if isinstance(value, date) else str(value)  # a datetime is a date too
