"""How well defects are found: `model: auto` on labelled sets, beside principal components and its own best recipe.

    python -m benchmarks.detection --tiles FOLDER --fashion FOLDER --folders FOLDER... --output detection.json
    python -m benchmarks.detection --tiles FOLDER --peers peers.json  # beside other libraries on the same split

`--peers` takes what `python -m benchmarks.peers --output` wrote, and shows it in the same table. Nothing is chosen on
test labels but the column "best recipe": the one of auto's grid that does best on the test images, found with their
labels. Regret is how far auto is behind it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.metrics import roc_auc_score

from ae_models.curves import Auroc, auroc
from ae_models.scoring import scores_by
from ae_models.selection import (
    BASELINE,
    Fitting,
    NominalParts,
    Recipe,
    by_network,
    errors_of,
    fit_designs,
    fit_recipe,
    linear_recipes,
    select,
    trained_recipes,
)
from ae_models.splits import split_by_group
from ae_models.synthetic_defects import draw_defects
from benchmarks.detection_sets import DetectionSet, add_arguments, sets_of

PER_KIND = 45
SHARES = {"fit": 0.6, "usual": 0.2, "selection": 0.2}
PIXELS = 4_000_000  # at most so many pixels are ranked for the pixel AUROC


@dataclass(frozen=True)
class Measured:
    """One set, one seed."""

    data: str
    seed: int
    n_nominal: int
    auto: Auroc
    principal_components: Auroc
    pixels: float | None
    best_recipe: str
    best: float
    chosen: tuple[str, ...]
    seconds: float

    @property
    def regret(self) -> float:
        """AUROC of auto behind that of the best recipe."""
        return self.best - self.auto.value


def measure(data: DetectionSet, seed: int, linear: bool) -> Measured:
    """Everything about one set with one seed; with `linear` no network is trained."""
    sides = split_by_group(data.train_groups.tolist(), SHARES, seed)
    parts = NominalParts(*(data.train_images[sides[name]] for name in SHARES))
    start = perf_counter()
    defects = draw_defects(parts.selection, PER_KIND, seed)
    recipes = linear_recipes(parts.spec) + (() if linear else trained_recipes(parts.spec))
    found = select(parts, defects, recipes, seed=seed, localise=not linear)
    seconds = perf_counter() - start
    scores, groups = found.detector.score(data.test_images), data.test_groups.tolist()
    single = recipe_scores(parts, [BASELINE, *recipes], data, seed)
    areas = {name: float(roc_auc_score(data.test_labels, values)) for name, values in single.items()}
    best = max(areas, key=areas.__getitem__)
    return Measured(
        data.name,
        seed,
        len(data.train_images),
        auroc(scores, data.test_labels, groups),
        auroc(single[BASELINE.name], data.test_labels, groups),
        pixel_auroc(data, found.detector.error_maps(data.test_images[data.test_labels])),
        best,
        areas[best],
        found.chosen,
        seconds,
    )


def recipe_scores(
    parts: NominalParts, recipes: Sequence[Recipe], data: DetectionSet, seed: int
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Scores of the test images by each recipe alone, fitted to as many images as auto's own."""
    scores, fitting = {}, Fitting(seed)
    for group in by_network(recipes):
        base = fit_recipe(group[0], parts, fitting, with_selection=True)
        fitted = fit_designs(base, [recipe.design for recipe in group], parts.usual, fitting.views)
        rows = scores_by(fitted, errors_of(base, (data.test_images,), fitting.views)).numpy()
        scores |= {recipe.name: row for recipe, row in zip(group, rows, strict=True)}
    return scores


def pixel_auroc(data: DetectionSet, maps: np.ndarray[tuple[int, int, int], np.dtype[np.float32]]) -> float | None:
    """AUROC of the error maps (K, H, W) of the anomalous test images against their masks; None without masks."""
    if data.test_masks is None:
        return None
    masks = data.test_masks[data.test_labels]
    step = max(1, round((masks.size / PIXELS) ** 0.5))
    return float(roc_auc_score(masks[:, ::step, ::step].ravel(), maps[:, ::step, ::step].ravel()))


def peers_of(path: Path) -> dict[str, dict[str, list[float]]]:
    """The AUROC of other libraries' detectors, by their name and that of the set; what failed there is left out."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        of_set = found.setdefault(row["peer"], {}).setdefault(row["data"], [])
        of_set += [row["image_auroc"]["value"]] if row["image_auroc"] else []
    return found


def table(rows: Sequence[Measured], peers: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """One line a set: means over the seeds, and their spread where there are several; peers in columns of their own."""
    shown = Table(title="Detection: AUROC on the test images, mean over seeds (lowest to highest)")
    for title in (
        "set",
        "nominal",
        "auto",
        "95% interval",
        "PCA, MSE",
        "pixels",
        "best recipe (by labels)",
        "regret",
        "s",
        *peers,
    ):
        shown.add_column(title, justify="left" if title in ("set", "best recipe (by labels)") else "right")
    names = list(dict.fromkeys(row.data for row in rows))
    for name in names:
        of_set = [row for row in rows if row.data == name]
        first = of_set[0]
        pixels = [row.pixels for row in of_set if row.pixels is not None]
        shown.add_row(
            name,
            str(first.n_nominal),
            _spread([row.auto.value for row in of_set]),
            f"{np.mean([row.auto.low for row in of_set]):.3f} to {np.mean([row.auto.high for row in of_set]):.3f}",
            _spread([row.principal_components.value for row in of_set]),
            _spread(pixels) if pixels else "",
            f"{first.best:.3f} {first.best_recipe}",
            f"{np.mean([row.regret for row in of_set]):+.3f}",
            f"{np.mean([row.seconds for row in of_set]):.0f}",
            *(_spread(found[name]) if found.get(name) else "-" for found in peers.values()),
        )
    means = [f"{np.mean([getattr(row, part).value for row in rows]):.4f}" for part in ("auto", "principal_components")]
    shown.add_row(
        "mean",
        "",
        means[0],
        "",
        means[1],
        "",
        f"{np.mean([row.best for row in rows]):.4f}",
        f"{np.mean([row.regret for row in rows]):+.4f}",
        "",
    )
    return shown


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}-{max(values):.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--linear", action="store_true", help="only recipes in closed form")
    parser.add_argument("--peers", type=Path, help="a JSON file of benchmarks.peers, to be shown in the same table")
    parser.add_argument("--output", type=Path, help="a JSON file for every figure")
    given = parser.parse_args(arguments)
    rows = []
    for seed in track(range(given.seeds), description="Seeds", console=Console(stderr=True)):
        for data in sets_of(given, seed):
            rows.append(measure(data, seed, given.linear))
            if given.output is not None:  # after every line: hours of figures outlive an interruption
                given.output.write_text(json.dumps([asdict(row) | {"regret": row.regret} for row in rows], indent=1))
            row = rows[-1]
            Console(stderr=True).print(
                f"{row.data}, seed {seed}: {row.auto.value:.3f}, PCA {row.principal_components.value:.3f}"
            )
    Console(width=200).print(table(rows, peers_of(given.peers) if given.peers else {}))


if __name__ == "__main__":
    main()
