CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE IF NOT EXISTS customers (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT NOT NULL UNIQUE,
    email   TEXT,
    deleted INTEGER NOT NULL DEFAULT 0,
    body    TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS meters (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    event_name TEXT NOT NULL,
    status     TEXT NOT NULL,
    body       TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS meters_active ON meters (event_name) WHERE status = 'active';

-- value holds at most 15 digits; sums are added up in two halves, because SQLite's sum() of integers may overflow
CREATE TABLE IF NOT EXISTS meter_events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    meter      TEXT NOT NULL,
    customer   TEXT NOT NULL,
    at         INTEGER NOT NULL,
    value      INTEGER NOT NULL,
    identifier TEXT NOT NULL,
    received   INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS meter_events_of ON meter_events (meter, customer, at, seq);
CREATE INDEX IF NOT EXISTS meter_events_identifier ON meter_events (identifier, received);

CREATE TABLE IF NOT EXISTS idempotency (
    key         TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    status      INTEGER NOT NULL,
    body        TEXT NOT NULL,
    headers     TEXT NOT NULL,
    request_id  TEXT NOT NULL,
    saved       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS idempotency_saved ON idempotency (saved);
