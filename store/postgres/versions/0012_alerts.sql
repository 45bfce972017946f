-- Thresholds that were reached, and whether they were told of.

CREATE TABLE usage_alerts (
    alert_id     uuid PRIMARY KEY,
    tenant_id    text NOT NULL,
    usage_type   text NOT NULL,
    limit_period text NOT NULL CHECK (limit_period IN ('day', 'month', 'billing_period', 'lifetime')),
    period_start date,
    period_end   date CHECK (period_end > period_start),
    threshold    integer NOT NULL CHECK (threshold BETWEEN 1 AND 1000),
    used         exact_quantity NOT NULL,
    limit_quantity exact_quantity NOT NULL,
    hard_stop    boolean NOT NULL,
    raised_at    timestamptz NOT NULL,
    state        text NOT NULL CHECK (state IN ('waiting', 'delivered', 'dead', 'record_only')),
    attempts     integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_try_at  timestamptz,
    delivered_at timestamptz,
    last_error   text,
    CHECK ((period_start IS NULL) = (limit_period = 'lifetime') AND (period_end IS NULL) = (period_start IS NULL)),
    CHECK ((next_try_at IS NOT NULL) = (state = 'waiting')),
    CHECK ((delivered_at IS NOT NULL) = (state = 'delivered'))
);
CREATE INDEX usage_alerts_due ON usage_alerts (next_try_at) WHERE state = 'waiting';
CREATE INDEX usage_alerts_by_time ON usage_alerts (raised_at, alert_id);
CREATE INDEX usage_alerts_over ON usage_alerts (period_end) WHERE period_end IS NOT NULL;
COMMENT ON TABLE usage_alerts IS
    'One row a tenant, usage type, period and threshold: alert_id is made of these. The record of usage.alerts goes by the outbox.';
COMMENT ON COLUMN usage_alerts.state IS 'Of the webhook; record_only: none was configured when it was raised.';

CREATE TABLE alert_progress (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    looked_until timestamptz NOT NULL
);
COMMENT ON TABLE alert_progress IS 'Totals that changed before looked_until have been held against their thresholds.';
INSERT INTO alert_progress (looked_until) VALUES ('-infinity');

-- A block range index, because an ordinary one would make every count write an index entry.
CREATE INDEX usage_totals_changed ON usage_totals USING brin (changed_at) WITH (pages_per_range = 4, autosummarize = on);
