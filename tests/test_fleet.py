"""A thousand pipelines and a long history: what is asked for each batch is found by an index, and costs no more."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from benchmarks.scale import fill, looks, one_batch, pipelines
from flows.ledger import Ledger

LINE = "line-0000"


def filled(url: str, count: int, batches: int) -> Ledger:
    """A ledger with finished batches of so many pipelines."""
    ledger, engine = Ledger.open(url), sa.create_engine(url)
    fill(engine, list(pipelines(count).pipelines), batches)
    engine.dispose()
    return ledger


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[tuple[str, Any]]]:
    """What the ledger asks its database meanwhile: statements and their parameters."""
    asked: list[tuple[str, Any]] = []
    engine = ledger._database._engine

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.split()[0] in ("SELECT", "UPDATE", "DELETE", "INSERT"):
            asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield asked
    event.remove(engine, "before_cursor_execute", note)


def work(ledger: Ledger, count: int) -> list[tuple[str, Any]]:
    """The statements of a batch that alarms, of one that does not, and of a look at how things stand."""
    settings = pipelines(count)
    with statements(ledger) as asked:
        one_batch(ledger, settings, LINE, 1, alarm=True)
        one_batch(ledger, settings, LINE, 2)
        looks(ledger, LINE)
    assert len(asked) > 100
    return asked


def test_sqlite_scans_no_table(tmp_path: Path) -> None:
    """Each statement finds its rows by an index; only the pipelines themselves are all looked at."""
    ledger = filled(f"sqlite:///{tmp_path / 'ledger.db'}", 20, 2000)
    asked, scans = work(ledger, 20), set[str]()
    connection = sqlite3.connect(tmp_path / "ledger.db")
    for statement, parameters in asked:
        for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
            if step.startswith("SCAN") and not re.search(r"USING INDEX outbox_waiting|anon|CONSTANT ROW", step):
                scans.add(step)
    connection.close()
    assert scans == {"SCAN watches"}


def test_postgresql_scans_no_table(postgresql_url: str) -> None:
    """The same there: forbidden to scan, it has another way for all of them."""
    ledger = filled(postgresql_url, 20, 400)
    asked, scans = work(ledger, 20), set[str]()
    engine = sa.create_engine(postgresql_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")  # it would scan tables as small as these
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
            scans |= set(re.findall(r"Seq Scan on (\w+)", "\n".join(plan)))
    engine.dispose()
    assert scans <= {"watches"}


def steps(ledger: Ledger, path: Path, count: int) -> int:
    """How many instructions of SQLite's machine a batch and a look take."""
    asked, taken = work(ledger, count), 0
    connection = sqlite3.connect(path)

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    connection.set_progress_handler(step, 1)
    for statement, parameters in asked:
        if statement.startswith("SELECT"):
            connection.execute(statement, parameters).fetchall()
    connection.close()
    return taken


def test_the_work_does_not_grow_with_the_history(tmp_path: Path) -> None:
    """Four times as many batches of a pipeline, and what SQLite does for one more is the same.

    Beyond the 1,000 nominal batches with which a new one is compared, that is.
    """
    taken = {}
    for batches in (1200, 4800):
        path = tmp_path / f"{batches}.db"
        taken[batches] = steps(filled(f"sqlite:///{path}", 1, batches), path, 1)
    assert taken[4800] < 1.02 * taken[1200]
