-- intake.db: what the receiver has. Written by the receiver alone, read by everybody.
-- Additive only: a rolled-back release must open a newer file. Times are ISO 8601 UTC.

CREATE TABLE IF NOT EXISTS study (
    study_uid       TEXT PRIMARY KEY,
    state           TEXT NOT NULL,              -- appliance.study.State: receiving | complete
    sender          TEXT NOT NULL,              -- calling AE title of the latest instance
    first_at        TEXT NOT NULL,
    last_at         TEXT NOT NULL,
    explanation     TEXT NOT NULL DEFAULT '',
    generation      INTEGER NOT NULL DEFAULT 0  -- of its latest hand-over
) STRICT;

CREATE TABLE IF NOT EXISTS instance (
    id               INTEGER PRIMARY KEY,
    study_uid        TEXT NOT NULL REFERENCES study (study_uid),
    series_uid       TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid    TEXT NOT NULL,
    sha256           TEXT NOT NULL,             -- of the data set as received, without file meta
    file             TEXT NOT NULL,             -- below the spool
    bytes            INTEGER NOT NULL,          -- of the Part 10 object
    transfer_syntax  TEXT NOT NULL,
    sender           TEXT NOT NULL,
    stored_at        TEXT NOT NULL,
    facts            TEXT NOT NULL,             -- JSON, appliance.intake.facts.InstanceFacts
    evidence         INTEGER NOT NULL DEFAULT 0, -- 1: another content of this UID came first
    pruned_at        TEXT,
    start            INTEGER,                   -- byte of the file where the object begins; NULL: it is the whole file
    UNIQUE (study_uid, sop_instance_uid, sha256)
) STRICT;
CREATE INDEX IF NOT EXISTS instance_by_uid ON instance (sop_instance_uid);
CREATE INDEX IF NOT EXISTS instance_by_file ON instance (file, start);

CREATE TABLE IF NOT EXISTS handover (
    cursor       INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,          -- derived from study UID and contents: the same again adds no row
    study_uid    TEXT NOT NULL REFERENCES study (study_uid),
    generation   INTEGER NOT NULL,
    complete_by  TEXT NOT NULL CHECK (complete_by IN ('geometry', 'count', 'quiet')),
    explanation  TEXT NOT NULL,
    received_at  TEXT NOT NULL,
    complete_at  TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS handover_by_study ON handover (study_uid);

CREATE TABLE IF NOT EXISTS handover_instance (
    handover INTEGER NOT NULL REFERENCES handover (cursor),
    instance INTEGER NOT NULL REFERENCES instance (id),
    PRIMARY KEY (handover, instance)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS report (
    cursor    INTEGER PRIMARY KEY AUTOINCREMENT,
    kind      TEXT NOT NULL,                    -- core.wire.EventBody.kind
    study_uid TEXT NOT NULL,
    code      TEXT NOT NULL,
    at        TEXT NOT NULL
) STRICT;
