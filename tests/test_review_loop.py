"""The whole loop on real images in a real browser: an alert, labels, a new threshold, a new champion."""

import csv
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from flows.cli import main
from flows.demo import BATCH, DAMAGED, NOMINAL, write_demo
from flows.monitor import monitor_run
from flows.progress import LogProgress
from flows.running import run
from flows.workspace import Workspace, open_workspace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")]

QUIET = LogProgress(logging.getLogger("quiet"))
SECONDS = 60_000  # milliseconds that MLflow's pages may take on a busy machine
FIRST_DAMAGED = NOMINAL + BATCH  # the number of the first image of the batch 2-damaged; as many follow as are damaged


@pytest.fixture
def workspace(
    serve: Callable[[Path], AbstractContextManager[Any]], tmp_path: Path, empty_store: Path
) -> Iterator[Workspace]:
    """Handwritten digits, some of them damaged, with a small network; MLflow's pages are served."""
    write_demo(tmp_path)
    config = tmp_path / "pipelines.yaml"
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    document["pipelines"]["digits"] |= {
        "model": {"network": "linear"},
        "training": {"epochs": 20},
        "threshold": {"false_alarm_rate": 0.05},
        "review": {"audit": 20, "flagged": 30},
    }
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    (tmp_path / ".reconwatch").mkdir()
    (tmp_path / ".reconwatch" / "mlflow.db").write_bytes(empty_store.read_bytes())
    with serve(config) as dashboard:
        workspace = open_workspace(config, {})
        report = run(workspace, "digits", QUIET)
        assert report.failure == ""
        dashboard.wait()
        yield workspace


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(SECONDS)
    yield context.new_page()
    context.close()


def reconwatch(workspace: Workspace, *arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--config", str(workspace.settings.path)])
    code = left.value.code
    return code if isinstance(code, int) else int(bool(code))


def is_damaged(name: str) -> bool:
    """Whether the damage was done to an image of that name."""
    number = int(re.sub(r"\D", "", Path(name).stem))
    return FIRST_DAMAGED <= number < FIRST_DAMAGED + DAMAGED


def label_five_images(page: Page) -> list[str]:
    """Answer five questions of a queue that is open, by what each picture's name tells; the names."""
    page.get_by_role("button", name="Start review").click()
    names = list[str]()
    for number in range(5):
        question = page.get_by_text(re.compile(r"digit-\d+\.png of batch 2-damaged: is something wrong with it\?"))
        expect(question).to_be_visible(timeout=SECONDS)
        expect(page.get_by_text(f"{number} of ", exact=False).first).to_be_visible()
        picture = page.get_by_role("img", name="panel")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.naturalWidth") > 300
        names.append(question.inner_text().split()[0])
        answer = "true outlier" if is_damaged(names[-1]) else "false alarm (nominal)"
        page.get_by_text("Select an option").click()
        page.get_by_role("option", name=answer).click()
        page.get_by_placeholder("Rationale (optional)").fill(f"<b>seen</b> {number}")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_text(f"{number + 1} of ", exact=False).first).to_be_visible(timeout=SECONDS)
        expect(page.get_by_text(names[-1], exact=False)).to_have_count(0, timeout=SECONDS)
    return names


def fill_in(path: Path) -> None:
    """Label what the file asks for and nobody has labelled yet."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if not row["label"]:
            row |= {"label": "outlier" if is_damaged(row["image"]) else "nominal", "reviewer": "bob"}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_the_loop(workspace: Workspace, page: Page, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From the address in an alert to labels, to a threshold with its lineage, to a challenger that decides."""
    (incident,) = [one for one in workspace.ledger.incidents.newest("digits") if one.alert["batch"] == "2-damaged"]
    page.goto(incident.alert["run_url"])
    link = page.get_by_role("link", name="Label its images")
    expect(link).to_be_visible(timeout=SECONDS)
    assert link.get_attribute("href") == incident.alert["review_url"]
    page.goto(incident.alert["review_url"])
    names = label_five_images(page)

    assert reconwatch(workspace, "review", "digits", "--export", str(tmp_path / "labels.csv")) == 0
    labels = workspace.ledger.labels.of("digits")
    assert sorted(Path(label.uri).name for label in labels) == sorted(names)
    assert {(label.way, label.comment[:11]) for label in labels} == {("mlflow", "<b>seen</b>")}
    assert "5 images of digits are labelled" in capfd.readouterr().out
    fill_in(tmp_path / "labels.csv")
    assert reconwatch(workspace, "review", "digits", "--import", str(tmp_path / "labels.csv")) == 0
    assert "Precision: " in capfd.readouterr().out

    assert reconwatch(workspace, "recalibrate", "digits", "--yes") == 0
    assert "Version 2 is champion of digits." in capfd.readouterr().out
    page.goto(workspace.tracking.addresses.version("digits", "2"))
    expect(page.get_by_text("with a new threshold, from the random audit")).to_be_visible(timeout=SECONDS)
    expect(page.get_by_role("cell", name="nominal images", exact=True)).to_be_visible()

    assert reconwatch(workspace, "retrain", "digits") == 0
    assert reconwatch(workspace, "promote", "digits", "--reason", "it learnt from <b>bob</b>") == 0
    inbox = tmp_path / "data" / "inbox"
    (inbox / "1-nominal").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(inbox / "4-next")
    report = run(workspace, "digits", QUIET)
    assert [(batch.batch, batch.version) for batch in report.batches] == [("4-next", "3")]
    page.goto(report.batches[0].run_url or "")
    expect(page.get_by_role("link", name="version 3")).to_be_visible(timeout=SECONDS)
    monitor = monitor_run("digits", workspace.tracking, workspace.ledger)
    page.goto(workspace.tracking.addresses.run("digits", monitor, "monitor.html"))
    marks = page.frame_locator("iframe.mlflow-html-iframe").locator("figure").first
    expect(marks.get_by_text("version 3", exact=True)).to_be_visible(timeout=SECONDS)
    page.goto(workspace.tracking.addresses.version("digits", "3"))
    expect(page.get_by_text(re.compile(r"it learnt from <b>bob</b> \(by "))).to_be_visible(timeout=SECONDS)
