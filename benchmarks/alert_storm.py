"""An alert storm: 10,000 flagged batches while every channel fails half of the time; is anything lost or told twice?

    python -m benchmarks.alert_storm [--batches 10000] [--output storm.json]

Each channel posts to a web server in a process of its own on loopback, which answers 500 to half of the requests, drawn
by a seed; half of those it has taken all the same, as a receiver that fails late does. The clock is set by hand, so
that no delay is waited for. Shown without grouping (each batch an incident of its own) and with it.
"""

import argparse
import http.client
import json
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types
from rich.console import Console
from rich.table import Table

from ae_models.monitoring import BatchVerdict
from flows.alerts import DELAYS, Alert, DeliveryFailed, deliver
from flows.config import PipelineConfig
from flows.ledger import Claim, Ledger
from flows.watchdog import after_batch

CHANNELS = ("shift", "quality")
RUN = 90  # flagged batches in a row before clean ones, with grouping
PASS_EVERY = 100  # batches between two passes over the outbox
PROCESSES = multiprocessing.get_context("spawn")


@dataclass
class Clock:
    """A clock that is set by hand."""

    now: datetime = datetime(2024, 5, 17, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Received:
    """What the web server saw: requests by their answer, and how often it took each key, in the order of the first."""

    answers: Counter[str] = field(default_factory=Counter)
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)


def serve(seed: int, pipe: Connection) -> None:
    """The receiver's process: tells its port, and what it received once it is asked to."""
    chance, received = random.Random(seed), Received()

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for many alerts
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            fails, takes = chance.random() < 0.5, chance.random() < 0.5
            if takes or not fails:
                received.taken[self.path.strip("/"), self.headers["Idempotency-Key"]] += 1
            received.answers["500, though it took it" if fails and takes else "500" if fails else "200"] += 1
            self.send_response(500 if fails else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: the table is what is shown."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_port)
    pipe.recv()
    pipe.send(received)


@contextmanager
def receiver(seed: int) -> Iterator[tuple[int, Connection]]:
    """The port of a web server in a process of its own, and the pipe that asks what it received."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=serve, args=(seed, theirs))
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.join()


@dataclass
class Channel:
    """A channel that posts over one connection that is kept: thousands of alerts a minute need that."""

    name: str
    port: int
    connection: http.client.HTTPConnection | None = None

    def send(self, payload: Mapping[str, Any]) -> None:
        connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.port)
        self.connection = connection
        connection.request("POST", f"/{self.name}", json.dumps(payload), {"Idempotency-Key": payload["dedupe_key"]})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise DeliveryFailed(f"answered {answer.status}")

    def close(self) -> None:
        """Ends the connection."""
        if self.connection is not None:
            self.connection.close()


@dataclass(frozen=True)
class Storm:
    """What came of it.

    Attributes:
        memory_early: of the process that decides and sends, in MiB, after a tenth of the passes at most.
        memory_late: the same, at most, in all.
    """

    grouping: str
    flagged_batches: int
    incidents: int
    messages: int
    requests: int
    answered_500: int
    lost: int
    unexpected: int
    sent_again: int
    out_of_order: int
    passes: int
    memory_early: float
    memory_late: float
    seconds: float


def pipeline(grouped: bool) -> PipelineConfig:
    """A pipeline with the channels, whose batches are grouped into incidents, or each one of its own."""
    return PipelineConfig.model_validate(
        {
            "name": "tiles",
            "data": {"nominal": "unused"},
            "alerts": [{"type": "webhook", "name": name, "url": "http://127.0.0.1/"} for name in CHANNELS],
            "incidents": {"close_after": 3 if grouped else 0, "cool_down": "1s"},
        }
    )


def finish(ledger: Ledger, config: PipelineConfig, number: int, flagged: bool) -> None:
    """Decides one batch."""
    claim = ledger.claim(config.name, f"lot-{number}", f"images of lot-{number}", "3", "5")
    assert isinstance(claim, Claim)
    verdict = BatchVerdict(
        200, 20 if flagged else 2, 0, 2.0, 9, 1e-4 if flagged else 0.6, 1.0, 0.01, 0.01,
        "defects" if flagged else "none", "warning" if flagged else "none",
    )  # fmt: skip
    names = tuple(f"image-{place:03d}.png" for place in range(5))
    alert = Alert(config.name, claim.batch, asdict(verdict), "20 of 200 images are flagged.", names, None, claim.key)
    ledger.finish(
        claim,
        run_id="run",
        verdict=asdict(verdict),
        alarm=flagged,
        n_scored=200,
        n_flagged=verdict.flagged,
        n_unreadable=0,
        settle=after_batch(config, claim.key, verdict, alert),
    )


def is_flagged(number: int, grouped: bool) -> bool:
    """Whether a batch of the storm is: all of them, or with grouping all but three after each RUN."""
    return not grouped or number % (RUN + 3) < RUN


def storm(folder: Path, grouped: bool, batches: int, seed: int) -> Storm:
    """Goes through the storm until every message has arrived."""
    start, process, memory = time.perf_counter(), psutil.Process(), []
    clock, config = Clock(), pipeline(grouped)
    ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}", clock)
    flagged, number = 0, 0
    with receiver(seed) as (port, pipe):
        channels = {config.name: {name: Channel(name, port) for name in CHANNELS}}

        def pass_over() -> None:
            deliver(ledger, channels, clock)
            memory.append(process.memory_info().rss / 2**20)

        while flagged < batches:
            clock.now += timedelta(minutes=1)
            finish(ledger, config, number, is_flagged(number, grouped))
            flagged += is_flagged(number, grouped)
            number += 1
            if number % PASS_EVERY == 0:
                pass_over()
        while ledger.outbox.pending(limit=1):
            pass_over()
            clock.now += DELAYS[-1]
        for channel in channels[config.name].values():
            channel.close()
        pipe.send("what did you receive?")
        received: Received = pipe.recv()
    seconds = time.perf_counter() - start
    incidents = ledger.incidents.newest(closed=True)
    keys = [
        (channel, f"{incident.key}/{end}")
        for incident in incidents
        for channel in CHANNELS
        for end in ("first", "resolved")
        if end == "first" or (grouped and incident.closed_at is not None)
    ]
    place = {key: number for number, key in enumerate(received.taken)}
    return Storm(
        grouping="on" if grouped else "off",
        flagged_batches=flagged,
        incidents=len(incidents),
        messages=len(keys),
        requests=received.answers.total(),
        answered_500=received.answers.total() - received.answers["200"],
        lost=len(set(keys) - set(received.taken)),
        unexpected=len(set(received.taken) - set(keys)),
        sent_again=received.taken.total() - len(received.taken),
        out_of_order=sum(
            place[channel, key] < place[channel, key.replace("/resolved", "/first")]
            for channel, key in received.taken
            if key.endswith("/resolved")
        ),
        passes=len(memory),
        memory_early=round(max(memory[: max(1, len(memory) // 10)]), 1),
        memory_late=round(max(memory), 1),
        seconds=round(seconds, 1),
    )


def table(storms: list[Storm]) -> Table:
    """The storms beside each other."""
    shown = Table(title="Alert storm: every channel answers 500 to half of the requests", title_justify="left")
    rows = [asdict(one) for one in storms]
    for column in ("", *(f"grouping {row['grouping']}" for row in rows)):
        shown.add_column(column, justify="right" if column else "left")
    words = {
        "flagged_batches": "flagged batches",
        "incidents": "incidents",
        "messages": f"messages to {len(CHANNELS)} channels",
        "requests": "requests that the receiver saw",
        "answered_500": "of them answered 500",
        "lost": "messages lost",
        "unexpected": "keys that no message has",
        "sent_again": "copies that a receiver drops by their key",
        "out_of_order": "ends told before their beginning",
        "passes": "passes over the outbox",
        "memory_early": "memory in the first tenth of the passes, MiB",
        "memory_late": "memory at its highest, MiB",
        "seconds": "seconds",
    }
    for key, name in words.items():
        shown.add_row(name, *(f"{row[key]:,}" for row in rows))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, default=10_000, help="flagged batches (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the receiver's failures (default: 0)")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    storms = []
    for grouped in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            storms.append(storm(Path(folder), grouped, arguments.batches, arguments.seed))
    Console().print(table(storms))
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(one) for one in storms], indent=2) + "\n", encoding="utf-8")
    if any(one.lost or one.unexpected or one.out_of_order for one in storms):
        raise SystemExit("messages were lost, made up or out of order")


if __name__ == "__main__":
    main()
