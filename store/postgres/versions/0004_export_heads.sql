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
CREATE INDEX export_ledger_due ON export_ledger (account, livemode, state, next_try_at)
    WHERE state IN ('planned', 'sending', 'retry_wait');
CREATE INDEX export_transitions_of_row ON export_transitions (ledger_id, id);
