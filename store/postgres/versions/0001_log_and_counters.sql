-- What the log has given so far: epochs, rules, fences, counters, freshness. See docs/exactness.md.

CREATE TABLE epochs (
    epoch       integer PRIMARY KEY CHECK (epoch > 0),
    topic       text NOT NULL UNIQUE,
    cluster_id  text NOT NULL,
    topic_id    text NOT NULL,
    partitions  integer NOT NULL CHECK (partitions > 0),
    starts      bigint[] NOT NULL CHECK (cardinality(starts) = partitions),
    ends        bigint[] CHECK (ends IS NULL OR cardinality(ends) = partitions),
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE epochs IS 'One life of the events topic each; ends is set when the epoch is closed by a repartitioning.';

CREATE TABLE rules_from (
    epoch       integer NOT NULL REFERENCES epochs,
    partition   integer NOT NULL CHECK (partition >= 0),
    from_offset bigint NOT NULL CHECK (from_offset >= 0),
    version     integer NOT NULL CHECK (version > 0),
    PRIMARY KEY (epoch, partition, from_offset)
);
COMMENT ON TABLE rules_from IS 'From which position on a rules version decides.';

CREATE TABLE delta_fences (
    epoch         integer NOT NULL REFERENCES epochs,
    partition     integer NOT NULL CHECK (partition >= 0),
    next_offset   bigint NOT NULL CHECK (next_offset >= 0),
    rules_version integer NOT NULL,
    admitted      bigint NOT NULL DEFAULT 0,
    duplicate     bigint NOT NULL DEFAULT 0,
    conflict      bigint NOT NULL DEFAULT 0,
    invalid       bigint NOT NULL DEFAULT 0,
    void          bigint NOT NULL DEFAULT 0,
    hash_sum      numeric(20) NOT NULL DEFAULT 0,
    moved_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (epoch, partition)
);
COMMENT ON TABLE delta_fences IS 'The next offset that the counters do not hold yet, and the cumulative figures there.';

CREATE FUNCTION delta_fences_never_move_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.next_offset < OLD.next_offset THEN
        RAISE EXCEPTION 'fence of epoch % partition % may not move back from % to %',
            OLD.epoch, OLD.partition, OLD.next_offset, NEW.next_offset;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER delta_fences_never_move_back BEFORE UPDATE ON delta_fences
    FOR EACH ROW EXECUTE FUNCTION delta_fences_never_move_back();

CREATE TABLE usage_counters (
    tenant_id  text NOT NULL,
    usage_type text NOT NULL,
    day        date NOT NULL,
    quantity   numeric NOT NULL,
    events     bigint NOT NULL,
    PRIMARY KEY (tenant_id, usage_type, day)
);
COMMENT ON TABLE usage_counters IS 'Sum of the admitted rows below the fences, by UTC day of occurredAt; written in the fence''s transaction.';

CREATE TABLE usage_totals (
    tenant_id  text NOT NULL,
    usage_type text NOT NULL,
    quantity   numeric NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, usage_type)
);
COMMENT ON TABLE usage_totals IS 'The running total of usage_counters over all days.';

CREATE TABLE freshness_samples (
    epoch      integer NOT NULL REFERENCES epochs,
    seen_from  timestamptz NOT NULL,
    seen_until timestamptz NOT NULL CHECK (seen_until >= seen_from),
    ends       bigint[] NOT NULL,
    PRIMARY KEY (epoch, seen_from)
);
CREATE INDEX freshness_samples_newest ON freshness_samples (epoch, seen_until DESC);
COMMENT ON TABLE freshness_samples IS 'At every time in [seen_from, seen_until] the log ended at or below ends.';

CREATE TABLE repairs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch       integer NOT NULL,
    partition   integer NOT NULL,
    from_offset bigint NOT NULL,
    to_offset   bigint NOT NULL,
    cause       text NOT NULL,
    repaired_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE repairs IS 'Ranges that were counted from ClickHouse instead of from their delta.';
