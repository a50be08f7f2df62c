"""Training by several processes or GPUs, which PyTorch's `torchrun` starts: the first one records, the others help."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

from ae_models.errors import InputError
from ae_models.ranks import ALONE, Ranks
from flows.config import AutoConfig, PipelineConfig, Settings
from flows.progress import Progress

PATIENCE = timedelta(hours=24)  # the first process may wait for another training of the pipeline to end


def ranks_of(environment: Mapping[str, str]) -> Ranks:
    """Which of torchrun's processes this is; the only one where torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return ALONE
    return Ranks(int(environment["RANK"]), int(environment["WORLD_SIZE"]))


def start(processes: int, arguments: Sequence[str]) -> int:
    """The exit code of `reconwatch ARGUMENTS`, run by so many processes of this machine."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), **os.environ}
    return subprocess.run([*torchrun, "-m", "flows.cli", *arguments], env=environment).returncode


@contextmanager
def together(ranks: Ranks, pipeline: PipelineConfig) -> Iterator[None]:
    """The process group in which the ranks train the pipeline's network: NCCL where each has a GPU, Gloo elsewhere.

    Raises:
        InputError: `model: auto`, whose many small trainings gain nothing.
    """
    if ranks.count == 1:
        yield
        return
    if isinstance(pipeline.model, AutoConfig):
        raise InputError("model: auto trains on one process: leave --processes out, or name a network")
    import torch

    on_gpus = torch.cuda.is_available() and pipeline.training.device in ("auto", "cuda")
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if on_gpus else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def help_train(settings: Settings, name: str, ranks: Ranks, progress: Progress) -> None:
    """Do one of the other processes' part of a training."""
    from flows.training import follow

    pipeline = settings.pipeline(name)
    with together(ranks, pipeline):
        follow(pipeline, settings.checkpoints(name), settings.cache, progress, ranks)
