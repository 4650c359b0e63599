-- What the devices said. `message` is the record; everything below it is a projection of newly inserted rows.

-- The raw payload is text, not jsonb: five times less CPU, and the exact bytes that the digest is of.
CREATE TABLE message (
    site        text NOT NULL,
    device      text NOT NULL,
    epoch       text NOT NULL,
    stream      text NOT NULL,
    seq         bigint NOT NULL,
    digest      text NOT NULL,
    type        text NOT NULL,
    payload     text NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (site, device, epoch, stream, seq)
);

-- Per stream: everything up to `contiguous` is committed; `beyond` lists what is held above it, as first, last,
-- first, last ... Never shrinks, so an acknowledgement never goes back.
CREATE TABLE ack_state (
    site       text NOT NULL,
    device     text NOT NULL,
    epoch      text NOT NULL,
    stream     text NOT NULL,
    contiguous bigint NOT NULL DEFAULT 0,
    beyond     bigint[] NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site, device, epoch, stream)
);

-- What could not be believed: kept, counted and shown, never guessed at.
CREATE TABLE quarantine (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    first_at    timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    times       bigint NOT NULL DEFAULT 1,
    topic       text NOT NULL,
    site        text,
    device      text,
    reason      text NOT NULL,
    detail      text NOT NULL,
    digest      text NOT NULL,
    size        bigint NOT NULL,
    payload     bytea NOT NULL,
    UNIQUE (topic, reason, digest)
);

CREATE TABLE alert (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text NOT NULL,
    site       text NOT NULL DEFAULT '',
    device     text NOT NULL DEFAULT '',
    detail     text NOT NULL,
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    times      bigint NOT NULL DEFAULT 1,
    cleared_at timestamptz
);
CREATE UNIQUE INDEX alert_open ON alert (kind, site, device) WHERE cleared_at IS NULL;

CREATE TABLE result (
    site             text NOT NULL,
    device           text NOT NULL,
    result_id        uuid NOT NULL,
    epoch            text NOT NULL,
    seq              bigint NOT NULL,
    revision         bigint NOT NULL,
    supersedes       uuid,
    study            text NOT NULL,
    patient          text,
    age_years        integer,
    sex              text,
    study_date       date,
    manufacturer     text NOT NULL,
    model            text NOT NULL,
    kernel           text NOT NULL,
    bundle_name      text,
    bundle_version   text,
    bundle_digest    text,
    bundle_synthetic boolean,
    complete_by      text NOT NULL,
    slices           bigint NOT NULL,
    study_received   timestamptz NOT NULL,
    study_complete   timestamptz NOT NULL,
    answered_at      timestamptz NOT NULL,
    received_at      timestamptz NOT NULL,
    -- Not result_id alone: no device may take an id before the device whose result it is.
    PRIMARY KEY (site, device, result_id)
);
CREATE INDEX result_by_study ON result (site, device, study, revision DESC, received_at DESC, seq DESC, result_id DESC);
CREATE INDEX result_by_arrival ON result (received_at DESC);

CREATE TABLE answer (
    site       text NOT NULL,
    device     text NOT NULL,
    result_id  uuid NOT NULL,
    cancer     text NOT NULL,
    verdict    text NOT NULL,
    mode       text NOT NULL,
    score      double precision,
    reason     text,
    lesions    integer NOT NULL,
    largest_mm double precision,
    PRIMARY KEY (site, device, result_id, cancer),
    CHECK ((verdict = 'not_analysed') = (reason IS NOT NULL))
);

-- The latest revision of a study is the current one; whatever order they arrive in, the table can't disagree with
-- itself, because nothing is stored about it.
CREATE VIEW result_standing AS
SELECT r.*, newer.result_id AS superseded_by, newer.result_id IS NULL AS current
FROM result r
LEFT JOIN LATERAL (
    SELECT n.result_id
    FROM result n
    WHERE (n.site, n.device, n.study) = (r.site, r.device, r.study)
      AND (n.revision, n.received_at, n.seq, n.result_id) > (r.revision, r.received_at, r.seq, r.result_id)
    ORDER BY n.revision DESC, n.received_at DESC, n.seq DESC, n.result_id DESC
    LIMIT 1
) newer ON true;

CREATE TABLE event (
    site        text NOT NULL,
    device      text NOT NULL,
    epoch       text NOT NULL,
    seq         bigint NOT NULL,
    ts          timestamptz NOT NULL,
    kind        text NOT NULL,
    subject     text NOT NULL,
    code        text NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (site, device, epoch, seq)
);
CREATE INDEX event_by_arrival ON event (site, device, received_at DESC);

-- History; the latest of a device is the highest seq of its current epoch.
CREATE TABLE telemetry (
    site             text NOT NULL,
    device           text NOT NULL,
    epoch            text NOT NULL,
    seq              bigint NOT NULL,
    ts               timestamptz NOT NULL,
    uptime_s         double precision NOT NULL,
    cpu_load         double precision NOT NULL,
    memory_used      double precision NOT NULL,
    disk_free_bytes  bigint NOT NULL,
    temperature_c    double precision,
    studies_today    bigint NOT NULL,
    outbox_pacs      bigint NOT NULL,
    outbox_registry  bigint NOT NULL,
    last_instance_at timestamptz,
    received_at      timestamptz NOT NULL,
    PRIMARY KEY (site, device, epoch, seq)
);
