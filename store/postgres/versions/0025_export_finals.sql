-- What final invoices billed, who moved a row, and when the exporter's schedule ran.

-- Every transition is on record, whoever makes it: the table's own trigger writes it.
ALTER TABLE export_transitions ADD COLUMN actor text;
COMMENT ON COLUMN export_transitions.actor IS 'The person who moved the row by hand; NULL: the exporter.';
CREATE FUNCTION export_ledger_is_audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.state = OLD.state AND NEW.attempts = OLD.attempts AND NEW.reason IS NOT DISTINCT FROM OLD.reason THEN
        RETURN NULL;
    END IF;
    INSERT INTO export_transitions (ledger_id, from_state, to_state, reason, actor)
    VALUES (NEW.id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END, NEW.state, NEW.reason,
            nullif(current_setting('meterline.actor', true), ''));
    RETURN NULL;
END $$;
CREATE TRIGGER export_ledger_is_audited AFTER INSERT OR UPDATE OF state, attempts, reason ON export_ledger
    FOR EACH ROW EXECUTE FUNCTION export_ledger_is_audited();
CREATE FUNCTION export_transitions_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what became of export % stays on record', OLD.ledger_id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER export_transitions_stay BEFORE UPDATE OR DELETE ON export_transitions
    FOR EACH ROW EXECUTE FUNCTION export_transitions_stay();

-- An invoice that was final before a newer revision came billed the older one; a person may settle what is `manual`.
INSERT INTO export_moves (from_state, to_state) VALUES ('superseded', 'closed'), ('manual', 'closed');

CREATE TABLE export_finals (
    account      text NOT NULL,
    livemode     boolean NOT NULL,
    tenant_id    text NOT NULL,
    meter        text NOT NULL,
    period_start date NOT NULL,
    period_end   date NOT NULL CHECK (period_end > period_start),
    invoice_id   text NOT NULL,
    finalized_at timestamptz NOT NULL,
    billed       bigint NOT NULL,
    ledger_id    bigint REFERENCES export_ledger,
    told         bigint NOT NULL CHECK (ledger_id IS NOT NULL OR told = 0),
    seen_at      timestamptz NOT NULL,
    PRIMARY KEY (account, livemode, tenant_id, meter, period_start)
);
COMMENT ON TABLE export_finals IS
    'What a final invoice billed of a meter. The period closes there: what was counted later is in the next one.';
COMMENT ON COLUMN export_finals.invoice_id IS 'Stripe''s, or `by hand` where a person settled the period.';
COMMENT ON COLUMN export_finals.billed IS 'Units of the meter on the invoice.';
COMMENT ON COLUMN export_finals.ledger_id IS 'The revision that stands for it; NULL: nothing of the period had come, so nothing was billed.';
COMMENT ON COLUMN export_finals.told IS 'Units that revision stands for; what the exact total has more is carried into the next period.';
CREATE FUNCTION export_finals_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the invoice of tenant % for the period from % is final', OLD.tenant_id, OLD.period_start
        USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER export_finals_stay BEFORE UPDATE OR DELETE ON export_finals FOR EACH ROW EXECUTE FUNCTION export_finals_stay();

CREATE TABLE export_invoices_read (
    account  text NOT NULL,
    livemode boolean NOT NULL,
    until    timestamptz NOT NULL,
    PRIMARY KEY (account, livemode)
);
COMMENT ON TABLE export_invoices_read IS 'Invoices made before this moment were looked at; the newest days are looked at again.';

COMMENT ON COLUMN period_closes.finalized IS
    'Usage type to the invoice that was final before this close: its total here is what that invoice billed, and not all below positions.';

CREATE TABLE export_runs (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due_at     timestamptz NOT NULL UNIQUE,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz CHECK (ended_at >= started_at),
    outcome    text CHECK (outcome IN ('done', 'open', 'failed')),
    detail     text,
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
COMMENT ON TABLE export_runs IS 'Runs of the exporter''s schedule, by the moment that each was due.';
COMMENT ON COLUMN export_runs.outcome IS 'done: all is at Stripe. open: some rows are not, each with its reason. failed: it could not be run to its end.';
