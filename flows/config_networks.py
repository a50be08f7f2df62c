"""What pipelines.yaml says of the autoencoder: the network, and what is done to its input while it learns."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, Tag, field_validator

from flows.config_incidents import Duration
from flows.config_types import NOT_BOOLEAN, Count, Part, Positive, Share, chosen_by, integer_of_digits, shorthand

DefectKind = Literal[
    "spots",
    "scratch",
    "patch",
    "step",
    "smudge",
    "stain",
    "blur",
    "rotation",
    "missing",
    "warp",
    "half",
    "brightness",
    "colour",
    "pose",
]


LOCAL = 10  # of those, the first ones leave most of the image as it was


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"{size} is even, so that no pixel is the window's middle: give {size - 1} or {size + 1}")
    return size


class NoCorruption(Part):
    """The network sees the clean images."""

    type: Literal["none"] = Field(default="none", description="the network sees the images as they are")


class GaussianConfig(Part):
    """Noise at every pixel."""

    type: Literal["gaussian"] = Field(default="gaussian", description="noise at every pixel: denoising")
    deviation: Positive = Field(default=0.2, description="standard deviation of the noise, where white is 1")


class CoarseConfig(Part):
    """Noise of low resolution."""

    type: Literal["coarse"] = Field(default="coarse", description="smooth noise, as large as defects are")
    deviation: Positive = Field(default=0.3, description="standard deviation of the noise, where white is 1")
    cell: Count = Field(default=8, description="pixels between two values of the noise")


class MasksConfig(Part):
    """Parts of the image are taken out."""

    type: Literal["masks"] = Field(default="masks", description="parts are taken out: inpainting")
    share: Share = Field(default=0.2, description="share of the image that is taken out")
    shape: Literal["rectangles", "blobs"] = Field(default="rectangles", description="what is taken out looks like")
    count: Count = Field(default=3, description="rectangles in an image")


class SyntheticDefectsConfig(Part):
    """Defects are drawn into the images."""

    type: Literal["synthetic_defects"] = Field(
        default="synthetic_defects", description="spots, scratches, patches and more are drawn into the images"
    )
    kinds: Annotated[tuple[DefectKind, ...], Field(min_length=1)] = Field(
        default=get_args(DefectKind)[:LOCAL], description="kinds of defects; by default those that leave most as it was"
    )


CORRUPTIONS: dict[str, type[BaseModel]] = {
    "none": NoCorruption,
    "gaussian": GaussianConfig,
    "coarse": CoarseConfig,
    "masks": MasksConfig,
    "synthetic_defects": SyntheticDefectsConfig,
}
CorruptionUnion = (
    Annotated[NoCorruption, Tag("<NoCorruption>")]
    | Annotated[GaussianConfig, Tag("<GaussianConfig>")]
    | Annotated[CoarseConfig, Tag("<CoarseConfig>")]
    | Annotated[MasksConfig, Tag("<MasksConfig>")]
    | Annotated[SyntheticDefectsConfig, Tag("<SyntheticDefectsConfig>")]
)
CorruptionConfig = Annotated[
    CorruptionUnion,
    chosen_by("type", CORRUPTIONS),
    BeforeValidator(
        shorthand("type"),
        json_schema_input_type=CorruptionUnion | Literal["none", "gaussian", "coarse", "masks", "synthetic_defects"],
    ),
]


class ScoreConfig(Part):
    """How the squared errors of an image become its score."""

    smoothing: Annotated[Count, AfterValidator(_odd)] = Field(
        default=1, description="side of the window over which errors are averaged, in pixels; odd, 1 for none"
    )
    positional: bool = Field(
        default=False, description="errors are divided by what they are at that position in validation images"
    )
    pooling: Annotated[float, Field(gt=0, le=1), NOT_BOOLEAN] = Field(
        default=1.0, description="share of the pixels, those with the largest errors, whose mean is the score"
    )
    energy: Annotated[float, Field(ge=0, le=1), NOT_BOOLEAN] = Field(
        default=0.0, description="power of the image's mean square by which its errors are divided; 0 for none"
    )
    relative: Annotated[float, Field(ge=0, le=1), NOT_BOOLEAN] = Field(
        default=0.0, description="power of the image's typical error by which its errors are divided; 0 for none"
    )


class NetworkConfig(Part):
    """What every network but unet has in common."""

    score: ScoreConfig = Field(default=ScoreConfig(), description="from errors to the score; by default their mean")

    corruption: CorruptionConfig = Field(
        default=NoCorruption(), description="what is done to the input while the loss stays against the clean image"
    )


class AutoConfig(Part):
    """Recipes of front end, network and score are tried, and the best are fused."""

    network: Literal["auto"] = Field(
        default="auto", description="recipes chosen for these very images, by synthetic defects made from them"
    )
    fused: Count = Field(
        default=11, description="recipes in the detector, at most; each of another kind, on ridges or not"
    )
    backbone: Literal["auto", "none", "resnet18", "resnet34", "resnet50", "wide_resnet50_2"] = Field(
        default="auto",
        description="a network with torchvision's weights whose features recipes see too: auto takes the first whose "
        "weights lie in torch's folder, a name downloads them where they do not",
    )
    time_budget: Duration = Field(
        default="10min",
        validate_default=True,
        description="time for trying recipes; a network that has to be trained gets what the others leave of it",
    )
    defects: Annotated[dict[DefectKind, Positive], Field(min_length=1)] | None = Field(
        default=None, description="the kinds of defects to find, and how much each matters; by default all, all alike"
    )


class LinearConfig(NetworkConfig):
    """An autoencoder of two linear layers."""

    network: Literal["linear"] = Field(default="linear", description="one linear layer to the code and one back")
    code_size: Count = Field(default=32, description="numbers in the code")


class ConvolutionalConfig(NetworkConfig):
    """An autoencoder of convolutions with max pooling."""

    network: Literal["convolutional"] = Field(
        default="convolutional", description="convolutions with max pooling, and back"
    )
    widths: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)] = Field(
        default=(32, 32), description="channels at each resolution; each entry ends in one max pooling step"
    )
    convolutions: Count = Field(default=1, description="convolutions at each width")
    decoder: Literal["transposed", "upsampling"] = Field(
        default="upsampling",
        description="how resolution comes back: transposed convolution, or nearest upsampling + convolution",
    )
    code_channels: Count | None = Field(default=None, description="channels of the code; by default the last width")


class ResNetConfig(NetworkConfig):
    """An autoencoder with a ResNet of torchvision as encoder."""

    network: Literal["resnet"] = Field(default="resnet", description="torchvision's ResNet without its head, and back")
    depth: Annotated[Literal[18, 34, 50], BeforeValidator(integer_of_digits)] = Field(
        default=18, description="layers of the ResNet"
    )
    weights: Literal["none", "default"] = Field(
        default="none", description="random weights to begin with, or torchvision's"
    )
    frozen: bool = Field(default=False, description="the encoder keeps its weights, and only the decoder learns")


class VariationalConfig(NetworkConfig):
    """A variational autoencoder."""

    network: Literal["variational"] = Field(default="variational", description="codes that follow a known distribution")
    code_size: Count = Field(default=16, description="numbers in the code")
    widths: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)] = Field(
        default=(32, 64), description="channels of the encoder at each resolution"
    )
    beta: Annotated[float, Field(ge=0), NOT_BOOLEAN] = Field(
        default=0.3, description="weight of the codes' divergence from a standard normal distribution"
    )


class UnetConfig(Part):
    """A U-shaped network that restores its input."""

    score: ScoreConfig = Field(default=ScoreConfig(), description="from errors to the score; by default their mean")
    network: Literal["unet"] = Field(default="unet", description="restores corrupted images; has skip connections")
    widths: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)] = Field(
        default=(16, 32, 64), description="channels at each resolution"
    )
    corruption: CorruptionConfig = Field(default=SyntheticDefectsConfig(), description="what it learns to take away")

    @field_validator("corruption")
    @classmethod
    def _has_something_to_restore(cls, corruption: CorruptionUnion) -> CorruptionUnion:
        if isinstance(corruption, NoCorruption):
            choices = ", ".join(name for name in CORRUPTIONS if name != "none")
            raise ValueError(
                f"unet copies its input, defects included, unless it learns to restore it: choose one of {choices}"
            )
        return corruption


MODELS: dict[str, type[BaseModel]] = {
    "auto": AutoConfig,
    "linear": LinearConfig,
    "convolutional": ConvolutionalConfig,
    "resnet": ResNetConfig,
    "variational": VariationalConfig,
    "unet": UnetConfig,
}
ModelUnion = (
    Annotated[AutoConfig, Tag("<AutoConfig>")]
    | Annotated[LinearConfig, Tag("<LinearConfig>")]
    | Annotated[ConvolutionalConfig, Tag("<ConvolutionalConfig>")]
    | Annotated[ResNetConfig, Tag("<ResNetConfig>")]
    | Annotated[VariationalConfig, Tag("<VariationalConfig>")]
    | Annotated[UnetConfig, Tag("<UnetConfig>")]
)
ModelConfig = Annotated[
    ModelUnion,
    chosen_by("network", MODELS),
    BeforeValidator(
        shorthand("network"),
        json_schema_input_type=ModelUnion | Literal["auto", "linear", "convolutional", "resnet", "variational", "unet"],
    ),
]
