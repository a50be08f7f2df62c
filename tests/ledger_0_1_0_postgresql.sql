-- The ledger as reconwatch 0.1.0 makes it, before migrations: do not edit.

CREATE TABLE batches (
    key TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    batch TEXT NOT NULL,
    manifest_hash TEXT NOT NULL,
    model_version TEXT NOT NULL,
    calibration_version TEXT NOT NULL,
    status TEXT NOT NULL,
    owner TEXT NOT NULL,
    claimed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    renewed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    attempts INTEGER NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    run_id TEXT,
    alarm BOOLEAN,
    n_scored INTEGER,
    n_flagged INTEGER,
    n_unreadable INTEGER,
    verdict TEXT,
    PRIMARY KEY (key)
);

CREATE INDEX batches_by_finish ON batches (pipeline, finished_at);

CREATE INDEX batches_by_manifest ON batches (pipeline, manifest_hash);

CREATE TABLE fingerprints (
    pipeline TEXT NOT NULL,
    batch TEXT NOT NULL,
    stat_hash TEXT NOT NULL,
    manifest_hash TEXT NOT NULL,
    PRIMARY KEY (pipeline, batch, stat_hash)
);

CREATE TABLE incidents (
    number SERIAL NOT NULL,
    key TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    alert TEXT NOT NULL,
    opened_at TIMESTAMP WITH TIME ZONE NOT NULL,
    first_place TIMESTAMP WITH TIME ZONE NOT NULL,
    last_place TIMESTAMP WITH TIME ZONE NOT NULL,
    last_alarm_at TIMESTAMP WITH TIME ZONE NOT NULL,
    batches INTEGER NOT NULL,
    clean INTEGER NOT NULL,
    told TEXT NOT NULL,
    escalated BOOLEAN NOT NULL,
    spoken_at TIMESTAMP WITH TIME ZONE,
    reminders INTEGER NOT NULL,
    acknowledged_at TIMESTAMP WITH TIME ZONE,
    acknowledged_by TEXT,
    comment TEXT,
    closed_at TIMESTAMP WITH TIME ZONE,
    closed_by TEXT,
    PRIMARY KEY (number),
    UNIQUE (key)
);

CREATE INDEX incidents_by_pipeline ON incidents (pipeline, kind, closed_at, last_place);

CREATE UNIQUE INDEX incidents_open ON incidents (pipeline, kind) WHERE closed_at IS NULL;

CREATE TABLE meta (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (key)
);

CREATE TABLE monitors (
    pipeline TEXT NOT NULL,
    run_id TEXT NOT NULL,
    shown INTEGER NOT NULL,
    PRIMARY KEY (pipeline)
);

CREATE TABLE outbox (
    id SERIAL NOT NULL,
    dedupe_key TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    batch_key TEXT NOT NULL,
    channel TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    attempts INTEGER NOT NULL,
    last_error TEXT,
    next_attempt_at TIMESTAMP WITH TIME ZONE NOT NULL,
    sender TEXT NOT NULL,
    sender_since TIMESTAMP WITH TIME ZONE,
    delivered_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    UNIQUE (dedupe_key, channel)
);

CREATE INDEX outbox_by_matter ON outbox (batch_key, channel);

CREATE INDEX outbox_due ON outbox (delivered_at, next_attempt_at);

CREATE TABLE streams (
    pipeline TEXT NOT NULL,
    calibration_version TEXT NOT NULL,
    calibration INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (pipeline, calibration_version),
    UNIQUE (pipeline, calibration)
);

CREATE TABLE watches (
    pipeline TEXT NOT NULL,
    turns INTEGER NOT NULL,
    since TIMESTAMP WITH TIME ZONE NOT NULL,
    last_run_at TIMESTAMP WITH TIME ZONE,
    good_run_at TIMESTAMP WITH TIME ZONE,
    failed_runs INTEGER NOT NULL,
    failure TEXT,
    PRIMARY KEY (pipeline)
);

CREATE TABLE incident_batches (
    incident INTEGER NOT NULL,
    batch_key TEXT NOT NULL,
    PRIMARY KEY (incident, batch_key),
    FOREIGN KEY(incident) REFERENCES incidents (number),
    FOREIGN KEY(batch_key) REFERENCES batches (key)
);

CREATE INDEX incident_batches_by_batch ON incident_batches (batch_key);

CREATE TABLE judgements (
    batch_key TEXT NOT NULL,
    finding TEXT NOT NULL,
    judgement TEXT NOT NULL,
    judged_by TEXT NOT NULL,
    note TEXT NOT NULL,
    judged_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (batch_key, finding),
    FOREIGN KEY(batch_key) REFERENCES batches (key)
);

CREATE TABLE labels (
    id SERIAL NOT NULL,
    pipeline TEXT NOT NULL,
    batch_key TEXT NOT NULL,
    batch TEXT NOT NULL,
    uri TEXT NOT NULL,
    verdict TEXT NOT NULL,
    comment TEXT NOT NULL,
    reviewer TEXT NOT NULL,
    labelled_at TIMESTAMP WITH TIME ZONE NOT NULL,
    way TEXT NOT NULL,
    score FLOAT,
    threshold FLOAT NOT NULL,
    flagged BOOLEAN NOT NULL,
    audit BOOLEAN NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (batch_key, uri, reviewer, way, labelled_at),
    FOREIGN KEY(batch_key) REFERENCES batches (key)
);

CREATE INDEX labels_by_pipeline ON labels (pipeline, labelled_at);

CREATE TABLE points (
    pipeline TEXT NOT NULL,
    number INTEGER NOT NULL,
    batch_key TEXT NOT NULL,
    numbers TEXT NOT NULL,
    PRIMARY KEY (pipeline, number),
    UNIQUE (batch_key),
    FOREIGN KEY(batch_key) REFERENCES batches (key)
);

CREATE TABLE review_queues (
    batch_key TEXT NOT NULL,
    queue TEXT NOT NULL,
    made_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (batch_key),
    FOREIGN KEY(batch_key) REFERENCES batches (key)
);

INSERT INTO meta (key, value) VALUES ('schema', '1');
