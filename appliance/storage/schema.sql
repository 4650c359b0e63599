-- journal.db, version 1. Later versions only add: a rolled-back release must open the newer journal.
-- Times are ISO 8601 UTC texts; they sort as they read.

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

-- One row a hand-over. states: appliance/study.py
CREATE TABLE study (
    handover_id TEXT PRIMARY KEY,
    cursor      INTEGER NOT NULL,        -- rowid of the hand-over in intake.db
    study_uid   TEXT NOT NULL,
    pseudonym   TEXT NOT NULL,           -- the only name of the study in logs and messages
    generation  INTEGER NOT NULL,
    state       TEXT NOT NULL,
    complete_by TEXT NOT NULL,
    explanation TEXT NOT NULL,
    instances   INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    complete_at TEXT NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    started_at  TEXT,                    -- first start of the analysis; the time that result objects carry
    revision    INTEGER,
    supersedes  TEXT,                    -- result_id of the revision before
    result_id   TEXT UNIQUE,
    result_seq  INTEGER,                 -- sequence number of its message in stream "result"
    answered_at TEXT,
    delivered_at TEXT
) STRICT;
CREATE INDEX study_by_uid ON study (study_uid, generation);
CREATE INDEX study_by_state ON study (state, complete_at);

-- Every step of every study, as it happened.
CREATE TABLE step (
    id INTEGER PRIMARY KEY, handover_id TEXT NOT NULL, at TEXT NOT NULL, event TEXT NOT NULL, state TEXT NOT NULL
) STRICT;
CREATE INDEX step_by_study ON step (handover_id, id);

CREATE TABLE answer (
    result_id TEXT NOT NULL, cancer TEXT NOT NULL, verdict TEXT NOT NULL, mode TEXT NOT NULL,
    score REAL, reason TEXT, detail TEXT NOT NULL, lesions TEXT NOT NULL,
    PRIMARY KEY (result_id, cancer)
) STRICT, WITHOUT ROWID;

-- Result objects on disk, and each one's way to each PACS.
CREATE TABLE object (
    result_id TEXT NOT NULL, sop_instance_uid TEXT PRIMARY KEY, sop_class_uid TEXT NOT NULL,
    kind TEXT NOT NULL, path TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX object_by_result ON object (result_id);

CREATE TABLE pacs_outbox (
    id INTEGER PRIMARY KEY, result_id TEXT NOT NULL, destination TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL, sop_instance_uid TEXT NOT NULL, path TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, next_at TEXT NOT NULL, last_error TEXT NOT NULL DEFAULT '',
    delivered_at TEXT,
    UNIQUE (destination, sop_instance_uid)
) STRICT;
CREATE INDEX pacs_due ON pacs_outbox (next_at) WHERE delivered_at IS NULL;

-- Messages for the registry. payload never changes once written.
CREATE TABLE stream (name TEXT PRIMARY KEY, last_seq INTEGER NOT NULL, acked INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE message (
    stream TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL, payload BLOB NOT NULL,
    created_at TEXT NOT NULL, acked_at TEXT,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;

-- Model bundles. states: appliance/update/activation.py
CREATE TABLE bundle (
    digest TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, state TEXT NOT NULL,
    code TEXT NOT NULL, at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_active_bundle ON bundle (state) WHERE state = 'active';
