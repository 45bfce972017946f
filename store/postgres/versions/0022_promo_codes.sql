-- Promo codes, and who redeemed them.

CREATE TABLE promo_codes (
    promo_code_id        uuid PRIMARY KEY,
    code                 text NOT NULL CHECK (code ~ '^[A-Za-z0-9_-]{3,64}$'),
    name                 text NOT NULL DEFAULT '' CHECK (length(name) <= 40),
    percent_off          numeric(5, 2) CHECK (percent_off > 0 AND percent_off <= 100),
    amount_off           bigint CHECK (amount_off > 0),
    currency             text CHECK (currency ~ '^[a-z]{3}$'),
    duration             text NOT NULL CHECK (duration IN ('once', 'repeating', 'forever')),
    duration_months      integer CHECK (duration_months BETWEEN 1 AND 120),
    max_redemptions      integer CHECK (max_redemptions > 0),
    max_per_organization integer NOT NULL DEFAULT 1 CHECK (max_per_organization > 0),
    redeemed             integer NOT NULL DEFAULT 0 CHECK (redeemed >= 0),
    plan_ids             text[] NOT NULL DEFAULT '{}',
    starts_at            timestamptz,
    expires_at           timestamptz,
    active               boolean NOT NULL DEFAULT true,
    provider             text NOT NULL,
    provider_code_id     text,
    provider_coupon_id   text,
    provider_active      boolean NOT NULL DEFAULT true,
    provider_redeemed    integer NOT NULL DEFAULT 0 CHECK (provider_redeemed >= 0),
    provider_seen        bigint NOT NULL DEFAULT 0,
    created_at           timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nonnulls(percent_off, amount_off) = 1),
    CHECK (amount_off IS NULL OR currency IS NOT NULL),
    CHECK ((duration = 'repeating') = (duration_months IS NOT NULL)),
    CHECK (expires_at > starts_at),
    CHECK (redeemed <= max_redemptions),
    UNIQUE (provider, provider_code_id)
);
CREATE UNIQUE INDEX promo_codes_by_code ON promo_codes (lower(code)) WHERE active;
CREATE INDEX promo_codes_by_coupon ON promo_codes (provider_coupon_id);
CREATE INDEX promo_codes_by_time ON promo_codes (created_at, promo_code_id);
COMMENT ON COLUMN promo_codes.amount_off IS 'Minor units of its currency.';
COMMENT ON COLUMN promo_codes.currency IS 'Of amount_off; of a percentage the only currency in which it may be redeemed, NULL: any.';
COMMENT ON COLUMN promo_codes.plan_ids IS 'The plans that it may be redeemed for; none: any.';
COMMENT ON COLUMN promo_codes.redeemed IS 'Uses taken and not given back, moved under the lock of this row.';
COMMENT ON COLUMN promo_codes.provider_seen IS 'The ticket of the last look at the provider that was taken over.';
COMMENT ON COLUMN promo_codes.provider_redeemed IS 'What the provider counts, uses that it was told of elsewhere included; for people.';

CREATE TABLE promo_redemptions (
    redemption_id   uuid PRIMARY KEY,
    promo_code_id   uuid NOT NULL REFERENCES promo_codes,
    tenant_id       text NOT NULL REFERENCES tenants,
    subscription_id text NOT NULL,
    redeemed_at     timestamptz NOT NULL DEFAULT now(),
    released_at     timestamptz
);
CREATE UNIQUE INDEX promo_redemptions_once ON promo_redemptions (subscription_id, promo_code_id) WHERE released_at IS NULL;
CREATE INDEX promo_redemptions_of_tenant ON promo_redemptions (promo_code_id, tenant_id) WHERE released_at IS NULL;
