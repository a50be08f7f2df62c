"""Scores of another library's detector: run by `benchmarks/peers.py` in that library's own virtual environment.

    python peer_worker.py METHOD IN.npz OUT.npz SEED SECONDS

IN holds `train` (N, C, H, W) and `test` (M, C, H, W), float32 in [0, 1]; OUT gets `scores` (M,), higher is worse,
`epochs`, and `maps` (M, H, W) where the method has them. Every setting is the library's own default but for those named
in `peers.py`.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

Images = NDArray[np.float32]  # (N, C, H, W) in [0, 1]
Found = dict[str, Any]  # what OUT gets

SIDE = 64  # the short side of what GANomaly sees (32 in its paper), and PatchCore at least
BATCH = 32


def pyod_autoencoder(train: Images, test: Images, seed: int, seconds: float) -> Found:
    """PyOD's AutoEncoder on the pixels as one row."""
    from pyod.models.auto_encoder import AutoEncoder  # type: ignore[import-not-found]  # in its own environment

    detector = AutoEncoder(random_state=seed, verbose=0)
    detector.fit(train.reshape(len(train), -1))
    scores = detector.decision_function(test.reshape(len(test), -1))
    return {"scores": scores, "epochs": detector.epoch_num}


def pyod_speed(train: Images, test: Images, seed: int, seconds: float, **settings: Any) -> Found:
    """Seconds of one processor that PyOD's AutoEncoder takes to fit, and to score, after a first small run of both."""
    from pyod.models.auto_encoder import AutoEncoder

    torch.set_num_threads(1)
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    AutoEncoder(epoch_num=1, verbose=0, **settings).fit(train[: 2 * BATCH]).decision_function(test[:BATCH])
    detector = AutoEncoder(random_state=seed, verbose=0, **settings)
    start = time.process_time()
    detector.fit(train)
    fitted = time.process_time()
    scores = detector.decision_function(test)
    spent = {"fit_seconds": fitted - start, "score_seconds": time.process_time() - fitted}
    return {"scores": scores, "epochs": detector.epoch_num, **spent}


def ganomaly(train: Images, test: Images, seed: int, seconds: float) -> Found:
    """anomalib's GANomaly, trained until the time is over or for 100 epochs."""
    from anomalib.models import Ganomaly  # type: ignore[import-not-found]  # in its own environment

    model = Ganomaly(pre_processor=Ganomaly.configure_pre_processor(_scaled(test, SIDE)), **_bare())
    epochs = _fit(model, _loader(train, shuffle=True), seconds, epochs=100)
    return {**_predicted(model, test), "epochs": epochs}


def patchcore(train: Images, test: Images, seed: int, seconds: float) -> Found:
    """anomalib's PatchCore with a backbone of random weights."""
    from anomalib.models import Patchcore

    preparation = Patchcore.configure_pre_processor(_scaled(test, max(SIDE, min(test.shape[2:]))))
    model = Patchcore(
        backbone="resnet18",
        pre_trained=False,
        coreset_sampling_ratio=0.01,
        pre_processor=preparation,
        **_bare(),
    )
    epochs = _fit(model, _loader(train, shuffle=False), seconds, epochs=1)
    return {**_predicted(model, test), "epochs": epochs}


def _bare() -> dict[str, bool]:
    """Without anomalib's own thresholds, metrics and pictures: the raw scores are what is compared."""
    return {"post_processor": False, "evaluator": False, "visualizer": False}


def _fit(model: Any, loader: DataLoader[Any], seconds: float, epochs: int) -> int:
    import lightning  # type: ignore[import-not-found]  # in its own environment

    trainer = lightning.Trainer(
        max_epochs=epochs,
        max_time={"seconds": seconds},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, loader)
    return int(trainer.current_epoch)


def _loader(images: Images, shuffle: bool) -> DataLoader[Any]:
    from anomalib.data import ImageBatch  # type: ignore[import-not-found]  # in its own environment

    return DataLoader(
        TensorDataset(torch.from_numpy(images).expand(-1, 3, -1, -1)),
        batch_size=BATCH,
        shuffle=shuffle,
        drop_last=shuffle,
        collate_fn=lambda items: ImageBatch(image=torch.stack([image for (image,) in items])),
    )


def _scaled(images: Images, short: int) -> tuple[int, int]:
    """The height and width of the images when their short side is so long."""
    height, width = images.shape[2:]
    return round(height * short / min(height, width)), round(width * short / min(height, width))


@torch.inference_mode()
def _predicted(model: Any, test: Images) -> Found:
    model.eval()
    scores, maps = [], []
    for part in torch.split(torch.from_numpy(test), BATCH):
        predicted = model(part.expand(-1, 3, -1, -1))
        scores.append(predicted.pred_score.flatten())
        if predicted.anomaly_map is not None:
            whole = torch.nn.functional.interpolate(predicted.anomaly_map, size=test.shape[2:], mode="bilinear")
            maps.append(whole[:, 0])
    found = {"scores": torch.cat(scores).numpy()}
    return {**found, "maps": torch.cat(maps).numpy()} if maps else found


METHODS: dict[str, Callable[[Images, Images, int, float], Found]] = {
    "pyod-autoencoder": pyod_autoencoder,
    "pyod-speed": pyod_speed,
    "pyod-speed-linear": partial(
        pyod_speed, hidden_neuron_list=[32], dropout_rate=0, preprocessing=False, optimizer_params={}
    ),
    "ganomaly": ganomaly,
    "patchcore": patchcore,
}


def main(method: str, source: str, target: str, seed: str, seconds: str) -> None:
    """Fit the method on the source's training images, and write the scores of its test images to the target."""
    torch.manual_seed(int(seed))
    np.random.seed(int(seed))
    with np.load(source) as arrays:
        train, test = arrays["train"], arrays["test"]
    start = time.perf_counter()
    found = METHODS[method](train, test, int(seed), float(seconds))
    np.savez(target, seconds=time.perf_counter() - start, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
