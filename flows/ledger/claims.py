"""Whose a batch is: the answers to who asks for one."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from flows.ledger.tables import BATCHES
from flows.ledger.values import json_text


class LostClaim(RuntimeError):  # noqa: N818 (it says what happened)
    """The claim is no longer held: another process has taken the batch over, or it was released or finished."""


@dataclass(frozen=True)
class Claim:
    """A batch that is ours to score.

    Attributes:
        owner: who holds it, and which of its claims this is.
        attempt: 1 for the first claim of this batch, more after a takeover or a release.
    """

    key: str
    pipeline: str
    batch: str
    owner: str
    attempt: int


@dataclass(frozen=True)
class AlreadyDone:
    """A batch that needs nothing: it was scored before, by `model_version`, in the run `run_id`."""

    key: str
    run_id: str
    finished_at: datetime
    model_version: str


@dataclass(frozen=True)
class Busy:
    """A batch that a living process is scoring."""

    key: str
    owner: str
    renewed_at: datetime


def batch_key(pipeline: str, manifest_hash: str, *versions: str) -> str:
    """The SHA-256 (hex) under which images are claimed.

    Without versions they are decided for the first time, which one version does. With the versions of a model and its
    calibration these decide them once more.
    """
    return hashlib.sha256(json_text([pipeline, manifest_hash, *versions]).encode()).hexdigest()


def held_by(claim: Claim) -> sa.ColumnElement[bool]:
    """The batch, as long as the claim holds."""
    return (BATCHES.c.key == claim.key) & (BATCHES.c.owner == claim.owner) & (BATCHES.c.status == "claimed")


def lost(claim: Claim) -> LostClaim:
    """What is said where it does not hold any more."""
    return LostClaim(
        f"batch '{claim.batch}' of pipeline '{claim.pipeline}' is no longer ours: another process took it over; "
        "nothing of this attempt was recorded"
    )
