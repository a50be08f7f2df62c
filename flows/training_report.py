"""What a training gave, for people."""

from dataclasses import dataclass

from ae_models.curves import Auroc


@dataclass(frozen=True)
class TrainingReport:
    """What a training gave; losses are mean squared errors on held-out nominal images.

    Attributes:
        int8: how 8-bit integers compare with floats, in one sentence; empty where floats score.
        standing: what its calibration images will allow, in one sentence; empty where labels set the threshold.
    """

    pipeline: str
    run_id: str
    run_url: str
    network: str
    image_size: str
    n_training: int
    n_validation: int
    n_calibration: int
    n_unreadable: int
    near_duplicates: int
    epochs: int = 0
    validation_loss: float | None = None
    baseline_loss: float | None = None
    recipes: tuple[str, ...] = ()
    recipes_tried: int = 0
    chosen_by: str = ""
    selection_auroc: Auroc | None = None
    selection_baseline_auroc: Auroc | None = None
    auroc: Auroc | None = None
    baseline_auroc: Auroc | None = None
    int8: str = ""
    standing: str = ""

    def sentences(self) -> tuple[str, ...]:
        """What came out, for people."""
        lines = self._learnt()
        if self.auroc and self.baseline_auroc:
            verdict = "beats" if self.auroc.value > self.baseline_auroc.value else "DOES NOT BEAT"
            lines.append(
                f"On the labelled images its AUROC of {interval(self.auroc)} {verdict} the "
                f"{interval(self.baseline_auroc)} of principal components."
            )
        return (*lines, *filter(None, [self.int8, self.standing]))

    def _learnt(self) -> list[str]:
        if self.validation_loss is not None and self.baseline_loss is not None:
            better = "below" if self.validation_loss < self.baseline_loss else "NOT below"
            return [
                f"{self.network} network on {self.image_size} images: {self.epochs} epochs over {self.n_training} "
                "images.",
                f"Validation error {self.validation_loss:.4g}, {better} the {self.baseline_loss:.4g} of the PCA "
                "baseline.",
            ]
        lines = [
            f"{self.recipes_tried} recipes tried on {self.image_size} images, {self.n_training} to learn from; the "
            f"best are fused: {'; '.join(self.recipes)}."
        ]
        if self.selection_auroc and self.selection_baseline_auroc:
            verdict = "beats" if self.selection_auroc.value > self.selection_baseline_auroc.value else "DOES NOT BEAT"
            lines.append(
                f"On the {self.chosen_by} that chose them their AUROC of {interval(self.selection_auroc)} {verdict} "
                f"the {interval(self.selection_baseline_auroc)} of the PCA baseline."
            )
        return lines


def interval(area: Auroc) -> str:
    return f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f})"
