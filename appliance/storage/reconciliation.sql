-- What the courier knows of performed studies, in journal.db. Additive; times are ISO 8601 UTC texts, days YYYY-MM-DD.

-- name: create_performed
CREATE TABLE IF NOT EXISTS performed (
    study_uid TEXT PRIMARY KEY,
    source    TEXT NOT NULL,
    day       TEXT NOT NULL              -- its Study Date, or the day on which we heard of it
) STRICT, WITHOUT ROWID;
-- name: create_missed
CREATE TABLE IF NOT EXISTS missed (
    study_uid   TEXT PRIMARY KEY,
    source      TEXT NOT NULL,
    day         TEXT NOT NULL,
    whole       INTEGER NOT NULL,        -- 1: nothing of it was here
    series      TEXT NOT NULL,           -- JSON: [series UID, instances or null], those that were lacking
    found_at    TEXT NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_at     TEXT,                    -- NULL: not before the next ask
    reason      TEXT NOT NULL DEFAULT '',-- why the last attempt did not bring it
    state       TEXT NOT NULL DEFAULT 'wanted', -- wanted | fetched | pushed (by somebody, while we wanted it)
    done_at     TEXT
) STRICT, WITHOUT ROWID;
-- name: create_ask
CREATE TABLE IF NOT EXISTS ask (
    id        INTEGER PRIMARY KEY,
    source    TEXT NOT NULL,
    at        TEXT NOT NULL,
    why       TEXT NOT NULL,             -- first | night | outage
    performed INTEGER,                   -- NULL: it did not answer
    missed    INTEGER,
    reason    TEXT NOT NULL DEFAULT ''
) STRICT;
-- name: create_meta
CREATE TABLE IF NOT EXISTS reconciliation_meta (key TEXT PRIMARY KEY, at TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- name: create_reviewed
CREATE TABLE IF NOT EXISTS reviewed (
    study_uid TEXT PRIMARY KEY,
    source    TEXT NOT NULL,
    at        TEXT NOT NULL              -- when we saw it
) STRICT, WITHOUT ROWID;

-- name: get_moment
SELECT at FROM reconciliation_meta WHERE key = :key
-- name: put_moment
INSERT INTO reconciliation_meta VALUES (:key, :at) ON CONFLICT (key) DO UPDATE SET at = excluded.at
-- name: last_success
SELECT at FROM ask WHERE source = :source AND performed IS NOT NULL ORDER BY id DESC LIMIT 1
-- name: last_try
SELECT at FROM ask WHERE source = :source ORDER BY id DESC LIMIT 1
-- name: failures_in_a_row
SELECT count(*) AS n FROM ask WHERE source = :source
    AND id > coalesce((SELECT max(id) FROM ask WHERE source = :source AND performed IS NOT NULL), 0)
-- name: add_ask
INSERT INTO ask (source, at, why, performed, missed, reason) VALUES (:source, :at, :why, :performed, :missed, :reason)
-- name: add_performed
INSERT INTO performed VALUES (:study_uid, :source, :day) ON CONFLICT DO NOTHING
-- name: add_missed
-- A study that is found missed again is tried again, whatever became of it before.
INSERT INTO missed (study_uid, source, day, whole, series, found_at, next_at)
VALUES (:study_uid, :source, :day, :whole, :series, :at, :at)
ON CONFLICT (study_uid) DO UPDATE SET source = excluded.source, whole = excluded.whole, series = excluded.series,
    next_at = excluded.next_at, state = 'wanted', done_at = NULL
-- name: next_missed
SELECT * FROM missed WHERE state = 'wanted' AND next_at <= :now ORDER BY next_at, day, study_uid LIMIT 1
-- name: wanted
SELECT * FROM missed WHERE state = 'wanted' ORDER BY day, study_uid
-- name: begin_fetch
UPDATE missed SET attempts = attempts + 1, reason = 'interrupted', next_at = :next WHERE study_uid = :study_uid
-- name: end_fetch
UPDATE missed SET state = :state, reason = '', next_at = NULL, done_at = :at WHERE study_uid = :study_uid
-- name: postpone_fetch
UPDATE missed SET reason = :reason, next_at = :until WHERE study_uid = :study_uid
-- name: prune_performed
DELETE FROM performed WHERE day < :before
-- name: prune_missed
DELETE FROM missed WHERE day < :before
-- name: prune_asks
DELETE FROM ask WHERE at < :before

-- name: unreviewed
SELECT study_uid FROM performed WHERE day >= :since
    AND study_uid IN (SELECT study_uid FROM study WHERE delivered_at IS NOT NULL)
    AND study_uid NOT IN (SELECT study_uid FROM reviewed)
ORDER BY day DESC, study_uid
-- name: is_ours
SELECT 1 FROM object WHERE sop_instance_uid = :sop_instance_uid
-- name: add_reviewed
INSERT INTO reviewed VALUES (:study_uid, :source, :at) ON CONFLICT DO NOTHING
-- name: prune_reviewed
DELETE FROM reviewed WHERE at < :before
-- name: all_reviewed
SELECT study_uid FROM reviewed

-- name: performed_days
SELECT study_uid, day FROM performed WHERE day >= :since
-- name: missed_since
SELECT study_uid, source, day, attempts, reason, state, found_at FROM missed WHERE day >= :since OR state = 'wanted'
ORDER BY day DESC, study_uid
-- name: last_asks
SELECT source, at, why, performed, missed, reason FROM ask
WHERE id IN (SELECT max(id) FROM ask GROUP BY source) ORDER BY source
-- name: studies_since
SELECT study_uid, min(received_at) AS received_at, max(answered_at IS NOT NULL) AS analysed,
       max(delivered_at IS NOT NULL) AS delivered
FROM study WHERE received_at >= :since GROUP BY study_uid
