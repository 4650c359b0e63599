-- Who may speak: devices, the tokens that enrol them, the certificates they got, and which database this is.

-- Which database this is. A dump restored elsewhere, a point-in-time recovery and a promoted replica change the
-- cluster's identity; `registry.store` then draws a new epoch, and devices rewind to what this database holds.
CREATE TABLE registry_epoch (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch        text NOT NULL CHECK (epoch ~ '^[0-9a-f]{32}$'),
    cluster      text NOT NULL,
    drawn_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE device (
    site             text NOT NULL,
    device           text NOT NULL,
    enrolled_at      timestamptz NOT NULL DEFAULT now(),
    serial           text NOT NULL,
    fingerprint      text NOT NULL,
    certificate_ends timestamptz NOT NULL,
    last_seen        timestamptz,
    -- Presence: the newest (epoch, session) that the device or its will spoke of. `epochs` is the order in which the
    -- registry first heard of them; a message of an epoch before the last one is late, whenever it arrives.
    epochs           text[] NOT NULL DEFAULT '{}',
    boot_id          uuid,
    session          bigint NOT NULL DEFAULT 0,
    online           boolean NOT NULL DEFAULT false,
    -- What it is: from the newest birth.
    software         text NOT NULL DEFAULT '',
    hardware         text NOT NULL DEFAULT '',
    runtime          text NOT NULL DEFAULT '',
    -- What it runs: from the newest birth or report.
    bundle_name      text,
    bundle_version   text,
    bundle_digest    text,
    bundle_synthetic boolean,
    update_state     text NOT NULL DEFAULT '',
    update_code      text NOT NULL DEFAULT '',
    update_version   text,
    reported_at      timestamptz,
    PRIMARY KEY (site, device)
);

CREATE TABLE certificate (
    serial      text PRIMARY KEY,
    site        text NOT NULL,
    device      text NOT NULL,
    fingerprint text NOT NULL,
    issued_at   timestamptz NOT NULL DEFAULT now(),
    ends_at     timestamptz NOT NULL,
    pem         text NOT NULL,
    replaced_at timestamptz
);
CREATE INDEX certificate_of_device ON certificate (site, device);

-- A token is printed once and kept only as its SHA-256. `csr_digest` lets a device whose response was lost ask again
-- with the same request and get the same certificate.
CREATE TABLE enrolment_token (
    token_hash text PRIMARY KEY,
    site       text NOT NULL,
    device     text NOT NULL,
    made_at    timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    csr_digest text,
    serial     text REFERENCES certificate
);

-- What the registry wants a device to run. `published_at` is set once the broker has it, retained.
CREATE TABLE desired (
    site         text NOT NULL,
    device       text NOT NULL,
    bundle       text NOT NULL,
    version      text NOT NULL,
    issued_at    timestamptz NOT NULL,
    published_at timestamptz,
    PRIMARY KEY (site, device)
);

-- Ingest workers report here; one that is silent is a fault that a person must see.
CREATE TABLE ingest_worker (
    worker     text PRIMARY KEY,
    started_at timestamptz NOT NULL,
    heard_at   timestamptz NOT NULL,
    connected  boolean NOT NULL,
    messages   bigint NOT NULL DEFAULT 0
);
