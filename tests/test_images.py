"""What happens to each kind of image: every odd one has one defined behaviour, and the reason is a sentence to read."""

import io
import math
import os
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from ae_models.errors import InputError
from ae_models.images import (
    MAX_PIXELS,
    ImageSpec,
    Unreadable,
    UnreadableImage,
    decode,
    infer_spec,
    looks_like_a_document,
    read,
    read_or_reason,
    stream,
    stream_through,
)

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
GREY = RGB[..., 0]
DEEP = np.random.default_rng(1).integers(0, 65536, (40, 60), dtype=np.uint16)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file's bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG file that declares a size and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def reason(source: object) -> str:
    """Why the image cannot be decoded."""
    with pytest.raises(UnreadableImage) as caught:
        decode(source)  # type: ignore[arg-type]  # some tests hand in what is no image on purpose
    return str(caught.value)


def test_spec_survives_json() -> None:
    """A spec is stored as three named numbers and comes back equal."""
    spec = ImageSpec(28, 32, 3)
    assert ImageSpec.from_json(spec.to_json()) == spec
    assert spec.shape == (3, 28, 32)


@pytest.mark.parametrize("stored", [{"height": 1, "width": 1}, {"height": 1, "width": 1, "channels": 1, "depth": 8}])
def test_spec_json_is_strict(stored: dict[str, int]) -> None:
    """A missing or unknown key is an error that names the keys."""
    with pytest.raises(InputError, match=r"holds exactly \['channels', 'height', 'width'\]"):
        ImageSpec.from_json(stored)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 1, 2), (1.5, 1, 1), (True, 1, 1)])
def test_spec_refuses_sizes_that_are_none(sizes: tuple[int, int, int]) -> None:
    """Heights and widths are whole numbers from 1 on; channels are 1 or 3."""
    with pytest.raises(InputError, match="not"):
        ImageSpec(*sizes)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_give_their_pixels(kind: str) -> None:
    """Decoding a lossless file gives exactly what was saved."""
    np.testing.assert_array_equal(decode(encoded(RGB, kind)), RGB)


@pytest.mark.parametrize(
    "spec", [ImageSpec(13, 17, 3), ImageSpec(13, 17, 1), ImageSpec(90, 95, 3), ImageSpec(40, 60, 1)]
)
def test_file_pixels_and_floats_agree(spec: ImageSpec) -> None:
    """A file, its uint8 pixels, its float pixels and its Pillow image give the same to 1e-6, for any size."""
    expected = read(encoded(RGB), spec)
    for source in (RGB, RGB / 255, (RGB / 255).astype(np.float32), Image.fromarray(RGB)):
        np.testing.assert_allclose(read(source, spec), expected, atol=1e-6)


def test_transparent_file_and_float_pixels_agree() -> None:
    """Composition over black keeps fractions, so RGBA as a file and as floats agree to 1e-6."""
    rgba = np.dstack([RGB, GREY])
    spec = ImageSpec(20, 20, 3)
    np.testing.assert_allclose(read(encoded(rgba), spec), read(rgba / 255, spec), atol=1e-6)


def test_fitting_image_is_not_resampled() -> None:
    """Where the size fits, pixels are only divided by 255."""
    np.testing.assert_array_equal(read(GREY, ImageSpec(40, 60, 1))[0], (GREY / 255).astype(np.float32))


def test_reduction_is_antialiased() -> None:
    """A checkerboard reduced far becomes even grey, not a moiré pattern."""
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    np.testing.assert_allclose(read(board, ImageSpec(16, 16, 1)), 0.5, atol=0.02)


def test_grey_of_rgb_is_rec_601_luma() -> None:
    """Pure green reads as 0.587 where one channel is wanted."""
    green = np.zeros((4, 4, 3), np.uint8)
    green[..., 1] = 255
    np.testing.assert_allclose(read(green, ImageSpec(4, 4, 1)), 0.587, atol=1e-6)


def test_grey_is_repeated_for_rgb() -> None:
    """A grey image has three equal channels where three are wanted."""
    pixels = read(GREY, ImageSpec(20, 20, 3))
    np.testing.assert_array_equal(pixels[0], pixels[2])


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_shapes_fit_the_spec(shape: tuple[int, int]) -> None:
    """One pixel and a line are resized like any image."""
    np.testing.assert_allclose(read(encoded(np.full(shape, 51, np.uint8)), ImageSpec(8, 9, 1)), 0.2, atol=1e-6)


def test_missing_file_says_so(tmp_path: Path) -> None:
    """A path without a file."""
    assert reason(tmp_path / "part.png") == "does not exist"


def test_folder_says_so(tmp_path: Path) -> None:
    """A folder where a file should be."""
    assert reason(tmp_path) == "is a folder, not an image file"


def test_empty_file_says_so(tmp_path: Path) -> None:
    """A file of 0 bytes, and as bytes."""
    (tmp_path / "part.png").touch()
    assert reason(tmp_path / "part.png") == reason(b"") == "is empty (0 bytes)"


def test_text_is_no_image() -> None:
    """Bytes that begin like no format; the formats that are read are listed."""
    expected = "is no image, or in none of the formats that are read (PNG, JPEG, BMP, TIFF, WEBP, GIF, PPM)"
    assert reason(b"this is text") == expected


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "JPEG2000"])
def test_other_formats_of_pillow_are_refused(kind: str) -> None:
    """What Pillow could open beyond the list, above all PostScript, is not opened."""
    assert "none of the formats" in reason(encoded(RGB, kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_truncated_file_is_unreadable(kind: str) -> None:
    """Half a file is damaged; no grey remainder is passed on."""
    content = encoded(RGB, kind)
    assert "is damaged: " in reason(content[: len(content) // 2])


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {"compression": "tiff_lzw"}), ("PNG", {})])
def test_file_without_a_usable_header_is_called_by_its_name(kind: str, options: dict[str, str]) -> None:
    """A file cut within (or before) its directory is named by its first bytes."""
    content = encoded(RGB, kind, **options)
    expected = f"begins like a {kind} but is truncated, damaged or of a pixel type that cannot be read"
    assert reason(content[:40]) == expected


def test_giant_header_is_refused_before_decoding() -> None:
    """A header of 10,000,000,000 pixels is enough to refuse."""
    assert reason(png_header(100_000, 100_000)) == f"has more than the {MAX_PIXELS:,} pixels that are read"


def test_slightly_too_large_image_is_refused_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    """Above the limit at which Pillow only warns, the size is said and nothing is warned of."""
    assert reason(png_header(9_500, 9_500)) == "has 9500 x 9500 pixels, more than the 89,478,485 that are read"
    assert not recwarn.list


def test_giant_array_is_refused_too() -> None:
    """The limit is the same for pixels that need no decoding."""
    assert "has 10000 x 10000 pixels" in reason(np.broadcast_to(np.uint8(0), (10_000, 10_000)))


def test_palette_becomes_colour() -> None:
    """A palette image reads as the colours it shows."""
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette)), np.asarray(palette.convert("RGB")))


def test_one_bit_is_black_and_white() -> None:
    """A 1-bit image has 0 and 255, and so has an array of bool."""
    bits = GREY > 127
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits))), bits * np.uint8(255))
    np.testing.assert_array_equal(decode(bits), bits * np.uint8(255))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_laid_over_black(mode: str) -> None:
    """Half-transparent pixels have half their brightness."""
    image = Image.fromarray(RGB).convert(mode)
    image.putalpha(51)
    opaque = np.asarray(image)[..., 0] / 255
    pixels = decode(encoded(image))
    np.testing.assert_allclose(pixels if mode == "LA" else pixels[..., 0], opaque / 5, atol=1e-6)


def test_opaque_alpha_changes_nothing() -> None:
    """An alpha channel of 255 everywhere is as if not there."""
    np.testing.assert_array_equal(decode(np.dstack([RGB, np.full_like(GREY, 255)])), RGB)


def test_transparent_palette_entry_is_black() -> None:
    """The palette's transparent colour shows the black behind it."""
    image = Image.fromarray(GREY // 64).convert("P")
    pixels = decode(encoded(image, transparency=3))
    assert pixels[GREY // 64 == 3].max() == 0


def test_transparent_value_of_16_bit_grey_is_black() -> None:
    """A PNG may declare one 16-bit grey value transparent."""
    value = int(DEEP[3, 4])
    assert decode(encoded(DEEP, transparency=value))[3, 4] == 0


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(mode: str) -> None:
    """CMYK, YCbCr and LAB files read as RGB near the colours they were made of."""
    smooth = np.asarray(Image.fromarray(RGB).resize((4, 4), Image.Resampling.BOX).resize((60, 40)))
    pixels = decode(encoded(Image.fromarray(smooth).convert(mode), "TIFF"))
    np.testing.assert_allclose(pixels.astype(float), smooth, atol=6)


@pytest.mark.parametrize("content", [encoded(DEEP), encoded(DEEP, "TIFF"), DEEP, DEEP.astype(">u2")])
def test_16_bit_grey_is_divided_by_65535(content: bytes | np.ndarray) -> None:
    """PNG, TIFF and arrays of either byte order keep all 16 bits."""
    np.testing.assert_allclose(decode(content), DEEP / 65535, atol=1e-6)


def test_big_endian_16_bit_image_is_read_alike() -> None:
    """Pillow's mode I;16B has the same values."""
    image = Image.frombytes("I;16B", (60, 40), DEEP.astype(">u2").tobytes())
    np.testing.assert_allclose(decode(image), DEEP / 65535, atol=1e-6)


def test_16_bit_rgb_png_is_read_with_8_bits() -> None:
    """Pillow keeps the upper 8 of 16 bits of each colour; the image is readable."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.repeat(DEEP[..., None], 3, axis=2).astype(">u2"))
    content = png_header(60, 40).replace(b"\x08\x02\0\0\0", b"\x10\x02\0\0\0")
    header = content[12:29]
    data = zlib.compress(rows)
    content = (
        content[:29]
        + struct.pack(">I", zlib.crc32(header))
        + struct.pack(">I", len(data))
        + b"IDAT"
        + data
        + struct.pack(">I", zlib.crc32(b"IDAT" + data))
        + content[-12:]
    )
    np.testing.assert_array_equal(decode(content)[..., 0], DEEP >> 8)


def test_32_bit_integers_within_16_bits_are_read() -> None:
    """32-bit integers up to 65535 are 16-bit values in a larger cell."""
    np.testing.assert_allclose(decode(encoded(DEEP.astype(np.int32), "TIFF")), DEEP / 65535, atol=1e-6)


def test_32_bit_integers_beyond_16_bits_have_no_white() -> None:
    """Larger integers have no known full scale."""
    content = encoded(np.array([[-1, 70_000]], np.int32), "TIFF")
    assert reason(content) == "holds 32-bit values from -1 to 70000; only 0 to 65535 can be read"


def test_float_tiff_keeps_its_values() -> None:
    """Floating-point pixels in [0, 1] are taken as they are."""
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(decode(encoded(values, "TIFF")), values)


@pytest.mark.parametrize("as_file", [True, False])
def test_nan_is_said(as_file: bool) -> None:
    """NaN in a float TIFF or an array is counted in the reason."""
    values = np.array([[0.5, np.nan]], np.float32)
    assert reason(encoded(values, "TIFF") if as_file else values) == "holds NaN or infinite values (1 of 2)"


@pytest.mark.parametrize("as_file", [True, False])
def test_range_is_said(as_file: bool) -> None:
    """Floats out of [0, 1] are named, not clipped."""
    values = np.array([[-0.5, 12]], np.float32)
    expected = "holds values from -0.5 to 12; floating-point pixels must lie in [0, 1]"
    assert reason(encoded(values, "TIFF") if as_file else values) == expected


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind: str) -> None:
    """Animations and multi-page files are refused, so that no frame is silently skipped."""
    others = [Image.fromarray(RGB // (index + 2)) for index in range(4)]
    content = encoded(RGB, kind, save_all=True, append_images=others)
    assert reason(content) == "holds 5 frames; write each frame as an image file of its own"


def test_telephone_picture_is_its_first_frame() -> None:
    """An MPO file's first image is the picture; the others are previews or another view."""
    content = encoded(RGB, "MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    np.testing.assert_array_equal(decode(content), decode(encoded(RGB, "JPEG")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(kind: str, orientation: int) -> None:
    """Every EXIF orientation is turned upright, exactly once, whatever the format."""
    scene = np.full((64, 96, 3), 20, np.uint8)
    scene[:16, :16], scene[:16, 80:] = 240, 140
    to_stored = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # the turn that the tag undoes
    methods = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's transpositions, by orientation
    image = Image.fromarray(scene)
    if orientation > 1:
        image = image.transpose(Image.Transpose(methods[to_stored[orientation]]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    np.testing.assert_allclose(decode(content).astype(float), scene, atol=16)


def test_broken_metadata_are_no_obstacle() -> None:
    """Sound pixels with corrupt EXIF are read, without a word, also where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(GREY, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff broken")).shape == (40, 60)


def test_warnings_of_pillow_are_no_errors_in_any_thread() -> None:
    """TIFF files whose metadata Pillow warns of are read in four threads while another thread swaps the filters."""
    content = encoded(RGB, "TIFF", tiffinfo={270: "x" * 50})
    place = content.index(struct.pack("<HH", 270, 2))
    odd = content[: place + 4] + struct.pack("<I", 10**6) + content[place + 8 :]  # a tag larger than the file
    done = threading.Event()

    def swap_filters() -> None:
        while not done.is_set():
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                time.sleep(0.001)

    swapping = threading.Thread(target=swap_filters)
    swapping.start()
    try:
        batches = list(stream([odd] * 200, ImageSpec(8, 8, 1), threads=4))
    finally:
        done.set()
        swapping.join()
    assert [batch.unreadable for batch in batches] == [()] * len(batches)


def test_pillow_settings_stay_untouched() -> None:
    """Reading sets no global of Pillow."""
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    read_or_reason(encoded(RGB)[:500], ImageSpec(8, 8, 1))
    after = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    assert after == before


@settings(deadline=None)
@given(place=st.integers(0, 3000), value=st.integers(0, 255), kind=st.sampled_from(["PNG", "JPEG", "TIFF", "GIF"]))
def test_damage_anywhere_is_a_reason_or_pixels(place: int, value: int, kind: str) -> None:
    """Whatever byte is wrong, the outcome is pixels in [0, 1] or a reason, never another exception."""
    content = bytearray(encoded(RGB, kind))
    content[place % len(content)] = value
    outcome = read_or_reason(bytes(content), ImageSpec(4, 4, 1))
    assert outcome.reason if isinstance(outcome, Unreadable) else 0 <= outcome.min() <= outcome.max() <= 1


@pytest.mark.parametrize(
    "pixels",
    [GREY[..., None], GREY[None], np.moveaxis(RGB, 2, 0), RGB, np.dstack([RGB, GREY])],
    ids=["(H, W, 1)", "(1, H, W)", "(3, H, W)", "(H, W, 3)", "(H, W, 4)"],
)
def test_array_layouts_have_the_image_s_size(pixels: np.ndarray) -> None:
    """Channels may come first or last; height and width are found."""
    assert decode(pixels).shape[:2] == (40, 60)


@pytest.mark.parametrize("shape", [(5,), (5, 5, 2), (4, 5, 5), (2, 5, 5, 3), (0, 5), (5, 0, 3)])
def test_other_shapes_are_named(shape: tuple[int, ...]) -> None:
    """A shape that is no image is said."""
    assert reason(np.zeros(shape)).startswith(f"is an array of shape {shape}; give (H, W)")


def test_other_dtypes_are_named() -> None:
    """int64 has no full scale; the dtypes that are read are listed."""
    expected = "is an array of int64; give uint8 (0 to 255), uint16 (0 to 65535), bool or float in [0, 1]"
    assert reason(np.zeros((2, 2), np.int64)) == expected


def test_other_objects_are_named() -> None:
    """A string is not taken for a path."""
    assert reason("part.png") == "is a str; give a Path, bytes, an array or a Pillow image"


def test_stream_keeps_order_and_reports_the_unreadable() -> None:
    """Batches come in the order of the sources, each with its pixels, their places and the reasons of the others."""
    sources = [np.full((3, 3), index, np.uint8) if index % 10 else b"" for index in range(150)]
    batches = list(stream(sources, ImageSpec(2, 2, 1), batch_size=64, threads=3))
    assert [len(batch.indices) + len(batch.unreadable) for batch in batches] == [64, 64, 22]
    places = np.concatenate([batch.indices for batch in batches])
    np.testing.assert_array_equal(places, [index for index in range(150) if index % 10])
    np.testing.assert_allclose(np.concatenate([batch.pixels for batch in batches])[:, 0, 0, 0], places / 255, atol=1e-6)
    assert batches[0].unreadable[:2] == ((0, "is empty (0 bytes)"), (10, "is empty (0 bytes)"))


def test_batch_without_readable_images_is_empty() -> None:
    """Its pixels have the spec's shape and no rows."""
    (batch,) = stream([b"", b""], ImageSpec(5, 4, 3))
    assert batch.pixels.shape == (0, 3, 5, 4)
    assert batch.pixels.dtype == np.float32
    assert batch.indices.dtype == np.int64


def test_stream_of_nothing_gives_no_batch() -> None:
    """No sources, no batches."""
    assert list(stream([], ImageSpec(5, 4, 3))) == []


def test_stream_does_not_run_ahead() -> None:
    """When the first of endlessly many batches is given, only the next one has been taken from the sources as well."""
    taken = []

    def sources() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield GREY

    batches = stream(sources(), ImageSpec(4, 4, 1), batch_size=10)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # stream is a generator, its annotation the plainer Iterator
    assert len(taken) == 20


def test_stopped_stream_leaves_no_threads() -> None:
    """Leaving the loop early ends the pool."""
    batches = stream([GREY] * 100, ImageSpec(4, 4, 1), batch_size=10, threads=2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # stream is a generator, its annotation the plainer Iterator
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


class TestStreamThrough:
    """Batches that are decoded and worked on by the same threads."""

    @pytest.mark.parametrize("threads", [1, 2, 5])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_same_pixels_as_one_by_one(self, threads: int, channels: int, tmp_path: Path) -> None:
        """In the order of the sources, to the last bit, plain files of the size itself or not, and reasons too."""
        spec, sources = ImageSpec(40, 60, channels), list[Path | bytes]()
        for number, kind in enumerate(["PNG", "JPEG", "PNG", "BMP"] * 12):
            shape = (40, 60) if number % 3 else (60, 40)
            pixels = np.random.default_rng(number).integers(0, 256, (*shape, 3) if number % 5 else shape, np.uint8)
            content = encoded(pixels, kind)
            (tmp_path / f"{number}").write_bytes(content)
            sources += [tmp_path / f"{number}", content if number % 7 else b""]
        seen = list(stream_through(sources, spec, lambda part: part, 16, threads))
        indices = np.concatenate([part.indices for part in seen])
        pixels = np.concatenate([part.pixels for part in seen])
        expected = [read(sources[index], spec) for index in indices]
        np.testing.assert_array_equal(pixels, expected)
        unreadable = [each for part in seen for each in part.unreadable]
        assert unreadable == [(place, "is empty (0 bytes)") for place, source in enumerate(sources) if source == b""]
        assert sorted([*indices, *(place for place, _ in unreadable)]) == list(range(len(sources)))

    def test_it_does_not_run_ahead(self) -> None:
        """At most one batch more is begun than there are threads, and none is left behind by who stops."""
        taken = []

        def sources() -> Iterator[np.ndarray]:
            while True:
                taken.append(1)
                yield GREY

        parts = stream_through(sources(), ImageSpec(4, 4, 1), lambda part: len(part.indices), 10, 2)
        assert next(parts) == 10
        parts.close()  # type: ignore[attr-defined]  # it is a generator, its annotation the plainer Iterator
        assert len(taken) == 30
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("score")]

    @pytest.mark.parametrize("quick_ones", [0, 20])
    def test_slow_sources_are_read_at_the_same_time(self, quick_ones: int) -> None:
        """Each of two waits until the other is read too, whatever came before them: in turn neither would ever be."""
        both = threading.Barrier(2)

        def slow() -> np.ndarray:
            both.wait(60)
            return GREY

        sources = [GREY] * quick_ones + [slow, slow]
        parts = stream_through(sources, ImageSpec(4, 4, 1), lambda part: len(part.indices), 1, 2)
        assert list(parts) == [1] * len(sources)

    def test_quick_images_are_decoded_in_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One thread at a time, as long as they are quick and the wait is not too long."""
        monkeypatch.setattr("ae_models.images.QUICK", math.inf)
        monkeypatch.setattr("ae_models.images.PATIENCE", 60)
        others = threading.Lock()

        def alone() -> np.ndarray:
            assert others.acquire(blocking=False)
            time.sleep(0.001)  # gives the other threads the interpreter
            others.release()
            return GREY

        assert list(stream_through([alone] * 40, ImageSpec(4, 4, 1), lambda part: 1, 4, 4)) == [1] * 10

    def test_what_the_work_raises_ends_it(self) -> None:
        """As an outage of a source does."""
        with pytest.raises(ZeroDivisionError):
            list(stream_through([GREY] * 3, ImageSpec(4, 4, 1), lambda part: 1 / 0))

    def test_nothing(self) -> None:
        """No sources, no work."""
        assert list(stream_through([], ImageSpec(5, 4, 3), lambda part: 1 / 0)) == []


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nor opened: who writes into it would be told that somebody reads."""
    os.mkfifo(tmp_path / "pipe.png")
    (batch,) = stream([tmp_path / "pipe.png"], ImageSpec(4, 4, 1))
    assert batch.unreadable == ((0, "is no regular file"),)


def test_stream_fetches_through_callables() -> None:
    """A callable is called for its image; the UnreadableImage that it raises is that image's reason."""

    def gone() -> bytes:
        raise UnreadableImage("was deleted")

    (batch,) = stream([lambda: GREY, gone], ImageSpec(4, 4, 1))
    assert batch.indices.tolist() == [0]
    assert batch.unreadable == ((1, "was deleted"),)


def test_outage_ends_the_stream() -> None:
    """Any other error of a callable is no property of the image and is raised."""

    def outage() -> bytes:
        raise ConnectionError("no route to host")

    with pytest.raises(ConnectionError, match="no route to host"):
        list(stream([outage], ImageSpec(4, 4, 1)))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((28, 28), (28, 28)), ((300, 600), (128, 256)), ((200, 100), (200, 100)), ((100, 2000), (26, 512))],
)
def test_inferred_size_is_brought_down_in_proportion(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    """The short side is at most 128 and the long one at most 512, by one factor; nothing is scaled up."""
    spec = infer_spec([np.zeros(shape, np.uint8)] * 3)
    assert (spec.height, spec.width) == expected


def test_inferred_size_is_the_median_of_the_readable() -> None:
    """One large image and an unreadable one do not change the size."""
    sources = [np.zeros((side, side), np.uint8) for side in (20, 20, 20, 90)]
    assert infer_spec([b"", *sources]) == ImageSpec(20, 20, 1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inferred_size_is_that_of_the_upright_image(kind: str) -> None:
    """An image on its side by EXIF is counted as it is seen."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert infer_spec([encoded(GREY, kind, exif=exif)]) == ImageSpec(60, 40, 1)


def test_grey_stored_as_rgb_is_grey() -> None:
    """Three equal channels in all images looked at are one."""
    assert infer_spec([encoded(np.dstack([GREY] * 3)), encoded(GREY)]).channels == 1


def test_one_coloured_image_makes_the_set_coloured() -> None:
    """Colour in any image looked at asks for three channels."""
    assert infer_spec([encoded(GREY), encoded(RGB), encoded(GREY)]).channels == 3


def test_no_readable_image_says_why(tmp_path: Path) -> None:
    """The error names a file and its reason."""
    with pytest.raises(InputError, match=r"None of the 1 images looked at can be read \(.*gone.png does not exist\)"):
        infer_spec([tmp_path / "gone.png"])


@pytest.mark.parametrize("name", ["labels.CSV", "notes.txt", "Thumbs.db", "desktop.ini", ".DS_Store", "a.png.sha256"])
def test_sidecar_files_are_documents(name: str) -> None:
    """Files that lie beside images by habit are told by their names."""
    assert looks_like_a_document(Path("folder") / name)


@pytest.mark.parametrize("name", ["part.png", "part", "part.heic", "part.tmp", "part.csv.png"])
def test_every_other_file_counts_as_an_image(name: str) -> None:
    """What is not known to be a document is read, and reported where it cannot be."""
    assert not looks_like_a_document(Path("folder") / name)
