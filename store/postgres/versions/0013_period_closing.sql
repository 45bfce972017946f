-- Closing periods: what each close follows, what Stripe finalised first, and the fractions that pass to the next period.

ALTER TABLE period_closes
    ADD COLUMN reason    text,
    ADD COLUMN finalized jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN copied_at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN period_closes.totals IS
    'Usage type to the sum of all admitted events before period_end and below positions, over all time: the period bills the difference to the close before.';
COMMENT ON COLUMN period_closes.finalized IS
    'Meter to the positions of the last revision that Stripe took before it finalised the invoice: they stand for its usage types instead.';
COMMENT ON COLUMN period_closes.reason IS 'Of a refused close: how the copied counters differ from ClickHouse.';
CREATE INDEX period_closes_ends ON period_closes (tenant_id, period_end);

-- A close begins where the one before it ended, and counts everything that one counted.
CREATE FUNCTION period_closes_follow() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before period_closes%ROWTYPE;
BEGIN
    SELECT * INTO before FROM period_closes
     WHERE tenant_id = NEW.tenant_id AND period_start < NEW.period_start ORDER BY period_start DESC LIMIT 1;
    IF FOUND AND (before.state <> 'closed' OR before.period_end <> NEW.period_start) THEN
        RAISE EXCEPTION 'the period of tenant % from % does not follow the one from % (%)',
            NEW.tenant_id, NEW.period_start, before.period_start, before.state USING ERRCODE = 'check_violation';
    END IF;
    IF FOUND AND EXISTS (SELECT FROM jsonb_each_text(before.positions) AS was (place, next_offset)
                          WHERE (NEW.positions ->> was.place)::bigint IS NULL
                             OR (NEW.positions ->> was.place)::bigint < was.next_offset::bigint) THEN
        RAISE EXCEPTION 'the positions of tenant %, period from %, lie behind those of the close before',
            NEW.tenant_id, NEW.period_start USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER period_closes_follow BEFORE INSERT OR UPDATE ON period_closes
    FOR EACH ROW EXECUTE FUNCTION period_closes_follow();

-- A revision's mode, what it continues, and the fraction that it took over.
ALTER TABLE export_ledger
    ADD COLUMN mode      text NOT NULL DEFAULT 'last' CHECK (mode IN ('last', 'sum')),
    ADD COLUMN follows   date,
    ADD COLUMN carried   numeric NOT NULL DEFAULT 0,
    DROP CONSTRAINT export_ledger_value_check,
    ADD CONSTRAINT export_ledger_value_check CHECK (abs(value) <= 999999999999999 AND (value >= 0 OR mode = 'sum'));
COMMENT ON COLUMN export_ledger.value IS 'What is sent: the running total of the period, or under `sum` what is added to it.';
COMMENT ON COLUMN export_ledger.follows IS
    'Start of the closed period after which exact_total counts: late events of it and of earlier ones are in here. NULL: of its own days only.';
COMMENT ON COLUMN export_ledger.carried IS 'The remainder of the period before, in units of the meter: total x scale + carried = the period''s value + remainder.';

CREATE TABLE export_carries (
    account      text NOT NULL,
    livemode     boolean NOT NULL,
    tenant_id    text NOT NULL,
    meter        text NOT NULL,
    period_start date NOT NULL,
    scale        bigint NOT NULL,
    remainder    numeric NOT NULL,
    PRIMARY KEY (account, livemode, tenant_id, meter, period_start)
);
COMMENT ON TABLE export_carries IS 'What a closed period leaves of a meter: less than one unit, or what is negative. The next period begins with it.';

CREATE FUNCTION export_carries_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what the closed period of tenant % from % leaves may not change', OLD.tenant_id, OLD.period_start
        USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER export_carries_stay BEFORE UPDATE OR DELETE ON export_carries FOR EACH ROW EXECUTE FUNCTION export_carries_stay();

-- A person may say that Stripe has what nobody could tell.
INSERT INTO export_moves (from_state, to_state) VALUES ('manual', 'accepted');

CREATE OR REPLACE FUNCTION export_ledger_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF ROW(NEW.account, NEW.livemode, NEW.tenant_id, NEW.customer_id, NEW.meter, NEW.period_start, NEW.period_end, NEW.revision,
           NEW.identifier, NEW.exact_total, NEW.value, NEW.remainder, NEW.event_time, NEW.positions, NEW.mode, NEW.follows,
           NEW.carried)
       IS DISTINCT FROM
       ROW(OLD.account, OLD.livemode, OLD.tenant_id, OLD.customer_id, OLD.meter, OLD.period_start, OLD.period_end, OLD.revision,
           OLD.identifier, OLD.exact_total, OLD.value, OLD.remainder, OLD.event_time, OLD.positions, OLD.mode, OLD.follows,
           OLD.carried) THEN
        RAISE EXCEPTION 'the payload of export % is frozen', OLD.id;
    END IF;
    IF NEW.state <> OLD.state
       AND NOT EXISTS (SELECT FROM export_moves WHERE from_state = OLD.state AND to_state = NEW.state) THEN
        RAISE EXCEPTION 'export % may not go from % to %', OLD.id, OLD.state, NEW.state;
    END IF;
    RETURN NEW;
END $$;
