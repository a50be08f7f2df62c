"""Which images a pipeline uses and where they are: folders, globs, URLs, manifests, tables, sets of torchvision."""

import glob
import re
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, Tag, ValidationInfo, field_validator, model_validator

from flows.config_incidents import Duration
from flows.config_types import (
    FILE_NAME,
    NOT_BOOLEAN,
    Classes,
    Count,
    FilePath,
    Network,
    Part,
    Place,
    Text,
    Url,
    Where,
    chosen_by_keys,
    integer_of_digits,
    is_url,
)


class Arrival(Part):
    """How an inbox tells that a batch is complete. No key of it says which images there are."""

    settled: Duration | None = Field(
        default=None,
        exclude=True,
        description="as an inbox: a batch is complete once nothing of it changed for this long",
    )
    marker: Annotated[str, Field(pattern=FILE_NAME)] | None = Field(
        default=None, exclude=True, description="as an inbox: a batch is complete once it holds a file of this name"
    )


class PathSource(Arrival):
    """Images in a folder, or those that match a glob."""

    glob: bool = Field(
        default=False, description="whether * ? [ in the path are wildcards; by default yes where it has one"
    )
    path: FilePath = Field(description="a folder, or a glob such as data/*/ok/*.png (** is any depth)")

    @model_validator(mode="before")
    @classmethod
    def _recognise_glob(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "glob" not in given:
            return {**given, "glob": glob.has_magic(str(given.get("path")))}
        return given


class UrlSource(Arrival):
    """Images in a folder of an object store, or of anything else that fsspec opens."""

    url: Url = Field(description="a folder such as s3://bucket/nominal, gs://bucket/nominal or az://container/nominal")


class ManifestSource(Part):
    """Images listed in a table: a column `path`, and optionally `label`, `group`, `timestamp` and `batch`."""

    manifest: Place = Field(description="a .csv or .parquet file with a column `path`, or its URL")
    where: dict[str, Where] = Field(
        default={}, description="keep only rows whose column has this value, or one of these"
    )
    root: Place | None = Field(
        default=None,
        description="the folder or URL that relative paths in the manifest start from; by default the manifest's own",
    )
    batch: Text = Field(default="batch", description="as an inbox: the column that names each image's batch")
    settled: Duration | None = Field(
        default=None,
        exclude=True,
        description="as an inbox: its batches are complete once neither it nor their files changed for this long",
    )


class TableSource(Part):
    """Images listed in a table of a database, by path or with their bytes."""

    table: Text = Field(description="the table or view, with its schema where it has one: schema.table")
    database: SecretStr = Field(description="its SQLAlchemy URL; one with a password must be a variable, ${NAME}")
    path_column: Text | None = Field(default=None, description="the column of paths or URLs")
    bytes_column: Text | None = Field(default=None, description="the column of the image files' bytes")
    key_column: Text | None = Field(
        default=None, description="the column that names an image; needed beside bytes_column"
    )
    batch_column: Text | None = Field(
        default=None, description="the column that names each image's batch; an inbox needs it"
    )
    group_column: Text | None = Field(default=None, description="the column of each image's group")
    time_column: Text | None = Field(default=None, description="the column that says when each image was taken")
    label_column: Text | None = Field(default=None, description="the column of each image's label")
    root: Place | None = Field(default=None, description="the folder or URL that relative paths start from")
    settled: Duration | None = Field(
        default=None, exclude=True, description="as an inbox: batches are complete once their newest time is this old"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.path_column is None) == (self.bytes_column is None):
            raise ValueError("needs either path_column (paths or URLs) or bytes_column (the image files' bytes)")
        if self.bytes_column is not None and self.key_column is None:
            raise ValueError("needs key_column beside bytes_column: the column that names an image, such as id")
        if self.settled is not None and self.time_column is None:
            raise ValueError("needs time_column beside settled: the column that says when each row was written")
        return self


TAKES_TRAIN = ("MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST", "CIFAR10", "CIFAR100")
SPLITS = {
    "EMNIST": ("byclass", "bymerge", "balanced", "letters", "digits", "mnist"),
    "SVHN": ("train", "test", "extra"),
    "STL10": ("train", "train+unlabeled", "unlabeled", "test"),
    "Flowers102": ("train", "val", "test"),
    "DTD": ("train", "val", "test"),
    "GTSRB": ("train", "test"),
    "Imagenette": ("train", "val"),
}


def _what_instead(name: str) -> str:
    if name in SPLITS:
        return f"write split (choices: {', '.join(SPLITS[name])})"
    return "write train: true or train: false" if name in TAKES_TRAIN else "it has one part only, so delete the key"


class TorchvisionSource(Part):
    """Images of a data set that torchvision reads; nothing is downloaded."""

    torchvision: Literal[
        "MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10",
        "Flowers102", "DTD", "EuroSAT", "GTSRB", "Imagenette",
    ] = Field(description="the data set's class in torchvision.datasets")  # fmt: skip
    root: FilePath = Field(description="the folder that is given to torchvision as root")
    train: bool | None = Field(
        default=None, description="the training part (the default) or the test part, of MNIST-like and CIFAR data sets"
    )
    split: Text | None = Field(
        default=None, validate_default=True, description="the part of a data set that names its parts, such as test"
    )
    classes: Classes = Field(
        default=(), description="only these classes, by name or by number; all of them where left out"
    )
    limit: Count | None = Field(default=None, description="at most this many images, from the first on")
    batch_size: Count = Field(default=500, description="as an inbox: each this many consecutive images are one batch")

    @field_validator("train")
    @classmethod
    def _has_train(cls, train: bool | None, info: ValidationInfo) -> bool | None:
        name = info.data.get("torchvision")
        if train is not None and name is not None and name not in TAKES_TRAIN:
            raise ValueError(f"{name} has no train: {_what_instead(name)}")
        return train

    @field_validator("split")
    @classmethod
    def _has_split(cls, split: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("torchvision")
        if name is not None and split is not None and split not in SPLITS.get(name, ()):
            raise ValueError(f"{name} has no split {split!r}: {_what_instead(name)}")
        if name == "EMNIST" and split is None:
            raise ValueError(f"EMNIST needs a split: {_what_instead(name)}")
        return split

    def arguments(self) -> dict[str, Any]:
        """What the data set's class is called with: root, and train or split where they are given."""
        given = {"train": self.train, "split": self.split}
        return {"root": self.root, **{key: value for key, value in given.items() if value is not None}}


def _source_of_text(value: object) -> object:
    if isinstance(value, Mapping) and "path" in value and _is_remote(value["path"]):
        return {"url": value["path"], **{key: part for key, part in value.items() if key not in ("path", "glob")}}
    if not isinstance(value, str):
        return value
    if value.lower().endswith((".csv", ".parquet")):
        return {"manifest": value}
    if value.lower().startswith("file://"):
        return {"path": unquote(urlsplit(value).path)}
    return {"url" if _is_remote(value) else "path": value}


def _is_remote(value: object) -> bool:
    return isinstance(value, str) and is_url(value) and not value.lower().startswith("file://")


SOURCES: dict[str, type[BaseModel]] = {
    "path": PathSource,
    "url": UrlSource,
    "manifest": ManifestSource,
    "table": TableSource,
    "torchvision": TorchvisionSource,
}
SourceModel = (
    Annotated[PathSource, Tag("<PathSource>")]
    | Annotated[UrlSource, Tag("<UrlSource>")]
    | Annotated[ManifestSource, Tag("<ManifestSource>")]
    | Annotated[TableSource, Tag("<TableSource>")]
    | Annotated[TorchvisionSource, Tag("<TorchvisionSource>")]
)
Source = Annotated[
    SourceModel,
    chosen_by_keys(SOURCES),
    BeforeValidator(_source_of_text, json_schema_input_type=SourceModel | str),
]


class LabelledFolders(Part):
    """Images whose label is the place they lie in."""

    nominal: Source = Field(description="where the labelled nominal images are")
    anomalous: Source = Field(description="where the anomalous images are")


LABELLED: dict[str, type[BaseModel]] = {"nominal": LabelledFolders, "anomalous": LabelledFolders, **SOURCES}
LabelledModel = Annotated[LabelledFolders, Tag("<LabelledFolders>")] | SourceModel
Labelled = Annotated[
    LabelledModel,
    chosen_by_keys(LABELLED),
    BeforeValidator(_source_of_text, json_schema_input_type=LabelledModel | str),
]


Side = Annotated[int, Field(ge=8, le=1024), NOT_BOOLEAN]
Channels = Annotated[Literal[1, 3], BeforeValidator(integer_of_digits), NOT_BOOLEAN]


class DataConfig(Part):
    """Which images a pipeline learns from, which it watches, and what the network sees of them."""

    nominal: Source = Field(description="the nominal images that the network learns from")
    inbox: Source | None = Field(default=None, description="the images to score: each subfolder of a folder is a batch")
    labelled: Labelled | None = Field(
        default=None, description="images with labels, used for calibration and in reports, never for training"
    )
    nominal_labels: Annotated[tuple[Text, ...], Field(min_length=1)] = Field(
        default=("nominal", "good", "normal", "ok"),
        description="the labels of nominal images; every other label is anomalous",
    )
    group: Text | None = Field(
        default=None,
        description="a manifest's column, or a regular expression on the path: images of one group (of one part) "
        "stay on one side of every split",
    )
    size: tuple[Side, Side] | None = Field(
        default=None, description="[height, width] in pixels; by default the images' own, at most 128 on the short side"
    )
    channels: Channels | None = Field(default=None, description="1 (grey) or 3 (RGB); by default what the images are")
    order: Literal["time", "name"] = Field(
        default="time", exclude=True, description="in which order due batches are scored: the oldest first, or by name"
    )
    allow_outside: bool = Field(
        default=False,
        exclude=True,
        description="whether links may lead out of a folder, and paths of a manifest or table out of its root",
    )
    allowed_urls: tuple[Url, ...] = Field(
        default=(),
        exclude=True,
        description="folders beside the root that URLs in a manifest or table may lie in, such as https://host/images/",
    )
    allowed_networks: tuple[Network, ...] = Field(
        default=(),
        exclude=True,
        description="networks that are not public in which hosts of http(s) images may be, such as 10.1.0.0/16",
    )

    @field_validator("group")
    @classmethod
    def _compiles(cls, group: str | None) -> str | None:
        try:
            with warnings.catch_warnings(action="ignore"):
                re.compile(group or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{group!r} is neither a column's name nor a regular expression: {error}") from None
        return group
