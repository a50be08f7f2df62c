"""While MLflow, its store or the network is down, nothing is lost, nothing is done twice, and nothing hangs."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from ae_models.errors import InputError
from flows import running
from flows.config import PipelineConfig
from flows.progress import Progress
from flows.scoring import BatchReport
from flows.sources import Batch
from flows.tracking import ChampionVersion, TrackingUnavailable, store
from flows.workspace import Patience, Workspace, open_workspace
from tests.outages import Mode, Outage
from tests.ports import free_port

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*"),
]

DOWN: tuple[Mode, ...] = ("refuse", "hang", "error")


class Heard:
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.said = list[str]()

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    warn = say

    def track(self, what: str, total: int) -> Any:
        from flows.progress import LogProgress

        return LogProgress(logging.getLogger("quiet")).track(what, total)


@dataclass(frozen=True)
class Site:
    """A pipeline whose MLflow server is reached through something that can fail."""

    config: Path
    outage: Outage
    behind: str

    def workspace(self, goes_on: bool = True) -> Workspace:
        """Its stores, as a run that goes on without MLflow opens them."""
        return open_workspace(self.config, {"MLFLOW_TRACKING_URI": self.outage.url}, patience=Patience(goes_on=goes_on))

    def arrive(self, name: str, small_images: Callable[[Path, int, int], list[Path]], seed: int) -> None:
        """A new batch in the inbox."""
        small_images(self.config.parent / "data" / "inbox" / name, 12, seed)

    def runs(self, key: str) -> list[Any]:
        """The runs in MLflow of a batch's key, asked past the outage."""
        client = MlflowClient(self.behind, self.behind)
        ids = [each.experiment_id for each in client.search_experiments()]
        return list(client.search_runs(ids, f"tags.`reconwatch.key` = '{key}'"))


@pytest.fixture(scope="module")
def site(
    project: Callable[..., Path],
    serve: Callable[[Path], AbstractContextManager[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A trained and calibrated pipeline that has scored its first batches through a server on loopback."""
    served, own = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("site")
    with serve(project(served)) as dashboard, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(store, "SIGN_OF_LIFE", 1.0)
        for name, value in (("TIMEOUT", "20"), ("MAX_RETRIES", "1"), ("BACKOFF_FACTOR", "0")):
            monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
        config = project(own)
        shutil.rmtree(own / ".reconwatch")
        dashboard.wait()
        port = int(dashboard.url.rpartition(":")[2])
        with Outage(port) as outage:
            site = Site(config, outage, dashboard.url)
            report = running.run(site.workspace(goes_on=False), "tiles", Heard())
            assert report.failure == ""
            yield site


@pytest.fixture(autouse=True)
def up_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """The next test finds the server up."""
    yield
    if "site" in request.fixturenames:
        request.getfixturevalue("site").outage.set("pass")


@pytest.mark.parametrize("mode", DOWN)
def test_a_batch_is_decided_while_the_server_is_away(
    site: Site, mode: Mode, small_images: Callable[[Path, int, int], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last champion decides it, the verdict is final, its run waits; the next run delivers that, and once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    site.arrive(f"away-{mode}", small_images, 10 + DOWN.index(mode))
    site.outage.set(mode)
    heard = Heard()
    report = running.run(site.workspace(), "tiles", heard)
    assert (report.failure, [(batch.outcome, batch.run_id) for batch in report.batches]) == ("", [("scored", None)])
    assert any("version 1 of tiles, which decided last, decides on" in sentence for sentence in heard.said)
    assert any("its verdict stands, its run waits in " in sentence for sentence in heard.said)
    workspace = site.workspace()
    record = workspace.ledger.batches.history("tiles", 1)[0]
    assert (record.batch, record.run_id, record.n_scored) == (f"away-{mode}", "", 12)
    assert site.runs(record.key) == []
    again = running.run(site.workspace(), "tiles", Heard())
    assert again.batches == ()

    site.outage.set("pass")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    heard = Heard()
    assert running.score(site.workspace(), "tiles", (), heard) == ()
    assert "1 runs of tiles that waited for MLflow are there now." in heard.said
    (run,) = site.runs(record.key)
    assert run.info.status == "FINISHED"
    delivered = site.workspace().ledger.batches.finished(record.key)
    assert delivered is not None
    assert delivered.run_id == run.info.run_id
    assert len(site.workspace().tracking.scores(run.info.run_id)) == 12
    assert site.workspace().ledger.queues.of(record.key) is not None
    assert list((site.config.parent / ".reconwatch" / "spool" / "tiles").iterdir()) == []
    assert site.workspace().ledger.timeline.points("tiles")[-1].batch.key == record.key


@pytest.mark.parametrize(("mode", "only"), [("refuse", b""), ("hang", b""), ("error", b""), ("error", b"log-batch")])
def test_the_server_goes_away_while_batches_are_scored(
    site: Site,
    mode: Mode,
    only: bytes,
    small_images: Callable[[Path, int, int], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first batch is in MLflow, the others wait; so do they where the server takes only a part of a run."""
    names = [f"during-{mode}-{len(only)}-{number}" for number in range(3)]
    for number, name in enumerate(names):
        site.arrive(name, small_images, 100 + 10 * len(only) + 3 * DOWN.index(mode) + number)

    def one(
        pipeline: PipelineConfig,
        batch: Batch,
        champion: ChampionVersion,
        workspace: Workspace,
        progress: Progress,
        again: bool = False,
    ) -> BatchReport:
        report = running.score_one(pipeline, batch, champion, workspace, progress, again)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
        site.outage.set(mode, only)
        return report

    reports = running.score(site.workspace(goes_on=False), "tiles", (), Heard(), one)
    assert [(report.batch, report.outcome, report.run_id is None) for report in reports] == [
        (names[0], "scored", False),
        (names[1], "scored", True),
        (names[2], "scored", True),
    ]
    site.outage.set("pass")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    assert running.score(site.workspace(), "tiles", (), Heard()) == ()
    for record in site.workspace().ledger.batches.history("tiles", 3):
        assert [run.info.run_id for run in site.runs(record.key)] == [record.run_id]


def test_a_run_that_waits_and_was_damaged_is_said(
    site: Site, small_images: Callable[[Path, int, int], list[Path]]
) -> None:
    """Half a file is not delivered as if it were whole; the verdict stands."""
    site.arrive("damaged-wait", small_images, 300)
    site.outage.set("refuse")
    assert not running.run(site.workspace(), "tiles", Heard()).failed
    (scores,) = (site.config.parent / ".reconwatch" / "spool" / "tiles").glob("*/files/scores.parquet")
    scores.write_bytes(scores.read_bytes()[:100])
    site.outage.set("pass")
    heard = Heard()
    running.score(site.workspace(), "tiles", (), heard)
    assert any("is damaged and is not delivered: its verdict stands" in sentence for sentence in heard.said)
    assert site.workspace().ledger.batches.history("tiles", 1)[0].batch == "damaged-wait"


@pytest.mark.parametrize("mode", DOWN)
def test_training_says_what_is_wrong_in_one_sentence(site: Site, mode: Mode) -> None:
    """What cannot be done without MLflow waits for it as long as is stated, and then fails with its one sentence."""
    site.outage.set(mode)
    waited = list[str]()
    patience = Patience(waits=True, say=waited.append)
    environment = {"MLFLOW_TRACKING_URI": site.outage.url, "RECONWATCH_SERVER_WAITS": "0.1,0.2"}
    with pytest.raises(TrackingUnavailable, match=r"^the MLflow server http://127.0.0.1:\d+ does not answer \([^\n]+$"):
        open_workspace(site.config, environment, patience=patience)
    assert [sentence.rpartition("; ")[2] for sentence in waited] == ["trying again in 0.1 s", "trying again in 0.2 s"]


def test_a_server_that_comes_back_in_time_is_used(site: Site) -> None:
    """The wait ends with the first answer."""
    site.outage.set("refuse")
    patience = Patience(waits=True, say=lambda _: site.outage.set("pass"))
    environment = {"MLFLOW_TRACKING_URI": site.outage.url, "RECONWATCH_SERVER_WAITS": "0.1,60,60"}
    workspace = open_workspace(site.config, environment, patience=patience)
    assert workspace.tracking.registry.champion_version("tiles") is not None


def test_without_a_champion_kept_it_says_so(project: Callable[..., Path], tmp_path: Path) -> None:
    """A workspace that never scored has nothing to go on with."""
    port = free_port()
    config = project(tmp_path)
    environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
    workspace = open_workspace(config, environment, patience=Patience(goes_on=True))
    report = running.run(workspace, "tiles", Heard())
    assert "this workspace keeps no champion of 'tiles' to go on with" in report.failure
    assert "\n" not in report.failure


@pytest.mark.parametrize("words", ["soon", "1,-1", "1,,2", "nan"])
def test_waits_that_are_no_seconds_are_refused(project: Callable[..., Path], tmp_path: Path, words: str) -> None:
    """The variable is named with what it holds and what it takes."""
    with pytest.raises(InputError, match=r"RECONWATCH_SERVER_WAITS is .*: write seconds between commas"):
        open_workspace(project(tmp_path), {"RECONWATCH_SERVER_WAITS": words})
