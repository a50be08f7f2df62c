"""The tables of the ledger."""

import sqlalchemy as sa

from flows.ledger.values import Time, Words

METADATA = sa.MetaData()
META = sa.Table(
    "meta",
    METADATA,
    sa.Column("key", Words, primary_key=True),
    sa.Column("value", Words, nullable=False),
)
BATCHES = sa.Table(
    "batches",
    METADATA,
    sa.Column("key", Words, primary_key=True),
    sa.Column("pipeline", Words, nullable=False),
    sa.Column("batch", Words, nullable=False),
    sa.Column("manifest_hash", Words, nullable=False),
    sa.Column("model_version", Words, nullable=False),
    sa.Column("calibration_version", Words, nullable=False),
    sa.Column("status", Words, nullable=False),  # claimed, done
    sa.Column("owner", Words, nullable=False),
    sa.Column("claimed_at", Time, nullable=False),
    sa.Column("renewed_at", Time, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("finished_at", Time),
    sa.Column("run_id", Words),
    sa.Column("alarm", sa.Boolean),
    sa.Column("n_scored", sa.Integer),
    sa.Column("n_flagged", sa.Integer),
    sa.Column("n_unreadable", sa.Integer),
    sa.Column("verdict", Words),
    sa.Index("batches_by_finish", "pipeline", "finished_at"),
    sa.Index("batches_by_manifest", "pipeline", "manifest_hash"),
    sa.Index("batches_by_name", "pipeline", "batch", "finished_at"),
    sa.Index(  # all that `nominal_counts` asks of a thousand batches at each new one
        "batches_by_calibration",
        *("pipeline", "calibration_version", "finished_at", "key", "status", "alarm", "n_scored", "n_flagged"),
    ),
)
# Written out: PostgreSQL's plans of statements that are asked often know no parameters, and so no part of a table.
IS_CLAIMED = BATCHES.c.status == sa.literal_column("'claimed'")
sa.Index("batches_claimed", BATCHES.c.pipeline, sqlite_where=IS_CLAIMED, postgresql_where=IS_CLAIMED)
OUTBOX = sa.Table(
    "outbox",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dedupe_key", Words, nullable=False),
    sa.Column("pipeline", Words, nullable=False),
    sa.Column("batch_key", Words, nullable=False),
    sa.Column("channel", Words, nullable=False),
    sa.Column("payload", Words, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("last_error", Words),
    sa.Column("next_attempt_at", Time, nullable=False),
    sa.Column("sender", Words, nullable=False),
    sa.Column("sender_since", Time),
    sa.Column("delivered_at", Time),
    sa.UniqueConstraint("dedupe_key", "channel"),
)
_WAITING = OUTBOX.c.delivered_at.is_(None)
sa.Index("outbox_waiting", OUTBOX.c.id, sqlite_where=_WAITING, postgresql_where=_WAITING)
sa.Index(
    "outbox_waiting_by_channel", OUTBOX.c.pipeline, OUTBOX.c.channel, sqlite_where=_WAITING, postgresql_where=_WAITING
)
sa.Index("outbox_by_matter", OUTBOX.c.batch_key, OUTBOX.c.channel)
STREAMS = sa.Table(
    "streams",
    METADATA,
    sa.Column("pipeline", Words, primary_key=True),
    sa.Column("calibration_version", Words, primary_key=True),
    sa.Column("calibration", sa.Integer, nullable=False),
    sa.Column("state", Words, nullable=False),
    sa.UniqueConstraint("pipeline", "calibration"),
)
TALLIES = sa.Table(  # of the nominal batches of each calibration: those that finish is told of, and what people say
    "tallies",
    METADATA,
    sa.Column("pipeline", Words, primary_key=True),
    sa.Column("calibration_version", Words, primary_key=True),
    sa.Column("nominal", sa.Integer, nullable=False),
    sa.Column("false_alarms", sa.Integer, nullable=False),
)
FINGERPRINTS = sa.Table(
    "fingerprints",
    METADATA,
    sa.Column("pipeline", Words, primary_key=True),
    sa.Column("batch", Words, primary_key=True),
    sa.Column("stat_hash", Words, primary_key=True),
    sa.Column("manifest_hash", Words, nullable=False),
)
POINTS = sa.Table(
    "points",
    METADATA,
    sa.Column("pipeline", Words, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("batch_key", Words, sa.ForeignKey("batches.key"), nullable=False, unique=True),
    sa.Column("numbers", Words, nullable=False),
)
MONITORS = sa.Table(
    "monitors",
    METADATA,
    sa.Column("pipeline", Words, primary_key=True),
    sa.Column("run_id", Words, nullable=False),
    sa.Column("shown", sa.Integer, nullable=False),
)
WATCHES = sa.Table(
    "watches",
    METADATA,
    sa.Column("pipeline", Words, primary_key=True),
    sa.Column("turns", sa.Integer, nullable=False),  # whoever adds one has the pipeline's incidents to itself
    sa.Column("since", Time, nullable=False),
    sa.Column("last_run_at", Time),
    sa.Column("good_run_at", Time),
    sa.Column("failed_runs", sa.Integer, nullable=False),
    sa.Column("failure", Words),
)
INCIDENTS = sa.Table(
    "incidents",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("key", Words, nullable=False, unique=True),
    sa.Column("pipeline", Words, nullable=False),
    sa.Column("kind", Words, nullable=False),
    sa.Column("severity", Words, nullable=False),
    sa.Column("alert", Words, nullable=False),
    sa.Column("opened_at", Time, nullable=False),
    sa.Column("first_place", Time, nullable=False),
    sa.Column("last_place", Time, nullable=False),
    sa.Column("last_alarm_at", Time, nullable=False),
    sa.Column("batches", sa.Integer, nullable=False),
    sa.Column("clean", sa.Integer, nullable=False),
    sa.Column("told", Words, nullable=False),
    sa.Column("escalated", sa.Boolean, nullable=False),
    sa.Column("spoken_at", Time),
    sa.Column("reminders", sa.Integer, nullable=False),
    sa.Column("acknowledged_at", Time),
    sa.Column("acknowledged_by", Words),
    sa.Column("comment", Words),
    sa.Column("closed_at", Time),
    sa.Column("closed_by", Words),
    sa.Index("incidents_by_place", "pipeline", "kind", "last_place"),
)
_OPEN = INCIDENTS.c.closed_at.is_(None)
sa.Index(  # two at once of a kind cannot be, whatever happens
    "incidents_open", INCIDENTS.c.pipeline, INCIDENTS.c.kind, unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN
)
INCIDENT_BATCHES = sa.Table(
    "incident_batches",
    METADATA,
    sa.Column("incident", sa.Integer, sa.ForeignKey("incidents.number"), primary_key=True),
    sa.Column("batch_key", Words, sa.ForeignKey("batches.key"), primary_key=True),
)
sa.Index("incident_batches_by_batch", INCIDENT_BATCHES.c.batch_key)
JUDGEMENTS = sa.Table(  # whoever judges batches, and however: one word on each finding of each, the last
    "judgements",
    METADATA,
    sa.Column("batch_key", Words, sa.ForeignKey("batches.key"), primary_key=True),
    sa.Column("finding", Words, primary_key=True),  # the kind of its incident
    sa.Column("judgement", Words, nullable=False),  # false alarm, true alarm
    sa.Column("judged_by", Words, nullable=False),
    sa.Column("note", Words, nullable=False),
    sa.Column("judged_at", Time, nullable=False),
)
LABELS = sa.Table(
    "labels",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("pipeline", Words, nullable=False),
    sa.Column("batch_key", Words, sa.ForeignKey("batches.key"), nullable=False),
    sa.Column("batch", Words, nullable=False),
    sa.Column("uri", Words, nullable=False),
    sa.Column("verdict", Words, nullable=False),
    sa.Column("comment", Words, nullable=False),
    sa.Column("reviewer", Words, nullable=False),
    sa.Column("labelled_at", Time, nullable=False),
    sa.Column("way", Words, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("flagged", sa.Boolean, nullable=False),
    sa.Column("audit", sa.Boolean, nullable=False),
    sa.UniqueConstraint("batch_key", "uri", "reviewer", "way", "labelled_at"),
    sa.Index("labels_by_pipeline", "pipeline", "labelled_at"),
    sa.Index("labels_by_batch", "batch_key", "labelled_at"),
)
QUEUES = sa.Table(
    "review_queues",
    METADATA,
    sa.Column("batch_key", Words, sa.ForeignKey("batches.key"), primary_key=True),
    sa.Column("queue", Words, nullable=False),
    sa.Column("made_at", Time, nullable=False),
    sa.Column("pipeline", Words, nullable=False, server_default=sa.text("''")),
)
IS_KEPT = QUEUES.c.queue != sa.literal_column("''")
sa.Index("review_queues_kept", QUEUES.c.pipeline, sqlite_where=IS_KEPT, postgresql_where=IS_KEPT)
