-- Every statement of the registry, by name. `registry.statements` reads this file; values are passed as parameters.

-- name: cluster_identity
-- Changes when a dump is restored elsewhere (system or database), after point-in-time recovery or promotion (timeline).
SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
                      (SELECT timeline_id FROM pg_control_checkpoint()),
                      (SELECT oid FROM pg_database WHERE datname = current_database()))

-- name: epoch
SELECT epoch, cluster FROM registry_epoch

-- name: epoch_draw
-- Two workers may find the database changed at the same time: the first one's epoch stays.
INSERT INTO registry_epoch (epoch, cluster) VALUES (%(epoch)s, %(cluster)s)
ON CONFLICT (only_row) DO UPDATE SET epoch = excluded.epoch, cluster = excluded.cluster, drawn_at = now()
WHERE registry_epoch.epoch = %(was)s

-- name: incoming_tables
-- Batches are copied here first: COPY itself can't skip rows that are there already.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_message (LIKE message) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_result (LIKE result) ON COMMIT DELETE ROWS;

-- name: message_insert
-- In key order, so that two workers never wait for each other in a circle.
INSERT INTO message SELECT * FROM incoming_message ORDER BY site, device, epoch, stream, seq
ON CONFLICT DO NOTHING
RETURNING site, device, epoch, stream, seq

-- name: message_contradicted
-- What was said before under the same key, in other words.
SELECT m.site, m.device, m.epoch, m.stream, m.seq
FROM incoming_message i JOIN message m USING (site, device, epoch, stream, seq)
WHERE m.digest <> i.digest

-- name: devices_known
SELECT site, device FROM device
WHERE (site, device) IN (SELECT * FROM unnest(%(sites)s::text[], %(devices)s::text[]))

-- name: result_insert
INSERT INTO result SELECT * FROM incoming_result ORDER BY site, device, result_id
ON CONFLICT (site, device, result_id) DO NOTHING
RETURNING site, device, result_id

-- name: result_payload
-- What a device said when it first sent this result.
SELECT m.payload FROM result r
JOIN message m ON (m.site, m.device, m.epoch, m.stream, m.seq) = (r.site, r.device, r.epoch, 'result', r.seq)
WHERE r.site = %(site)s AND r.device = %(device)s AND r.result_id = %(result_id)s

-- name: ack_rows
INSERT INTO ack_state (site, device, epoch, stream)
SELECT * FROM unnest(%(sites)s::text[], %(devices)s::text[], %(epochs)s::text[], %(streams)s::text[])
ORDER BY 1, 2, 3, 4
ON CONFLICT DO NOTHING

-- name: ack_lock
SELECT site, device, epoch, stream, contiguous, beyond FROM ack_state
WHERE (site, device, epoch, stream) IN
    (SELECT * FROM unnest(%(sites)s::text[], %(devices)s::text[], %(epochs)s::text[], %(streams)s::text[]))
ORDER BY site, device, epoch, stream
FOR UPDATE

-- name: ack_update
UPDATE ack_state SET contiguous = %(contiguous)s, beyond = %(beyond)s, updated_at = now()
WHERE site = %(site)s AND device = %(device)s AND epoch = %(epoch)s AND stream = %(stream)s

-- name: acks_of_epoch
SELECT stream, contiguous FROM ack_state
WHERE site = %(site)s AND device = %(device)s AND epoch = %(epoch)s

-- name: device_seen
UPDATE device SET last_seen = greatest(last_seen, %(now)s)
WHERE (site, device) IN (SELECT * FROM unnest(%(sites)s::text[], %(devices)s::text[]) ORDER BY 1, 2)

-- name: device_lock
SELECT epochs, boot_id, session, online FROM device WHERE site = %(site)s AND device = %(device)s FOR UPDATE

-- name: device_presence
UPDATE device SET epochs = %(epochs)s, boot_id = %(boot_id)s, session = %(session)s, online = %(online)s
WHERE site = %(site)s AND device = %(device)s

-- name: device_birth
UPDATE device SET software = %(software)s, hardware = %(hardware)s, runtime = %(runtime)s,
    bundle_name = %(bundle_name)s, bundle_version = %(bundle_version)s, bundle_digest = %(bundle_digest)s,
    bundle_synthetic = %(bundle_synthetic)s
WHERE site = %(site)s AND device = %(device)s

-- name: device_reported
UPDATE device SET bundle_name = %(bundle_name)s, bundle_version = %(bundle_version)s,
    bundle_digest = %(bundle_digest)s, bundle_synthetic = %(bundle_synthetic)s, update_state = %(state)s,
    update_code = %(code)s, update_version = %(desired_version)s, reported_at = %(ts)s
WHERE site = %(site)s AND device = %(device)s

-- name: quarantine_insert
-- The same thing delivered again is counted, not kept twice.
INSERT INTO quarantine (first_at, last_at, topic, site, device, reason, detail, digest, size, payload)
VALUES (%(now)s, %(now)s, %(topic)s, %(site)s, %(device)s, %(reason)s, %(detail)s, %(digest)s, %(size)s, %(payload)s)
ON CONFLICT (topic, reason, digest) DO UPDATE SET times = quarantine.times + 1, last_at = excluded.last_at

-- name: alert_raise
INSERT INTO alert (kind, site, device, detail, first_at, last_at)
VALUES (%(kind)s, %(site)s, %(device)s, %(detail)s, %(now)s, %(now)s)
ON CONFLICT (kind, site, device) WHERE cleared_at IS NULL
DO UPDATE SET times = alert.times + 1, last_at = excluded.last_at, detail = excluded.detail

-- name: alert_clear
UPDATE alert SET cleared_at = now() WHERE id = %(id)s AND cleared_at IS NULL

-- name: worker_heard
INSERT INTO ingest_worker (worker, started_at, heard_at, connected, messages)
VALUES (%(worker)s, %(started_at)s, now(), %(connected)s, %(messages)s)
ON CONFLICT (worker) DO UPDATE SET started_at = excluded.started_at, heard_at = excluded.heard_at,
    connected = excluded.connected, messages = excluded.messages

-- name: workers
SELECT worker, started_at, heard_at, connected, messages, now() - heard_at < interval '30 s' AND connected AS healthy
FROM ingest_worker ORDER BY worker

-- name: desired_record
INSERT INTO desired (site, device, bundle, version, issued_at)
VALUES (%(site)s, %(device)s, %(bundle)s, %(version)s, %(issued_at)s)
ON CONFLICT (site, device) DO UPDATE SET bundle = excluded.bundle, version = excluded.version,
    issued_at = excluded.issued_at, published_at = NULL

-- name: desired_pending
SELECT site, device, bundle, version, issued_at FROM desired WHERE published_at IS NULL ORDER BY issued_at

-- name: desired_published
-- A newer wish recorded meanwhile stays unpublished.
UPDATE desired SET published_at = now()
WHERE site = %(site)s AND device = %(device)s AND issued_at = %(issued_at)s

-- name: desired_of
SELECT bundle, version, issued_at, published_at FROM desired WHERE site = %(site)s AND device = %(device)s

-- name: token_insert
INSERT INTO enrolment_token (token_hash, site, device, expires_at)
VALUES (%(token_hash)s, %(site)s, %(device)s, %(expires_at)s)

-- name: token_lock
SELECT expires_at, used_at, csr_digest, serial
FROM enrolment_token
WHERE token_hash = %(token_hash)s AND site = %(site)s AND device = %(device)s
FOR UPDATE

-- name: certificate_pem
-- Asked after token_lock has been granted, never joined to it: after waiting for a lock READ COMMITTED sees the locked
-- row anew, but a joined row as it was before the wait, when the certificate was not there yet.
SELECT pem FROM certificate WHERE serial = %(serial)s

-- name: token_use
UPDATE enrolment_token SET used_at = %(now)s, csr_digest = %(csr_digest)s, serial = %(serial)s
WHERE token_hash = %(token_hash)s

-- name: certificate_replace
UPDATE certificate SET replaced_at = %(now)s
WHERE site = %(site)s AND device = %(device)s AND replaced_at IS NULL

-- name: certificate_insert
INSERT INTO certificate (serial, site, device, fingerprint, ends_at, pem)
VALUES (%(serial)s, %(site)s, %(device)s, %(fingerprint)s, %(ends_at)s, %(pem)s)

-- name: device_enrol
INSERT INTO device (site, device, enrolled_at, serial, fingerprint, certificate_ends)
VALUES (%(site)s, %(device)s, %(now)s, %(serial)s, %(fingerprint)s, %(ends_at)s)
ON CONFLICT (site, device) DO UPDATE SET enrolled_at = excluded.enrolled_at, serial = excluded.serial,
    fingerprint = excluded.fingerprint, certificate_ends = excluded.certificate_ends

-- name: device_names
SELECT site, device FROM device ORDER BY site, device

-- name: devices
-- With the latest telemetry of the current epoch, the last result and how many messages wait above a gap.
SELECT d.site, d.device, d.enrolled_at, d.certificate_ends, d.fingerprint, d.serial, d.last_seen, d.online, d.session,
    d.boot_id, d.epochs[cardinality(d.epochs)] AS epoch, d.software, d.hardware, d.runtime,
    d.bundle_name, d.bundle_version, d.bundle_digest, d.bundle_synthetic,
    d.update_state, d.update_code, d.update_version, d.reported_at,
    w.bundle AS desired_bundle, w.version AS desired_version, w.published_at AS desired_published_at,
    t.ts AS telemetry_at, t.uptime_s, t.cpu_load, t.memory_used, t.disk_free_bytes, t.temperature_c,
    t.studies_today, t.outbox_pacs, t.outbox_registry, t.last_instance_at,
    r.last_result_at, coalesce(a.waiting, 0) AS waiting
FROM device d
LEFT JOIN desired w USING (site, device)
LEFT JOIN LATERAL (
    SELECT * FROM telemetry t
    WHERE (t.site, t.device, t.epoch) = (d.site, d.device, d.epochs[cardinality(d.epochs)])
    ORDER BY t.seq DESC LIMIT 1
) t ON true
LEFT JOIN LATERAL (
    SELECT max(received_at) AS last_result_at FROM result r WHERE (r.site, r.device) = (d.site, d.device)
) r ON true
LEFT JOIN LATERAL (
    SELECT sum(a.beyond[i + 1] - a.beyond[i] + 1) AS waiting
    FROM ack_state a, generate_series(1, cardinality(a.beyond), 2) i
    WHERE (a.site, a.device) = (d.site, d.device)
) a ON true
WHERE (%(site)s::text IS NULL OR d.site = %(site)s) AND (%(device)s::text IS NULL OR d.device = %(device)s)
ORDER BY d.site, d.device

-- name: results
-- Newest first. `everything` shows superseded revisions as well.
SELECT r.* FROM result_standing r
WHERE (r.current OR %(everything)s)
  AND (%(site)s::text IS NULL OR r.site = %(site)s)
  AND (%(device)s::text IS NULL OR r.device = %(device)s)
  AND (%(study)s::text IS NULL OR r.study = %(study)s)
  AND (%(result_id)s::uuid IS NULL OR r.result_id = %(result_id)s)
  AND (%(since)s::timestamptz IS NULL OR r.received_at >= %(since)s)
ORDER BY r.received_at DESC, r.seq DESC, r.result_id
LIMIT %(limit)s

-- name: answers
SELECT a.site, a.device, a.result_id, a.cancer, a.verdict, a.mode, a.score, a.reason, a.lesions, a.largest_mm
FROM answer a
WHERE (a.site, a.device, a.result_id) IN
    (SELECT * FROM unnest(%(sites)s::text[], %(devices)s::text[], %(result_ids)s::uuid[]))

-- name: events
SELECT site, device, ts, kind, subject, code, received_at FROM event
WHERE site = %(site)s AND device = %(device)s ORDER BY received_at DESC, seq DESC LIMIT %(limit)s

-- name: telemetry
SELECT ts, received_at, uptime_s, cpu_load, memory_used, disk_free_bytes, temperature_c, studies_today, outbox_pacs,
    outbox_registry FROM telemetry
WHERE site = %(site)s AND device = %(device)s ORDER BY received_at DESC, seq DESC LIMIT %(limit)s

-- name: quarantine
-- Never the payload: what a stranger sent may hold anything.
SELECT id, first_at, last_at, times, topic, reason, detail, digest, size FROM quarantine
ORDER BY last_at DESC LIMIT %(limit)s

-- name: alerts
SELECT id, kind, site, device, detail, first_at, last_at, times FROM alert
WHERE cleared_at IS NULL ORDER BY last_at DESC LIMIT %(limit)s

-- name: totals
SELECT (SELECT count(*) FROM device) AS devices,
       (SELECT count(*) FROM device WHERE online) AS online,
       (SELECT count(*) FROM result) AS results,
       (SELECT coalesce(sum(contiguous), 0) FROM ack_state) AS acknowledged,
       (SELECT coalesce(sum(times), 0) FROM quarantine) AS quarantined,
       (SELECT count(*) FROM alert WHERE cleared_at IS NULL) AS alerts

-- name: day_said
-- What the device said later stands, whatever arrives last.
INSERT INTO day (site, device, day, performed, received, analysed, delivered, reviewed, missing, ts)
VALUES (%(site)s, %(device)s, %(day)s, %(performed)s, %(received)s, %(analysed)s, %(delivered)s, %(reviewed)s,
    %(missing)s, %(ts)s)
ON CONFLICT (site, device, day) DO UPDATE SET performed = excluded.performed, received = excluded.received,
    analysed = excluded.analysed, delivered = excluded.delivered, reviewed = excluded.reviewed,
    missing = excluded.missing, ts = excluded.ts
WHERE day.ts <= excluded.ts

-- name: days
SELECT site, device, day, performed, received, analysed, delivered, reviewed, missing, ts FROM day
WHERE site = %(site)s AND device = %(device)s ORDER BY day DESC LIMIT %(limit)s
