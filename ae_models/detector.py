"""A trained network together with what it takes to score images by it, alone or fused with others."""

import copy
import hashlib
import json
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.baselines import PrincipalComponents
from ae_models.errors import InputError
from ae_models.front_ends import build_front_end, to_pixels
from ae_models.graph import Graph, GraphDamaged, load_graph
from ae_models.images import FeatureSpec, ImageSpec
from ae_models.localizer import Localizer
from ae_models.networks import build_network
from ae_models.scoring import Score, ScoreDesign, relative_errors, squared_errors
from ae_models.sessions import ONNXRUNTIME, OPENVINO, OpenvinoMissing

LOG = logging.getLogger("reconwatch")
FORMAT = 10
BATCH_SIZE = 64
CACHED_PIXELS = 2**18
SMALL_PIXELS = 2**12  # of an image that several threads of PyTorch draw more slowly than one
ONE_THREAD = threading.Lock()  # PyTorch's number of threads is the process's
LEAST_OPINION = -3.0  # nominal spreads
FUSION = ("centres", "scales", "weights", "map_weights")  # what a fused detector keeps of each member


class _Scoring(ABC):
    """Scores images and maps their errors, by a graph where there is one for the device and else by PyTorch."""

    if TYPE_CHECKING:  # fields of one kind of detector, properties of the other

        @property
        def spec(self) -> ImageSpec: ...
        @property
        def device(self) -> str: ...
        @property
        def graph(self) -> Graph | None: ...

    @property
    def scoring_graph(self) -> Graph | None:
        """The graph that gives scores and maps; None where PyTorch does. One in int8 does so wherever networks are."""
        return self.graph if self.device == "cpu" or (self.graph and self.graph.int8) else None

    def score(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores (N,) float64, higher is more anomalous, of images (N, C, H, W) float32 in [0, 1]."""
        if self.scoring_graph is not None:
            return self.scoring_graph.score(images)
        parts = [self._scores(batch) for batch in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty(0, np.float64)

    def error_maps(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Error maps (N, H, W) float32, a value a pixel, of images (N, C, H, W) float32 in [0, 1]."""
        if self.scoring_graph is not None:
            return self.scoring_graph.error_maps(images)
        parts = [self._maps(batch).cpu().numpy() for batch in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty((0, self.spec.height, self.spec.width), np.float32)

    @abstractmethod
    def _scores(self, images: Tensor) -> NDArray[np.float64]:
        """PyTorch's scores (n,) of images (n, C, H, W) on the device."""

    @abstractmethod
    def _maps(self, images: Tensor) -> Tensor:
        """PyTorch's error maps (n, H, W) of images (n, C, H, W) on the device."""

    def _batches(self, images: NDArray[np.float32]) -> Iterator[Tensor]:
        return batches(images, self.spec, self.device)


@dataclass(frozen=True)
class Detector(_Scoring):
    """Scores images by how badly one network reconstructs them; by default the mean squared error of each.

    Attributes:
        spec: size and channels of the images that it takes.
        network_name: its name in `ae_models.networks.NETWORKS`.
        network_parameters: what it was built with; JSON values.
        network: the trained network, in evaluation mode.
        device: the torch device that the network is on.
        front_end_name: its name in `ae_models.front_ends.FRONT_ENDS`.
        front_end_parameters: what it is built with; JSON values.
        fitted_front_end: the front end where it has weights; None where its parameters say all of it.
        fitted_score: from errors to maps and scores; None for the mean squared error.
        picture: reconstructs images for people where the network reconstructs features; None where it need not.
        graph: gives the same scores and maps without PyTorch on a CPU; None where there is none, or none is wished.
    """

    spec: ImageSpec
    network_name: str
    network_parameters: Mapping[str, Any]
    network: nn.Module = field(repr=False)
    device: str = "cpu"
    front_end_name: str = "pixels"
    front_end_parameters: Mapping[str, Any] = field(default_factory=dict)
    fitted_front_end: nn.Module | None = field(default=None, repr=False)
    fitted_score: Score | None = field(default=None, repr=False)
    picture: PrincipalComponents | None = field(default=None, repr=False)
    graph: Graph | None = field(default=None, repr=False)

    @cached_property
    def front_end(self) -> nn.Module:
        """From images to what the network sees."""
        front_end = self.fitted_front_end or build_front_end(self.front_end_name, self.spec, self.front_end_parameters)
        return front_end.to(self.device).eval()

    @cached_property
    def scorer(self) -> Score:
        """From squared errors to maps and scores."""
        features: FeatureSpec = self.front_end.spec  # type: ignore[assignment]  # torch types attributes as modules
        return self.fitted_score or Score(ScoreDesign(), features.height, features.width).to(self.device)

    @cached_property
    def to_pixels(self) -> nn.Module:
        """From maps (N, h, w) of the features to maps (N, H, W) of the images."""
        return to_pixels(self.front_end, self.spec).to(self.device)

    @property
    def name(self) -> str:
        """The network's name, and that of the front end where it is not the pixels."""
        return self.network_name if self._on_pixels else f"{self.network_name} on {self.front_end_name}"

    @property
    def view(self) -> str:
        """The same for detectors whose networks see the same of an image."""
        return repr((self.front_end_name, dict(self.front_end_parameters)))

    def on(self, device: torch.device) -> "Detector":
        """The same detector on another device."""
        return replace(
            self,
            network=copy.deepcopy(self.network).to(device),
            device=str(device),
            fitted_front_end=self.fitted_front_end and copy.deepcopy(self.fitted_front_end).to(device),
            fitted_score=copy.deepcopy(self.scorer).to(device),
            picture=self.picture and copy.deepcopy(self.picture).to(device),
        )

    def reconstruct(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (N, C, H, W) float32 in [0, 1] of images (N, C, H, W) float32 in [0, 1].

        Where the network reconstructs features that are no image, principal components stand in for it.
        """
        network = self.network if self._on_pixels else self.picture
        if network is None:
            return images.copy()
        with torch.inference_mode(), _threads_for(self.spec):
            parts = [network(batch).clamp(0, 1).cpu().numpy() for batch in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty_like(images)

    def errors(self, images: Tensor) -> Tensor:
        """Squared errors (N, h, w) of images (N, C, H, W) in [0, 1] on the detector's device."""
        return self.errors_in(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the network sees (N, c, h, w) of images (N, C, H, W) in [0, 1] on the detector's device."""
        with torch.inference_mode():
            return torch.as_tensor(self.front_end(images))

    def errors_in(self, features: Tensor) -> Tensor:
        """Squared errors (N, h, w) of features (N, c, h, w)."""
        with torch.inference_mode():
            errors = squared_errors(features, self.network(features))
            return relative_errors(errors, features, self.scorer.design.energy)

    @property
    def _on_pixels(self) -> bool:
        return self.front_end_name == "pixels" and not self.front_end_parameters

    def _scores(self, images: Tensor) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = self.scorer(self.errors(images)).numpy()
        return scores

    def _maps(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.to_pixels(self.scorer.maps(self.errors(images))))

    def save(self, folder: Path) -> None:
        """Write `detector.json` and `weights.safetensors`, and the graph, into `folder`, made if absent."""
        _write(folder, self.spec, [self], {}, self.picture, self.graph)

    def to_json(self) -> dict[str, Any]:
        """What it is built of, as JSON values."""
        return {
            "front_end": {"name": self.front_end_name, "parameters": dict(self.front_end_parameters)},
            "network": {"name": self.network_name, "parameters": dict(self.network_parameters)},
            "score": self.scorer.design.to_json(),
        }

    @classmethod
    def from_json(cls, spec: ImageSpec, stored: Mapping[str, Any]) -> "Detector":
        """The detector that `to_json` stored, with random weights."""
        _check_keys(stored, "a member of detector.json", {"front_end", "network", "score"})
        for part in ("front_end", "network"):
            _check_keys(stored[part], f"the {part.replace('_', ' ')} in detector.json", {"name", "parameters"})
        front_end = build_front_end(stored["front_end"]["name"], spec, stored["front_end"]["parameters"])
        features: FeatureSpec = front_end.spec  # type: ignore[assignment]  # torch types attributes as modules
        name, parameters = stored["network"]["name"], stored["network"]["parameters"]
        network = build_network(name, features, parameters).eval()
        score = Score(ScoreDesign.from_json(stored["score"]), features.height, features.width)
        return cls(
            *(spec, name, parameters, network, "cpu", stored["front_end"]["name"], stored["front_end"]["parameters"]),
            fitted_front_end=front_end if front_end.state_dict() else None,
            fitted_score=score,
        )


@dataclass(frozen=True)
class FusedDetector(_Scoring):
    """Scores images by the opinions of several detectors, each in units of its own nominal spread.

    An image's score is the weighted mean of (log s - centre) / scale over the members, none of them below -3: a member
    that finds an image very usual does not outweigh one that finds it far off. Its error map is the weighted sum of
    the members', or the geometric mean of that and, twice, of what a localizer gives. The centre and scale are the
    median and 1.4826 times the median absolute deviation (at least what `robust_spread` says) of the logarithm of a
    member's scores on held-out nominal images.

    Attributes:
        members: the detectors; all of one image size.
        centres: (members,) of the logarithms of nominal scores.
        scales: (members,) above 0.
        weights: (members,) above 0, in all 1.
        map_weights: (members,) from 0 on, by which each member's error map is multiplied; one of them above 0.
        picture: reconstructs images for people.
        graph: gives the same scores and maps without PyTorch on a CPU; None where there is none, or none is wished.
        localizer: tells from the members' error maps where defects are; None for their sum alone.
    """

    members: tuple[Detector, ...]
    centres: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    map_weights: tuple[float, ...]
    picture: PrincipalComponents | None = field(default=None, repr=False)
    graph: Graph | None = field(default=None, repr=False)
    localizer: Localizer | None = field(default=None, repr=False)

    @property
    def spec(self) -> ImageSpec:
        """Size and channels of the images that it takes."""
        return self.members[0].spec

    @property
    def device(self) -> str:
        """The torch device that the networks are on."""
        return self.members[0].device

    @property
    def name(self) -> str:
        """The names of its members."""
        return " + ".join(dict.fromkeys(member.name for member in self.members))

    def on(self, device: torch.device) -> "FusedDetector":
        """The same detector on another device."""
        return replace(
            self,
            members=tuple(member.on(device) for member in self.members),
            localizer=self.localizer and copy.deepcopy(self.localizer).to(device),
            picture=self.picture and copy.deepcopy(self.picture).to(device),
        )

    def reconstruct(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (N, C, H, W) float32 in [0, 1] by principal components: members may see features only."""
        if self.picture is None:
            return self.members[0].reconstruct(images)
        with torch.inference_mode(), _threads_for(self.spec):
            parts = [self.picture(batch).clamp(0, 1).cpu() for batch in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty_like(images)

    def save(self, folder: Path) -> None:
        """Write `detector.json` and `weights.safetensors`, and the graph, into `folder`, made if absent."""
        fusion = {name: getattr(self, name) for name in FUSION}
        _write(folder, self.spec, self.members, fusion, self.picture, self.graph, self.localizer)

    @property
    def illustrator(self) -> "Detector":
        """A detector on pixels that reconstructs, encodes and decodes images for people."""
        if self.picture is None:
            return self.members[0]
        parameters = {"code_size": len(self.picture.components)}
        return Detector(self.spec, "pca", parameters, self.picture, self.device)

    def _scores(self, images: Tensor) -> NDArray[np.float64]:
        opinions = [
            weight * np.maximum(LEAST_OPINION, (log_score(member.scorer(errors).numpy()) - centre) / scale)
            for member, errors, centre, scale, weight in zip(
                self.members, self._errors(images), self.centres, self.scales, self.weights, strict=True
            )
        ]
        mean: NDArray[np.float64] = np.sum(opinions, axis=0)  # NaN stays NaN
        return mean

    def member_maps(self, images: Tensor) -> Tensor:
        """The members' error maps (N, members, H, W) of images (N, C, H, W) in [0, 1] on the detector's device."""
        maps = [
            member.to_pixels(member.scorer.maps(errors))
            for member, errors in zip(self.members, self._errors(images), strict=True)
        ]
        return torch.stack(maps, dim=1)

    def weighted(self, maps: Tensor) -> Tensor:
        """The weighted sum (N, H, W) of the members' error maps (N, members, H, W)."""
        weights = torch.tensor(self.map_weights, dtype=maps.dtype, device=maps.device)
        return (weights[:, None, None] * maps).sum(1)

    def located(self, images: Tensor, maps: Tensor) -> Tensor:
        """The error maps (N, H, W) of images (N, C, H, W) by those of its members (N, members, H, W)."""
        errors = self.weighted(maps)
        return errors if self.localizer is None else (errors * self.localizer(images, maps).square()).pow(1 / 3)

    def _maps(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.located(images, self.member_maps(images))

    def _errors(self, images: Tensor) -> Iterator[Tensor]:
        """The squared errors of each member; what several members see alike is computed once."""
        seen: dict[str, Tensor] = {}
        for member in self.members:
            if member.view not in seen:
                seen[member.view] = member.features(images)
            yield member.errors_in(seen[member.view])


AnyDetector = Detector | FusedDetector


def log_score(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of scores (N,) from 0 on, as fused detectors compare them; NaN stays NaN."""
    logarithms: NDArray[np.float64] = np.log(scores + np.finfo(np.float32).tiny)
    return logarithms


def _threads_for(spec: ImageSpec) -> AbstractContextManager[None]:
    """One thread of PyTorch for small images: several wait for each other longer than they work."""
    return _one_thread() if spec.height * spec.width <= SMALL_PIXELS else nullcontext()


@contextmanager
def _one_thread() -> Iterator[None]:
    with ONE_THREAD:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def batches(images: NDArray[np.float32], spec: ImageSpec, device: str) -> Iterator[Tensor]:
    """Images (N, C, H, W) in parts on a device; raises InputError for images of another size."""
    if images.shape[1:] != spec.shape:
        raise InputError(f"images of shape {images.shape[1:]} were given to a detector for {spec.shape}")
    for part in in_parts(images, device):
        yield torch.from_numpy(part).to(device)


def in_parts(images: NDArray[np.float32], device: str = "cpu") -> Iterator[NDArray[np.float32]]:
    """Images (N, C, H, W) in parts that a device computes fast: on a CPU small ones, to stay in its cache."""
    at_once = part_size(images) if device == "cpu" else BATCH_SIZE
    for start in range(0, len(images), at_once):
        yield images[start : start + at_once]


def part_size(images: NDArray[np.float32]) -> int:
    """How many of images (N, C, H, W) are a part on a CPU."""
    pixels: int = images.shape[2] * images.shape[3]
    return max(1, min(BATCH_SIZE, CACHED_PIXELS // max(1, pixels)))


def load_detector(folder: Path) -> AnyDetector:
    """The detector that `save` wrote into `folder`.

    Raises:
        InputError: a file is missing, damaged, of another format, or does not belong to the other, or OpenVINO is
            needed and not installed.
    """
    try:
        document = _document((folder / "detector.json").read_text(encoding="utf-8"))
        stored = (folder / "weights.safetensors").read_bytes()
        if hashlib.sha256(stored).hexdigest() != document["weights_sha256"]:
            raise ValueError("the weights are not those of its detector.json")
        spec = ImageSpec.from_json(document["spec"])
        members = [Detector.from_json(spec, member) for member in document["members"]]
        picture = PrincipalComponents(spec, document["picture"]) if document["picture"] else None
        localizer = Localizer(spec, len(members)).eval() if document["localizer"] else None
        _modules(members, picture, localizer).load_state_dict(safetensors.torch.load(stored), strict=True)
        if document["fusion"]:
            _check_keys(document["fusion"], "the fusion in detector.json", set(FUSION))
            centres, scales, weights, of_maps = (tuple(map(float, document["fusion"][name])) for name in FUSION)
            if not len(members) == len(centres) == len(scales) == len(weights) == len(of_maps):
                raise ValueError("it holds another number of members than of centres, scales, weights or map weights")
            if not (np.isfinite([*centres, *scales, *weights, *of_maps]).all() and min(*scales, *weights) > 0):
                raise ValueError("its centres must be finite, and its scales and weights above 0")
            if not min(of_maps) >= 0 < max(of_maps):
                raise ValueError("its map weights must be 0 or above, and one of them above 0")
            graph = _graph(folder, spec, document["int8_sha256"])
            return FusedDetector(tuple(members), centres, scales, weights, of_maps, picture, graph, localizer)
        if len(members) != 1 or localizer:
            raise ValueError(f"it holds {len(members)} members, and does not say how they are fused")
        return replace(members[0], picture=picture, graph=_graph(folder, spec, document["int8_sha256"]))
    except OpenvinoMissing:
        raise
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"the detector in {folder} cannot be read ({error}): train again") from error


def by_engine(detector: AnyDetector, engine: str) -> AnyDetector:
    """The detector, its images scored by an engine: "torch", "onnxruntime", "openvino", "int8" or "auto".

    "auto" takes ONNX Runtime where there is a graph and no GPU, and else PyTorch. A detector in int8 is scored so by
    any engine, since its threshold holds for nothing else; one in floats is scored as by "auto" where int8 is wished
    for: training found that int8 would not do.

    Raises:
        InputError: ONNX Runtime or OpenVINO is wished for, and the detector has no graph or is on a GPU.
    """
    graph = detector.graph
    if graph is not None and graph.int8:
        return detector
    if engine == "torch":
        return replace(detector, graph=None)
    if engine not in (ONNXRUNTIME, OPENVINO):
        return detector
    if detector.device != "cpu":
        raise InputError(f"engine {engine} scores on the CPU, not on {detector.device}: set training.device to cpu")
    if graph is None:
        raise InputError(f"engine {engine} has no graph of this detector: train again, or set engine to auto")
    return replace(detector, graph=graph.by(engine))


def _graph(folder: Path, spec: ImageSpec, int8_sha256: str | None) -> Graph | None:
    """The graph beside a detector; None where it cannot be used and PyTorch's scores are the same."""
    try:
        graph = load_graph(folder, spec)
    except GraphDamaged as error:
        if int8_sha256 is not None:
            raise ValueError(f"it scores in int8, and its graph cannot be used: {error}") from error
        LOG.warning("The detector's graph cannot be used, so PyTorch scores, more slowly: %s. Train again.", error)
        return None
    if int8_sha256 is not None and (graph is None or graph.sha256 != int8_sha256):
        raise ValueError(f"it scores in int8, and its graph is {'missing' if graph is None else 'another'}")
    return graph


def _write(
    folder: Path,
    spec: ImageSpec,
    members: Sequence[Detector],
    fusion: Mapping[str, Sequence[float]],
    picture: PrincipalComponents | None,
    graph: Graph | None,
    localizer: Localizer | None = None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = _modules(members, picture, localizer).state_dict()
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
    (folder / "weights.safetensors").write_bytes(weights)
    document = {
        "format": FORMAT,
        "spec": spec.to_json(),
        "members": [member.to_json() for member in members],
        "fusion": {name: list(values) for name, values in fusion.items()},
        "localizer": localizer is not None,
        "picture": len(picture.components) if picture else 0,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "int8_sha256": graph.sha256 if graph is not None and graph.int8 else None,
    }
    (folder / "detector.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    if graph is not None:
        graph.save(folder)


def _modules(
    members: Sequence[Detector], picture: PrincipalComponents | None, localizer: Localizer | None
) -> nn.Module:
    """All that has weights, as one module."""
    parts = nn.ModuleDict()
    for number, member in enumerate(members):
        own = {"network": member.network, "score": member.scorer}
        if member.fitted_front_end is not None:
            own["front_end"] = member.fitted_front_end
        parts[f"member_{number}"] = nn.ModuleDict(own)
    if picture is not None:
        parts["picture"] = picture
    if localizer is not None:
        parts["localizer"] = localizer
    return parts


def _document(text: str) -> dict[str, Any]:
    """The JSON object that `save` wrote; raises ValueError for any other format or set of keys."""
    document = json.loads(text)
    if isinstance(document, dict) and document.get("format") != FORMAT:
        raise ValueError(f"its format is {document.get('format')!r}, and this version reads format {FORMAT}")
    keys = {"format", "spec", "members", "fusion", "localizer", "picture", "weights_sha256", "int8_sha256"}
    _check_keys(document, "detector.json", keys)
    return dict(document)


def _check_keys(entries: object, what: str, names: set[str]) -> None:
    if not isinstance(entries, Mapping) or set(entries) != names:
        held = sorted(entries) if isinstance(entries, Mapping) else entries
        raise ValueError(f"{what} must hold exactly {sorted(names)}, and holds {held}")
