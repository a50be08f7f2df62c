"""The tables of reconwatch 0.1.0, which knew of no migrations: those that a file has already stay as they are."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make what is not there yet, and number the batches of a ledger from before there were points."""
    op.create_table(
        "batches",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("manifest_hash", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("calibration_version", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("alarm", sa.Boolean(), nullable=True),
        sa.Column("n_scored", sa.Integer(), nullable=True),
        sa.Column("n_flagged", sa.Integer(), nullable=True),
        sa.Column("n_unreadable", sa.Integer(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("key"),
        if_not_exists=True,
    )
    op.create_index("batches_by_finish", "batches", ["pipeline", "finished_at"], if_not_exists=True)
    op.create_index("batches_by_manifest", "batches", ["pipeline", "manifest_hash"], if_not_exists=True)
    op.create_table(
        "fingerprints",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("stat_hash", sa.Text(), nullable=False),
        sa.Column("manifest_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "batch", "stat_hash"),
        if_not_exists=True,
    )
    op.create_table(
        "incidents",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("alert", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_place", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_place", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_alarm_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("batches", sa.Integer(), nullable=False),
        sa.Column("clean", sa.Integer(), nullable=False),
        sa.Column("told", sa.Text(), nullable=False),
        sa.Column("escalated", sa.Boolean(), nullable=False),
        sa.Column("spoken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reminders", sa.Integer(), nullable=False),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("key"),
        if_not_exists=True,
    )
    op.create_index(
        "incidents_by_pipeline", "incidents", ["pipeline", "kind", "closed_at", "last_place"], if_not_exists=True
    )
    op.create_index(
        "incidents_open",
        "incidents",
        ["pipeline", "kind"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
        if_not_exists=True,
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        if_not_exists=True,
    )
    op.create_table(
        "monitors",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("shown", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline"),
        if_not_exists=True,
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("batch_key", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("sender_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dedupe_key", "channel"),
        if_not_exists=True,
    )
    op.create_index("outbox_by_matter", "outbox", ["batch_key", "channel"], if_not_exists=True)
    op.create_index("outbox_due", "outbox", ["delivered_at", "next_attempt_at"], if_not_exists=True)
    op.create_table(
        "streams",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("calibration_version", sa.Text(), nullable=False),
        sa.Column("calibration", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "calibration_version"),
        sa.UniqueConstraint("pipeline", "calibration"),
        if_not_exists=True,
    )
    op.create_table(
        "watches",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_run_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("good_run_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failed_runs", sa.Integer(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("pipeline"),
        if_not_exists=True,
    )
    op.create_table(
        "incident_batches",
        sa.Column("incident", sa.Integer(), nullable=False),
        sa.Column("batch_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_key"],
            ["batches.key"],
        ),
        sa.ForeignKeyConstraint(
            ["incident"],
            ["incidents.number"],
        ),
        sa.PrimaryKeyConstraint("incident", "batch_key"),
        if_not_exists=True,
    )
    op.create_index("incident_batches_by_batch", "incident_batches", ["batch_key"], if_not_exists=True)
    op.create_table(
        "judgements",
        sa.Column("batch_key", sa.Text(), nullable=False),
        sa.Column("finding", sa.Text(), nullable=False),
        sa.Column("judgement", sa.Text(), nullable=False),
        sa.Column("judged_by", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("judged_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_key"],
            ["batches.key"],
        ),
        sa.PrimaryKeyConstraint("batch_key", "finding"),
        if_not_exists=True,
    )
    op.create_table(
        "labels",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("batch_key", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("labelled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("way", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("audit", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_key"],
            ["batches.key"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("batch_key", "uri", "reviewer", "way", "labelled_at"),
        if_not_exists=True,
    )
    op.create_index("labels_by_pipeline", "labels", ["pipeline", "labelled_at"], if_not_exists=True)
    op.create_table(
        "points",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("batch_key", sa.Text(), nullable=False),
        sa.Column("numbers", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_key"],
            ["batches.key"],
        ),
        sa.PrimaryKeyConstraint("pipeline", "number"),
        sa.UniqueConstraint("batch_key"),
        if_not_exists=True,
    )
    op.create_table(
        "review_queues",
        sa.Column("batch_key", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_key"],
            ["batches.key"],
        ),
        sa.PrimaryKeyConstraint("batch_key"),
        if_not_exists=True,
    )
    op.execute("""
        INSERT INTO points (pipeline, number, batch_key, numbers)
        SELECT pipeline, ROW_NUMBER() OVER (PARTITION BY pipeline ORDER BY finished_at, key), key, '{}'
        FROM batches WHERE status = 'done' AND NOT EXISTS (SELECT 1 FROM points)
    """)
    op.execute("INSERT INTO meta (key, value) SELECT 'schema', '1' WHERE NOT EXISTS (SELECT 1 FROM meta)")
