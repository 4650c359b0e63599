-- How many studies of each day a device knows of, as it said last. Counts only; NULL where nobody has told the device.
CREATE TABLE day (
    site        text NOT NULL,
    device      text NOT NULL,
    day         date NOT NULL,
    performed   bigint,
    received    bigint NOT NULL,
    analysed    bigint NOT NULL,
    delivered   bigint NOT NULL,
    reviewed    bigint,
    missing     bigint NOT NULL,
    ts          timestamptz NOT NULL,
    PRIMARY KEY (site, device, day)
);
