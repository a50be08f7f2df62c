"""The ledger scores no batch twice and loses none, whatever dies and however many start at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import column, create_engine, select, table

from ae_models.errors import InputError
from flows.ledger import (
    AlreadyDone,
    Busy,
    Claim,
    Ledger,
    LostClaim,
    OutboxEntry,
    PendingAlert,
    batch_key,
    utc_now,
)
from flows.ledger.database import Database
from flows.processes import Process, this_process
from tests.postgresql import PostgreSQL
from tests.stand_ins import Clock

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[1]

OPEN_AND_CLAIM = """
import sys
from flows.ledger import Claim, Ledger

print("ready", flush=True)
sys.stdin.readline()
ledger = Ledger.open(sys.argv[1])
claim = ledger.claim("tiles", "lot-7", "images", *sys.argv[2:])
print(type(claim).__name__, flush=True)
sys.stdin.readline()
"""

CLAIM_AND_FORK = """
import os, sys
from flows.ledger import Claim, Ledger

ledger = Ledger.open(sys.argv[1])
child = os.fork()
claim = ledger.claim("tiles", "parent" if child else "child", "parent" if child else "child", "3", "5")
failed = not isinstance(claim, Claim) or (child and os.waitpid(child, 0)[1] != 0)
os._exit(1 if failed else 0)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def ledger(database_url: str, clock: Clock) -> Ledger:
    return Ledger.open(database_url, clock)


def claimed(ledger: Ledger, batch: str = "lot-7", images: str = "images", model: str = "3") -> Claim:
    claim = ledger.claim("tiles", batch, images, model, "5")
    assert isinstance(claim, Claim)
    return claim


def finish(
    ledger: Ledger,
    claim: Claim,
    *alerts: OutboxEntry,
    alarm: bool = False,
    run_id: str = "run",
    verdict: Mapping[str, Any] = MappingProxyType({"severity": "alarm"}),
) -> None:
    ledger.finish(
        claim, run_id=run_id, verdict=verdict, alarm=alarm, n_scored=9, n_flagged=2, n_unreadable=1, alerts=alerts
    )


def entry(dedupe_key: str = "lot-7", channel: str = "log") -> OutboxEntry:
    return OutboxEntry(channel, dedupe_key, {"text": "It is off."})


def elsewhere() -> Process:
    return Process("another-host", 1, "then")


def test_a_new_batch_is_claimed(ledger: Ledger) -> None:
    """The first to ask gets the batch, as its first attempt."""
    claim = claimed(ledger)
    assert (claim.pipeline, claim.batch, claim.attempt) == ("tiles", "lot-7", 1)
    assert claim.key == batch_key("tiles", "images")


def test_a_batch_is_known_by_its_images_and_versions() -> None:
    """Every part of a key counts, and no two lists of parts run together."""
    parts = [
        ("a", "b", "c", "d"),
        ("ab", "", "c", "d"),
        ("a", "b", "c", "e"),
        ("a", "b", "d", "c"),
        ("x", "b", "c", "d"),
        ("a", "b"),
        ("x", "b"),
        ("a", "c"),
    ]
    assert len({batch_key(*part) for part in parts}) == len(parts)


def test_a_batch_of_a_living_process_is_busy(ledger: Ledger) -> None:
    """While its process lives, a batch is nobody else's, and the answer says whose it is."""
    claim = claimed(ledger)
    assert ledger.claim("tiles", "lot-7", "images", "3", "5") == Busy(claim.key, claim.owner, NOON)


def test_a_finished_batch_is_done(ledger: Ledger) -> None:
    """A finished batch is not claimed again, and the answer says in which run it was scored."""
    claim = claimed(ledger)
    finish(ledger, claim, run_id="run-1")
    assert ledger.claim("tiles", "lot-7", "images", "3", "5") == AlreadyDone(claim.key, "run-1", NOON, "3")


def test_a_released_batch_is_claimed_again(ledger: Ledger) -> None:
    """After a failure that gave the batch back, the next one to ask gets it as the second attempt."""
    ledger.release(claimed(ledger))
    assert claimed(ledger).attempt == 2


def test_a_finished_batch_stays_finished_when_released(ledger: Ledger) -> None:
    """Giving back what is finished changes nothing."""
    claim = claimed(ledger)
    finish(ledger, claim)
    ledger.release(claim)
    assert isinstance(ledger.claim("tiles", "lot-7", "images", "3", "5"), AlreadyDone)


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    processes: list[subprocess.Popen[str]] = []

    def started(database_url: str, model: str = "3", within: Sequence[str] = ()) -> "subprocess.Popen[str]":
        command = [*within, sys.executable, "-c", OPEN_AND_CLAIM, database_url, model, f"calibration of {model}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        )
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_killed_process_loses_its_batch(
    ledger: Ledger, database_url: str, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """A batch whose process was killed with -9 is taken over at once, even before its parent has noticed."""
    process = start(database_url)
    assert line(process) == "ready"
    go_on(process)
    assert line(process) == "Claim"
    assert isinstance(ledger.claim("tiles", "lot-7", "images", "3", "5"), Busy)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie still
    assert claimed(ledger).attempt == 2


def test_a_ledger_that_is_opened_again_reads_the_file_that_is_there_now(tmp_path: Path) -> None:
    """Also where the process has an older one of that name open, such as from before a backup was restored."""
    here, backup = (tmp_path / name for name in ("ledger.db", "backup.db"))
    for path in (backup, here):
        opened = Ledger.open(f"sqlite:///{path}")
        claimed(opened, images=path.name)
        opened.close()
    older = Ledger.open(f"sqlite:///{here}")
    assert isinstance(older.claim("tiles", "lot-7", here.name, "3", "5"), Busy)
    os.replace(backup, here)
    restored = Ledger.open(f"sqlite:///{here}")
    assert isinstance(restored.claim("tiles", "lot-7", backup.name, "3", "5"), Busy)
    assert isinstance(restored.claim("tiles", "lot-7", here.name, "3", "5"), Claim)


@pytest.mark.slow
def test_eight_processes_share_a_fresh_file(database_url: str, start: Callable[..., "subprocess.Popen[str]"]) -> None:
    """Of eight processes that start on no file at all and want one batch, one gets it and the others hear so.

    Half of them have another champion.
    """
    processes = [start(database_url, model) for model in "3434" * 2]
    assert [line(process) for process in processes] == ["ready"] * 8
    for process in processes:
        go_on(process)
    assert sorted(line(process) for process in processes) == ["Busy"] * 7 + ["Claim"]


def test_a_reused_process_id_is_not_the_owner(database_url: str, clock: Clock, ledger: Ledger) -> None:
    """A batch is taken over when its process id runs but was started at another time."""
    past = Ledger.open(database_url, clock, lambda: replace(this_process(), start="then"))
    claimed(past)
    assert claimed(ledger).attempt == 2


def test_a_container_with_the_name_of_its_machine_is_another_host(
    database_url: str, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """Its process has another id there than here: it holds its claim, though the machine knows of no such process."""
    container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*container, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces may not be made here (they take root, and a system that allows them)")
    process = start(database_url, within=container)
    assert line(process) == "ready"
    go_on(process)
    assert line(process) == "Claim"
    assert isinstance(Ledger.open(database_url).claim("tiles", "lot-7", "images", "3", "calibration of 3"), Busy)


def test_a_forked_process_uses_the_ledger_it_was_given(database_url: str, ledger: Ledger) -> None:
    """A ledger that was opened and used before a fork works on both sides of it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", CLAIM_AND_FORK, database_url], env=environment, check=True)
    assert {claimed(ledger, batch, images=batch).attempt for batch in ("parent", "child")} == {2}


def test_another_host_holds_its_claim_for_the_lease(database_url: str, clock: Clock, ledger: Ledger) -> None:
    """A process that cannot be asked keeps its batch for ten minutes after its last sign of life, and no longer."""
    other = Ledger.open(database_url, clock, elsewhere)
    claim = claimed(other)
    clock.now = NOON + timedelta(minutes=9)
    other.renew(claim)
    clock.now = NOON + timedelta(minutes=18)
    assert isinstance(ledger.claim("tiles", "lot-7", "images", "3", "5"), Busy)
    clock.now = NOON + timedelta(minutes=19)
    assert claimed(ledger).attempt == 2


def test_whoever_lost_a_batch_cannot_finish_it(database_url: str, clock: Clock, ledger: Ledger) -> None:
    """A late process is told so, and neither its verdict nor its alerts are written."""
    late = claimed(Ledger.open(database_url, clock, elsewhere))
    clock.now = NOON + timedelta(hours=1)
    claimed(ledger)
    sentence = "batch 'lot-7' of pipeline 'tiles' is no longer ours: another process took it over"
    with pytest.raises(LostClaim, match=sentence):
        finish(ledger, late, entry())
    assert not ledger.batches.history("tiles")
    assert not ledger.outbox.pending()


def test_whoever_lost_a_batch_cannot_renew_it(database_url: str, clock: Clock, ledger: Ledger) -> None:
    """A sign of life does not win a batch back."""
    late = claimed(Ledger.open(database_url, clock, elsewhere))
    clock.now = NOON + timedelta(hours=1)
    claimed(ledger)
    with pytest.raises(LostClaim):
        ledger.renew(late)


def test_a_batch_is_not_finished_twice(ledger: Ledger) -> None:
    """The second call is refused, and writes no second alert."""
    claim = claimed(ledger)
    finish(ledger, claim, entry())
    with pytest.raises(LostClaim):
        finish(ledger, claim, entry("another"))
    assert len(ledger.outbox.pending()) == 1


def test_the_verdict_and_its_alerts_come_together(ledger: Ledger) -> None:
    """An alert that cannot be written takes the verdict with it, and the batch stays claimed."""
    claim = claimed(ledger)
    with pytest.raises(TypeError):
        finish(ledger, claim, entry(), OutboxEntry("log", "second", {"not": object()}))
    assert not ledger.batches.history("tiles")
    assert not ledger.outbox.pending()
    assert isinstance(ledger.claim("tiles", "lot-7", "images", "3", "5"), Busy)


def test_an_alert_is_entered_once_for_a_channel(ledger: Ledger) -> None:
    """The same dedupe key enters once for each channel, though two batches bring it."""
    finish(ledger, claimed(ledger), entry("incident"), entry("incident", "webhook"))
    finish(ledger, claimed(ledger, "lot-8", "others"), entry("incident"))
    assert [alert.channel for alert in ledger.outbox.pending()] == ["log", "webhook"]


def test_a_batch_is_done_under_any_model(ledger: Ledger) -> None:
    """A new champion finds the old batches done, and can ask for its own."""
    finish(ledger, claimed(ledger, model="3"))
    assert ledger.batches.is_done("tiles", "images")
    assert ledger.batches.is_done("tiles", "images", model_version="3")
    assert not ledger.batches.is_done("tiles", "images", model_version="4")
    assert not ledger.batches.is_done("steel", "images")


def test_a_batch_is_decided_by_one_version(ledger: Ledger, database_url: str) -> None:
    """Two processes with different champions do not both decide it, neither at once nor one after the other."""
    claim = claimed(ledger, model="3")
    other = Ledger.open(database_url, lambda: NOON)
    assert other.claim("tiles", "lot-7", "images", "4", "6") == Busy(claim.key, claim.owner, NOON)
    finish(ledger, claim, run_id="run-1")
    assert other.claim("tiles", "lot-7", "images", "4", "6") == AlreadyDone(claim.key, "run-1", NOON, "3")


def test_a_batch_is_decided_again_where_that_is_wished(ledger: Ledger) -> None:
    """Another version decides it once more, once; without a decision before it is the first."""
    first = ledger.claim("tiles", "lot-7", "images", "3", "5", again=True)
    assert isinstance(first, Claim)
    assert isinstance(ledger.claim("tiles", "lot-7", "images", "4", "6", again=True), Busy), "the first is not made yet"
    finish(ledger, first, run_id="run-1")
    second = ledger.claim("tiles", "lot-7", "images", "4", "6", again=True)
    assert isinstance(second, Claim)
    assert second.key != first.key
    finish(ledger, second, run_id="run-2")
    assert ledger.claim("tiles", "lot-7", "images", "3", "5", again=True) == AlreadyDone(first.key, "run-1", NOON, "3")
    assert ledger.claim("tiles", "lot-7", "images", "4", "6", again=True) == AlreadyDone(second.key, "run-2", NOON, "4")
    assert [record.model_version for record in ledger.batches.decided("tiles")] in (["3", "4"], ["4", "3"])


def test_whoever_takes_a_batch_over_decides_it_whole(database_url: str, clock: Clock, ledger: Ledger) -> None:
    """What a dead process began with one champion, another one ends with its own: model and calibration together."""
    dead = Ledger.open(database_url, clock, lambda: replace(this_process(), start="then"))
    begun = claimed(dead, model="3")
    taken = ledger.claim("tiles", "lot-7", "images", "4", "6")
    assert isinstance(taken, Claim)
    assert (taken.key, taken.attempt) == (begun.key, 2)
    finish(ledger, taken)
    (record,) = ledger.batches.decided("tiles")
    assert (record.model_version, record.calibration_version) == ("4", "6")


def test_a_claimed_batch_is_not_done(ledger: Ledger) -> None:
    """Being worked on is not being done."""
    claimed(ledger)
    assert not ledger.batches.is_done("tiles", "images")


def test_the_history_is_newest_first_in_any_time_zone(ledger: Ledger, clock: Clock) -> None:
    """Batches are ordered by when they were finished, whatever zone the clock speaks in."""
    west, east = timezone(timedelta(hours=-11)), timezone(timedelta(hours=13))
    for hours, batch, zone in ((0, "first", east), (1, "second", west), (2, "third", UTC), (3, "fourth", east)):
        clock.now = (NOON + timedelta(hours=hours)).astimezone(zone)
        finish(ledger, claimed(ledger, batch, images=batch))
    assert [record.batch for record in ledger.batches.history("tiles", limit=3)] == ["fourth", "third", "second"]
    assert ledger.batches.history("tiles", limit=1)[0].finished_at == NOON + timedelta(hours=3)


def test_the_history_tells_what_was_found(ledger: Ledger) -> None:
    """A record holds the counts, the versions and the verdict as they were given."""
    finish(ledger, claimed(ledger), alarm=True)
    (record,) = ledger.batches.history("tiles")
    assert (record.n_scored, record.n_flagged, record.n_unreadable, record.alarm) == (9, 2, 1, True)
    assert (record.model_version, record.calibration_version, record.attempts) == ("3", "5", 1)
    assert record.verdict == {"severity": "alarm"}


def test_numbers_that_json_lacks_are_null(ledger: Ledger) -> None:
    """A p-value that is not a number does not keep a verdict from being written."""
    finish(ledger, claimed(ledger), verdict={"p": float("nan"), "all": (1.5, float("inf"))})
    assert ledger.batches.history("tiles")[0].verdict == {"p": None, "all": [1.5, None]}


def test_a_name_that_is_no_text_is_kept_escaped(ledger: Ledger) -> None:
    """A folder whose name is no UTF-8 is claimed, finished and shown like any other."""
    name = os.fsdecode(b"lot-\xff")
    finish(ledger, claimed(ledger, name))
    assert [record.batch for record in ledger.batches.history("tiles")] == ["lot-\\udcff"]


def test_an_unchanged_batch_is_known_by_its_files(ledger: Ledger) -> None:
    """The manifest hash is found by the last remembered state of the files, and by no other."""
    ledger.manifests.remember("tiles", "lot-7", "sizes and times", "images")
    assert ledger.manifests.known("tiles", "lot-7", "sizes and times") == "images"
    ledger.manifests.remember("tiles", "lot-7", "later", "other images")
    assert ledger.manifests.known("tiles", "lot-7", "sizes and times") is None
    assert ledger.manifests.known("tiles", "lot-8", "later") is None


def test_remembering_twice_is_remembering(ledger: Ledger) -> None:
    """The same state may be remembered again."""
    for _ in range(2):
        ledger.manifests.remember("tiles", "lot-7", "sizes and times", "images")
    assert ledger.manifests.known("tiles", "lot-7", "sizes and times") == "images"


@pytest.fixture
def alert(ledger: Ledger) -> PendingAlert:
    finish(ledger, claimed(ledger), entry())
    return ledger.outbox.pending(NOON)[0]


def test_an_alert_is_due_at_once(alert: PendingAlert) -> None:
    """A new alert waits for nothing and was never tried."""
    assert (alert.attempts, alert.last_error, alert.next_attempt_at) == (0, None, NOON)
    assert alert.payload == {"text": "It is off."}


def test_one_of_two_senders_gets_an_alert(ledger: Ledger, alert: PendingAlert) -> None:
    """Two that read the same alert do not both send it."""
    assert ledger.outbox.claim(alert) is not None
    assert ledger.outbox.claim(alert) is None


def test_a_dead_senders_alert_is_sent_by_the_next(
    database_url: str, clock: Clock, ledger: Ledger, alert: PendingAlert
) -> None:
    """Who died between claiming an alert and telling what became of it does not hold it."""
    dead = Ledger.open(database_url, clock, lambda: replace(this_process(), start="then"))
    assert dead.outbox.claim(alert) is not None
    assert ledger.outbox.claim(ledger.outbox.pending(NOON)[0]) is not None


def test_what_is_said_later_waits_for_what_was_said_before(ledger: Ledger) -> None:
    """Of two messages on one matter a channel gets the second only after the first; other channels do not wait."""
    finish(ledger, claimed(ledger, "lot-8", "others"), entry("a"), entry("b"), entry("b", "webhook"))
    first, second, elsewhere = ledger.outbox.pending(NOON)
    assert ledger.outbox.claim(second) is None
    assert ledger.outbox.claim(elsewhere) is not None
    ours = ledger.outbox.claim(first)
    assert ours is not None
    assert ledger.outbox.claim(second) is None, "it is on its way, and may fail"
    ledger.outbox.mark_delivered(ours)
    assert ledger.outbox.claim(second) is not None


def test_a_failed_alert_waits(ledger: Ledger, alert: PendingAlert) -> None:
    """An alert that failed is due again at the time given, and remembers why."""
    ours = ledger.outbox.claim(alert)
    assert ours is not None
    ledger.outbox.mark_failed(ours, "nobody answered", NOON + timedelta(minutes=2))
    assert ledger.outbox.pending(NOON + timedelta(minutes=1)) == ()
    (due,) = ledger.outbox.pending(NOON + timedelta(minutes=2))
    assert (due.attempts, due.last_error) == (1, "nobody answered")
    assert ledger.outbox.claim(alert) is None, "what was read before the failure is stale"


def test_a_delivered_alert_is_gone(ledger: Ledger, alert: PendingAlert) -> None:
    """What arrived is not pending any more."""
    ours = ledger.outbox.claim(alert)
    assert ours is not None
    ledger.outbox.mark_delivered(ours)
    assert ledger.outbox.pending() == ()


def test_what_is_written_survives(database_url: str, ledger: Ledger) -> None:
    """Another process finds the batch done."""
    finish(ledger, claimed(ledger))
    ledger.close()
    assert Ledger.open(database_url).batches.is_done("tiles", "images")


def test_what_is_closed_leaves_no_connection_behind(postgresql: PostgreSQL) -> None:
    """Neither its own nor, while the other is at work, that of another ledger at the same address."""
    name = postgresql.new_database()
    at_work, other = (Database.of(postgresql.url(name), utc_now, this_process) for _ in range(2))
    with at_work.transaction():
        assert other.rows(select(1))[0][0] == 1
        other.close()
    at_work.close()
    connected = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
    deadline = time.monotonic() + 10
    while postgresql.execute(connected) != "0":
        assert time.monotonic() < deadline, "a connection was left behind"
        time.sleep(0.05)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A damaged ledger is named in one sentence, and left as it is."""
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(InputError, match=r"the ledger sqlite:.*ledger\.db cannot be used \(file is not a database\)"):
        Ledger.open(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"not a database")


def test_a_folder_is_no_ledger(tmp_path: Path) -> None:
    """A path that cannot be opened is named in one sentence."""
    with pytest.raises(InputError, match=r"cannot be used \(unable to open database file\)"):
        Ledger.open(f"sqlite:///{tmp_path}")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A ledger below a file is refused with what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the ledger .* cannot be created .*: make its folder writable, or name"):
        Ledger.open(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("what:secret@is this", "the ledger's URL cannot be read: write it as sqlite:////"),
        ("nosuch://user:secret@host/name", "the ledger's URL names a database that is not known: write it as"),
        (
            "mysql+pymysql://user:secret@host/name",
            r"the ledger mysql\+pymysql://user:\*\*\*@host/name needs the Python",
        ),
        ("sqlite://", "the ledger sqlite:// would be lost with its process: name a file"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(address: str, sentence: str) -> None:
    """Each wrong URL has a sentence of its own, without the password."""
    with pytest.raises(InputError, match=sentence) as refused:
        Ledger.open(address)
    assert "secret" not in str(refused.value)


def test_times_without_a_zone_are_refused(database_url: str) -> None:
    """A clock that does not say its zone cannot order anything."""
    naive = Ledger.open(database_url, lambda: datetime(2024, 5, 17, 12))
    with pytest.raises(Exception, match="the ledger takes aware times only, not 2024-05-17T12:00:00"):
        claimed(naive)


def test_the_outbox_holds_json(alert: PendingAlert, database_url: str) -> None:
    """Whoever looks into the database with other tools reads JSON."""
    engine = create_engine(database_url)
    with engine.connect() as connection:
        text: str = connection.execute(select(column("payload")).select_from(table("outbox"))).scalar_one()
    engine.dispose()
    assert json.loads(text) == alert.payload
