-- What was told to Stripe, and what became of it.

CREATE TABLE export_ledger (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account       text NOT NULL,
    livemode      boolean NOT NULL,
    tenant_id     text NOT NULL,
    customer_id   text NOT NULL,
    meter         text NOT NULL,
    period_start  date NOT NULL,
    period_end    date NOT NULL CHECK (period_end > period_start),
    revision      integer NOT NULL CHECK (revision > 0),
    identifier    text NOT NULL CHECK (length(identifier) BETWEEN 1 AND 100),
    exact_total   exact_quantity NOT NULL,
    value         bigint NOT NULL CHECK (value BETWEEN 0 AND 999999999999999),
    remainder     numeric NOT NULL,
    event_time    timestamptz NOT NULL,
    positions     jsonb NOT NULL,
    state         text NOT NULL CHECK (state IN ('planned', 'sending', 'accepted', 'retry_wait', 'ambiguous', 'confirmed',
                                                  'closed', 'rejected', 'superseded', 'manual', 'carry_forward')),
    reason        text,
    attempts      integer NOT NULL DEFAULT 0,
    first_sent_at timestamptz,
    lease_until   timestamptz,
    next_try_at   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    changed_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account, livemode, tenant_id, meter, period_start, revision),
    UNIQUE (account, livemode, identifier)
);
COMMENT ON COLUMN export_ledger.positions IS 'The fences that exact_total stands for: {"epoch:partition": next_offset}.';
CREATE UNIQUE INDEX export_ledger_one_in_flight ON export_ledger (account, livemode, customer_id, meter)
    WHERE state IN ('planned', 'sending', 'retry_wait', 'ambiguous');

CREATE TABLE export_transitions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ledger_id  bigint NOT NULL REFERENCES export_ledger,
    from_state text,
    to_state   text NOT NULL,
    reason     text,
    at         timestamptz NOT NULL DEFAULT now()
);

-- What may have been told to Stripe stays on record. (That it does not change either is 0004's to hold.)
CREATE FUNCTION export_ledger_is_not_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state <> 'planned' THEN
        RAISE EXCEPTION 'ledger row % is in state % and may not be removed', OLD.id, OLD.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER export_ledger_is_not_removed BEFORE DELETE ON export_ledger
    FOR EACH ROW EXECUTE FUNCTION export_ledger_is_not_removed();

CREATE TABLE period_closes (
    tenant_id    text NOT NULL,
    period_start date NOT NULL,
    period_end   date NOT NULL CHECK (period_end > period_start),
    state        text NOT NULL CHECK (state IN ('copied', 'closed', 'refused')),
    positions    jsonb NOT NULL,
    totals       jsonb NOT NULL,
    changed_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, period_start)
);

-- I8: a closed period's total never changes.
CREATE FUNCTION period_closes_stay_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'closed' THEN
        RAISE EXCEPTION 'the period of tenant % that starts on % is closed', OLD.tenant_id, OLD.period_start
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER period_closes_stay_closed BEFORE UPDATE OR DELETE ON period_closes
    FOR EACH ROW EXECUTE FUNCTION period_closes_stay_closed();
