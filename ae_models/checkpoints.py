"""Where a training stands after each epoch, kept so that one that dies goes on there."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Checkpoint:
    """The file of one training: it gives back what the same training kept, and nothing of another one.

    Attributes:
        path: the file.
        key: says which training it is: of the same images, network and settings.
    """

    path: Path
    key: str

    def keep(self, state: dict[str, Any]) -> None:
        """Write tensors, numbers, texts and lists or mappings of them; whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.path.parent, suffix=".part", delete=False) as file:
            torch.save({"key": self.key, "state": state}, file)
        os.replace(file.name, self.path)

    def found(self) -> dict[str, Any] | None:
        """What was kept last; None where nothing was, where it is another training's, or damaged."""
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
            return dict(kept["state"]) if kept["key"] == self.key else None
        except Exception:  # absent, cut short, or no such file at all: torch has no common class for these
            return None
