"""While the ledger's PostgreSQL server is down, the ledger waits as stated; what was decided stays decided, once."""

import re
import time
from collections.abc import Iterator, Sequence

import pytest

from ae_models.errors import InputError
from flows.ledger import AlreadyDone, Claim, Ledger, silence
from flows.waiting import DELAYS, patiently
from tests.outages import Mode, Outage
from tests.postgresql import PostgreSQL

SHORT = (0.05, 0.1, 0.2)

pytestmark = pytest.mark.faults


@pytest.fixture
def outage(postgresql: PostgreSQL) -> Iterator[Outage]:
    """What stands between the ledger and the server."""
    with Outage(postgresql.port) as outage:
        yield outage


@pytest.fixture
def url(postgresql: PostgreSQL, outage: Outage) -> str:
    """The address of an empty database, by way of the outage."""
    return postgresql.url(postgresql.new_database()).replace(f":{postgresql.port}/", f":{outage.port}/")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent server is given up after two seconds, and not after a minute."""
    monkeypatch.setattr(silence, "SECONDS", 2.0)
    monkeypatch.setattr(silence, "CONNECT_SECONDS", 2)


def claimed(ledger: Ledger, batch: str = "monday") -> Claim | AlreadyDone:
    found = ledger.claim("tiles", batch, f"hash of {batch}", "1", "c1")
    assert isinstance(found, Claim | AlreadyDone)
    return found


def finish(ledger: Ledger, claim: Claim) -> None:
    ledger.finish(claim, run_id="r1", verdict={}, alarm=False, n_scored=1, n_flagged=0, n_unreadable=0)


@pytest.mark.parametrize("mode", ["refuse", "hang", "error"])
def test_a_server_that_stays_away_is_one_clear_sentence(outage: Outage, url: str, mode: Mode) -> None:
    """After the stated delays: which ledger, without its password, and what to do."""
    ledger = Ledger.open(url, delays=SHORT[:1])
    claim = claimed(ledger)
    assert isinstance(claim, Claim)
    outage.set(mode)
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"^the ledger postgresql\+psycopg://reconwatch:\*\*\*@.* cannot be used"
    ) as said:
        finish(ledger, claim)
    assert "\n" not in str(said.value)
    assert time.monotonic() - start < 60
    outage.set("pass")
    finish(ledger, claim)
    assert isinstance(claimed(ledger), AlreadyDone)
    assert ledger.batches.count("tiles") == 1
    ledger.close()


def test_a_server_that_restarts_is_waited_for(postgresql: PostgreSQL, url: str) -> None:
    """A batch that was scored meanwhile is finished as if nothing had been."""
    from threading import Timer

    ledger = Ledger.open(url, delays=(0.2,) * 100)
    claim = claimed(ledger)
    assert isinstance(claim, Claim)
    postgresql.stop()
    starter = Timer(1.0, postgresql.start)
    starter.start()
    finish(ledger, claim)
    starter.join()
    assert ledger.batches.count("tiles") == 1
    ledger.close()


def test_a_batch_given_back_during_an_outage_is_taken_again(outage: Outage, url: str) -> None:
    """A process that goes on need not end before it scores the batch that it could not write to have given back."""
    ledger = Ledger.open(url, delays=())
    claim = claimed(ledger)
    assert isinstance(claim, Claim)
    outage.set("refuse")
    with pytest.raises(InputError, match="cannot be used"):
        ledger.release(claim)
    outage.set("pass")
    again = claimed(Ledger.open(url, delays=()))
    assert isinstance(again, Claim)
    assert again.attempt == 2
    ledger.close()


def test_a_wrong_password_is_not_waited_for(url: str) -> None:
    """It would be wrong in a minute too."""
    wrong = re.sub(r"reconwatch:[^@]+@", "reconwatch:wrong@", url)
    start = time.monotonic()
    with pytest.raises(InputError, match="password authentication failed"):
        Ledger.open(wrong, delays=(60.0,))
    assert time.monotonic() - start < 30


def test_an_answer_that_was_lost_is_not_written_twice(outage: Outage, url: str) -> None:
    """Where the server fell silent after it was told something, nothing is told again: whoever comes next looks."""
    ledger = Ledger.open(url, delays=())
    claim = claimed(ledger)
    assert isinstance(claim, Claim)
    outage.set("hang", only=b"COMMIT")
    with pytest.raises(InputError, match="cannot be used"):
        finish(ledger, claim)
    outage.set("pass")
    assert ledger.batches.count("tiles") <= 1
    ledger.close()


class Away(Exception):  # noqa: N818 (it is away)
    pass


def attempts(failures: int, delays: Sequence[float]) -> tuple[list[float], str]:
    slept, left = list[float](), [failures]

    def attempt() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise Away
        return "there"

    return slept, patiently(attempt, lambda error: isinstance(error, Away), delays, sleep=slept.append)


def test_the_delays_are_the_stated_ones() -> None:
    """One, two, five, ten, fifteen and thirty seconds: a minute, which a server takes to start again."""
    assert DELAYS == (1, 2, 5, 10, 15, 30)
    assert attempts(6, DELAYS) == (list(DELAYS), "there")
    with pytest.raises(Away):
        attempts(7, DELAYS)
    assert attempts(0, DELAYS) == ([], "there")


@pytest.mark.slow
def test_a_true_minute(outage: Outage, url: str) -> None:
    """Down for 60 s and then back: the default delays are long enough."""
    from threading import Timer

    ledger = Ledger.open(url)
    claim = claimed(ledger)
    assert isinstance(claim, Claim)
    outage.set("refuse")
    back = Timer(60.0, outage.set, ("pass",))
    back.start()
    finish(ledger, claim)
    back.join()
    assert ledger.batches.count("tiles") == 1
    ledger.close()
