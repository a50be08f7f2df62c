"""The pictures: their sizes, what they mark, and that no image, caption or score is too odd to be drawn."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import beta

from ae_models.calibration import conformal_threshold
from ae_models.curves import OperatingPoint, detection_curves
from ae_models.panels import (
    ALARM,
    MARGIN,
    PAPER,
    TILE,
    contact_sheet,
    curves_figure,
    defect_sheet,
    heat_map,
    loss_figure,
    reconstruction_sheet,
    score_histogram,
    threshold_caption,
    to_picture,
)
from ae_models.synthetic_defects import draw_defects
from ae_models.training import Epoch

Pixels = NDArray[np.float32]
PANEL_WIDTH = 3 * TILE + 4 * MARGIN


def pictures(count: int, height: int = 8, width: int = 8, channels: int = 1) -> Pixels:
    """Images (count, C, H, W) in [0, 1]."""
    return np.random.default_rng(0).random((count, channels, height, width), dtype=np.float32)


def sheet(
    images: Pixels,
    *,
    error_maps: Pixels | None = None,
    captions: list[str] | None = None,
    flagged: list[bool] | None = None,
    across: int = 3,
) -> NDArray[np.uint8]:
    """The contact sheet (H, W, 3) of the images beside themselves."""
    count = len(images)
    maps = np.zeros_like(images[:, 0]) if error_maps is None else error_maps
    picture = contact_sheet(
        images, images, maps, captions or ["name"] * count, flagged or [False] * count, panels_across=across
    )
    return np.asarray(picture)


def places(drawn: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Where a sheet (H, W, 3) has exactly this colour: (H, W)."""
    return np.asarray((drawn == colour).all(axis=2))


def error_tile(drawn: NDArray[np.uint8], panel: int = 0) -> NDArray[np.uint8]:
    """The error map of one square panel of a sheet's first row, as drawn."""
    left = MARGIN + panel * (PANEL_WIDTH + MARGIN) + MARGIN + 2 * (TILE + MARGIN)
    return drawn[MARGIN + 20 : MARGIN + 20 + TILE, left : left + TILE]


def as_png(figure: Figure) -> bytes:
    """The figure as MLflow gets it."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def legend(figure: Figure) -> list[str]:
    """The texts of the first legend."""
    box = figure.legends[0] if figure.legends else figure.axes[0].get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]


class TestContactSheet:
    """Input, reconstruction and error of each image, with its caption."""

    @pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 3, 2), (7, 3, 3)])
    def test_it_is_as_large_as_its_panels(self, count: int, columns: int, rows: int) -> None:
        """Three panels stand in a row, the last row may be short, and a single panel has no empty ones beside it."""
        drawn = sheet(pictures(count))
        panel_height = TILE + 52
        assert drawn.shape == (
            MARGIN + rows * (panel_height + MARGIN),
            MARGIN + columns * (PANEL_WIDTH + MARGIN),
            3,
        )

    def test_panels_across_can_be_chosen(self) -> None:
        """One panel in a row makes a column."""
        assert sheet(pictures(3), across=1).shape[1] == MARGIN + PANEL_WIDTH + MARGIN

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize(("height", "width"), [(8, 8), (200, 300), (128, 8), (8, 128), (1, 512), (512, 1), (1, 1)])
    def test_any_shape_is_drawn(self, height: int, width: int, channels: int) -> None:
        """Grey and RGB, large, elongated and tiny images have a panel of full width, so that its caption has room."""
        drawn = sheet(pictures(2, height, width, channels), flagged=[True, False])
        assert drawn.shape[1] == MARGIN + 2 * (PANEL_WIDTH + MARGIN)
        assert drawn.shape[0] <= TILE + 52 + 2 * MARGIN

    def test_a_flagged_image_is_framed(self) -> None:
        """A frame in the alarm's colour runs around the flagged panel and no other."""
        drawn = sheet(pictures(3), flagged=[False, True, False])
        left, top = MARGIN + PANEL_WIDTH + MARGIN, MARGIN
        red = places(drawn, ALARM)
        assert red[top, left : left + PANEL_WIDTH].all()
        assert red[top : top + TILE + 52, [left, left + PANEL_WIDTH - 1]].all()
        assert not red[:, : left - 1].any()
        assert not red[:, left + PANEL_WIDTH :].any()

    def test_nothing_is_red_where_nothing_is_flagged(self) -> None:
        """The alarm's colour is kept for alarms."""
        assert not places(sheet(pictures(3)), ALARM).any()

    def test_a_flagged_image_says_so(self) -> None:
        """Beside the colour there is the word, so the caption differs from an unflagged one of the same place."""
        word = sheet(pictures(1), captions=["FLAGGED  name"])
        flagged = sheet(pictures(1), captions=["name"], flagged=[True])
        below = slice(MARGIN + TILE + 22, MARGIN + TILE + 48), slice(MARGIN + 4, MARGIN + PANEL_WIDTH - 4)
        assert np.array_equal(places(word, PAPER)[below], places(flagged, PAPER)[below])

    @pytest.mark.parametrize("character", ["\n", "\r", "\t", "\x00", "\x1b", "\u202e", "\udcff"], ids=ascii)
    def test_control_characters_are_shown_as_question_marks(self, character: str) -> None:
        """A name cannot break the line, turn the text around or stop the drawing."""
        images = pictures(1)
        assert np.array_equal(sheet(images, captions=[f"a{character}b.png"]), sheet(images, captions=["a?b.png"]))

    @pytest.mark.parametrize("name", ["", " ", "Grüße.png", "图像.png", "🙂.png", "a" * 100_000])
    def test_any_name_is_drawn(self, name: str) -> None:
        """Names that are empty, of any script, or longer than any file system allows change no sizes."""
        assert sheet(pictures(1), captions=[name], flagged=[True]).shape == sheet(pictures(1)).shape

    def test_a_long_name_is_cut_in_its_middle(self) -> None:
        """Both ends stay to be read, and nothing is drawn beyond the panel."""
        images, middle = pictures(1), "m" * 300
        drawn = sheet(images, captions=[f"first {middle} last"])
        assert np.array_equal(drawn, sheet(images, captions=[f"first {middle}{middle} last"]))
        assert not np.array_equal(drawn, sheet(images, captions=[f"other {middle} last"]))
        assert not np.array_equal(drawn, sheet(images, captions=[f"first {middle} other"]))
        assert (drawn[:, MARGIN + PANEL_WIDTH :] == 255).all()

    def test_error_maps_share_one_scale(self) -> None:
        """An image with little error is darker than one with much, and none is black."""
        maps = np.stack([np.full((8, 8), 0.01), np.full((8, 8), 0.5), np.zeros((8, 8))]).astype(np.float32)
        drawn = sheet(pictures(3), error_maps=maps)
        little, much, none = (error_tile(drawn, panel).mean() for panel in range(3))
        assert none < little < much

    def test_no_error_at_all_is_black(self) -> None:
        """Perfect reconstructions have dark error maps and are no division by zero."""
        assert error_tile(sheet(pictures(2))).max() < 10

    def test_a_single_wrong_pixel_is_seen(self) -> None:
        """Where all but a few pixels are without error, the scale is that of the few."""
        maps = np.zeros((1, 64, 64), np.float32)
        maps[0, 10, 10] = 1e-4
        assert error_tile(sheet(pictures(1, 64, 64), error_maps=maps)).max() > 200

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_an_error_that_is_no_number_is_the_brightest(self, value: float) -> None:
        """The image whose network gave NaN stands out, and the other images' scale is theirs."""
        images, maps = pictures(2), np.random.default_rng(0).random((2, 8, 8), dtype=np.float32)
        alone = error_tile(sheet(images[:1], error_maps=maps[:1]))
        maps[1] = value
        drawn = sheet(images, error_maps=maps)
        assert np.array_equal(error_tile(drawn, 0), alone)
        assert (error_tile(drawn, 1) == np.asarray(heat_map(np.ones((1, 1), np.float32), 1.0))[0, 0]).all()

    def test_nothing_but_nan_is_drawn(self) -> None:
        """Reconstructions and error maps that are all NaN make a sheet like any other."""
        nothing = np.full((2, 1, 8, 8), np.nan, np.float32)
        picture = contact_sheet(pictures(2), nothing, nothing[:, 0], ["a", "b"], [True, True])
        assert picture.size == (MARGIN + 2 * (PANEL_WIDTH + MARGIN), TILE + 52 + 2 * MARGIN)

    def test_it_saves_as_png(self, tmp_path: Path) -> None:
        """The file opens again as the same picture."""
        picture = contact_sheet(pictures(2), pictures(2), pictures(2)[:, 0], ["a", "b"], [True, False])
        picture.save(tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as stored:
            assert (stored.format, stored.mode, stored.size) == ("PNG", "RGB", picture.size)

    def test_captions_of_another_number_are_a_mistake(self) -> None:
        """A caption is never put below another's image."""
        with pytest.raises(ValueError, match="shorter"):
            sheet(pictures(2), captions=["one"])


class TestReconstructionSheet:
    """Images above their reconstructions."""

    @pytest.mark.parametrize("count", [1, 6])
    def test_it_has_a_column_for_each_image(self, count: int) -> None:
        """All stand in one row."""
        picture = reconstruction_sheet(pictures(count), pictures(count))
        assert picture.size == (MARGIN + count * (TILE + MARGIN), 2 * (TILE + 4) + 2 * MARGIN)

    def test_the_image_is_above(self) -> None:
        """White images over black reconstructions."""
        drawn = np.asarray(reconstruction_sheet(np.ones((1, 3, 8, 8), np.float32), np.zeros((1, 3, 8, 8), np.float32)))
        assert drawn[MARGIN + 5, MARGIN + 5].tolist() == [255, 255, 255]
        assert drawn[MARGIN + TILE + 4 + 5, MARGIN + 5].tolist() == [0, 0, 0]


class TestPictures:
    """From numbers to colours."""

    def test_grey_becomes_rgb(self) -> None:
        """Each of the three channels has the grey value, rounded to eight bits."""
        picture = np.asarray(to_picture(np.array([[[0.0, 0.5, 1.0]]], np.float32)))
        assert picture.tolist() == [[[0] * 3, [128] * 3, [255] * 3]]

    def test_colours_keep_their_order(self) -> None:
        """Red stays red."""
        assert np.asarray(to_picture(np.array([[[1.0]], [[0.2]], [[0.0]]], np.float32))).tolist() == [[[255, 51, 0]]]

    def test_values_beyond_the_range_are_cut(self) -> None:
        """A reconstruction may leave [0, 1], or be no number: it is black or white then, and never wraps around."""
        picture = to_picture(np.array([[[-0.3, 1.7, np.nan, np.inf, -np.inf]]], np.float32))
        assert np.asarray(picture)[0, :, 0].tolist() == [0, 255, 0, 255, 0]

    def test_hotter_is_brighter(self) -> None:
        """Colours grow from black to the brightest at `top`, and stay there above it."""
        colours = np.asarray(heat_map(np.array([[0, 0.25, 0.5, 1, 7]], np.float32), 1.0))[0].astype(int)
        brightness = colours.sum(axis=1)
        assert (np.diff(brightness[:4]) > 0).all()
        assert colours[4].tolist() == colours[3].tolist()


class TestHistogram:
    """The scores of groups of images, with the threshold."""

    @pytest.mark.parametrize(
        "scores",
        [
            [0.1, 0.2, 0.4],
            [0.1] * 5,
            [0.0] * 5,
            [0.0, 0.1],
            [0.3],
            [np.nan, 0.1, np.inf],
            [np.nan] * 3,
            [],
            [1e-310, 9e9],
        ],
    )
    def test_any_scores_are_drawn(self, scores: list[float]) -> None:
        """Equal, zero, single, missing and extreme scores all make a picture, without a warning."""
        groups = {"calibration": np.array([0.05, 0.08, 0.1]), "this batch": np.array(scores)}
        assert as_png(score_histogram(groups, 0.1)).startswith(b"\x89PNG")

    def test_a_threshold_of_zero_is_no_obstacle(self) -> None:
        """Zero has no place on a logarithmic axis; the scores are drawn all the same."""
        assert as_png(score_histogram({"all zero": np.zeros(4)}, 0.0)).startswith(b"\x89PNG")

    def test_scores_below_zero_stand_where_they_are(self) -> None:
        """Scores of fused detectors lie on both sides of 0, and no bar gathers those that a logarithm cannot show."""
        figure = score_histogram({"only": np.array([-3.0, -1.0, 0.5, 4.0])}, 3.0)
        (axes,) = figure.axes
        assert axes.get_xscale() == "linear"
        heights = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
        assert [height for height in heights if height] == [0.25] * 4

    @pytest.mark.parametrize("scores", [[0.0] * 4, [0.2] * 4, [0.0, 0.1, 0.2, 0.2, np.nan, np.inf]])
    def test_bars_are_shares_of_the_group(self, scores: list[float]) -> None:
        """The bars of a group add up to one, scores of zero included and those that are no number left out."""
        figure = score_histogram({"only": np.array(scores)}, 0.1)
        assert sum(bar.get_height() for bar in figure.axes[0].patches if isinstance(bar, Rectangle)) == pytest.approx(1)

    def test_the_legend_names_groups_and_threshold(self) -> None:
        """Each group with its number of finite scores, and the threshold's value."""
        groups = {
            "calibration": np.array([0.1, 0.2]),
            "this batch": np.array([0.3, np.nan]),
            "none": np.array([np.nan]),
        }
        assert sorted(legend(score_histogram(groups, 0.25))) == ["calibration (2)", "this batch (1)", "threshold 0.25"]


class TestCurves:
    """Losses by epoch, and what labelled images say."""

    @pytest.mark.parametrize("count", [1, 5])
    def test_losses_are_drawn_with_the_baseline(self, count: int) -> None:
        """Training, validation and principal components are there, a single epoch as points that can be seen."""
        figure = loss_figure([Epoch(number, 0.1 / number, 0.2 / number, 0.0) for number in range(1, count + 1)], 0.05)
        assert legend(figure) == ["training", "validation", "principal components, validation"]
        assert all(line.get_marker() != "None" for line in figure.axes[0].get_lines()[:2])
        assert as_png(figure).startswith(b"\x89PNG")

    def test_a_baseline_without_loss_is_no_obstacle(self) -> None:
        """Identical images leave principal components without any error."""
        assert as_png(loss_figure([Epoch(1, 0.1, 0.2, 0.0)], 0.0)).startswith(b"\x89PNG")

    @pytest.mark.parametrize("scores", [[1, 2, 3, 4], [4, 3, 2, 1], [1, 1, 1, 1], [1, 3, 2, 4]])
    def test_any_detector_has_curves(self, scores: list[float]) -> None:
        """A perfect, a reversed, a constant and an ordinary score make a picture, without a warning."""
        curves = detection_curves(scores, [0, 0, 1, 1])
        figure = curves_figure({"network": curves, "baseline": curves}, {"network": "linear", "baseline": "PCA"})
        assert legend(figure) == ["linear", "PCA"]
        assert as_png(figure).startswith(b"\x89PNG")

    @pytest.mark.parametrize("value", [0.25, 0.45, 0.0, 1.0])
    def test_the_threshold_has_its_place_in_them(self, value: float) -> None:
        """A point on each curve, where all are flagged or none is too, and precision and recall by threshold."""
        scores, truth = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.array([0, 0, 1, 0, 1, 1], bool)
        flags = scores > value
        at = OperatingPoint.of(value, flags, truth)
        rate, recall = flags[~truth].mean(), flags[truth].mean()
        figure = curves_figure({"network": detection_curves(scores, truth)}, {"network": "linear"}, at)
        roc, precision_recall, det, by_threshold = figure.axes
        precision = truth[flags].mean() if flags.any() else 1
        for axes, place in ((roc, (rate, recall)), (precision_recall, (recall, precision)), (det, (rate, 1 - recall))):
            (point,) = [line for line in axes.lines if line.get_marker() == "o"]
            assert np.ravel(point.get_xydata()) == pytest.approx(place)
        assert legend(figure) == ["linear", "the threshold"]
        assert by_threshold.get_title() == "precision and recall by threshold"
        assert as_png(figure).startswith(b"\x89PNG")


def test_the_threshold_in_one_line() -> None:
    """Its value, and the band in which the share of nominal images above it lies."""
    threshold = conformal_threshold(np.arange(1, 100) / 100, 0.05)
    low, high = beta.ppf(0.05, 5, 95), beta.ppf(0.95, 5, 95)  # Vovk 2012, for the fifth highest of 99
    assert threshold_caption(threshold) == (
        f"threshold 0.95: {low:.2%} to {high:.2%} of nominal images lie above it (90% band)"
    )


def test_defect_sheet_has_a_panel_a_kind() -> None:
    """Of each kind as many defects as asked for stand beside each other: more of them make the panels wider."""
    defects = draw_defects(pictures(3, 16, 16), per_kind=3, seed=0, kinds=("spots", "step"))
    narrow, wide = defect_sheet(defects, shown=2), defect_sheet(defects, shown=3)
    assert narrow.height == wide.height
    assert narrow.width > 2 * 2 * TILE
    assert wide.width - narrow.width >= 2 * TILE
