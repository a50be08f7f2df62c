"""The verdict on a table of scores: the one way in which a batch is decided, now or again."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ae_models.batch_tests import NominalBatches
from ae_models.calibration import Threshold
from ae_models.monitoring import BatchVerdict, batch_verdict
from flows.config import MonitorConfig

NOMINAL_BATCHES = 1000  # earlier batches, the newest, with which one is compared


def verdict_on(
    table: pd.DataFrame,
    threshold: Threshold,
    calibration_scores: NDArray[np.float64],
    monitor: MonitorConfig,
    nominal_batches: NominalBatches,
) -> BatchVerdict:
    """The verdict on a batch from the columns score and status of its rows, cut by `threshold`.

    `nominal_batches` are (flagged, scored) of the calibration's batches without an alarm, and of those whose alarm
    people called false. Where they call none so, Tarone's test finds too little rather than too much; and where it
    finds that batches differ, the comparison with them cannot bring false alarms down to their rate, as what alarms is
    worse than all that did not. To count alarming batches as nominal without their word would make defects the norm.
    """
    scored = table["status"] == "scored"
    scores = table.loc[scored, "score"].to_numpy(np.float64)
    return batch_verdict(
        len(scores),
        int(threshold.flags(scores).sum()),
        int((~scored).sum()),
        threshold,
        monitor.batch_false_alarm_rate,
        monitor.unreadable_rate,
        scores=scores,
        calibration_scores=calibration_scores,
        nominal_batches=nominal_batches,
        smallest_distance=monitor.smallest_distance,
    )
