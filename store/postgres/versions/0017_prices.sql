-- What plans cost, and the prices that stand for it at Stripe.

ALTER TABLE plans ADD COLUMN currency text CHECK (currency ~ '^[a-z]{3}$');
COMMENT ON COLUMN plans.currency IS 'What overage_price is in; NULL: the one currency of its prices.';

CREATE TABLE plan_prices (
    plan_id  text NOT NULL REFERENCES plans ON DELETE CASCADE,
    currency text NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    cycle    text NOT NULL CHECK (cycle IN ('monthly', 'yearly')),
    amount   bigint NOT NULL CHECK (amount BETWEEN 0 AND 99999999),
    PRIMARY KEY (plan_id, currency, cycle)
);
COMMENT ON COLUMN plan_prices.amount IS 'Of the currency''s smallest unit.';

CREATE TABLE plan_overage_prices (
    plan_id    text NOT NULL REFERENCES plans ON DELETE CASCADE,
    currency   text NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    usage_type text NOT NULL REFERENCES usage_types,
    price      numeric NOT NULL CHECK (price >= 0 AND price < 'Infinity'),
    PRIMARY KEY (plan_id, currency, usage_type)
);
COMMENT ON TABLE plan_overage_prices IS
    'What a unit beyond the limit costs in a currency that is not the plan''s own, whose price stands in plan_limits.';

CREATE TABLE stripe_prices (
    account           text NOT NULL,
    livemode          boolean NOT NULL,
    stripe_price_id   text NOT NULL,
    stripe_product_id text NOT NULL,
    kind              text NOT NULL CHECK (kind IN ('base', 'overage')),
    cycle             text NOT NULL CHECK (cycle IN ('monthly', 'yearly')),
    currency          text NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    plan_id           text,
    tenant_id         text,
    usage_type        text,
    meter             text,
    terms             jsonb NOT NULL,
    state             text NOT NULL CHECK (state IN ('active', 'replaced', 'archived')),
    created_at        timestamptz NOT NULL DEFAULT now(),
    changed_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, livemode, stripe_price_id),
    CHECK (num_nonnulls(plan_id, tenant_id) = 1),
    CHECK (CASE kind WHEN 'base' THEN plan_id IS NOT NULL AND num_nonnulls(usage_type, meter) = 0
                     ELSE num_nonnulls(usage_type, meter) = 2 AND cycle = 'monthly' END)
);
CREATE UNIQUE INDEX stripe_prices_one_active ON stripe_prices
    (account, livemode, kind, cycle, currency, plan_id, tenant_id, usage_type) NULLS NOT DISTINCT WHERE state = 'active';
COMMENT ON TABLE stripe_prices IS
    'The prices that setup made. A price never changes: other terms are another one, and the replaced one is archived at Stripe, where those subscribed to it keep it.';
COMMENT ON COLUMN stripe_prices.tenant_id IS 'Whose own limit it stands for, in place of the plan''s.';
