"""The nominal batches with which each new one is compared are counted within one index."""

from alembic import op

revision = "0003"
down_revision = "0002"

NAME, COLUMNS = "batches_by_calibration", ["pipeline", "calibration_version", "finished_at"]


def upgrade() -> None:
    """The index of a calibration's batches holds their counts too."""
    op.drop_index(NAME, "batches")
    op.create_index(NAME, "batches", [*COLUMNS, "key", "status", "alarm", "n_scored", "n_flagged"])
