"""A trained network together with what it takes to score images by it."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from ae_models.scoring import mean_squared_errors, squared_error_maps

FORMAT = 1
BATCH_SIZE = 64


@dataclass(frozen=True)
class Detector:
    """Scores images by how badly a network reconstructs them.

    Attributes:
        spec: size and channels of the images that the network takes.
        network_name: its name in `ae_models.networks.NETWORKS`.
        network_parameters: what it was built with; JSON values.
        network: the trained network, in evaluation mode.
        device: the torch device that the network is on.
    """

    spec: ImageSpec
    network_name: str
    network_parameters: Mapping[str, Any]
    network: nn.Module = field(repr=False)
    device: str = "cpu"

    def on(self, device: torch.device) -> "Detector":
        """The same detector on another device."""
        return replace(self, network=copy.deepcopy(self.network).to(device), device=str(device))

    def reconstruct(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstructions (N, C, H, W) float32 in [0, 1] of images (N, C, H, W) float32 in [0, 1]."""
        parts = [reconstructions.cpu().numpy() for _, reconstructions in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty_like(images)

    def error_maps(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared error at every pixel (N, H, W) float32 of images (N, C, H, W) float32 in [0, 1]."""
        parts = [squared_error_maps(*pair).cpu().numpy() for pair in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty((0, self.spec.height, self.spec.width), np.float32)

    def score(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean squared error (N,) float64 of images (N, C, H, W) float32 in [0, 1]; higher is more anomalous."""
        parts = [mean_squared_errors(*pair) for pair in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty(0, np.float64)

    def _batches(self, images: NDArray[np.float32]) -> Iterator[tuple[Tensor, Tensor]]:
        if images.shape[1:] != self.spec.shape:
            raise InputError(f"images of shape {images.shape[1:]} were given to a detector for {self.spec.shape}")
        for start in range(0, len(images), BATCH_SIZE):
            batch = torch.from_numpy(images[start : start + BATCH_SIZE]).to(self.device)
            with torch.inference_mode():
                reconstructions = self.network(batch)
            yield batch, reconstructions

    def save(self, folder: Path) -> None:
        """Write `detector.json` and `weights.safetensors` into `folder`, made if absent; JSON last, as the seal."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        )
        (folder / "weights.safetensors").write_bytes(weights)
        document = {
            "format": FORMAT,
            "spec": self.spec.to_json(),
            "network": {"name": self.network_name, "parameters": dict(self.network_parameters)},
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        }
        (folder / "detector.json").write_text(json.dumps(document, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Detector":
        """The detector that `save` wrote into `folder`.

        Raises:
            InputError: a file is missing, damaged, of another format, or does not belong to the other.
        """
        try:
            document = _document((folder / "detector.json").read_text(encoding="utf-8"))
            weights = (folder / "weights.safetensors").read_bytes()
            if hashlib.sha256(weights).hexdigest() != document["weights_sha256"]:
                raise ValueError("the weights are not those of its detector.json")
            spec = ImageSpec.from_json(document["spec"])
            name, parameters = document["network"]["name"], document["network"]["parameters"]
            network = build_network(name, spec, parameters)
            network.load_state_dict(safetensors.torch.load(weights), strict=True)
        except (OSError, LookupError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise InputError(f"the detector in {folder} cannot be read ({error}): train again") from error
        return cls(spec, name, parameters, network.eval())


def _document(text: str) -> dict[str, Any]:
    """The JSON object that `save` wrote; raises ValueError for any other format or set of keys."""
    document = json.loads(text)
    if isinstance(document, dict) and document.get("format") != FORMAT:
        raise ValueError(f"its format is {document.get('format')!r}, and this version reads format {FORMAT}")
    _check_keys(document, "detector.json", {"format", "spec", "network", "weights_sha256"})
    _check_keys(document["network"], "the network in detector.json", {"name", "parameters"})
    return dict(document)


def _check_keys(entries: object, what: str, names: set[str]) -> None:
    if not isinstance(entries, dict) or set(entries) != names:
        held = sorted(entries) if isinstance(entries, dict) else entries
        raise ValueError(f"{what} must hold exactly {sorted(names)}, and holds {held}")
