"""What people see in a real browser: on a real MLflow server, and of the pages by themselves."""

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect

from flows.monitor import monitor_run
from flows.progress import LogProgress
from flows.running import RunReport, run
from flows.scoring import BatchReport
from flows.workspace import Workspace, open_workspace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")]

QUIET = LogProgress(logging.getLogger("quiet"))
HOSTILE = "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'<script>.png"
SECONDS = 60_000  # milliseconds that MLflow's pages may take on a busy machine


@pytest.fixture(scope="module")
def workspace(dashboard: Any) -> Workspace:
    """The project's, with a damaged image whose name is markup."""
    folder = dashboard.config.parent / "data" / "inbox" / "2-damaged"
    shutil.move(folder / "image-000.png", folder / HOSTILE)
    return open_workspace(dashboard.config, {})


@pytest.fixture(scope="module")
def report(workspace: Workspace, dashboard: Any) -> RunReport:
    """Training, calibration and three batches, while the server starts; then it answers."""
    report = run(workspace, "tiles", QUIET)
    assert not report.failed
    dashboard.wait()
    return report


@pytest.fixture
def damaged(report: RunReport) -> BatchReport:
    """The batch half of which is damaged."""
    return report.batches[1]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new page of the browser; what goes wrong in a script of ours fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert [error for error in errors if "SecurityError" not in error] == []


def framed(page: Page) -> FrameLocator:
    """The page within MLflow's frame."""
    return page.frame_locator("iframe.mlflow-html-iframe")


def opened(page: Page, workspace: Workspace, run_id: str | None, name: str, folder: Path) -> None:
    """Open an artifact by itself, as a file that was downloaded."""
    page.goto(workspace.tracking.artifact(run_id or "", name, folder).as_uri())


class TestInMlflow:
    """From the address that an alert has to the flagged image."""

    def test_a_batch_opens_from_its_address(self, page: Page, damaged: BatchReport) -> None:
        """Its run says the verdict, and a link leads to the report, in which the flagged images are."""
        page.goto(damaged.run_url or "")
        expect(page.get_by_text("10 of 20 images are flagged, where about 1 is expected")).to_be_visible(
            timeout=SECONDS
        )
        link = page.get_by_role("link", name="Open the report")
        page.goto(link.get_attribute("href") or "")
        cards = framed(page).locator(".card")
        expect(cards.first).to_contain_text("1. FLAGGED", timeout=SECONDS)
        expect(framed(page).locator("#state")).to_have_text("WARNING: defects")
        assert framed(page).locator(".card.flag").count() == 10
        expect(framed(page).locator("#labels")).to_contain_text("The run's page, under Overview")

    def test_keys_work_within_the_frame(self, page: Page, workspace: Workspace, damaged: BatchReport) -> None:
        """Enter enlarges an image, arrows lead on and back, plus enlarges further, Escape closes."""
        page.goto(workspace.tracking.addresses.run("tiles", damaged.run_id or "", "report.html"))
        framed(page).locator(".card").first.focus()
        page.keyboard.press("Enter")
        about = framed(page).locator("#about")
        expect(about).to_contain_text("1. FLAGGED")
        page.keyboard.press("ArrowRight")
        expect(about).to_contain_text("2. FLAGGED")
        page.keyboard.press("ArrowLeft")
        expect(about).to_contain_text("1. FLAGGED")
        page.keyboard.press("+")
        expect(framed(page).locator("#zoom")).to_have_text("150%")
        page.keyboard.press("Escape")
        expect(framed(page).locator("#dialog")).to_be_hidden()

    def test_names_are_text(self, page: Page, workspace: Workspace, damaged: BatchReport) -> None:
        """A file whose name is a script is shown by its letters, and runs nothing."""
        page.goto(workspace.tracking.addresses.run("tiles", damaged.run_id or "", "report.html"))
        expect(framed(page).get_by_text(HOSTILE, exact=True)).to_be_visible(timeout=SECONDS)
        assert framed(page).locator("img[src=x]").count() == 0
        assert framed(page).locator("body").evaluate("() => document.title") == "Batch 2-damaged"

    def test_names_are_text_in_the_review_tab(self, page: Page, workspace: Workspace, damaged: BatchReport) -> None:
        """The same file as a question there: its letters are shown, beside its picture."""
        page.goto(damaged.run_url or "")
        page.goto(page.get_by_role("link", name="Label its images").get_attribute("href") or "")
        page.get_by_text(re.compile("onerror")).first.click()
        expect(page.get_by_text(f"{HOSTILE[:80]}"[:40], exact=False).first).to_be_visible(timeout=SECONDS)
        expect(page.get_by_role("img", name="panel")).to_be_visible()
        assert page.locator("img[src=x]").count() == 0
        assert "taken over" not in page.title()

    def test_the_pipeline_over_time_opens(self, page: Page, workspace: Workspace, report: RunReport) -> None:
        """Its page draws every measure, and arrow keys go from batch to batch."""
        run_id = monitor_run("tiles", workspace.tracking, workspace.ledger)
        page.goto(workspace.tracking.addresses.run("tiles", run_id, "monitor.html"))
        readout = framed(page).locator("#readout")
        expect(readout).to_contain_text("Batch 3: 3-unreadable", timeout=SECONDS)
        expect(readout).to_contain_text("ALARM: critical: unreadable")
        assert framed(page).locator("figure svg .series").count() >= 9
        first = framed(page).locator("figure svg").first
        assert first.locator(".limit").count() == 2
        assert first.locator(".band").count() >= 1
        assert (first.locator(".alarms").get_attribute("d") or "").count("M") == 2
        framed(page).locator("#charts").focus()
        page.keyboard.press("ArrowLeft")
        expect(readout).to_contain_text("Batch 2: 2-damaged")

    def test_a_version_leads_to_its_batches(self, page: Page, workspace: Workspace, report: RunReport) -> None:
        """Its page has the certificate, and a link to the runs of the batches that it decided."""
        page.goto(workspace.tracking.addresses.version("tiles", "1"))
        expect(page.get_by_text(re.compile("^It holds for weights"))).to_be_visible(timeout=SECONDS)
        page.get_by_text("Inputs (1)").click()
        expect(page.get_by_text("image (required)")).to_be_visible()
        link = page.get_by_role("link", name="The batches that it decided")
        page.goto(link.get_attribute("href") or "")
        for batch in report.batches:
            expect(page.get_by_role("link", name=f"batch {batch.batch}")).to_be_visible(timeout=SECONDS)
        assert page.get_by_role("link", name="calibrate conformal").count() == 0


class TestByThemselves:
    """The pages as files."""

    def test_images_are_filtered(self, page: Page, workspace: Workspace, damaged: BatchReport, tmp_path: Path) -> None:
        """By what is said of them and by name; next and previous stay within what is shown."""
        opened(page, workspace, damaged.run_id, "report.html", tmp_path)
        page.fill("#words", "image-00")
        expect(page.locator("#count")).to_have_text(re.compile(r"^9 of \d+$"))
        page.fill("#words", "image-003")
        page.locator(".card:visible").click()
        expect(page.locator("#next")).to_be_disabled()
        expect(page.locator("#previous")).to_be_disabled()
        expect(page.locator("#about")).to_contain_text("/2-damaged/image-003.png")
        page.keyboard.press("Escape")
        page.fill("#words", "")
        page.select_option("#kind", "flagged")
        expect(page.locator("#count")).to_have_text(re.compile(r"^10 of \d+$"))

    def test_it_leads_to_where_its_images_are_labelled(
        self, page: Page, workspace: Workspace, damaged: BatchReport, tmp_path: Path
    ) -> None:
        """From a page that no frame holds, a click opens the batch's queue in MLflow."""
        opened(page, workspace, damaged.run_id, "report.html", tmp_path)
        page.get_by_role("link", name="Label its images").click()
        expect(page.get_by_role("button", name="Start review")).to_be_visible(timeout=SECONDS)

    def test_unreadable_files_have_their_reasons(
        self, page: Page, workspace: Workspace, report: RunReport, tmp_path: Path
    ) -> None:
        """A table names each and says why."""
        opened(page, workspace, report.batches[2].run_id, "report.html", tmp_path)
        expect(page.get_by_role("heading", name="Unreadable files (5)")).to_be_visible()
        expect(page.get_by_role("row", name=re.compile("image-000.png"))).to_be_visible()

    @pytest.mark.parametrize("name", ["report.html", "monitor.html"])
    def test_they_fit_a_telephone(
        self, page: Page, workspace: Workspace, damaged: BatchReport, tmp_path: Path, name: str
    ) -> None:
        """Nothing is wider than the screen."""
        page.set_viewport_size({"width": 390, "height": 844})
        run_id = damaged.run_id if name == "report.html" else monitor_run("tiles", workspace.tracking, workspace.ledger)
        opened(page, workspace, run_id, name, tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    @pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(23, 23, 27)")])
    def test_they_follow_the_system(
        self, page: Page, workspace: Workspace, damaged: BatchReport, tmp_path: Path, scheme: Any, paper: str
    ) -> None:
        """Light and dark, as whoever looks has it."""
        page.emulate_media(color_scheme=scheme)
        opened(page, workspace, damaged.run_id, "report.html", tmp_path)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper

    def test_they_can_be_used_without_colour(
        self, page: Page, workspace: Workspace, damaged: BatchReport, tmp_path: Path
    ) -> None:
        """What a frame's colour says is said in words, and the threshold has its number beside it."""
        opened(page, workspace, damaged.run_id, "report.html", tmp_path)
        for card in page.locator(".card.flag").all():
            assert "FLAGGED" in card.inner_text()
        expect(page.locator("#histogram")).to_contain_text("threshold")
        expect(page.locator("#legend")).to_contain_text("Line: calibration")
