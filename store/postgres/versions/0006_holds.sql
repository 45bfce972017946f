-- Reservations: what is held of a limit until its usage is counted, or given back. See docs/exactness.md, Holds.

CREATE TABLE hold_locks (
    tenant_id  text NOT NULL,
    usage_type text NOT NULL,
    PRIMARY KEY (tenant_id, usage_type)
);
COMMENT ON TABLE hold_locks IS 'Locked by whoever reserves or settles, so that sums are read one after the other.';

CREATE TABLE holds (
    hold_id          uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    usage_type       text NOT NULL,
    source_service   text NOT NULL,
    source_entity_id text NOT NULL,
    user_id          text,
    quantity         exact_quantity NOT NULL CHECK (quantity >= 0),
    remaining        exact_quantity CHECK (remaining >= 0),
    reason           text NOT NULL,
    state            text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'released', 'expired')),
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL CHECK (expires_at > created_at),
    request_scope    text,
    request_key      text,
    request_digest   bytea,
    settled_at       timestamptz,
    settled_quantity exact_quantity CHECK (settled_quantity >= 0),
    occurred_at      timestamptz,
    settled_late     boolean,
    settle_digest    bytea,
    outbox_id        bigint UNIQUE REFERENCES outbox ON DELETE SET NULL,
    epoch            integer REFERENCES epochs,
    partition        integer,
    kafka_offset     bigint,
    verdict          text CHECK (verdict IN ('admitted', 'duplicate', 'conflict', 'invalid')),
    done_at          timestamptz,
    CHECK (num_nonnulls(request_scope, request_key, request_digest) IN (0, 3)),
    CHECK (num_nonnulls(settled_at, settled_quantity, occurred_at, settled_late, settle_digest)
           = CASE WHEN state = 'settled' THEN 5 ELSE 0 END),
    CHECK (num_nonnulls(epoch, partition, kafka_offset) IN (0, 3)),
    CHECK (epoch IS NULL OR state = 'settled'),
    CHECK (verdict IS NULL OR epoch IS NOT NULL),
    -- Done: nothing is held and nothing is to be found out any more.
    CHECK (CASE state WHEN 'open' THEN done_at IS NULL WHEN 'settled' THEN (done_at IS NULL) = (verdict IS NULL)
                      ELSE done_at IS NOT NULL END)
);
CREATE INDEX holds_live ON holds (tenant_id, usage_type) WHERE done_at IS NULL;
CREATE INDEX holds_open ON holds (expires_at) WHERE state = 'open';
CREATE INDEX holds_unjudged ON holds (epoch, partition, kafka_offset) WHERE state = 'settled' AND done_at IS NULL;
CREATE INDEX holds_done ON holds (done_at) WHERE done_at IS NOT NULL;
CREATE UNIQUE INDEX holds_by_request ON holds (request_scope, request_key) WHERE request_key IS NOT NULL;
COMMENT ON COLUMN holds.remaining IS 'What the reservation was answered with; NULL is unlimited.';
COMMENT ON COLUMN holds.kafka_offset IS 'With epoch and partition: where an acknowledged record of the settlement stands.';
COMMENT ON COLUMN holds.done_at IS 'Set after the fact, for sweeping and indexes. What is held is decided by the view `held` alone.';

-- What is settled stays as it was settled; only where its record stands, and its verdict, become known.
CREATE FUNCTION holds_move_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN
        (('open', 'settled'), ('open', 'released'), ('open', 'expired'), ('expired', 'settled'), ('expired', 'released'))
    THEN
        RAISE EXCEPTION 'hold % may not go from % to %', OLD.hold_id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.state = 'settled' AND ROW(NEW.settled_at, NEW.settled_quantity, NEW.occurred_at, NEW.settled_late, NEW.settle_digest)
        IS DISTINCT FROM ROW(OLD.settled_at, OLD.settled_quantity, OLD.occurred_at, OLD.settled_late, OLD.settle_digest)
    THEN
        RAISE EXCEPTION 'hold % is settled', OLD.hold_id USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.verdict IS NOT NULL AND (OLD.verdict, OLD.epoch, OLD.partition, OLD.kafka_offset)
        IS DISTINCT FROM (NEW.verdict, NEW.epoch, NEW.partition, NEW.kafka_offset)
    THEN
        RAISE EXCEPTION 'hold % has its verdict', OLD.hold_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER holds_move_on BEFORE UPDATE ON holds FOR EACH ROW EXECUTE FUNCTION holds_move_on();

-- The one place that says what is held. Never a stored flag: read it in the statement that reads the counters.
CREATE VIEW held AS
SELECT h.hold_id, h.tenant_id, h.usage_type,
       coalesce(h.settled_quantity, h.quantity) AS quantity,
       (h.occurred_at AT TIME ZONE 'UTC')::date AS day
  FROM holds h
  LEFT JOIN delta_fences f ON f.epoch = h.epoch AND f.partition = h.partition
 WHERE h.done_at IS NULL
   AND ((h.state = 'open' AND h.expires_at > statement_timestamp())
        OR (h.state = 'settled' AND (h.kafka_offset IS NULL OR f.next_offset IS NULL OR h.kafka_offset >= f.next_offset)));
COMMENT ON COLUMN held.day IS 'The UTC day that it will count for; NULL while it is open, for it may be settled in any running period.';

-- Records that have to be sent again when their epoch ends below them.
CREATE INDEX outbox_by_position ON outbox (epoch, partition, kafka_offset) WHERE sent_at IS NOT NULL;
