-- What the log has given so far: epochs, rules, fences, counters, freshness. See docs/exactness.md.

CREATE TABLE epochs (
    epoch       integer PRIMARY KEY CHECK (epoch BETWEEN 1 AND 65535),
    topic       text NOT NULL UNIQUE,
    cluster_id  text NOT NULL,
    topic_id    text NOT NULL,
    partitions  integer NOT NULL CHECK (partitions > 0),
    starts      bigint[] NOT NULL CHECK (cardinality(starts) = partitions AND 0 <= ALL (starts)
                                         AND array_position(starts, NULL) IS NULL),
    ends        bigint[] CHECK (ends IS NULL OR (cardinality(ends) = partitions AND array_position(ends, NULL) IS NULL)),
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE epochs IS 'One life of the events topic each; ends is set when the epoch is closed by a repartitioning.';
COMMENT ON COLUMN epochs.epoch IS 'At most 16 bits: the row version in ClickHouse is made of the epoch and 48 bits of offset.';

-- Fences, figures and verdicts are counted from an epoch's starts, so an epoch never changes; it only ends, once.
CREATE FUNCTION epochs_only_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.ends IS NOT NULL
        OR (NEW.epoch, NEW.topic, NEW.cluster_id, NEW.topic_id, NEW.partitions, NEW.starts, NEW.created_at)
            IS DISTINCT FROM
           (OLD.epoch, OLD.topic, OLD.cluster_id, OLD.topic_id, OLD.partitions, OLD.starts, OLD.created_at)
    THEN
        RAISE EXCEPTION 'epoch % is history: only its ends may be set, once', OLD.epoch USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER epochs_only_end BEFORE UPDATE ON epochs FOR EACH ROW EXECUTE FUNCTION epochs_only_end();

CREATE TABLE rules_from (
    epoch       integer NOT NULL REFERENCES epochs,
    partition   integer NOT NULL CHECK (partition >= 0),
    from_offset bigint NOT NULL CHECK (from_offset >= 0),
    version     integer NOT NULL CHECK (version > 0),
    PRIMARY KEY (epoch, partition, from_offset)
);
COMMENT ON TABLE rules_from IS 'From which position on a rules version decides.';

-- A verdict depends on the rules in force at its position for ever, so a row that stands is never changed or removed.
CREATE FUNCTION rules_from_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rules_from of epoch % partition % from % decides verdicts and is never changed or removed',
        OLD.epoch, OLD.partition, OLD.from_offset USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER rules_from_only_grows BEFORE UPDATE OR DELETE ON rules_from
    FOR EACH ROW EXECUTE FUNCTION rules_from_only_grows();

CREATE TABLE delta_fences (
    epoch         integer NOT NULL REFERENCES epochs,
    partition     integer NOT NULL CHECK (partition >= 0),
    next_offset   bigint NOT NULL CHECK (next_offset >= 0),
    rules_version integer NOT NULL CHECK (rules_version > 0),
    admitted      bigint NOT NULL DEFAULT 0 CHECK (admitted >= 0),
    duplicate     bigint NOT NULL DEFAULT 0 CHECK (duplicate >= 0),
    conflict      bigint NOT NULL DEFAULT 0 CHECK (conflict >= 0),
    invalid       bigint NOT NULL DEFAULT 0 CHECK (invalid >= 0),
    void          bigint NOT NULL DEFAULT 0 CHECK (void >= 0),
    hash_sum      numeric(20) NOT NULL DEFAULT 0 CHECK (hash_sum BETWEEN 0 AND 18446744073709551615),
    moved_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (epoch, partition)
);
COMMENT ON TABLE delta_fences IS 'The next offset that the counters do not hold yet, and the cumulative figures there.';

-- Whatever a stage gets wrong, a fence never moves back, and every offset below it has exactly one verdict.
CREATE FUNCTION delta_fences_hold() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    start_offset bigint := (SELECT starts[NEW.partition + 1] FROM epochs WHERE epoch = NEW.epoch);
BEGIN
    IF start_offset IS NULL THEN
        RAISE EXCEPTION 'epoch % has no partition %', NEW.epoch, NEW.partition USING ERRCODE = 'check_violation';
    END IF;
    IF TG_OP = 'UPDATE' AND (NEW.epoch, NEW.partition) <> (OLD.epoch, OLD.partition) THEN
        RAISE EXCEPTION 'the fence of epoch % partition % may not become another one', OLD.epoch, OLD.partition
            USING ERRCODE = 'check_violation';
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.next_offset < OLD.next_offset THEN
        RAISE EXCEPTION 'fence of epoch % partition % may not move back from % to %',
            OLD.epoch, OLD.partition, OLD.next_offset, NEW.next_offset USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.next_offset - start_offset <> NEW.admitted + NEW.duplicate + NEW.conflict + NEW.invalid + NEW.void THEN
        RAISE EXCEPTION 'fence of epoch % partition % at % has % verdicts for % offsets', NEW.epoch, NEW.partition,
            NEW.next_offset, NEW.admitted + NEW.duplicate + NEW.conflict + NEW.invalid + NEW.void,
            NEW.next_offset - start_offset USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER delta_fences_hold BEFORE INSERT OR UPDATE ON delta_fences
    FOR EACH ROW EXECUTE FUNCTION delta_fences_hold();

-- An exact quantity: millionths at most, and neither NaN nor an infinity (which Postgres orders above every number).
CREATE DOMAIN exact_quantity AS numeric
    CHECK (VALUE > '-Infinity' AND VALUE < 'Infinity' AND scale(VALUE) <= 6);

CREATE TABLE usage_counters (
    tenant_id  text NOT NULL,
    usage_type text NOT NULL,
    day        date NOT NULL,
    quantity   exact_quantity NOT NULL,
    events     bigint NOT NULL CHECK (events >= 0),
    PRIMARY KEY (tenant_id, usage_type, day)
) WITH (fillfactor = 80);
COMMENT ON TABLE usage_counters IS 'Sum of the admitted rows below the fences, by UTC day of occurredAt; written in the fence''s transaction.';

CREATE TABLE usage_totals (
    tenant_id  text NOT NULL,
    usage_type text NOT NULL,
    quantity   exact_quantity NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, usage_type)
) WITH (fillfactor = 80);
COMMENT ON TABLE usage_totals IS 'The running total of usage_counters over all days.';

CREATE TABLE freshness_samples (
    epoch      integer NOT NULL REFERENCES epochs,
    seen_from  timestamptz NOT NULL,
    seen_until timestamptz NOT NULL CHECK (seen_until >= seen_from),
    ends       bigint[] NOT NULL CHECK (cardinality(ends) > 0),
    PRIMARY KEY (epoch, seen_from)
);
CREATE INDEX freshness_samples_newest ON freshness_samples (epoch, seen_until DESC);
COMMENT ON TABLE freshness_samples IS 'At every time in [seen_from, seen_until] the log ended at or below ends.';

CREATE TABLE repairs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch       integer NOT NULL REFERENCES epochs,
    partition   integer NOT NULL CHECK (partition >= 0),
    from_offset bigint NOT NULL CHECK (from_offset >= 0),
    to_offset   bigint NOT NULL CHECK (to_offset > from_offset),
    cause       text NOT NULL,
    repaired_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE repairs IS 'Ranges that were counted from ClickHouse instead of from their delta.';
