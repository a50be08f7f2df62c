"""The tests' own PostgreSQL server does what the tests of the stores need of it."""

import subprocess

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.postgresql import PostgreSQL


def select_one(url: str) -> int:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT 1")).scalar_one())
    finally:
        engine.dispose()


def test_it_answers_who_has_the_password(postgresql: PostgreSQL, postgresql_url: str) -> None:
    """A connection with the password is taken, and one with another password is not."""
    assert select_one(postgresql_url) == 1
    with pytest.raises(OperationalError, match="password authentication failed"):
        select_one(postgresql_url.replace(postgresql.password, "wrong"))


def test_each_database_is_empty(postgresql: PostgreSQL) -> None:
    """Two tests share the server and nothing that is in it."""
    first, second = postgresql.new_database(), postgresql.new_database()
    postgresql.execute("CREATE TABLE lots (name text)", first)
    assert postgresql.execute("SELECT to_regclass('lots')", first) == "lots"
    assert postgresql.execute("SELECT to_regclass('lots')", second) == ""


def test_it_can_be_stopped_and_started(postgresql: PostgreSQL, postgresql_url: str) -> None:
    """Between the two nobody answers, and afterwards everything is there again."""
    postgresql.stop()
    with pytest.raises(OperationalError, match="onnection refused"):
        select_one(postgresql_url)
    postgresql.start()
    assert select_one(postgresql_url) == 1
    with pytest.raises(subprocess.CalledProcessError):
        postgresql.execute("no statement")
