-- Who was forgotten: by pseudonym only. Written before anything is changed, so that a run that was cut is repeated.

CREATE TABLE forgotten (
    kind       text NOT NULL CHECK (kind IN ('tenant', 'user')),
    pseudonym  text NOT NULL,
    positions  jsonb NOT NULL CHECK (jsonb_typeof(positions) = 'object'),
    who        text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    done_at    timestamptz,
    kafka_until timestamptz NOT NULL,
    PRIMARY KEY (kind, pseudonym)
);
COMMENT ON COLUMN forgotten.positions IS 'Rows below these positions were forgotten: "epoch:partition" to the next offset.';
COMMENT ON COLUMN forgotten.kafka_until IS 'Until then the log may still hold the bytes.';
