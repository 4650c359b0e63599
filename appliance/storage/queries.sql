-- Every statement on journal.db, by name. Parameters are named; times are ISO 8601 UTC texts.

-- name: get_meta
SELECT value FROM meta WHERE key = :key
-- name: put_meta
INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value
-- name: put_meta_once
INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO NOTHING
-- name: drop_meta
DELETE FROM meta WHERE key = :key

-- Studies ------------------------------------------------------------------------------------------------------------
-- name: queue_study
-- A hand-over has a derived id: the same content queues once, however often it comes.
INSERT INTO study (handover_id, cursor, study_uid, pseudonym, generation, state, complete_by, explanation, instances,
                   received_at, complete_at)
VALUES (:handover_id, :cursor, :study_uid, :pseudonym, :generation, :state, :complete_by, :explanation, :instances,
        :received_at, :complete_at)
ON CONFLICT (handover_id) DO NOTHING
-- name: last_cursor
SELECT coalesce(max(cursor), 0) AS cursor FROM study
-- name: older_unanswered
SELECT * FROM study WHERE study_uid = :study_uid AND generation < :generation AND state IN ('queued', 'analysing')
-- name: next_study
-- A study that was being analysed when the power went comes first.
SELECT * FROM study WHERE state IN ('analysing', 'queued') ORDER BY state, complete_at, handover_id LIMIT 1
-- name: study
SELECT * FROM study WHERE handover_id = :handover_id
-- name: study_of_result
SELECT * FROM study WHERE result_id = :result_id
-- name: latest_answered
SELECT * FROM study WHERE study_uid = :study_uid AND result_id IS NOT NULL ORDER BY revision DESC LIMIT 1
-- name: start_study
UPDATE study SET state = :state, attempts = attempts + 1, started_at = coalesce(started_at, :at), revision = :revision,
                 supersedes = :supersedes
WHERE handover_id = :handover_id
-- name: refund_attempt
-- A full disk or a clean stop is not the study's fault.
UPDATE study SET attempts = attempts - 1 WHERE handover_id = :handover_id AND attempts > 0
-- name: answer_study
UPDATE study SET state = :state, result_id = :result_id, result_seq = :result_seq, answered_at = :at
WHERE handover_id = :handover_id
-- name: set_study_state
UPDATE study SET state = :state WHERE handover_id = :handover_id
-- name: deliver_study
UPDATE study SET state = :state, delivered_at = :at WHERE handover_id = :handover_id
-- name: add_step
INSERT INTO step (handover_id, at, event, state) VALUES (:handover_id, :at, :event, :state)
-- name: steps
SELECT at, event, state FROM step WHERE handover_id = :handover_id ORDER BY id
-- name: recent_studies
SELECT * FROM study ORDER BY complete_at DESC LIMIT :limit
-- name: count_states
SELECT state, count(*) AS n FROM study GROUP BY state
-- name: count_answered_since
SELECT count(*) AS n FROM study WHERE answered_at >= :since
-- name: finished_handovers
-- What the spool may forget.
SELECT handover_id FROM study WHERE state IN ('delivered', 'superseded')

-- Answers and objects ------------------------------------------------------------------------------------------------
-- name: add_answer
INSERT INTO answer (result_id, cancer, verdict, mode, score, reason, detail, lesions)
VALUES (:result_id, :cancer, :verdict, :mode, :score, :reason, :detail, :lesions)
-- name: create_answer_series
-- Younger than version 1: a journal that lacks it gets it when it is opened.
CREATE TABLE IF NOT EXISTS answer_series (
    result_id TEXT NOT NULL, cancer TEXT NOT NULL, series_number INTEGER NOT NULL,
    PRIMARY KEY (result_id, cancer)
) STRICT, WITHOUT ROWID
-- name: add_answer_series
INSERT INTO answer_series (result_id, cancer, series_number) VALUES (:result_id, :cancer, :series_number)
-- name: answers
SELECT answer.*, answer_series.series_number FROM answer LEFT JOIN answer_series USING (result_id, cancer)
WHERE result_id = :result_id
-- name: add_object
INSERT INTO object (result_id, sop_instance_uid, sop_class_uid, kind, path)
VALUES (:result_id, :sop_instance_uid, :sop_class_uid, :kind, :path)
-- name: objects
SELECT * FROM object WHERE result_id = :result_id ORDER BY kind, sop_instance_uid

-- Outbox to the PACS -------------------------------------------------------------------------------------------------
-- name: add_pacs_item
INSERT INTO pacs_outbox (result_id, destination, sop_class_uid, sop_instance_uid, path, next_at)
VALUES (:result_id, :destination, :sop_class_uid, :sop_instance_uid, :path, :next_at)
ON CONFLICT (destination, sop_instance_uid) DO NOTHING
-- name: due_pacs_items
SELECT * FROM pacs_outbox WHERE delivered_at IS NULL AND next_at <= :now ORDER BY id LIMIT :limit
-- name: next_pacs_due
SELECT min(next_at) AS next_at FROM pacs_outbox WHERE delivered_at IS NULL
-- name: pacs_item_delivered
UPDATE pacs_outbox SET delivered_at = :at, last_error = '' WHERE id = :id AND delivered_at IS NULL
-- name: pacs_item_postponed
UPDATE pacs_outbox SET attempts = attempts + 1, last_error = :why, next_at = :until
WHERE id = :id AND delivered_at IS NULL
-- name: undelivered_of_result
SELECT count(*) AS n FROM pacs_outbox WHERE result_id = :result_id AND delivered_at IS NULL
-- name: pacs_items_of_result
SELECT * FROM pacs_outbox WHERE result_id = :result_id ORDER BY id
-- name: count_undelivered
SELECT count(*) AS n FROM pacs_outbox WHERE delivered_at IS NULL

-- Outbox to the registry ---------------------------------------------------------------------------------------------
-- name: next_seq
INSERT INTO stream (name, last_seq, acked) VALUES (:stream, 1, 0)
ON CONFLICT (name) DO UPDATE SET last_seq = last_seq + 1 RETURNING last_seq
-- name: add_message
INSERT INTO message (stream, seq, type, payload, created_at) VALUES (:stream, :seq, :type, :payload, :at)
-- name: messages_after
SELECT * FROM message WHERE stream = :stream AND seq > :seq AND acked_at IS NULL ORDER BY seq LIMIT :limit
-- name: unacked_streams
SELECT DISTINCT stream FROM message WHERE acked_at IS NULL
-- name: stream_acked
SELECT acked FROM stream WHERE name = :stream
-- name: set_stream_acked
UPDATE stream SET acked = min(:seq, last_seq) WHERE name = :stream AND acked < min(:seq, last_seq)
-- name: ack_messages
UPDATE message SET acked_at = :at WHERE stream = :stream AND seq <= :seq AND acked_at IS NULL
-- name: rewind_stream
UPDATE stream SET acked = min(:seq, last_seq) WHERE name = :stream
-- name: unack_messages
UPDATE message SET acked_at = NULL WHERE stream = :stream AND seq > :seq
-- name: all_streams
SELECT name, last_seq, acked FROM stream ORDER BY name
-- name: count_unacked
SELECT count(*) AS n FROM message WHERE acked_at IS NULL
-- name: prune_messages
-- Acknowledged rows stay 30 days, for a registry that is restored from a backup.
DELETE FROM message WHERE acked_at < :before
-- name: results_acked_up_to
-- Answered studies whose result message the registry has and whose objects every PACS has.
SELECT * FROM study WHERE state = 'answered' AND result_seq <= (SELECT acked FROM stream WHERE name = 'result')
    AND NOT EXISTS (SELECT 1 FROM pacs_outbox WHERE pacs_outbox.result_id = study.result_id AND delivered_at IS NULL)

-- Bundles ------------------------------------------------------------------------------------------------------------
-- name: bundles
SELECT * FROM bundle ORDER BY at DESC, digest
-- name: active_bundle
SELECT * FROM bundle WHERE state = 'active'
-- name: retire_active
UPDATE bundle SET state = 'retired', at = :at WHERE state = 'active' AND digest <> :digest
-- name: put_bundle
INSERT INTO bundle (digest, name, version, state, code, at) VALUES (:digest, :name, :version, :state, :code, :at)
ON CONFLICT (digest) DO UPDATE SET state = excluded.state, code = excluded.code, at = excluded.at
-- name: bundle
SELECT * FROM bundle WHERE digest = :digest
