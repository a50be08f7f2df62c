"""Values in the form in which any database holds them."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator


def utc_now() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities are null, tuples lists, and undecodable names escaped."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_text(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True, allow_nan=False)


def storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class Time(TypeDecorator[datetime]):
    """Aware times, in UTC, so that SQLite (text without a zone) orders them as PostgreSQL does."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"the ledger takes aware times only, not {value.isoformat()}")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Words(TypeDecorator[str]):
    """Text that any database takes; file names that are no UTF-8 stand escaped."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else storable(value)
