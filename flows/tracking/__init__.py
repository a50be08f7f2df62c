"""What people look at: runs, pictures and model versions in MLflow. Nothing else talks to it.

Whoever only reads how things stand needs no network: PyTorch and what stands on it are imported where one is loaded.
"""

from flows.tracking.registry import BEFORE, CHALLENGER, CHAMPION, REASON, ChampionVersion, RegisteredVersion
from flows.tracking.review import Answer, Question, ReviewQueue, ReviewQueues
from flows.tracking.store import ArtifactMissing, TrackingUnavailable
from flows.tracking.tracking import LoggedPoint, Standing, Tracking, TrainedRun

__all__ = [
    "BEFORE",
    "CHALLENGER",
    "CHAMPION",
    "REASON",
    "Answer",
    "ArtifactMissing",
    "ChampionVersion",
    "LoggedPoint",
    "Question",
    "RegisteredVersion",
    "ReviewQueue",
    "ReviewQueues",
    "Standing",
    "Tracking",
    "TrackingUnavailable",
    "TrainedRun",
]
