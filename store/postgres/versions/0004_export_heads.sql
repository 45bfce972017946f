-- What the exporter locks while it plans, and what it froze when a period's first export was planned.

CREATE TABLE stripe_accounts (
    key_digest bytea PRIMARY KEY,
    account    text NOT NULL,
    livemode   boolean NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE stripe_accounts IS 'Which Stripe account a secret key belongs to, so that a dry run needs no call.';
COMMENT ON COLUMN stripe_accounts.key_digest IS 'SHA-256 of the secret key, which is random and long.';

CREATE TABLE export_heads (
    account     text NOT NULL,
    livemode    boolean NOT NULL,
    customer_id text NOT NULL,
    meter       text NOT NULL,
    tenant_id   text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, livemode, customer_id, meter)
);
COMMENT ON TABLE export_heads IS
    'One row a (customer, meter): planning locks it before it reads fences and totals. It binds the customer to one tenant.';

CREATE TABLE export_mappings (
    account      text NOT NULL,
    livemode     boolean NOT NULL,
    meter        text NOT NULL,
    period_start date NOT NULL,
    usage_types  text[] NOT NULL CHECK (cardinality(usage_types) > 0),
    scale        bigint NOT NULL CHECK (scale BETWEEN 1 AND 1000000),
    rounding     text NOT NULL CHECK (rounding IN ('floor')),
    mode         text NOT NULL CHECK (mode IN ('last', 'sum')),
    frozen_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, livemode, meter, period_start)
);
COMMENT ON TABLE export_mappings IS
    'The usage types behind a meter in a period, fixed by the period''s first plan: a later change of the catalog waits for the next period.';

ALTER TABLE export_ledger ADD COLUMN lease_token uuid;
COMMENT ON COLUMN export_ledger.lease_token IS 'Who may move the row until lease_until; every claim draws a new one.';

-- Under `last` the newest timestamp wins: two of a (customer, meter) may never be equal.
CREATE UNIQUE INDEX export_ledger_event_times ON export_ledger (account, livemode, customer_id, meter, event_time);
CREATE INDEX export_ledger_due ON export_ledger (account, livemode, id)
    WHERE state IN ('planned', 'sending', 'retry_wait');
CREATE INDEX export_transitions_of_row ON export_transitions (ledger_id, id);

-- The arrows of the state machine (metering/export_states.py, MOVES; a test holds the two equal).
CREATE TABLE export_moves (
    from_state text NOT NULL,
    to_state   text NOT NULL,
    PRIMARY KEY (from_state, to_state)
);
INSERT INTO export_moves (from_state, to_state) VALUES
    ('planned', 'sending'), ('planned', 'superseded'), ('planned', 'manual'),
    ('sending', 'sending'), ('sending', 'accepted'), ('sending', 'retry_wait'), ('sending', 'rejected'), ('sending', 'ambiguous'),
    ('retry_wait', 'sending'), ('retry_wait', 'ambiguous'), ('retry_wait', 'superseded'),
    ('ambiguous', 'accepted'), ('ambiguous', 'superseded'), ('ambiguous', 'manual'),
    ('accepted', 'confirmed'), ('accepted', 'closed'), ('accepted', 'superseded'), ('accepted', 'manual'),
    ('confirmed', 'closed'), ('confirmed', 'superseded'), ('confirmed', 'manual'),
    ('rejected', 'superseded'),
    ('manual', 'superseded'),
    ('closed', 'carry_forward');

CREATE FUNCTION export_ledger_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF ROW(NEW.account, NEW.livemode, NEW.tenant_id, NEW.customer_id, NEW.meter, NEW.period_start, NEW.period_end, NEW.revision,
           NEW.identifier, NEW.exact_total, NEW.value, NEW.remainder, NEW.event_time, NEW.positions)
       IS DISTINCT FROM
       ROW(OLD.account, OLD.livemode, OLD.tenant_id, OLD.customer_id, OLD.meter, OLD.period_start, OLD.period_end, OLD.revision,
           OLD.identifier, OLD.exact_total, OLD.value, OLD.remainder, OLD.event_time, OLD.positions) THEN
        RAISE EXCEPTION 'the payload of export % is frozen', OLD.id;
    END IF;
    IF NEW.state <> OLD.state
       AND NOT EXISTS (SELECT FROM export_moves WHERE from_state = OLD.state AND to_state = NEW.state) THEN
        RAISE EXCEPTION 'export % may not go from % to %', OLD.id, OLD.state, NEW.state;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER export_ledger_is_kept BEFORE UPDATE ON export_ledger FOR EACH ROW EXECUTE FUNCTION export_ledger_is_kept();
