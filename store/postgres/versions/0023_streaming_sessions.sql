-- Streaming sessions and recorded usage: who holds and pays credits for what. See docs/sessions.md.

CREATE TABLE streaming_sessions (
    id            uuid PRIMARY KEY,
    tenant_id     text NOT NULL REFERENCES tenants,
    user_id       text NOT NULL REFERENCES users,
    session_id    text NOT NULL CHECK (octet_length(session_id) BETWEEN 1 AND 256),
    model_id      text NOT NULL,
    price         jsonb NOT NULL,
    overrun       text NOT NULL CHECK (overrun IN ('held', 'balance')),
    estimated     bigint[] NOT NULL CHECK (cardinality(estimated) = 3 AND 0 <= ALL (estimated) AND array_position(estimated, NULL) IS NULL),
    held          exact_quantity NOT NULL CHECK (held >= 0),
    ttl_s         integer NOT NULL CHECK (ttl_s BETWEEN 1 AND 86400),
    state         text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'finalized', 'aborted', 'expired')),
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL CHECK (expires_at > created_at AND expires_at <= created_at + interval '24 hours'),
    reported      bigint[] NOT NULL DEFAULT '{0,0,0}'
                  CHECK (cardinality(reported) = 3 AND 0 <= ALL (reported) AND array_position(reported, NULL) IS NULL),
    swept_at      timestamptz,
    ended_at      timestamptz,
    used          bigint[] CHECK (cardinality(used) = 3 AND 0 <= ALL (used) AND array_position(used, NULL) IS NULL),
    charged       exact_quantity CHECK (charged >= 0),
    refunded      exact_quantity CHECK (refunded >= 0),
    uncollected   exact_quantity CHECK (uncollected >= 0),
    UNIQUE (tenant_id, user_id, session_id),
    -- Ended by its owner, after it was swept or not; swept; or neither.
    CHECK (CASE state WHEN 'active' THEN num_nonnulls(swept_at, ended_at, used, charged, refunded, uncollected) = 0
                      WHEN 'expired' THEN swept_at IS NOT NULL AND ended_at IS NULL
                                          AND num_nonnulls(used, charged, refunded, uncollected) = 4
                      ELSE num_nonnulls(ended_at, used, charged, refunded, uncollected) = 5 END),
    -- What was held is paid with or given back, but for what a lot's expiry has eaten meanwhile.
    CHECK (refunded <= held)
);
CREATE INDEX streaming_sessions_due ON streaming_sessions (expires_at) WHERE state = 'active';
CREATE INDEX streaming_sessions_active ON streaming_sessions (tenant_id, created_at, id) WHERE state = 'active';
CREATE INDEX streaming_sessions_recent ON streaming_sessions (tenant_id, created_at, id);
CREATE INDEX streaming_sessions_of_user ON streaming_sessions (tenant_id, user_id, created_at, id);
COMMENT ON COLUMN streaming_sessions.id IS 'Also the hold in the ledger of credits, and the sourceEntityId of the session''s event.';
COMMENT ON COLUMN streaming_sessions.estimated IS 'Tokens: input, output, cached.';
COMMENT ON COLUMN streaming_sessions.reported IS 'By heartbeats: what an orphan is charged for.';
COMMENT ON COLUMN streaming_sessions.charged IS 'In all: by the sweeper, and after it.';
COMMENT ON COLUMN streaming_sessions.uncollected IS 'Of the cost: what nobody paid, by the plan''s rule of overrun.';

-- What was agreed stays as it was agreed, an end stays as it was reached, and a charge is never taken back here.
CREATE FUNCTION streaming_sessions_move_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF ROW(NEW.id, NEW.tenant_id, NEW.user_id, NEW.session_id, NEW.model_id, NEW.price, NEW.overrun, NEW.estimated, NEW.held,
           NEW.ttl_s, NEW.created_at)
       IS DISTINCT FROM
       ROW(OLD.id, OLD.tenant_id, OLD.user_id, OLD.session_id, OLD.model_id, OLD.price, OLD.overrun, OLD.estimated, OLD.held,
           OLD.ttl_s, OLD.created_at)
    THEN
        RAISE EXCEPTION 'what session % was begun with may not be changed', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.state IN ('finalized', 'aborted') THEN
        RAISE EXCEPTION 'session % is %', OLD.id, OLD.state USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.state = 'expired' AND (NEW.state NOT IN ('finalized', 'aborted') OR NEW.swept_at IS DISTINCT FROM OLD.swept_at
                                  OR NEW.charged < OLD.charged)
    THEN
        RAISE EXCEPTION 'session % was swept, and may only be ended', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER streaming_sessions_move_on BEFORE UPDATE ON streaming_sessions
    FOR EACH ROW EXECUTE FUNCTION streaming_sessions_move_on();

CREATE TABLE recorded_usage (
    source_service   text NOT NULL,
    source_entity_id text NOT NULL,
    usage_type       text NOT NULL,
    tenant_id        text NOT NULL REFERENCES tenants,
    user_id          text NOT NULL REFERENCES users,
    operation        text NOT NULL,
    credits          exact_quantity NOT NULL CHECK (credits >= 0),
    deducted         boolean NOT NULL,
    request_digest   bytea NOT NULL CHECK (octet_length(request_digest) = 32),
    recorded_at      timestamptz NOT NULL,
    PRIMARY KEY (source_service, source_entity_id)
);
CREATE INDEX recorded_usage_of_user ON recorded_usage (tenant_id, user_id, recorded_at);
COMMENT ON TABLE recorded_usage IS 'What POST /api/usage/record was told, by the key of its event: a repeat is known, another request under the key is refused.';
