"""The pages: each is one file that needs no network, and whatever names hold is text in it."""

import html.parser
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ae_models.batch_page import BatchPage, Pictures, ShownImage
from ae_models.images import ImageSpec
from ae_models.monitor_page import Chart, MonitorPage, WatchedBatch
from ae_models.pages import EXACT, picture_address

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'\"\u2028\udcff __DATA__ __STYLE__"


class Page(html.parser.HTMLParser):
    """The elements of a page, with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self._inside = tag
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        """Note the text within the element that began last."""
        self.texts.setdefault(self._inside, []).append(data)


def batch_page(words: str = "tile.png") -> BatchPage:
    """A page on a batch of three images and one file that cannot be read, with `words` wherever there is text."""
    pictures = Pictures("data:image/png;base64,AA", "data:image/png;base64,BB", "data:image/png;base64,CC")
    images = [
        ShownImage(words, 0.5, 0.01, ("flagged", "to review"), pictures),
        ShownImage(words, 0.3, 0.02, ("flagged",), None),
        ShownImage(words, None, None, ("not flagged", "random audit"), pictures),
    ]
    return BatchPage(
        title=words,
        state="CRITICAL: defects",
        alarm=True,
        sentences=[words],
        more=[words],
        facts={words: words},
        spec=ImageSpec(8, 12, 1),
        calibration_scores=np.linspace(0.01, 0.1, 99),
        scores=np.array([0.5, 0.3, np.nan]),
        threshold=0.2,
        images=images,
        shown=words,
        unreadable=[(words, words)],
        n_unreadable=7,
        left_out=words,
    )


def monitor_page(words: str = "monday", count: int = 3) -> MonitorPage:
    """A page on as many batches, every third of which alarmed, with `words` wherever there is text."""
    batches = [WatchedBatch(words, words, words, words if place % 3 == 2 else "") for place in range(count)]
    calibrations = ["first"] * (count - 1) + ["second"] * min(1, count)
    values = [0.1 * place for place in range(count)]
    chart = Chart(words, {words: values}, {words: [0.5] * count}, ([0.1] * count, [0.2] * count))
    return MonitorPage(words, [words], batches, calibrations, [chart])


PAGES = {"batch": lambda words: batch_page(words).html(), "monitor": lambda words: monitor_page(words).html()}


def data_of(text: str) -> Any:
    """The data that the page was given."""
    return json.loads(Page(text).texts["script"][0])


@pytest.mark.parametrize("kind", PAGES)
class TestEveryPage:
    """What holds for each of them."""

    def test_it_fetches_nothing(self, kind: str) -> None:
        """No element names an address, and the page forbids itself to load anything."""
        text = PAGES[kind]("tile.png")
        elements = Page(text).elements
        assert [attributes for _, attributes in elements if {"src", "href"} & attributes.keys()] == []
        policies = [str(found["content"]) for tag, found in elements if tag == "meta" and "http-equiv" in found]
        assert [policy.startswith("default-src 'none'; img-src data:;") for policy in policies] == [True]
        assert "http://" not in text
        assert "https://" not in text

    def test_names_are_text_and_nothing_else(self, kind: str) -> None:
        """What looks like markup, or like a place in the template, adds no element and changes no other part."""
        hostile, plain = Page(PAGES[kind](HOSTILE)), Page(PAGES[kind]("tile.png"))
        assert hostile.elements == plain.elements
        assert hostile.texts["script"][1:] == plain.texts["script"][1:]
        assert data_of(PAGES[kind](HOSTILE))["title"] == HOSTILE

    def test_its_script_writes_text_only(self, kind: str) -> None:
        """Nothing that the script does could make markup of a name, and it keeps nothing in the browser."""
        script = Page(PAGES[kind]("tile.png")).texts["script"][-1]
        forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function\(|Storage|cookie|fetch\("
        assert re.findall(forbidden, script) == []

    def test_it_is_plain_ascii(self, kind: str) -> None:
        """A page can be written in any encoding, file names that are no UTF-8 included."""
        PAGES[kind](HOSTILE).encode("ascii")


class TestBatchPage:
    """What the page of a batch holds."""

    def test_it_holds_the_verdict_and_the_images(self) -> None:
        """State, sentences and each image with score, p-value, marks and pictures."""
        held = data_of(batch_page("/a/tile.png").html())
        assert (held["state"], held["sentences"], held["n_unreadable"]) == ("CRITICAL: defects", ["/a/tile.png"], 7)
        first, second, third = held["images"]
        assert (first["name"], first["path"], first["score"], first["p_value"]) == (
            "tile.png",
            "/a/tile.png",
            0.5,
            0.01,
        )
        assert first["pictures"]["heat"] == "data:image/png;base64,CC"
        assert second["pictures"] is None
        assert (third["score"], third["p_value"]) == (None, None)

    def test_images_are_found_by_what_is_said_of_them(self) -> None:
        """The choice names each mark with the number of its images."""
        kinds = data_of(batch_page().html())["kinds"]
        assert kinds == [["all", 3], ["flagged", 2], ["to review", 1], ["not flagged", 1], ["random audit", 1]]

    def test_the_histogram_counts_every_score(self) -> None:
        """Shares of the calibration and of the batch in bins that hold the threshold; what is no number is left out."""
        histogram = data_of(batch_page().html())["histogram"]
        calibration, batch = histogram["groups"]
        assert calibration["name"] == "calibration (99 images)"
        assert sum(calibration["counts"]) == 99
        assert (batch["name"], sum(batch["counts"])) == ("this batch (2 images)", 2)
        assert sum(batch["shares"]) == pytest.approx(1)
        assert histogram["edges"][0] <= histogram["threshold"] <= histogram["edges"][-1]
        assert histogram["logarithmic"] is True

    def test_a_batch_without_a_readable_image_has_a_page(self) -> None:
        """No score, no image, and still a verdict and reasons."""
        held = data_of(replace(batch_page(), images=[], scores=np.empty(0)).html())
        assert held["kinds"] == [["all", 0]]
        assert held["unreadable"] == [["tile.png", "tile.png"]]

    def test_long_words_are_cut_in_their_middle(self) -> None:
        """A path may have thousands of letters, and a reason may hold what a decoder says: a page stays a page."""
        path, reason = f"/begins/{'a' * 5000}/ends.png", "b" * 5000
        image = ShownImage(path, 1.0, 0.5, ("flagged",), None)
        held = data_of(replace(batch_page(), images=[image], unreadable=[("c.png", reason)]).html())
        assert len(held["unreadable"][0][1]) == 305
        assert held["images"][0]["path"].startswith("/begins/aaa")
        assert held["images"][0]["path"].endswith("aaa/ends.png")
        assert held["images"][0]["name"] == "ends.png"


class TestMonitorPage:
    """What the page of a pipeline over time holds."""

    def test_it_holds_batches_alarms_and_recalibrations(self) -> None:
        """Alarms and the places at which another calibration begins to decide are known by place."""
        held = data_of(monitor_page().html())
        assert held["batches"] == [["monday"] * 3] * 3
        assert held["alarms"] == [[2, "monday"]]
        assert held["recalibrations"] == [2]

    def test_limits_are_told_where_they_change(self) -> None:
        """So that a page of thousands of batches stays small; measured values have four digits."""
        chart = Chart("a", {"b": [1 / 3, None, np.nan]}, {"c": [1, 1, 2]})
        held = data_of(replace(monitor_page(), charts=[chart]).html())["charts"][0]
        assert held["series"] == [["b", [0.3333, None, None]]]
        assert held["limits"] == [["c", [[0, 1], [2, 2]]]]
        assert held["band"] is None

    def test_a_page_of_5000_batches_is_small(self) -> None:
        """With nine charts it has less than two megabytes."""
        random = np.random.default_rng(0)
        values = random.random((9, 5000)).tolist()
        charts = [Chart("a", {"b": column}, {"c": [0.5] * 5000}) for column in values]
        assert len(replace(monitor_page("2024-05-17-line-3", 5000), charts=charts).html()) < 2_000_000

    def test_a_pipeline_without_a_batch_has_a_page(self) -> None:
        """Nothing was decided yet."""
        assert data_of(monitor_page(count=0).html())["batches"] == []


class TestPictureAddress:
    """Pictures inside a page."""

    @pytest.mark.parametrize(("side", "kind"), [(EXACT, "png"), (EXACT + 1, "jpeg")])
    def test_small_pictures_keep_their_pixels(self, side: int, kind: str) -> None:
        """Up to 64 pixels they are kept exactly, beyond that they are compressed."""
        assert picture_address(Image.new("L", (side, 8)), 256).startswith(f"data:image/{kind};base64,")

    def test_large_pictures_are_made_smaller(self) -> None:
        """The long side has as many pixels as asked for, and the given picture stays as it is."""
        picture = Image.effect_noise((2000, 1000), 50)
        assert len(picture_address(picture, 128)) < len(picture_address(picture, 256)) / 2
        assert picture.size == (2000, 1000)
