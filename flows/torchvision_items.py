"""Images of the data sets that torchvision reads."""

from collections.abc import Callable, Sequence
from typing import Any

from ae_models.errors import InputError
from ae_models.images import ImageInput
from flows.config import TorchvisionSource
from flows.items import Item


def torchvision_items(source: TorchvisionSource) -> tuple[Item, ...]:
    """The images that the source wants, in the set's order, each with its class as label.

    Raises:
        InputError: the set is not there or damaged, or a class is none of its own.
    """
    from torchvision import datasets  # four seconds, and few pipelines need it

    kind, arguments = getattr(datasets, source.torchvision), source.arguments()
    try:
        data = kind(download=False, **arguments)
    except Exception as error:  # absent: RuntimeError; damaged: whatever its reader stumbles over
        shown = {**arguments, "root": str(source.root)}.items()
        call = ", ".join(f"{name}={value!r}" for name, value in shown)
        raise InputError(
            f"torchvision's {source.torchvision} is not in {source.root}, or damaged: get it with "
            f"torchvision.datasets.{source.torchvision}({call}, download=True)"
        ) from error
    classes = [str(name) for name in getattr(data, "classes", [])]
    labels = [_class_name(int(label), classes) for label in _labels(data)]
    wanted = {str(name) for name in source.classes}
    unknown = wanted - set(labels) - {str(i) for i in range(len(classes))}
    if unknown:
        raise InputError(f"torchvision's {source.torchvision} has no class {', '.join(unknown)}: it has {classes}")
    part = source.split or {True: "train", False: "test", None: "all"}[source.train]
    items = [
        Item(f"torchvision://{source.torchvision}/{part}/{index:06d}", _torchvision_image(data, index), label=label)
        for index, label in enumerate(labels)
        if not wanted or label in wanted or (label in classes and str(classes.index(label)) in wanted)
    ]
    return tuple(items[: source.limit])


def _class_name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if label < len(classes) else str(label)


def _labels(data: Any) -> Sequence[Any]:
    for name in ("targets", "labels", "_labels"):
        if hasattr(data, name):
            return list(getattr(data, name))
    return [data[index][1] for index in range(len(data))]


def _torchvision_image(data: Any, index: int) -> Callable[[], ImageInput]:
    def content() -> ImageInput:
        image: ImageInput = data[index][0]
        return image

    return content
