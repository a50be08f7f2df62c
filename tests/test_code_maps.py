"""The map of codes for people: the figure, and the page, in which names are only ever text."""

import base64
import html.parser
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ae_models.code_maps import MappedImages, map_figure, map_page
from ae_models.embeddings import CodeMap

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'\"$x_{1}$ \\ "


def drawn(names: tuple[str, ...] = ("cup (75%)", "plate (100%)")) -> CodeMap:
    """A map of six images in two clusters."""
    points = np.array([[0, 0], [1, 0], [0, 1], [10, 10], [11, 10], [10, 11]], float)
    return CodeMap(points, "PCA", np.array([0, 0, 0, 1, 1, 1]), names, np.array([[0, 0], [10, 10]], float))


def images(
    name: str = "a.png",
    kinds: tuple[str, str] = ("cup", "plate"),
    flagged: NDArray[np.bool_] | None = None,
    size: tuple[int, int, int] = (1, 8, 8),
) -> MappedImages:
    """What is known of the six images."""
    pixels = np.linspace(0, 1, 6 * int(np.prod(size)), dtype=np.float32).reshape(6, *size)
    return MappedImages([name] * 6, [kinds[0]] * 3 + [kinds[1]] * 3, np.arange(6) / 10, flagged, pixels)


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


def data_of(text: str) -> Any:
    """The data that the page was given."""
    return json.loads(Page(text).texts["script"][0])


def legend(figure: Figure) -> list[str]:
    """The words of the figure's legend."""
    found = figure.axes[0].get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


class TestPage:
    """One file that needs no network."""

    def test_it_holds_every_image(self) -> None:
        """Place, kind, score, flag, file and a picture of each."""
        flagged = np.array([False, False, False, False, False, True])
        held = data_of(map_page(drawn(), images(flagged=flagged), "tiles"))
        assert [image["name"] for image in held["images"]] == ["a.png"] * 6
        assert [held["kinds"][image["kind"]] for image in held["images"]] == ["cup"] * 3 + ["plate"] * 3
        assert [image["score"] for image in held["images"]] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
        assert [image["flagged"] for image in held["images"]] == flagged.tolist()
        assert [name for name, *_ in held["clusters"]] == ["cup (75%)", "plate (100%)"]
        places = np.array([image["place"] for image in held["images"]])
        assert places.min() == 0
        assert places.max() == 1

    def test_its_thumbnails_are_the_images(self) -> None:
        """Small images are shown pixel by pixel, grey or in colour."""
        for size, mode in (((1, 8, 8), "L"), ((3, 8, 8), "RGB")):
            held = data_of(map_page(drawn(), images(size=size), "tiles"))
            kind, content = held["images"][-1]["thumbnail"].split(",")
            picture = Image.open(io.BytesIO(base64.b64decode(content)))
            assert (kind, picture.mode, picture.size) == ("data:image/png;base64", mode, (8, 8))
            expected = np.rint(images(size=size).pixels[-1] * 255).transpose(1, 2, 0).squeeze()
            assert np.array_equal(np.asarray(picture), expected)

    def test_large_images_are_made_small(self) -> None:
        """A thumbnail's long side is 64 pixels, so that a page of thousands of images stays a page."""
        held = data_of(map_page(drawn(), images(size=(1, 100, 200)), "tiles"))
        content = held["images"][0]["thumbnail"].split(",")[1]
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (64, 32)

    def test_names_are_text_and_nothing_else(self) -> None:
        """A file, label, cluster or title that looks like markup adds no element, and arrives letter by letter."""
        text = map_page(drawn((HOSTILE, HOSTILE)), images(HOSTILE, (HOSTILE, "plate")), HOSTILE)
        plain = map_page(drawn(), images(), "tiles")
        assert [tag for tag, _ in Page(text).elements] == [tag for tag, _ in Page(plain).elements]
        held = data_of(text)
        assert held["title"] == held["kinds"][0] == held["images"][0]["name"] == held["clusters"][0][0] == HOSTILE

    def test_the_script_writes_text_only(self) -> None:
        """What the page shows is set as text: nothing that its script does could make markup of it."""
        script = Page(map_page(drawn(), images(), "tiles")).texts["script"][-1]
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function\(", script)

    def test_it_fetches_nothing(self) -> None:
        """No element names an address, and the page forbids itself to load anything."""
        text = map_page(drawn(), images(), "tiles")
        elements = Page(text).elements
        assert [attributes for _, attributes in elements if {"src", "href"} & attributes.keys()] == []
        policies = [a["content"] for tag, a in elements if tag == "meta" and "http-equiv" in a]
        assert len(policies) == 1
        assert str(policies[0]).startswith("default-src 'none'; img-src data:;")
        assert "http://" not in text
        assert "https://" not in text

    def test_scores_that_are_no_numbers_are_valid_json(self) -> None:
        """NaN has no place in JSON, and a page with it would stay empty."""
        broken = images()
        broken.scores[2] = np.nan
        assert data_of(map_page(drawn(), broken, "tiles"))["images"][2]["score"] == 0

    def test_a_single_image_has_a_page(self) -> None:
        """A map without extent is drawn in its middle."""
        one = CodeMap(np.zeros((1, 2)), "PCA", np.zeros(1, np.int64), ("cluster 1",), np.zeros((1, 2)))
        known = images()
        image = MappedImages(known.names[:1], known.kinds[:1], known.scores[:1], None, known.pixels[:1])
        assert data_of(map_page(one, image, "tiles"))["images"][0]["place"] == [0.5, 0.5]


class TestFigure:
    """The same map as a picture."""

    def test_it_names_kinds_and_clusters(self) -> None:
        """The legend has the kinds, the map the clusters' names."""
        figure = map_figure(drawn(), images(), "tiles")
        assert legend(figure) == ["cup", "plate"]
        assert [text.get_text() for text in figure.axes[0].texts] == ["cup (75%)", "plate (100%)"]

    def test_flagged_images_have_a_ring(self) -> None:
        """Only they, in their places; without any there is no entry for them."""
        figure = map_figure(drawn(), images(flagged=np.arange(6) > 3), "tiles")
        assert legend(figure) == ["cup", "plate", "flagged"]
        assert np.asarray(figure.axes[0].collections[-1].get_offsets()).tolist() == [[11, 10], [10, 11]]
        assert legend(map_figure(drawn(), images(flagged=np.zeros(6, bool)), "tiles")) == ["cup", "plate"]

    @pytest.mark.parametrize("name", ["$x_{", "_hidden", "$", "", HOSTILE])
    def test_any_name_is_drawn_as_it_is(self, name: str) -> None:
        """What matplotlib would take for a formula or for a hidden entry is drawn letter by letter."""
        figure = map_figure(drawn((name, name)), images(kinds=(name, "plate")), name)
        figure.savefig(io.BytesIO())
        assert len(legend(figure)) == 2
