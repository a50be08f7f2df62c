"""Codes of images: their way there and back, their map, its clusters, and codes that no image has."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ae_models.embeddings import (
    best_projection,
    code_map,
    coder_of,
    samples_near,
    samples_of_gaussian,
    samples_of_prior,
    walk,
)
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import NETWORKS, build_network

SPEC = ImageSpec(16, 12, 1)
needs_umap = pytest.mark.skipif(find_spec("umap") is None, reason="the extra umap is not installed")


def images(count: int) -> NDArray[np.float32]:
    """Random images (count, 1, 16, 12) in [0, 1]."""
    return np.random.default_rng(0).random((count, *SPEC.shape), dtype=np.float32)


def three_kinds(each: int = 30) -> tuple[NDArray[np.float32], list[str]]:
    """Codes (3 * each, 5) of three kinds that lie far apart, and their labels."""
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 5) * 100, each, axis=0)
    codes = centres + random.standard_normal(centres.shape)
    return codes.astype(np.float32), [kind for kind in ("cup", "plate", "spoon") for _ in range(each)]


class TestCoder:
    """A network's way to codes and back, each code as one row."""

    @pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if hasattr(network, "encode")])
    def test_there_and_back_is_the_reconstruction(self, name: str) -> None:
        """Decoded codes are what the network makes of the images, over several batches."""
        network = build_network(name, SPEC, {}).eval()
        coder = coder_of(network, SPEC)
        codes = coder.encode(images(70))
        assert codes.shape == (70, coder.code_size)
        with torch.inference_mode():
            expected = network(torch.from_numpy(images(70))).numpy()
        assert np.allclose(coder.decode(codes), expected, atol=1e-5)

    def test_no_images_have_no_codes(self) -> None:
        """An empty set gives an empty array of the right width."""
        coder = coder_of(build_network("linear", SPEC, {}).eval(), SPEC)
        assert coder.encode(images(0)).shape == (0, coder.code_size)

    def test_a_network_without_a_code_is_refused(self) -> None:
        """The restoration network's input goes around its narrow part, which stands for nothing alone."""
        with pytest.raises(InputError, match=r"^this network has no code: train linear, convolutional, resnet or var"):
            coder_of(build_network("unet", SPEC, {}).eval(), SPEC)


class TestMap:
    """Codes on a plane, in clusters with names."""

    def test_kinds_that_lie_apart_are_clusters_of_their_own(self) -> None:
        """Three kinds give three clusters, each named by its label."""
        codes, labels = three_kinds()
        drawn = code_map(codes, labels, "PCA", seed=0)
        assert sorted(drawn.names) == ["cup (100%)", "plate (100%)", "spoon (100%)"]
        assert [drawn.names[cluster].split()[0] for cluster in drawn.clusters] == labels
        assert drawn.points.shape == (90, 2)

    def test_the_commonest_label_names_a_cluster(self) -> None:
        """A few foreign images in a cluster show in its share."""
        codes, labels = three_kinds()
        labels[0:3] = ["plate", "spoon", "spoon"]
        assert "cup (90%)" in code_map(codes, labels, "PCA", seed=0).names

    def test_without_labels_the_clusters_are_found(self) -> None:
        """Their number is that which tells them best apart, and they are numbered."""
        codes, _ = three_kinds()
        assert code_map(codes, None, "PCA", seed=0).names == ("cluster 1", "cluster 2", "cluster 3")

    def test_a_cluster_lies_where_its_images_lie(self) -> None:
        """Each centre is nearer to its own images than to those of any other cluster."""
        drawn = code_map(*three_kinds(), "PCA", seed=0)
        distances = np.linalg.norm(drawn.points[:, None] - drawn.centres[None], axis=2)
        assert np.array_equal(distances.argmin(axis=1), drawn.clusters)

    def test_the_seed_decides(self) -> None:
        """The same codes give the same map."""
        codes, labels = three_kinds()
        first, second = (code_map(codes, labels, "PCA", seed=3) for _ in range(2))
        assert np.array_equal(first.points, second.points)
        assert np.array_equal(first.clusters, second.clusters)

    @pytest.mark.parametrize("count", [1, 2, 3])
    @pytest.mark.parametrize("labels", [None, ["a", "b", "c"]])
    def test_few_images_have_a_map(self, count: int, labels: list[str] | None) -> None:
        """One, two and three images are drawn, each in some cluster."""
        codes, _ = three_kinds()
        drawn = code_map(codes[:count], labels and labels[:count], "PCA", seed=0)
        assert np.isfinite(drawn.points).all()
        assert len(drawn.points) == len(drawn.clusters) == count

    def test_equal_codes_have_a_map(self) -> None:
        """Where all codes are the same they lie in one point and one cluster."""
        drawn = code_map(np.ones((20, 4), np.float32), None, "PCA", seed=0)
        assert drawn.names == ("cluster 1",)
        assert not drawn.points.any()

    def test_codes_of_one_number_have_a_map(self) -> None:
        """They lie on a line."""
        drawn = code_map(np.arange(20, dtype=np.float32)[:, None], None, "PCA", seed=0)
        assert not drawn.points[:, 1].any()

    @pytest.mark.parametrize(("codes", "damaged"), [(np.empty((0, 3)), 0), (np.array([[1.0, np.nan], [1, 2]]), 1)])
    def test_what_cannot_be_mapped_is_refused(self, codes: NDArray[np.float32], damaged: int) -> None:
        """No code, or one that is no number."""
        with pytest.raises(InputError, match=rf"^{len(codes)} codes of which {damaged} are not finite cannot"):
            code_map(codes, None, "PCA", seed=0)

    def test_an_unknown_method_is_refused_with_the_known_ones(self) -> None:
        """A way onto the plane that does not exist is named with those that do."""
        with pytest.raises(InputError, match=r"^there is no method 'TSNE': choose one of UMAP, PCA$"):
            code_map(three_kinds()[0], None, "TSNE", seed=0)

    def test_umap_that_is_not_installed_is_named_with_the_way_to_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Asked for without being there, the extra that brings it is said."""
        monkeypatch.setitem(sys.modules, "umap", None)
        with pytest.raises(
            InputError, match=r"^UMAP is not installed: pip install 'reconwatch\[umap\]', or take princ"
        ):
            code_map(three_kinds()[0], None, "UMAP", seed=0)

    def test_the_best_method_is_what_is_installed(self) -> None:
        """UMAP where the extra is there, principal components otherwise."""
        assert best_projection() == ("UMAP" if find_spec("umap") else "PCA")

    @needs_umap
    @pytest.mark.slow
    def test_umap_tells_kinds_apart(self) -> None:
        """The same three clusters on UMAP's map, with no warning, and the same again by the same seed."""
        codes, labels = three_kinds()
        first, second = (code_map(codes, labels, "UMAP", seed=0) for _ in range(2))
        assert first.method == "UMAP"
        assert sorted(first.names) == ["cup (100%)", "plate (100%)", "spoon (100%)"]
        assert np.array_equal(first.points, second.points)

    def test_fewer_images_than_umap_has_neighbours_are_mapped_by_principal_components(self) -> None:
        """Fifteen images have no neighbourhoods to keep."""
        assert code_map(three_kinds()[0][:15], None, "UMAP", seed=0).method == "PCA"


class TestNewCodes:
    """Codes that no image has."""

    def test_samples_lie_at_their_distances(self) -> None:
        """From one code to the next, the samples go on in one direction, as far as was asked for."""
        codes, _ = three_kinds()
        near = samples_near(codes[:4], codes.std(axis=0), [0.5, 1.0], seed=0)
        assert near.shape == (4, 2, 5)
        assert np.allclose(near[:, 1] - codes[:4], 2 * (near[:, 0] - codes[:4]), atol=1e-3)

    def test_the_normal_distribution_has_the_codes_mean_and_covariance(self) -> None:
        """Drawn often enough, samples are spread as the codes are."""
        random = np.random.default_rng(0)
        codes = (random.standard_normal((500, 3)) @ np.array([[1, 2, 0], [0, 1, 0], [0, 0, 5]]) + 7).astype(np.float32)
        drawn = samples_of_gaussian(codes, 20_000, seed=1)
        assert np.allclose(drawn.mean(axis=0), codes.mean(axis=0), atol=0.2)
        assert np.allclose(np.cov(drawn.T), np.cov(codes.T), rtol=0.1, atol=0.2)

    def test_one_code_has_no_spread(self) -> None:
        """A normal distribution fitted to a single code is that code."""
        assert np.array_equal(samples_of_gaussian(np.ones((1, 4), np.float32), 3, seed=0), np.ones((3, 4)))

    def test_the_prior_is_standard_normal(self) -> None:
        """Mean zero, variance one."""
        drawn = samples_of_prior(3, 20_000, seed=0)
        assert np.allclose(np.cov(drawn.T), np.eye(3), atol=0.05)
        assert np.allclose(drawn.mean(axis=0), 0, atol=0.05)

    def test_the_seed_decides(self) -> None:
        """The same seed draws the same codes."""
        codes, _ = three_kinds()

        def draws(seed: int) -> list[NDArray[np.float32]]:
            near = samples_near(codes, codes.std(axis=0), [1.0], seed)
            return [near, samples_of_gaussian(codes, 5, seed), samples_of_prior(5, 5, seed)]

        for first, same, other in zip(draws(1), draws(1), draws(2), strict=True):
            assert np.array_equal(first, same)
            assert not np.array_equal(first, other)

    def test_a_walk_is_straight_and_even(self) -> None:
        """It begins and ends at the two codes, in equal steps."""
        start, end = np.zeros(3, np.float32), np.array([4, 8, -4], np.float32)
        assert walk(start, end, 5).tolist() == [[0, 0, 0], [1, 2, -1], [2, 4, -2], [3, 6, -3], [4, 8, -4]]
