"""What networks are worth as compressors: quantised codes, the error in decibels, and their picture."""

import math

import numpy as np
import pytest

from ae_models.baselines import fit_principal_components
from ae_models.compression import Compression, compression_figure, measure_compression, psnr, quantise
from ae_models.embeddings import coder_of
from ae_models.images import ImageSpec


def test_psnr_is_that_of_its_definition() -> None:
    """An error of a tenth of white at every pixel is 20 dB, no error infinite."""
    images = np.full((3, 1, 4, 4), 0.5, np.float32)
    assert psnr(images, images + 0.1) == pytest.approx(20)
    assert psnr(images, images) == math.inf


def test_values_that_no_image_has_are_cut_before_they_are_compared() -> None:
    """Principal components leave [0, 1]; a picture of theirs would not."""
    white = np.ones((1, 1, 4, 4), np.float32)
    assert psnr(white, white * 1.5) == math.inf


def test_quantised_codes_have_256_levels() -> None:
    """Each number is at most half a level off, and takes 256 values at most."""
    codes = np.random.default_rng(0).normal(5, 3, (5000, 2)).astype(np.float32)
    low, high = codes.min(axis=0), codes.max(axis=0)
    quantised = quantise(codes, low, high)
    assert np.abs(quantised - codes).max() <= (high - low).max() / 255 / 2 + 1e-5
    assert [len(np.unique(column)) <= 256 for column in quantised.T] == [True, True]


def test_codes_outside_the_known_range_come_to_its_ends() -> None:
    """The range is that of other images; a code beyond it takes the nearest level."""
    codes = np.array([[-5.0], [5.0]], np.float32)
    assert quantise(codes, np.array([0.0], np.float32), np.array([1.0], np.float32)).tolist() == [[0], [1]]


def test_numbers_that_never_differ_stay_as_they_are() -> None:
    """A range of nothing has one level."""
    codes = np.full((4, 1), 3.0, np.float32)
    assert np.array_equal(quantise(codes, codes[0], codes[0]), codes)


def test_larger_codes_leave_less_error() -> None:
    """Principal components: eight bits a number, more numbers more decibels, quantised a little fewer."""
    spec, random = ImageSpec(8, 8, 1), np.random.default_rng(0)
    images = (random.random((200, 6)) @ random.random((6, 64)) / 6).reshape(-1, 1, 8, 8).astype(np.float32)
    results = [
        measure_compression("PCA", coder_of(fit_principal_components(images, spec, size), spec), images, images)
        for size in (1, 3, 5)
    ]
    assert [result.bits for result in results] == [8, 24, 40]
    assert [result.bits_per_pixel for result in results] == [8 / 64, 24 / 64, 40 / 64]
    decibels = [result.psnr for result in results]
    assert decibels == sorted(decibels)
    assert all(result.psnr <= result.psnr_unquantised for result in results)


def test_the_figure_has_a_line_for_each_network() -> None:
    """Networks by name, their points from few bits to many whatever their order."""
    results = [
        Compression("a", 4, 32, 0.5, 12, 13),
        Compression("b", 2, 16, 0.25, 9, 9),
        Compression("a", 2, 16, 0.25, 8, 9),
    ]
    axes = compression_figure(results).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert axes.lines[0].get_xydata().tolist() == [[16, 8], [32, 12]]  # type: ignore[union-attr]  # an array, once drawn
