"""Several processes train one network: the same steps as one process makes, and one record."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from ae_models.ranks import ALONE, Ranks
from ae_models.training import TrainingSettings, fit
from flows.config import load
from flows.torchrun import ranks_of, together
from flows.workspace import open_workspace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SETTINGS = TrainingSettings(epochs=4, batch_size=8, device="cpu")
TRAIN = """
import os, sys, torch, safetensors.torch
sys.path.insert(0, os.path.join(os.getcwd(), "tests"))
from test_torchrun import trained
from ae_models.ranks import Ranks
torch.distributed.init_process_group("gloo")
ranks = Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
result = trained(ranks)
safetensors.torch.save_file(result.network.state_dict(), f"{sys.argv[1]}/{ranks.rank}.safetensors")
torch.distributed.destroy_process_group()
"""


def trained(ranks: Ranks = ALONE) -> Any:
    """A training on 30 images, whose last batch is a short one."""
    spec = ImageSpec(16, 16, 1)
    random = np.random.default_rng(0)
    images, validation = random.random((30, *spec.shape), np.float32), random.random((9, *spec.shape), np.float32)
    return fit(lambda: build_network("convolutional", spec, {}), images, validation, SETTINGS, ranks=ranks)


def torchrun(*arguments: str) -> None:
    """Run that by two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    """Two processes with half of each batch end with the weights of one process, but for rounding, and agree."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    torchrun(str(script), str(tmp_path))
    first, second = (safetensors.torch.load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    alone = trained().network.state_dict()
    for name, weights in alone.items():
        torch.testing.assert_close(first[name], weights, rtol=1e-3, atol=1e-4)
        assert torch.equal(first[name], second[name])


def test_a_pipeline_is_trained_by_two_processes(project: Callable[..., Path], tmp_path: Path) -> None:
    """`reconwatch train NAME --processes 2` prints and records one training, whose network has learnt."""
    config = project(tmp_path, model={"network": "convolutional", "widths": [4]}, training={"epochs": 3})
    command = [sys.executable, "-m", "flows.cli", "train", "tiles", "--config", str(config), "--processes", "2"]
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["epochs"] == 3
    workspace = open_workspace(config)
    assert workspace.tracking.latest_training("tiles").run_id == report["run_id"]  # type: ignore[union-attr]  # there
    assert not workspace.settings.checkpoints("tiles").exists()


def test_torchrun_says_which_process_this_is() -> None:
    """Its variables count only where it started the process."""
    assert ranks_of({"RANK": "1", "WORLD_SIZE": "2"}) == ALONE
    assert ranks_of({"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}) == Ranks(1, 2)


def test_the_choice_of_a_recipe_is_for_one_process(project: Callable[..., Path], tmp_path: Path) -> None:
    """`model: auto` says what to do instead of training on several processes."""
    pipeline = load(project(tmp_path, model="auto"), {}).pipeline("tiles")
    with pytest.raises(InputError, match="leave --processes out, or name a network"), together(Ranks(0, 2), pipeline):
        pass


def test_too_few_images_for_the_processes() -> None:
    """Every process needs two images of each batch."""
    with pytest.raises(InputError, match="30 training images are too few for 16 processes"):
        trained(Ranks(0, 16))
