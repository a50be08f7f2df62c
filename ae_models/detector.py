"""A trained network together with what it takes to score images by it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
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
        return replace(self, network=self.network.to(device), device=str(device))

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

    def _batches(self, images: NDArray[np.float32]) -> list[tuple[Tensor, Tensor]]:
        if images.shape[1:] != self.spec.shape:
            raise InputError(f"images of shape {images.shape[1:]} were given to a detector for {self.spec.shape}")
        with torch.inference_mode():
            batches = [
                batch.to(self.device) for batch in torch.split(torch.from_numpy(images), BATCH_SIZE) if len(batch)
            ]
            return [(batch, self.network(batch)) for batch in batches]

    def save(self, folder: Path) -> None:
        """Write `detector.json` and `weights.safetensors` into `folder`, made if absent; JSON last, as the seal."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "weights.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}, weights)
        document = {
            "format": FORMAT,
            "spec": self.spec.to_json(),
            "network": {"name": self.network_name, "parameters": dict(self.network_parameters)},
            "weights_sha256": _sha256(weights),
        }
        (folder / "detector.json").write_text(json.dumps(document, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Detector":
        """The detector that `save` wrote into `folder`.

        Raises:
            InputError: a file is missing, damaged, of another format, or does not belong to the other.
        """
        try:
            document = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
            if document["format"] != FORMAT:
                raise InputError(f"the detector in {folder} has format {document['format']}, and this is {FORMAT}")
            if _sha256(folder / "weights.safetensors") != document["weights_sha256"]:
                raise InputError(f"the weights in {folder} are not those of its detector.json: train again")
            spec = ImageSpec.from_json(document["spec"])
            name, parameters = document["network"]["name"], document["network"]["parameters"]
            network = build_network(name, spec, parameters)
            network.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
        except InputError:
            raise
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise InputError(f"the detector in {folder} cannot be read ({error}): train again") from error
        return cls(spec, name, parameters, network.eval())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
