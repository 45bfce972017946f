-- What was answered under a client's Idempotency-Key, so that a repetition is answered the same.

CREATE TABLE idempotency_keys (
    who         text NOT NULL,
    key         text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    started_at  timestamptz NOT NULL,
    status      integer CHECK (status BETWEEN 200 AND 299),
    answer      bytea,
    PRIMARY KEY (who, key),
    CHECK ((status IS NULL) = (answer IS NULL))
);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (started_at);
COMMENT ON COLUMN idempotency_keys.fingerprint IS 'SHA-256 of method, path and body: a key belongs to one request.';
COMMENT ON COLUMN idempotency_keys.status IS 'NULL while the request is under way.';
