"""Ledgers of every version before are brought up to date: once, whole or not at all, on SQLite and on PostgreSQL."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ae_models.errors import InputError
from flows.ledger import Claim, Ledger
from flows.ledger.schema import MIGRATIONS, SCHEMA, VERSION_TABLE
from flows.ledger.tables import METADATA

Execute = Callable[[str], list[tuple[object, ...]]]

HERE = Path(__file__).parent
OPEN = """
import sys
from flows.ledger import Ledger

print("ready", flush=True)
sys.stdin.readline()
print(Ledger.open(sys.argv[1]).batches.count("tiles"))
"""
COLUMNS = (
    "key, batch, manifest_hash, status, run_id, alarm, n_scored, n_flagged, n_unreadable, verdict, pipeline, "
    "model_version, calibration_version, owner, attempts, claimed_at, renewed_at, finished_at"
)
SAME = "'tiles', '1', 'c1', '', 1, '2024-05-17 09:00:00.000000', '2024-05-17 09:00:00.000000'"
BATCHES = f"""
INSERT INTO batches ({COLUMNS})
VALUES
    ('a', 'lot-1', 'm1', 'done', 'run-a', false, 20, 1, 0, '{{}}', {SAME}, '2024-05-17 10:05:00.000000'),
    ('b', 'lot-2', 'm2', 'done', 'run-b', true, 20, 9, 0, '{{}}', {SAME}, '2024-05-17 11:05:00.000000'),
    ('c', 'lot-3', 'm3', 'done', 'run-c', true, 20, 9, 0, '{{}}', {SAME}, '2024-05-17 12:05:00.000000'),
    ('d', 'lot-4', 'm4', 'claimed', NULL, NULL, NULL, NULL, NULL, NULL, {SAME}, NULL);
"""
POINTS = """
INSERT INTO points (pipeline, number, batch_key, numbers)
VALUES ('tiles', 1, 'a', '{}'), ('tiles', 2, 'b', '{}'), ('tiles', 3, 'c', '{}');
"""
WORDS = """
INSERT INTO judgements (batch_key, finding, judgement, judged_by, note, judged_at)
VALUES ('b', 'defects', 'false alarm', 'Ada', '', '2024-05-17 14:00:00.000000');
INSERT INTO review_queues (batch_key, queue, made_at) VALUES ('a', 'queue-a', '2024-05-17 14:00:00.000000');
INSERT INTO review_queues (batch_key, queue, made_at) VALUES ('b', '', '2024-05-17 14:00:00.000000');
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def execute(engine: sa.Engine) -> Execute:
    """Runs statements by hand, and gives what the last of them found."""

    def run(statements: str) -> list[tuple[object, ...]]:
        with engine.begin() as connection:
            for statement in filter(str.strip, statements.split(";\n")):
                found = connection.exec_driver_sql(statement)
            return [tuple(row) for row in found] if found.returns_rows else []

    return run


@pytest.fixture
def old(database_url: str, execute: Execute) -> Execute:
    """A ledger as reconwatch 0.1.0 left it: three batches are decided, one is begun, and people said what they saw."""
    execute((HERE / f"ledger_0_1_0_{sa.make_url(database_url).get_backend_name()}.sql").read_text(encoding="utf-8"))
    execute(BATCHES + POINTS + WORDS)
    return execute


def differences(engine: sa.Engine) -> list[object]:
    """What Alembic finds between the tables that are there and those that the code knows."""
    options = {"version_table": VERSION_TABLE, "compare_server_default": True}
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), METADATA))


def test_the_last_migration_is_the_schema() -> None:
    """There is one last migration, it is what a ledger is compared with, and each has a file of its number."""
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert scripts.get_heads() == [SCHEMA]
    names = [Path(script.path).name for script in scripts.walk_revisions()]
    assert [name.split("_")[1] for name in names] == [script.revision for script in scripts.walk_revisions()]


def test_a_new_ledger_has_the_tables_that_the_code_knows(database_url: str, engine: sa.Engine) -> None:
    """All migrations together give the tables, columns, types and indexes of `flows.ledger.tables`."""
    Ledger.open(database_url)
    assert differences(engine) == []


def test_an_old_ledger_gets_the_same_tables(database_url: str, engine: sa.Engine, old: Execute) -> None:
    """A ledger of reconwatch 0.1.0 is afterwards like a new one."""
    assert differences(engine)
    Ledger.open(database_url)
    assert differences(engine) == []


def test_an_old_ledger_keeps_what_it_knew(database_url: str, old: Execute) -> None:
    """Batches, their numbers and words of people are there, and what is new is made of them."""
    ledger = Ledger.open(database_url)
    assert [record.batch for record in ledger.batches.decided("tiles")] == ["lot-1", "lot-2", "lot-3"]
    assert ledger.batches.decided("tiles")[0].finished_at == datetime(2024, 5, 17, 10, 5, tzinfo=UTC)
    assert [point.number for point in ledger.timeline.points("tiles")] == [1, 2, 3]
    assert ledger.batches.false_alarms("tiles", "c1") == (1, 2), "one alarm in vain, of two nominal batches"
    assert ledger.queues.of_pipeline("tiles") == (("a", "queue-a"),)
    claim = ledger.claim("tiles", "lot-5", "m5", "1", "c1")
    assert isinstance(claim, Claim)
    ledger.finish(claim, run_id="run-e", verdict={}, alarm=False, n_scored=20, n_flagged=0, n_unreadable=0)
    assert ledger.batches.count("tiles") == 4
    assert ledger.batches.false_alarms("tiles", "c1") == (1, 3)


def test_opening_again_changes_nothing(database_url: str, old: Execute) -> None:
    """The second time there is nothing to do."""
    Ledger.open(database_url)
    before = old("SELECT * FROM tallies")
    Ledger.open(database_url)
    assert old("SELECT * FROM tallies") == before == [("tiles", "c1", 2, 1)]
    assert old(f"SELECT * FROM {VERSION_TABLE}") == [(SCHEMA,)]


def test_a_ledger_from_before_points_gets_them(database_url: str, old: Execute) -> None:
    """Its batches are numbered in the order in which they were finished, and have no values of their own."""
    old("DROP TABLE points")
    points = Ledger.open(database_url).timeline.points("tiles")
    assert [(point.number, point.batch.batch, point.values) for point in points] == [
        (1, "lot-1", {}),
        (2, "lot-2", {}),
        (3, "lot-3", {}),
    ]


@pytest.mark.parametrize(
    "lacks",
    [
        "TABLE streams",
        "TABLE judgements",
        "INDEX incident_batches_by_batch",
        "INDEX outbox_by_matter",
        "TABLE monitors",
    ],
)
def test_a_ledger_from_before_a_table_gets_it(database_url: str, engine: sa.Engine, old: Execute, lacks: str) -> None:
    """Ledgers from before 0.1.0 lack one thing or another: it is added, and the batches that they hold stay."""
    old(f"DROP {lacks}")
    ledger = Ledger.open(database_url)
    assert differences(engine) == []
    assert ledger.batches.count("tiles") == 3


def test_the_program_before_refuses_a_newer_ledger(database_url: str, old: Execute) -> None:
    """reconwatch 0.1.0 goes by the number in `meta`, and refuses all but 1."""
    assert old("SELECT value FROM meta WHERE key = 'schema'") == [("1",)]
    Ledger.open(database_url)
    assert old("SELECT value FROM meta WHERE key = 'schema'") == [("2",)]


@pytest.mark.parametrize("version", [f"{int(SCHEMA) + 1:04}", "0999"])
def test_a_newer_ledger_is_refused(database_url: str, execute: Execute, version: str) -> None:
    """A ledger of a later version is named in one sentence and not touched."""
    Ledger.open(database_url).close()
    execute(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")
    sentence = f"the ledger .* has schema version {version}, and this reconwatch knows version {SCHEMA}: install the"
    with pytest.raises(InputError, match=sentence) as refused:
        Ledger.open(database_url)
    assert "***" in str(refused.value) or "sqlite" in str(refused.value), "the password is not shown"
    assert execute(f"SELECT version_num FROM {VERSION_TABLE}") == [(version,)]


def test_a_newer_ledger_without_migrations_is_refused(database_url: str, old: Execute) -> None:
    """Of a ledger that says another number than 0.1.0 did, and knows of no migrations, nothing is known."""
    old("UPDATE meta SET value = '2'")
    with pytest.raises(InputError, match="has schema version 2, and this reconwatch knows version 1: install"):
        Ledger.open(database_url)


def test_a_migration_that_fails_changes_nothing(database_url: str, old: Execute, engine: sa.Engine) -> None:
    """What goes wrong in the midst leaves the ledger as it was, and the next try takes it all the way."""
    old("CREATE TABLE tallies (name TEXT)")
    before = sorted(sa.inspect(engine).get_table_names())
    with pytest.raises((InputError, sa.exc.DBAPIError), match=r"tallies.* already exists"):
        Ledger.open(database_url)
    assert sorted(sa.inspect(engine).get_table_names()) == before
    assert {column["name"] for column in sa.inspect(engine).get_columns("review_queues")} == {
        "batch_key",
        "queue",
        "made_at",
    }
    old("DROP TABLE tallies")
    Ledger.open(database_url)
    assert differences(engine) == []


@pytest.mark.slow
@pytest.mark.parametrize("start", ["empty", "old"])
def test_eight_processes_bring_one_ledger_up_to_date(
    database_url: str, start: str, request: pytest.FixtureRequest
) -> None:
    """Started at once on one database, each finds it as it should be, and none fails."""
    if start == "old":
        request.getfixturevalue("old")
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    command, pipe = [sys.executable, "-c", OPEN, database_url], subprocess.PIPE
    processes = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = [process.communicate("\n", timeout=120) for process in processes]
    counted = "3\n" if start == "old" else "0\n"
    assert answers == [(counted, "")] * 8
    execute: Execute = request.getfixturevalue("execute")
    assert execute(f"SELECT version_num FROM {VERSION_TABLE}") == [(SCHEMA,)]
