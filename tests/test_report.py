"""The report of a batch: which images it shows, in which order, and how large it becomes."""

import base64
import io
import json
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ae_models.batch_page import draw_pictures
from ae_models.calibration import conformal_threshold
from ae_models.certificate import certify, installed_versions
from ae_models.champion import Champion
from ae_models.detector import Detector
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from flows import report
from flows.config import PipelineConfig
from flows.progress import LogProgress
from flows.report import Report, ScoredBatch, report_on
from flows.scoring import score_batch
from flows.sources import Batch, Item
from flows.tracking import ChampionVersion

QUIET = LogProgress(logging.getLogger("quiet"))
TIME = datetime(2024, 5, 17, 12, 30, tzinfo=UTC)
PIPELINE = PipelineConfig.model_validate({"name": "tiles", "data": {"nominal": "nominal"}})
NOMINAL = np.full((16, 16), 128, np.uint8)


def champion(size: int = 16) -> ChampionVersion:
    """A champion whose calibration scores are those of noise around grey."""
    spec = ImageSpec(size, size, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = Detector(spec, "linear", {}, build_network("linear", spec, {}).eval())
    images = np.random.default_rng(0).uniform(0.4, 0.6, (99, *spec.shape)).astype(np.float32)
    scores = detector.score(images)
    threshold = conformal_threshold(scores, 0.05)
    certificate = certify(detector, threshold, scores, [("a.png", "a")], 0, TIME, installed_versions())
    return ChampionVersion("3", "calibration", "training", Champion(detector, threshold, scores, certificate))


def batch_of(images: Sequence[NDArray[np.uint8] | bytes], left_out: tuple[str, ...] = ()) -> Batch:
    """A batch of these images, or files."""

    def item(number: int, content: NDArray[np.uint8] | bytes) -> Item:
        return Item(f"/inbox/monday/image-{number:03d}.png", lambda: content)

    return Batch("monday", tuple(item(number, content) for number, content in enumerate(images)), left_out)


def damaged(strength: int) -> NDArray[np.uint8]:
    """An image with a checkerboard that scores the higher the stronger it is."""
    checkerboard = np.indices((16, 16)).sum(0) % 2 * 2 - 1
    return np.asarray(NOMINAL + strength * checkerboard, np.uint8)


def drawn(batch: Batch, audit: Sequence[int] = ()) -> tuple[Any, ScoredBatch, Report]:
    """What the page of a batch holds, the scores, and the report; images at the places `audit` are drawn for audit."""
    deciding = champion()
    scored = score_batch(batch, deciding.champion, PIPELINE, QUIET, lambda: None, manifest_hash="")
    scored.table["audit"] = np.isin(np.arange(len(scored.table)), audit)
    made = report_on(batch, deciding, scored, ["More."], TIME)
    return held_by(made.html), scored, made


def held_by(page: str) -> Any:
    """The data of the page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def names(held: Any, mark: str = "flagged") -> list[str]:
    """The images that are so marked, in their order."""
    return [image["name"] for image in held["images"] if mark in image["marks"]]


def opened(address: str) -> Image.Image:
    """The picture of a data address."""
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_flagged_images_come_by_p_value() -> None:
    """The worst is the first, each with score, p-value and pictures; a batch of many shows no unflagged one."""
    held, scored, _ = drawn(batch_of([NOMINAL] * 20 + [damaged(60 + 4 * number) for number in range(14)]))
    assert names(held) == [f"image-{number:03d}.png" for number in range(33, 19, -1)]
    assert len(held["images"]) == 14
    assert held["images"][0]["score"] == pytest.approx(scored.table["score"].max(), rel=1e-5)
    assert held["images"][0]["p_value"] == pytest.approx(0.01)
    assert held["shown"] == "All flagged images (14) are here, by p-value."


def test_images_that_are_asked_about_are_drawn_whether_the_page_shows_them_or_not() -> None:
    """What cannot be read again has no picture, and the page stays as it is."""
    batch = batch_of([damaged(60)] * 14 + [NOMINAL, b"broken"])
    asked = [batch.items[place].uri for place in (14, 0, 15)]
    deciding = champion()
    scored = score_batch(batch, deciding.champion, PIPELINE, QUIET, lambda: None, manifest_hash="")
    made = report_on(batch, deciding, scored, [], TIME, asked=asked)
    assert set(made.asked) == set(asked[:2])
    assert made.html == report_on(batch, deciding, scored, [], TIME).html
    assert "image-014.png" not in names(held_by(made.html))


def test_each_image_is_shown_with_reconstruction_and_heat() -> None:
    """Pixel by pixel where images are small; the heat map is brightest where the error is."""
    broken = NOMINAL.copy()
    broken[2:5, 2:5] = 255
    held, _, _ = drawn(batch_of([NOMINAL] * 3 + [broken]))
    pictures = held["images"][0]["pictures"]
    assert np.array_equal(np.asarray(opened(pictures["input"])), broken)
    assert opened(pictures["reconstruction"]).size == (16, 16)
    heat = np.asarray(opened(pictures["heat"]).convert("L")).astype(float)
    assert heat[2:5, 2:5].min() > heat[8:, 8:].max()


def test_a_nominal_batch_shows_its_highest_scores() -> None:
    """So that people see what nominal images look like to the network."""
    held, scored, _ = drawn(batch_of([damaged(number) for number in range(14)]))
    assert not scored.table["flagged"].any()
    assert names(held, "not flagged") == [f"image-{number:03d}.png" for number in range(13, 1, -1)]
    assert held["shown"] == "No image is flagged; these are the ones with the highest scores."


def test_few_flagged_images_are_not_alone() -> None:
    """Beside them stand the highest scores of the others, for comparison; the page says so."""
    held, _, _ = drawn(batch_of([damaged(90)] * 3 + [NOMINAL] * 20))
    assert [len(names(held, mark)) for mark in ("flagged", "not flagged")] == [3, 9]
    assert held["shown"] == (
        "All flagged images (3) are here, by p-value. After them come the highest scores of the others."
    )


def test_images_drawn_for_audit_are_shown() -> None:
    """They come after the flagged ones, and are marked."""
    held, _, _ = drawn(batch_of([damaged(90)] * 15 + [NOMINAL] * 20), audit=[17, 30])
    assert names(held, "random audit") == ["image-017.png", "image-030.png"]
    assert [image["marks"] for image in held["images"][-2:]] == [["not flagged", "random audit"]] * 2
    assert held["shown"].endswith("Of all that could be read, 2 were drawn at random, for audit.")


def test_unreadable_files_are_named_with_their_reasons() -> None:
    """And those that are no images by name are told."""
    held, _, _ = drawn(batch_of([NOMINAL, b"no image", b""], left_out=("/inbox/monday/<b>.txt",)))
    assert [name for name, _ in held["unreadable"]] == ["image-001.png", "image-002.png"]
    assert held["unreadable"][1][1] == "is empty (0 bytes)"
    assert held["left_out"] == "1 files are no images by name and were left out, such as <b>.txt."


def test_a_batch_without_a_readable_image_has_a_report() -> None:
    """It says so, and has no sheet of worst images."""
    held, _, made = drawn(batch_of([b"", b""]))
    assert (held["images"], held["shown"], held["n_unreadable"]) == ([], "No image could be read.", 2)
    assert made.sheet is None


def test_an_image_that_is_gone_since_is_still_listed() -> None:
    """Files may be moved once they were scored: the row stays, without pictures."""
    contents: list[Any] = [damaged(90), NOMINAL]
    batch = Batch("monday", (Item("/0.png", lambda: contents[0]), Item("/1.png", lambda: contents[1])))
    scored = score_batch(batch, champion().champion, PIPELINE, QUIET, lambda: None, manifest_hash="")
    contents[0] = b""
    held = held_by(report_on(batch, champion(), scored, [], TIME).html)
    assert [(image["name"], image["pictures"] is None) for image in held["images"]] == [
        ("0.png", True),
        ("1.png", False),
    ]


def test_more_flagged_images_than_fit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says how many are not shown, and where they are."""
    monkeypatch.setattr(report, "MOST", 20)
    held, _, _ = drawn(batch_of([damaged(60 + number) for number in range(50)]))
    assert names(held) == [f"image-{number:03d}.png" for number in range(49, 29, -1)]
    assert held["shown"] == (
        "The worst 20 of 50 flagged images are here, by p-value; the other 30 are rows of scores.parquet, beside this "
        "page."
    )


def test_pictures_have_a_limit_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are large fewer are shown, the worst ones, and audited ones keep their room."""
    monkeypatch.setattr(report, "WORST_BYTES", 5_000)
    held, _, made = drawn(batch_of([damaged(60 + number) for number in range(50)] + [NOMINAL] * 30), audit=[70])
    shown = [image for image in held["images"] if "flagged" in image["marks"]]
    assert 1 < len(shown) < 50
    assert sum(len(address) for image in shown for address in image["pictures"].values()) <= 5_000
    assert names(held)[0] == "image-049.png"
    assert names(held, "random audit") == ["image-070.png"]
    assert f"The worst {len(shown)} of 50 flagged images" in held["shown"]
    assert made.sheet is not None


def test_the_largest_page_is_below_5_megabytes() -> None:
    """Flagged images of noise, which compresses badly, with names of thousands of letters, and broken files."""
    random, deciding = np.random.default_rng(0), champion(128)
    pictures = [random.integers(0, 256, (128, 128), dtype=np.uint8) for _ in range(3)]
    contents = [lambda: b"", *(lambda picture=picture: picture for picture in pictures)]
    name = "\u00fc" * 3000
    items = tuple(Item(f"/{name}/{name}{number}.png", contents[number % 4]) for number in range(1200))
    batch = Batch("monday", items)
    scored = score_batch(batch, deciding.champion, PIPELINE, QUIET, lambda: None, manifest_hash="")
    scored.table["audit"] = True
    page = report_on(batch, deciding, scored, ["More."], TIME).html
    assert "flagged images are here" in held_by(page)["shown"]
    assert 2_000_000 < len(page) < 5_000_000


@pytest.mark.parametrize("count", [2, 300])
def test_memory_does_not_grow_with_the_batch(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images are flagged, few are held as pixels at a time."""
    held_at_once = []

    def watched(pixels: NDArray[np.float32], *others: Any) -> Any:
        held_at_once.append(len(pixels))
        return draw_pictures(pixels, *others)

    monkeypatch.setattr(report, "draw_pictures", watched)
    drawn(batch_of([damaged(90)] * count))
    assert max(held_at_once) <= report.AT_ONCE
    assert sum(held_at_once) == min(count, report.MOST)
