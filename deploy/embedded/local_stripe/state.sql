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

-- An event counts from `until` on (seconds of the clock); NULL: never, for it was cancelled or found wrong.
CREATE TABLE IF NOT EXISTS meter_events_withheld (
    event INTEGER PRIMARY KEY,
    until INTEGER
) STRICT;

-- Every other noun: its document, and the columns by which it is looked up.
CREATE TABLE IF NOT EXISTS objects (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT NOT NULL,
    id       TEXT NOT NULL UNIQUE,
    customer TEXT,
    parent   TEXT,
    name     TEXT,
    status   TEXT,
    due      INTEGER,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS objects_of_kind ON objects (kind, seq);
CREATE INDEX IF NOT EXISTS objects_of_customer ON objects (customer, kind, seq) WHERE customer IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_of_parent ON objects (parent, kind, seq) WHERE parent IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_of_name ON objects (name, kind) WHERE name IS NOT NULL;
-- What the clock has to touch, and when.
CREATE INDEX IF NOT EXISTS objects_due ON objects (due) WHERE due IS NOT NULL;

-- Webhooks under way. Times are the machine's, for the receiver's clock is the machine's too.
CREATE TABLE IF NOT EXISTS deliveries (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    event    TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at  REAL NOT NULL,
    state    TEXT NOT NULL DEFAULT 'waiting',
    answer   TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS deliveries_waiting ON deliveries (next_at) WHERE state = 'waiting';
