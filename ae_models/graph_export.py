"""A detector's way from images to scores and error maps, written as an ONNX graph."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ae_models.detector import LEAST_OPINION, AnyDetector, Detector, FusedDetector
from ae_models.graph import IMAGES, MAPS, SCORES
from ae_models.scoring import squared_errors

LARGEST_BATCH = 2**20


class ScoringPath(nn.Module):
    """Scores (N,) float64 and error maps (N, H, W) float32 of images (N, C, H, W), as the detector gives them.

    Args:
        detector: on the CPU.
    """

    def __init__(self, detector: AnyDetector) -> None:
        super().__init__()
        self.members = detector.members if isinstance(detector, FusedDetector) else (detector,)
        self.fusion = detector if isinstance(detector, FusedDetector) else None
        self.views = [repr((member.front_end_name, member.front_end_parameters)) for member in self.members]
        self.front_ends = nn.ModuleList(member.front_end for member in self.members)
        self.networks = nn.ModuleList(member.network for member in self.members)
        self.scorers = nn.ModuleList(member.scorer for member in self.members)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and maps."""
        errors = list(self._errors(images))
        scores = [scorer(each) for scorer, each in zip(self.scorers, errors, strict=True)]
        maps = [
            member.maps_at_pixels(member.scorer.maps(each)) for member, each in zip(self.members, errors, strict=True)
        ]
        if self.fusion is None:
            return scores[0], maps[0]
        opinions, relative = [], []
        for score, each, centre, scale, weight in zip(
            scores, maps, self.fusion.centres, self.fusion.scales, self.fusion.weights, strict=True
        ):
            logarithm = (score + float(np.finfo(np.float32).tiny)).log()
            opinions.append(weight * ((logarithm - centre) / scale).clamp_min(LEAST_OPINION))
            relative.append(each * (weight / float(np.exp(centre))))
        return torch.stack(opinions).sum(0), torch.stack(relative).sum(0)

    def _errors(self, images: Tensor) -> Iterator[Tensor]:
        """The squared errors of each member; what several members see alike is computed once."""
        seen: dict[str, Tensor] = {}
        for view, front_end, network in zip(self.views, self.front_ends, self.networks, strict=True):
            if view not in seen:
                seen[view] = front_end(images)
            yield squared_errors(seen[view], network(seen[view]))


def onnx_of(detector: AnyDetector) -> bytes:
    """The ONNX file of a detector's scoring path, for any number of images at once.

    Raises:
        Exception: of whatever kind, where PyTorch cannot export it.
    """
    path = ScoringPath(detector).eval()
    example = torch.zeros(2, *detector.spec.shape)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # what PyTorch's parts tell each other
        program = torch.onnx.export(
            path,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[IMAGES],
            output_names=[SCORES, MAPS],
            dynamic_shapes=({0: torch.export.Dim("images", min=1, max=LARGEST_BATCH)},),
        )
    assert program is not None
    return program.model_proto.SerializeToString()
