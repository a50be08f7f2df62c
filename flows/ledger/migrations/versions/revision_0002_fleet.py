"""What is asked for each batch is found by an index, whatever the number of pipelines and of batches before it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Indexes, the pipeline of each review queue, and the nominal batches of each calibration, counted."""
    op.create_index("batches_by_name", "batches", ["pipeline", "batch", "finished_at"])
    op.create_index("batches_by_calibration", "batches", ["pipeline", "calibration_version", "finished_at"])
    claimed = sa.text("status = 'claimed'")
    op.create_index("batches_claimed", "batches", ["pipeline"], sqlite_where=claimed, postgresql_where=claimed)
    op.drop_index("incidents_by_pipeline", "incidents")
    op.create_index("incidents_by_place", "incidents", ["pipeline", "kind", "last_place"])
    op.drop_index("outbox_due", "outbox")
    waiting = sa.text("delivered_at IS NULL")
    op.create_index("outbox_waiting", "outbox", ["id"], sqlite_where=waiting, postgresql_where=waiting)
    by_channel = ["pipeline", "channel"]
    op.create_index("outbox_waiting_by_channel", "outbox", by_channel, sqlite_where=waiting, postgresql_where=waiting)
    op.create_index("labels_by_batch", "labels", ["batch_key", "labelled_at"])
    _give_queues_their_pipeline()
    _count_nominal_batches()
    # reconwatch 0.1.0 knows of no migrations, and refuses a ledger by this number.
    op.execute("UPDATE meta SET value = '2' WHERE key = 'schema'")


def _give_queues_their_pipeline() -> None:
    op.add_column("review_queues", sa.Column("pipeline", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.execute("""
        UPDATE review_queues
        SET pipeline = (SELECT pipeline FROM batches WHERE batches.key = review_queues.batch_key)
    """)
    kept = sa.text("queue <> ''")
    op.create_index("review_queues_kept", "review_queues", ["pipeline"], sqlite_where=kept, postgresql_where=kept)


def _count_nominal_batches() -> None:
    op.create_table(
        "tallies",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("calibration_version", sa.Text(), nullable=False),
        sa.Column("nominal", sa.Integer(), nullable=False),
        sa.Column("false_alarms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "calibration_version"),
    )
    op.execute("""
        INSERT INTO tallies (pipeline, calibration_version, nominal, false_alarms)
        SELECT pipeline, calibration_version, COUNT(*), SUM(CASE WHEN alarm THEN 1 ELSE 0 END)
        FROM batches
        WHERE status = 'done'
        AND NOT EXISTS (SELECT 1 FROM judgements WHERE batch_key = batches.key AND judgement = 'true alarm')
        AND (NOT alarm OR (
            EXISTS (SELECT 1 FROM judgements WHERE batch_key = batches.key AND judgement = 'false alarm')
            AND NOT EXISTS (
                SELECT 1 FROM incident_batches JOIN incidents ON incidents.number = incident_batches.incident
                WHERE incident_batches.batch_key = batches.key
                AND NOT EXISTS (
                    SELECT 1 FROM judgements
                    WHERE batch_key = batches.key AND finding = incidents.kind AND judgement = 'false alarm'
                )
            )
        ))
        GROUP BY pipeline, calibration_version
    """)
