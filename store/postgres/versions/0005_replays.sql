-- Which reject was sent again, as what, and where the new record stands. The original stays in ClickHouse as it was.

CREATE TABLE replays (
    epoch        integer NOT NULL REFERENCES epochs,
    partition    integer NOT NULL CHECK (partition >= 0),
    kafka_offset bigint NOT NULL CHECK (kafka_offset >= 0),
    attempt      integer NOT NULL CHECK (attempt > 0),
    verdict      text NOT NULL CHECK (verdict IN ('invalid', 'conflict', 'duplicate')),
    reason       text NOT NULL,
    record_key   bytea NOT NULL,
    value_hash   numeric(20) NOT NULL CHECK (value_hash BETWEEN 0 AND 18446744073709551615),
    who          text NOT NULL,
    at           timestamptz NOT NULL DEFAULT now(),
    new_epoch     integer REFERENCES epochs,
    new_partition integer,
    new_offset    bigint,
    acked_at      timestamptz,
    PRIMARY KEY (epoch, partition, kafka_offset, attempt),
    -- Acknowledged means that it has a position, and only then.
    CHECK (num_nonnulls(new_epoch, new_partition, new_offset, acked_at) IN (0, 4))
);
CREATE INDEX replays_by_time ON replays (at);
COMMENT ON TABLE replays IS
    'Written before the record is sent: a row without a new position was not acknowledged, and may have been written all the same.';
COMMENT ON COLUMN replays.record_key IS 'The dedup key of the new record as netstrings.';
COMMENT ON COLUMN replays.value_hash IS 'xxh3-64 of the new record''s value: row_hash of the row that it becomes.';

-- A link between two records is history: it is completed once, and never changed or removed.
CREATE FUNCTION replays_are_completed_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.acked_at IS NOT NULL
        OR ROW(NEW.epoch, NEW.partition, NEW.kafka_offset, NEW.attempt, NEW.verdict, NEW.reason, NEW.record_key, NEW.value_hash,
               NEW.who, NEW.at)
           IS DISTINCT FROM
           ROW(OLD.epoch, OLD.partition, OLD.kafka_offset, OLD.attempt, OLD.verdict, OLD.reason, OLD.record_key, OLD.value_hash,
               OLD.who, OLD.at)
    THEN
        RAISE EXCEPTION 'replay %/%/% number % is history', OLD.epoch, OLD.partition, OLD.kafka_offset, OLD.attempt
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER replays_are_completed_once BEFORE UPDATE OR DELETE ON replays
    FOR EACH ROW EXECUTE FUNCTION replays_are_completed_once();
