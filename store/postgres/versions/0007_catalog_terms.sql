-- What a catalog says beyond plans and limits: overrides and grants of a tenant, alerts, prices in credits, and what a check
-- answers while Postgres is away.

ALTER TABLE plans ADD COLUMN alerts integer[] NOT NULL DEFAULT '{80,100,120}'
    CHECK (cardinality(alerts) <= 10 AND 0 < ALL (alerts) AND 1000 >= ALL (alerts) AND array_position(alerts, NULL) IS NULL);
COMMENT ON COLUMN plans.alerts IS 'Percentages of a limit at which usage is told of, rising.';

ALTER TABLE plan_limits ADD COLUMN when_unavailable text CHECK (when_unavailable IN ('fail_open', 'fail_closed'));
COMMENT ON COLUMN plan_limits.when_unavailable IS 'What a check answers while Postgres is away; NULL: 503.';

ALTER TABLE usage_types ADD COLUMN credits numeric CHECK (credits >= 0 AND credits < 'Infinity');
COMMENT ON COLUMN usage_types.credits IS 'What one unit costs in credits of a user; NULL: it is not priced in credits.';

ALTER TABLE tenants ADD COLUMN subscription_status text CHECK (subscription_status IN (
    'incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'canceled', 'unpaid', 'paused'));
COMMENT ON COLUMN tenants.subscription_status IS 'As the payment provider says; NULL: no provider manages this tenant.';
COMMENT ON COLUMN tenants.status IS 'The operator''s own switch, whatever the provider says.';

CREATE TABLE tenant_features (
    tenant_id text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    feature   text NOT NULL REFERENCES features,
    enabled   boolean NOT NULL,
    PRIMARY KEY (tenant_id, feature)
);
COMMENT ON TABLE tenant_features IS 'What stands in place of the plan''s switch for one tenant.';

CREATE TABLE tenant_limits (
    tenant_id        text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    usage_type       text NOT NULL REFERENCES usage_types,
    quantity         exact_quantity CHECK (quantity >= 0),
    hard             boolean NOT NULL,
    overage_price    numeric CHECK (overage_price >= 0 AND overage_price < 'Infinity'),
    period           text NOT NULL CHECK (period IN ('day', 'month', 'billing_period', 'lifetime')),
    when_unavailable text CHECK (when_unavailable IN ('fail_open', 'fail_closed')),
    PRIMARY KEY (tenant_id, usage_type)
);
COMMENT ON TABLE tenant_limits IS 'What stands in place of the plan''s limit for one tenant, as a whole.';

CREATE TABLE grants (
    tenant_id  text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    grant_id   text NOT NULL CHECK (octet_length(grant_id) BETWEEN 1 AND 256),
    usage_type text NOT NULL REFERENCES usage_types,
    quantity   exact_quantity NOT NULL CHECK (quantity > 0),
    valid_from date NOT NULL,
    expires_on date NOT NULL CHECK (expires_on - valid_from BETWEEN 0 AND 400),
    note       text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, grant_id)
);
CREATE INDEX grants_of_type ON grants (tenant_id, usage_type, expires_on);
COMMENT ON TABLE grants IS 'One-time top-ups: each adds to a limit on its days until it is spent. See docs/entitlements.md.';

CREATE TABLE credit_balances (
    user_id   text PRIMARY KEY CHECK (octet_length(user_id) BETWEEN 1 AND 256),
    tenant_id text NOT NULL,
    balance   exact_quantity NOT NULL CHECK (balance >= 0)
);
COMMENT ON TABLE credit_balances IS 'What a user may spend now. Read by checks; written by the ledger of credits, in its own transactions.';
