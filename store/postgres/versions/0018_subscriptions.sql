-- What the payment provider holds for a tenant: its customer, subscription, payment methods and invoices. Each row is what was
-- seen with the ticket `seen`; an earlier one never takes its place.

CREATE SEQUENCE provider_observations;
COMMENT ON SEQUENCE provider_observations IS 'Tickets, taken before the provider is looked at.';

CREATE TABLE customers (
    tenant_id                 text PRIMARY KEY REFERENCES tenants,
    provider                  text NOT NULL CHECK (provider ~ '^[a-z]{1,20}$'),
    state                     text NOT NULL CHECK (state IN ('making', 'made', 'deleted')),
    provider_customer_id      text,
    making_key                text NOT NULL,
    name                      text NOT NULL,
    email                     text,
    currency                  text CHECK (currency ~ '^[a-z]{3}$'),
    default_payment_method_id text,
    seen                      bigint NOT NULL,
    created_at                timestamptz NOT NULL DEFAULT now(),
    changed_at                timestamptz NOT NULL DEFAULT now(),
    UNIQUE (provider, provider_customer_id),
    CHECK ((state = 'making') = (provider_customer_id IS NULL))
);
COMMENT ON COLUMN customers.making_key IS 'The idempotency key under which the provider is asked for it.';

CREATE TABLE subscriptions (
    subscription_id      text PRIMARY KEY CHECK (subscription_id ~ '^sub_[0-9a-z]{24}$'),
    tenant_id            text NOT NULL REFERENCES tenants,
    provider             text NOT NULL,
    origin               text NOT NULL CHECK (origin IN ('here', 'imported')),
    plan_id              text,
    billing_cycle        text CHECK (billing_cycle IN ('monthly', 'yearly')),
    quantity             integer NOT NULL CHECK (quantity >= 0),
    addons               jsonb NOT NULL CHECK (jsonb_typeof(addons) = 'array'),
    currency             text NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    status               text NOT NULL CHECK (status IN (
        'incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'canceled', 'unpaid', 'paused')),
    misaligned           boolean NOT NULL,
    period_start         timestamptz NOT NULL,
    period_end           timestamptz NOT NULL CHECK (period_end >= period_start),
    cancel_at_period_end boolean NOT NULL,
    cancel_at            timestamptz,
    canceled_at          timestamptz,
    ended_at             timestamptz,
    trial_start          timestamptz,
    trial_end            timestamptz,
    pause_behavior       text CHECK (pause_behavior IN ('keep_as_draft', 'mark_uncollectible', 'void')),
    pause_resumes_at     timestamptz,
    payment_method_id    text,
    latest_invoice_id    text,
    created_at           timestamptz NOT NULL,
    changed_at           timestamptz NOT NULL DEFAULT now(),
    CHECK ((ended_at IS NOT NULL) = (status IN ('canceled', 'incomplete_expired'))),
    CHECK (status <> 'trialing' OR trial_end IS NOT NULL),
    CHECK (pause_resumes_at IS NULL OR pause_behavior IS NOT NULL),
    CHECK (origin = 'imported' OR plan_id IS NOT NULL)
);
CREATE INDEX subscriptions_of_tenant ON subscriptions (tenant_id);
CREATE UNIQUE INDEX subscriptions_one_alive ON subscriptions (tenant_id)
    WHERE origin = 'here' AND status NOT IN ('canceled', 'incomplete_expired');
COMMENT ON COLUMN subscriptions.plan_id IS 'Of the catalog, or of one that it had once.';
COMMENT ON COLUMN subscriptions.misaligned IS
    'Its periods are not the tenant''s: they start at another day or time, so that its usage cannot be exported.';

CREATE TABLE subscription_parts (
    provider                 text NOT NULL,
    provider_subscription_id text NOT NULL,
    subscription_id          text NOT NULL REFERENCES subscriptions,
    status                   text NOT NULL CHECK (status IN (
        'incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'canceled', 'unpaid', 'paused')),
    document                 jsonb NOT NULL,
    seen                     bigint NOT NULL,
    changed_at               timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, provider_subscription_id)
);
CREATE INDEX subscription_parts_of ON subscription_parts (subscription_id);
CREATE INDEX subscription_parts_alive ON subscription_parts (subscription_id)
    WHERE status NOT IN ('canceled', 'incomplete_expired');
COMMENT ON TABLE subscription_parts IS
    'The provider''s subscriptions: one for each interval that a subscription is billed by.';

-- What is over stays over.
CREATE FUNCTION subscription_parts_stay_over() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('canceled', 'incomplete_expired') AND NEW.status <> OLD.status THEN
        RAISE EXCEPTION 'the subscription % is %', OLD.provider_subscription_id, OLD.status USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER subscription_parts_stay_over BEFORE UPDATE ON subscription_parts
    FOR EACH ROW EXECUTE FUNCTION subscription_parts_stay_over();

CREATE TABLE subscription_operations (
    operation_id    text PRIMARY KEY,
    tenant_id       text NOT NULL REFERENCES tenants,
    subscription_id text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('create', 'update', 'cancel', 'reactivate', 'pause', 'resume')),
    wanted          jsonb NOT NULL,
    state           text NOT NULL CHECK (state IN ('open', 'undoing', 'done', 'refused')),
    tries           integer NOT NULL CHECK (tries >= 0),
    round           integer NOT NULL CHECK (round >= 0),
    refusal         jsonb,
    who             text NOT NULL,
    request_id      text,
    lease_until     timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    CHECK ((refusal IS NOT NULL) = (state IN ('undoing', 'refused')))
);
CREATE UNIQUE INDEX subscription_operations_one_open ON subscription_operations (tenant_id)
    WHERE state IN ('open', 'undoing');
CREATE INDEX subscription_operations_waiting ON subscription_operations (lease_until) WHERE state IN ('open', 'undoing');
COMMENT ON TABLE subscription_operations IS
    'What was asked for, on record before the provider is asked; whoever holds the lease works on it.';

CREATE TABLE payment_methods (
    provider           text NOT NULL,
    provider_method_id text NOT NULL,
    tenant_id          text NOT NULL REFERENCES tenants,
    kind               text NOT NULL,
    last4              text CHECK (last4 ~ '^[0-9A-Za-z]{1,4}$'),
    attached           boolean NOT NULL,
    seen               bigint NOT NULL,
    created_at         timestamptz NOT NULL,
    changed_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, provider_method_id)
);
CREATE INDEX payment_methods_of_tenant ON payment_methods (tenant_id, created_at, provider_method_id) WHERE attached;
COMMENT ON TABLE payment_methods IS 'The provider''s ids and the last four digits; nothing else of a card is kept.';

CREATE TABLE invoices (
    provider                 text NOT NULL,
    invoice_id               text NOT NULL,
    tenant_id                text NOT NULL REFERENCES tenants,
    provider_subscription_id text,
    status                   text NOT NULL CHECK (status IN ('draft', 'open', 'paid', 'uncollectible', 'void')),
    number                   text,
    currency                 text NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    subtotal                 bigint NOT NULL,
    discount                 bigint NOT NULL,
    tax                      bigint NOT NULL,
    total                    bigint NOT NULL,
    amount_due               bigint NOT NULL,
    amount_paid              bigint NOT NULL,
    amount_remaining         bigint NOT NULL,
    lines                    jsonb NOT NULL CHECK (jsonb_typeof(lines) = 'array'),
    period_start             timestamptz NOT NULL,
    period_end               timestamptz NOT NULL,
    due_at                   timestamptz,
    finalized_at             timestamptz,
    paid_at                  timestamptz,
    hosted_url               text,
    pdf_url                  text,
    seen                     bigint NOT NULL,
    created_at               timestamptz NOT NULL,
    changed_at               timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, invoice_id)
);
CREATE INDEX invoices_of_tenant ON invoices (tenant_id, created_at DESC, invoice_id DESC);
COMMENT ON TABLE invoices IS 'A mirror of the provider''s. Amounts are whole minor units of the currency.';
