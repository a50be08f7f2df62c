"""What the networks see, against computations by numpy and scipy, at every size that images have."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ae_models.errors import InputError
from ae_models.filters import Filter, blur
from ae_models.front_ends import FRONT_ENDS, build_front_end, local_mean
from ae_models.images import FeatureSpec, ImageSpec

SIZES: list[tuple[int, int, int]] = [(28, 28, 1), (9, 14, 3), (8, 8, 1), (17, 1, 1), (1, 11, 3), (1, 1, 1)]
CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("pixels", {}),
    ("pixels", {"standardised": True}),
    ("gradients", {"normalised": "cell"}),
    ("gradients", {"normalised": "image"}),
    ("contrast", {}),
    ("derivatives", {}),
    ("ridges", {}),
]
IDS = ["pixels", "standardised pixels", "gradients by cell", "gradients by image", "contrast", "derivatives", "ridges"]


def random_images(height: int, width: int, channels: int, count: int = 3) -> Tensor:
    """Images (count, channels, height, width) in [0, 1]."""
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0))


def seen(name: str, images: Tensor, **parameters: Any) -> NDArray[np.float32]:
    """The features of images by a front end."""
    _, channels, height, width = images.shape
    features: NDArray[np.float32] = build_front_end(name, ImageSpec(height, width, channels), parameters)(
        images
    ).numpy()
    return features


def smooth_image(height: int = 40, width: int = 40) -> Tensor:
    """An image (1, 1, height, width) of soft structure between 0.3 and 0.7."""
    down, across = np.mgrid[0:height, 0:width]
    pixels = 0.5 + 0.1 * np.sin(across / 4) + 0.1 * np.cos(down / 5)
    return torch.from_numpy(pixels.astype(np.float32))[None, None]


class TestEveryFrontEnd:
    """What holds for all of them."""

    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize(("name", "parameters"), CHOICES, ids=IDS)
    def test_its_spec_is_the_shape_that_it_gives(
        self, name: str, parameters: dict[str, Any], size: tuple[int, int, int]
    ) -> None:
        """At odd, oblong and tiny sizes and at every step: the network is built before the first image is seen."""
        for step in {1, 2, 3, 5, min(size[:2])} & set(range(1, min(size[:2]) + 1)):
            front_end = build_front_end(name, ImageSpec(*size), {**parameters, "step": step})
            assert isinstance(spec := front_end.spec, FeatureSpec)
            assert front_end(random_images(*size)).shape == (3, *spec.shape)

    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize(("name", "parameters"), CHOICES, ids=IDS)
    def test_blank_images_have_finite_features(
        self, name: str, parameters: dict[str, Any], size: tuple[int, int, int]
    ) -> None:
        """Black, white and a lone pixel have no contrast to divide by."""
        height, width, channels = size
        for value in (0.0, 0.5, 1.0):
            features = seen(name, torch.full((2, channels, height, width), value), step=1, **parameters)
            assert np.isfinite(features).all()

    @pytest.mark.parametrize(("name", "parameters"), CHOICES, ids=IDS)
    def test_an_image_is_seen_the_same_among_others(self, name: str, parameters: dict[str, Any]) -> None:
        """What is normalised is normalised by the image itself, not by its batch."""
        images = random_images(9, 14, 3)
        together, alone = seen(name, images, **parameters), seen(name, images[1:2], **parameters)
        np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("name", "parameters"), CHOICES, ids=IDS)
    def test_nothing_is_learnt_or_stored(self, name: str, parameters: dict[str, Any]) -> None:
        """It is rebuilt from its name and parameters: no weights of it are saved."""
        assert build_front_end(name, ImageSpec(8, 8, 1), parameters).state_dict() == {}


class TestPixels:
    """The pixels themselves."""

    def test_one_pixel_a_position_changes_nothing(self) -> None:
        """By default the network sees the image."""
        images = random_images(9, 14, 3)
        np.testing.assert_array_equal(seen("pixels", images), images)

    def test_a_step_averages_squares(self) -> None:
        """Each position is the mean of its square; at the right and lower border, of what is left of it."""
        images = random_images(7, 10, 1)
        by_hand = [
            [images[0, 0, top : top + 3, left : left + 3].mean().item() for left in (0, 3, 6, 9)] for top in (0, 3, 6)
        ]
        np.testing.assert_allclose(seen("pixels", images, step=3)[0, 0], by_hand, rtol=1e-6)

    def test_standardised_pixels_have_mean_0_and_deviation_1(self) -> None:
        """Over all of an image's numbers, colours together."""
        features = seen("pixels", random_images(9, 14, 3), standardised=True)
        np.testing.assert_allclose(features.mean((1, 2, 3)), 0, atol=1e-6)
        np.testing.assert_allclose(features.std((1, 2, 3)), 1, atol=0.03)

    def test_standardised_pixels_do_not_see_light_or_contrast(self) -> None:
        """A darker and paler exposure of the same object gives the same features."""
        images = random_images(20, 20, 1)
        darker = 0.1 + 0.6 * images
        np.testing.assert_allclose(
            seen("pixels", darker, standardised=True), seen("pixels", images, standardised=True), atol=0.03
        )

    def test_faint_noise_is_not_stretched(self) -> None:
        """An almost blank image stays almost blank: its noise is no structure."""
        faint = 0.5 + 0.0005 * random_images(20, 20, 1)
        assert np.abs(seen("pixels", faint, standardised=True)).max() < 0.1


class TestOrientedGradients:
    """Strength of the edges in eight directions."""

    def test_the_maps_are_those_of_scipy(self) -> None:
        """Blur, central differences, the positive part in each direction, blur again, and length 1 in each cell."""
        image = random_images(23, 18, 1, count=1)
        grey = ndimage.gaussian_filter(image[0, 0].double().numpy(), 1, mode="nearest", radius=3)
        padded = np.pad(grey, 1, mode="edge")
        across, down = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
        angles = np.radians(np.arange(0, 360, 45))
        maps = [
            ndimage.gaussian_filter(
                np.maximum(across * np.cos(angle) + down * np.sin(angle), 0), 2, mode="nearest", radius=6
            )
            for angle in angles
        ]
        cells = np.stack(maps)[:, 1::4, 1::4]
        by_hand = cells / (np.linalg.norm(cells, axis=0) + 0.05)
        np.testing.assert_allclose(seen("gradients", image, step=4)[0], by_hand, rtol=1e-3, atol=1e-5)
        strength = np.sqrt(np.square(cells).sum(0).mean())
        by_image = seen("gradients", image, step=4, normalised="image")[0]
        np.testing.assert_allclose(by_image, cells / (strength + 0.05), rtol=1e-3, atol=1e-5)

    def test_an_edge_is_seen_in_its_direction(self) -> None:
        """Where an image grows brighter to the right, the first map, of 0 degrees, is the strongest by far."""
        image = torch.zeros(1, 1, 32, 32)
        image[..., 16:] = 1
        features = seen("gradients", image, step=1)[0, :, 16, 16]
        assert features.argmax() == 0
        assert features[4] < 1e-6 < 0.3 < features[0]

    def test_a_quarter_turn_moves_two_directions_on(self) -> None:
        """Turned clockwise, an edge from dark to bright rightwards is one downwards."""
        image = smooth_image()
        turned = torch.rot90(image, -1, (2, 3)).contiguous()
        expected = np.roll(np.rot90(seen("gradients", image, step=1), -1, (2, 3)), 2, axis=1)
        np.testing.assert_allclose(seen("gradients", turned, step=1), expected, atol=1e-4)

    def test_brightness_is_not_seen(self) -> None:
        """Gradients are differences."""
        images = 0.5 * random_images(20, 20, 1)
        np.testing.assert_allclose(seen("gradients", images + 0.4), seen("gradients", images), atol=1e-4)

    def test_normalised_by_cell_strong_contrast_is_not_seen(self) -> None:
        """Where edges are well above the noise, half the contrast changes little, in whatever part of the image."""
        image = torch.zeros(1, 1, 32, 32)
        image[..., 16:] = 1
        whole, half = (seen("gradients", contrast * image, step=1)[0, :, :, 16] for contrast in (1.0, 0.5))
        np.testing.assert_allclose(half, whole, rtol=0.35)
        assert np.abs(half - whole).max() < 0.2

    def test_normalised_by_image_contrast_within_it_is_seen(self) -> None:
        """An edge twice as strong as another has features twice as strong."""
        image = torch.zeros(1, 1, 32, 64)
        image[..., 16:32], image[..., 48:] = 0.4, 0.8
        features = seen("gradients", image, step=1, normalised="image")[0, 0, 16]
        assert math.isclose(features[48], 2 * features[16], rel_tol=1e-4)

    def test_colours_are_averaged(self) -> None:
        """Grey images of three channels are seen as those of one."""
        images = random_images(20, 20, 1)
        np.testing.assert_allclose(
            seen("gradients", images.expand(-1, 3, -1, -1)), seen("gradients", images), rtol=1e-4, atol=1e-6
        )

    def test_another_way_to_normalise_is_refused(self) -> None:
        """The choices are named."""
        with pytest.raises(InputError) as caught:
            build_front_end("gradients", ImageSpec(8, 8, 1), {"normalised": "row"})
        assert str(caught.value) == "gradients are normalised by cell or image, not by 'row': choose one of them"


class TestLocalContrast:
    """The difference to the surroundings."""

    def test_it_is_the_deviation_of_the_log_intensity(self) -> None:
        """From its mean over a square and over a column, each divided by that difference's deviation in the image."""
        image = random_images(45, 42, 1, count=1)
        logarithm = np.log(image[0, 0].double().numpy() + 0.1)
        by_hand = []
        for window in ((7, 7), (5, 1)):  # odd, about a sixth and a ninth of the short side
            difference = logarithm - ndimage.uniform_filter(logarithm, window, mode="nearest")
            by_hand.append(difference / (difference.std() + 0.005))
        np.testing.assert_allclose(seen("contrast", image)[0], by_hand, rtol=2e-3, atol=1e-4)

    def test_a_blemish_stands_out(self) -> None:
        """A dark spot deviates there by far the most."""
        image = smooth_image()
        image[..., 12:14, 25:27] -= 0.15
        features = np.abs(seen("contrast", image)[0, 0])
        assert np.unravel_index(features.argmax(), features.shape) in [(12, 25), (12, 26), (13, 25), (13, 26)]
        assert features.max() > 5 * features.std()

    def test_upright_lines_are_not_seen_along_the_column(self) -> None:
        """Texture that runs from top to bottom equals the mean of its column."""
        lines = 0.2 + 0.6 * random_images(1, 30, 1, count=1)
        features = seen("contrast", lines.expand(-1, -1, 30, -1).contiguous())[0]
        np.testing.assert_allclose(features[1], 0, atol=1e-3)
        assert features[0].std() > 0.5

    def test_light_is_seen_as_a_factor(self) -> None:
        """Half the light on bright images changes next to nothing: logarithms differ by a constant."""
        images = 0.5 + 0.5 * random_images(30, 30, 1)
        np.testing.assert_allclose(seen("contrast", 0.8 * images), seen("contrast", images), atol=0.1)

    def test_a_step_averages_squares_afterwards(self) -> None:
        """Small deviations are found first and averaged then."""
        images = random_images(12, 12, 1)
        fine = seen("contrast", images)
        np.testing.assert_allclose(
            seen("contrast", images, step=3), fine.reshape(3, 2, 4, 3, 4, 3).mean((3, 5)), rtol=1e-4, atol=1e-5
        )


class TestDerivatives:
    """Slopes and blobs at several scales."""

    def test_the_first_scale_is_that_of_scipy(self) -> None:
        """Strength and sign of both slopes and of a difference of blurs, over their root mean square in the image."""
        image = random_images(24, 20, 1, count=1)
        logarithm = np.log(image[0, 0].double().numpy() + 0.1)

        def blur(maps: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
            reach = max(1, round(3 * deviation))
            smooth: NDArray[np.float64] = ndimage.gaussian_filter(maps, deviation, mode="nearest", radius=reach)
            return smooth

        fine = blur(logarithm, 0.7)
        padded = np.pad(fine, 1, mode="edge")
        across, down = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
        parts = (0.7 * across, 0.7 * down, fine - blur(logarithm, 1.6 * 0.7))
        maps = [one for part in parts for one in (blur(np.abs(part), 2), blur(part, 2 - 0.7))]
        cells = np.stack(maps)[:, 1::4, 1::4]
        by_hand = cells / (np.sqrt(np.square(cells).mean((1, 2), keepdims=True)) + 0.001)
        np.testing.assert_allclose(seen("derivatives", image, step=4)[0, :6], by_hand, rtol=1e-3, atol=1e-4)

    def test_an_edge_has_a_sign(self) -> None:
        """Brighter to the right is a positive slope across, darker a negative one; the strength is the same."""
        image = torch.full((1, 1, 32, 32), 0.2)
        image[..., 16:] = 0.8
        strength, slope = seen("derivatives", image, step=1)[0, :2, 16, 15:17].mean(1)
        strength_mirrored, slope_mirrored = seen("derivatives", image.flip(3), step=1)[0, :2, 16, 15:17].mean(1)
        assert slope > 1
        assert math.isclose(slope_mirrored, -slope, rel_tol=1e-3)
        assert math.isclose(strength_mirrored, strength, rel_tol=1e-3)

    def test_contrast_is_not_seen(self) -> None:
        """A power of the intensity (a constant factor on its logarithm) gives the same features."""
        images = random_images(32, 32, 1)
        paler = (images + 0.1).sqrt() - 0.1
        np.testing.assert_allclose(seen("derivatives", paler), seen("derivatives", images), rtol=0.06, atol=0.05)

    def test_colour_is_seen_beside_grey(self) -> None:
        """Grey images of three channels have the features of one, and opponent colours of 0."""
        images = random_images(32, 32, 1)
        features, grey = seen("derivatives", images.expand(-1, 3, -1, -1)), seen("derivatives", images)
        np.testing.assert_allclose(features[:, : grey.shape[1]], grey, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(features[:, grey.shape[1] :], 0, atol=1e-6)

    def test_a_colour_cast_is_seen(self) -> None:
        """More red than green is a positive first opponent everywhere."""
        image = torch.full((1, 3, 32, 32), 0.5)
        image[:, 0] = 0.7
        features = seen("derivatives", image)
        np.testing.assert_allclose(features[0, -4], 0.2, rtol=1e-4)


def line_at(angle: float, brightness: float = 0.2) -> Tensor:
    """An image (1, 1, 64, 64) of one soft line through its middle; 0 is across."""
    down, across = np.mgrid[0:64, 0:64] - 31.5
    away = down * math.cos(angle) - across * math.sin(angle)
    pixels = 0.5 + brightness * np.exp(-(away**2) / 4)
    return torch.from_numpy(pixels.astype(np.float32))[None, None]


class TestRidges:
    """Second derivatives, steered."""

    def test_the_first_scale_is_that_of_scipy(self) -> None:
        """Across the image, dark lines, before all of the scale are divided by their root mean square."""
        image = smooth_image()
        logarithm = np.log(image[0, 0].double().numpy() + 0.1)
        fine = ndimage.gaussian_filter(logarithm, 0.7, mode="nearest", truncate=6)

        def slope(maps: NDArray[np.float64], side: int) -> NDArray[np.float64]:
            return ndimage.correlate1d(maps, [-0.5, 0, 0.5], axis=side, mode="nearest")

        expected = {}
        twice = {"across": slope(slope(fine, 1), 1), "down": slope(slope(fine, 0), 0)}
        for name, curvature in twice.items():
            for sign, sense in ((1, "dark"), (-1, "bright")):
                strength = np.maximum(sign * 0.49 * curvature, 0)
                expected[f"{sense} {name}"] = ndimage.gaussian_filter(strength, 2, mode="nearest", truncate=6)
        found = seen("ridges", image, step=1)[0]
        inner = (slice(6, -6), slice(6, -6))
        scale = found[0][inner].mean() / expected["dark across"][inner].mean()
        for place, name in ((0, "dark across"), (1, "bright across"), (4, "dark down"), (5, "bright down")):
            np.testing.assert_allclose(found[place][inner], scale * expected[name][inner], rtol=0.02, atol=0.01)

    @pytest.mark.parametrize("direction", range(4))
    @pytest.mark.parametrize(("brightness", "sense"), [(-0.2, 0), (0.2, 1)], ids=["dark", "bright"])
    def test_a_line_is_seen_in_its_direction_and_sense(self, direction: int, brightness: float, sense: int) -> None:
        """The second derivative across it is the strongest; dark ones are positive, bright ones negative."""
        angle = direction * math.pi / 4 + math.pi / 2  # along the line, where the derivative is across
        features = seen("ridges", line_at(angle, brightness), step=1)[0, :8, 32, 32]
        assert features.argmax() == 2 * direction + sense

    def test_light_and_contrast_are_not_seen(self) -> None:
        """A factor of the intensity is a constant of its logarithm."""
        image = line_at(0.4)
        np.testing.assert_allclose(seen("ridges", image), seen("ridges", 0.5 * (image + 0.1) - 0.1), atol=1e-2)

    def test_a_texture_that_goes_one_way_is_not_stretched_in_others(self) -> None:
        """Directions share one measure: what hardly stands out in its own does not among all."""
        across = np.mgrid[0:64, 0:64][1]
        noise = 0.001 * np.random.default_rng(0).normal(size=(64, 64))
        stripes = torch.from_numpy((0.5 + 0.2 * np.sin(across / 2) + noise).astype(np.float32))[None, None]
        features = seen("ridges", stripes)[0, :8].mean((1, 2))
        assert features[[0, 1]].min() > 20 * features[[4, 5]].max()


class TestParts:
    """What front ends and scores are made of."""

    @pytest.mark.parametrize("shape", [(9, 14), (1, 6), (3, 2)])
    def test_a_local_mean_is_that_of_scipy(self, shape: tuple[int, int]) -> None:
        """Borders are repeated, windows may be larger than the map."""
        maps = random_images(*shape, 2)
        by_hand = ndimage.uniform_filter(maps.double().numpy(), (1, 1, 5, 3), mode="nearest")
        np.testing.assert_allclose(local_mean(maps, 5, 3), by_hand, rtol=1e-5)

    @pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
    def test_a_blur_is_that_of_scipy(self, deviation: float) -> None:
        """A Gaussian cut at three deviations, borders repeated, each channel by itself."""
        maps = random_images(11, 8, 2)
        reach = max(1, round(3 * deviation))
        by_hand = ndimage.gaussian_filter(
            maps.double().numpy(), (0, 0, deviation, deviation), mode="nearest", radius=(0, 0, reach, reach)
        )
        np.testing.assert_allclose(Filter(blur(11, deviation), blur(8, deviation))(maps), by_hand, rtol=1e-4)


class TestRefusals:
    """What cannot be built is one sentence."""

    def test_an_unknown_front_end(self) -> None:
        """Those that there are are named."""
        with pytest.raises(InputError) as caught:
            build_front_end("sound", ImageSpec(8, 8, 1), {})
        assert str(caught.value) == f"there is no front end 'sound': choose one of {', '.join(FRONT_ENDS)}"

    @pytest.mark.parametrize("step", [0, -1, 7, 2.0, "2", True, None])
    @pytest.mark.parametrize("name", FRONT_ENDS)
    def test_a_step_that_the_size_does_not_have(self, name: str, step: Any) -> None:
        """The images' size and the possible steps are named."""
        with pytest.raises(InputError) as caught:
            build_front_end(name, ImageSpec(8, 6, 1), {"step": step})
        assert str(caught.value) == (
            f"front end {name!r} cannot take every {step!r}th pixel of 8 x 6 images: give a step from 1 to 6"
        )

    def test_an_unknown_parameter(self) -> None:
        """Those that the front end takes are named."""
        with pytest.raises(InputError, match=r"front end 'pixels' does not take .*: it takes step, standardised$"):
            build_front_end("pixels", ImageSpec(8, 8, 1), {"blur": 2})
