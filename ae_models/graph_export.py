"""A detector's way from images to scores and error maps, written as an ONNX graph and compared with PyTorch."""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ae_models.detector import LEAST_OPINION, AnyDetector, FusedDetector
from ae_models.graph import IMAGES, MAPS, SCORES, Graph, first_line
from ae_models.scoring import relative_errors, squared_errors

TOLERANCE = 1e-3  # of a deviation of nominal scores; what is found is about a thousandth of it
MAP_TOLERANCE = 1e-3  # of the largest error
LARGEST_BATCH = 2**20
COMPARED = 256  # images, at most
TIE = 1e-5  # of a deviation: images that are one and the same are not told apart by rounding
FLAGGED = (0.01, 0.05, 0.1)  # shares of nominal images whose flags are compared
FEW = 4  # channels of an image, at most
TAPS = ((3, 1), (2, 0))  # of a 4 x 4 kernel of stride 2: those that even rows are made of, and those of odd ones
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


class NotExportable(RuntimeError):  # noqa: N818 (it says what happened)
    """The detector has no graph that gives what PyTorch gives; the message says why not."""


def with_graph(detector: AnyDetector, nominal: NDArray[np.float32]) -> AnyDetector:
    """The detector with a graph that was found to give the same on held-out nominal images (N, C, H, W) in [0, 1].

    Raises:
        NotExportable: PyTorch cannot export it, ONNX Runtime cannot run it, or what it gives differs.
    """
    reference, images = replace(detector.on(torch.device("cpu")), graph=None), nominal[:COMPARED]
    try:
        graph = Graph(onnx_of(reference), detector.spec)
        scores, maps = graph.score(images), graph.error_maps(images)
    except Exception as error:  # exporters and ONNX Runtime have no common class for what they cannot do
        raise NotExportable(first_line(error)) from error
    difference = _compared(reference, images, scores, maps)
    return replace(detector, graph=replace(graph, difference=difference, versions={p: version(p) for p in PACKAGES}))


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
    return bytes(program.model_proto.SerializeToString())


class ScoringPath(nn.Module):
    """Scores (N,) float64 and error maps (N, H, W) float32 of images (N, C, H, W), as the detector gives them.

    Args:
        detector: on the CPU.
    """

    def __init__(self, detector: AnyDetector) -> None:
        super().__init__()
        self.fusion = detector if isinstance(detector, FusedDetector) else None
        self.members = detector.members if isinstance(detector, FusedDetector) else (detector,)
        self.front_ends = nn.ModuleList(member.front_end for member in self.members)
        self.networks = nn.ModuleList(with_fewer_sums(member.network) for member in self.members)
        self.scorers = nn.ModuleList(member.scorer for member in self.members)
        self.to_pixels = nn.ModuleList(member.to_pixels for member in self.members)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and maps."""
        scores, maps = [], []
        for member, errors in zip(self.members, self._errors(images), strict=True):
            scores.append(member.scorer(errors))
            maps.append(member.to_pixels(member.scorer.maps(errors)))
        if self.fusion is None:
            return scores[0], maps[0]
        fusion, opinions = self.fusion, []
        for score, centre, scale, weight in zip(scores, fusion.centres, fusion.scales, fusion.weights, strict=True):
            logarithms = (score + float(np.finfo(np.float32).tiny)).log()
            opinions.append(weight * ((logarithms - centre) / scale).clamp_min(LEAST_OPINION))
        return torch.stack(opinions).sum(0), fusion.located(images, torch.stack(maps, dim=1))

    def _errors(self, images: Tensor) -> Iterator[Tensor]:
        """The squared errors of each member; what several members see alike is computed once."""
        seen: dict[str, Tensor] = {}
        for member, front_end, network in zip(self.members, self.front_ends, self.networks, strict=True):
            if member.view not in seen:
                seen[member.view] = front_end(images)
            features = seen[member.view]
            yield relative_errors(squared_errors(features, network(features)), features, member.scorer.design.energy)


def with_fewer_sums(network: nn.Module) -> nn.Module:
    """A copy that computes the same with fewer multiplications: where 3 x 3 convolutions follow nearest upsampling.

    Each output pixel's nine weights then fall on four different values, so the two are one transposed convolution of
    stride 2 whose 4 x 4 kernel is the 3 x 3 one, turned round and summed over 2 x 2. The error of rounding apart it is
    equal, borders too. ONNX Runtime besides computes a convolution to one channel as slowly as one to sixteen.

    Where two of them in a row end in an image, the maps between stay in quarters: ONNX Runtime computes plain
    convolutions twice as fast as transposed ones, and nothing has to be put together.
    """
    network = copy.deepcopy(network)
    for layers in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place in range(len(layers) - 1):
            upsampling, convolution = layers[place], layers[place + 1]
            if _doubles(upsampling) and isinstance(convolution, nn.Conv2d) and _keeps_size(convolution):
                layers[place], layers[place + 1] = nn.Identity(), _transposed(convolution)
        for place in range(len(layers) - 3):
            first, between, nothing, second = (layers[place + step] for step in range(4))
            plain = isinstance(between, nn.ReLU) and isinstance(nothing, nn.Identity)
            if plain and _is_doubling(first) and _ends_in_an_image(second):
                layers[place], layers[place + 3] = _Quarters(first), _of_quarters(second)
    return network


class _Quarters(nn.Module):
    """What a transposed convolution of stride 2 gives, (N, 4 * out, H, W): pixels (2y + a, 2x + b) at 2a + b."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for down in (0, 1):
            for across in (0, 1):
                part = nn.Conv2d(layer.in_channels, layer.out_channels, 2, bias=layer.bias is not None)
                kernels = layer.weight.detach()[:, :, TAPS[down]][..., TAPS[across]]
                part.weight.data = kernels.transpose(0, 1).contiguous()
                _copy_bias(layer, part)
                self.parts.append(nn.Sequential(nn.ZeroPad2d((1 - across, across, 1 - down, down)), part))

    def forward(self, maps: Tensor) -> Tensor:
        """The quarters, one after the other."""
        return torch.cat([part(maps) for part in self.parts], dim=1)


def _of_quarters(layer: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
    """The transposed convolution of stride 4 that does with quarters what this one of stride 2 does with the whole."""
    made = nn.ConvTranspose2d(4 * layer.in_channels, layer.out_channels, 6, 4, 1, bias=layer.bias is not None)
    kernels = torch.zeros(2, 2, layer.in_channels, layer.out_channels, 6, 6, dtype=layer.weight.dtype)
    for down in (0, 1):
        for across in (0, 1):
            kernels[down, across, ..., 2 * down : 2 * down + 4, 2 * across : 2 * across + 4] = layer.weight.detach()
    made.weight.data = kernels.flatten(0, 2)
    _copy_bias(layer, made)
    return made


def _is_doubling(layer: nn.Module) -> TypeGuard[nn.ConvTranspose2d]:
    return isinstance(layer, nn.ConvTranspose2d) and (
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.output_padding,
        layer.dilation,
        layer.groups,
    ) == ((4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1)


def _ends_in_an_image(layer: nn.Module) -> TypeGuard[nn.ConvTranspose2d]:
    return _is_doubling(layer) and layer.out_channels <= FEW


def _doubles(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Upsample) and layer.mode == "nearest" and layer.scale_factor == 2


def _keeps_size(layer: nn.Conv2d) -> bool:
    return (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode) == (
        *((3, 3), (1, 1), (1, 1), (1, 1)),
        *(1, "zeros"),
    )


def _transposed(layer: nn.Conv2d) -> nn.ConvTranspose2d:
    """The transposed convolution that does what nearest upsampling by two and then this 3 x 3 convolution do."""
    made = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 4, 2, 1, bias=layer.bias is not None)
    kernels = layer.weight.detach().flip(2, 3).flatten(0, 1)[:, None]  # (out * in, 1, 3, 3)
    summed = functional.conv2d(kernels.double(), torch.ones(1, 1, 2, 2, dtype=torch.float64), padding=1)
    made.weight.data = summed.to(layer.weight.dtype).reshape(*layer.weight.shape[:2], 4, 4).transpose(0, 1).contiguous()
    _copy_bias(layer, made)
    return made


def _copy_bias(layer: nn.Conv2d | nn.ConvTranspose2d, made: nn.Conv2d | nn.ConvTranspose2d) -> None:
    if layer.bias is not None and made.bias is not None:
        made.bias.data = layer.bias.detach().clone()


def _compared(
    reference: AnyDetector, images: NDArray[np.float32], scores: NDArray[np.float64], maps: NDArray[np.float32]
) -> float:
    """The largest difference of scores (N,), in deviations of PyTorch's; raises NotExportable at too large a one."""
    wanted, wanted_maps = reference.score(images), reference.error_maps(images)
    unit = float(wanted.std()) or float(np.abs(wanted).max()) or 1.0
    difference = float(np.abs(scores - wanted).max() / unit)
    if not difference <= TOLERANCE:
        raise NotExportable(f"its scores differ from PyTorch's by {difference:.2g} of their deviation")
    apart = float(np.abs(maps - wanted_maps).max() / max(float(wanted_maps.max()), 1e-30))
    if not apart <= MAP_TOLERANCE:
        raise NotExportable(f"its error maps differ from PyTorch's by {apart:.2g} of the largest error")
    for share in FLAGGED:
        (flags, _), (wanted_flags, beyond) = (_flagged(each, share) for each in (scores, wanted))
        if (flags != wanted_flags)[np.abs(beyond) > TIE * unit].any():
            raise NotExportable(f"it flags other images than PyTorch where {share:.0%} of nominal ones are flagged")
    return difference


def _flagged(scores: NDArray[np.float64], share: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which scores (N,) are among the highest, and how far each is above the lowest of these."""
    beyond = scores - np.quantile(scores, 1 - share, method="higher")
    return beyond > 0, beyond
