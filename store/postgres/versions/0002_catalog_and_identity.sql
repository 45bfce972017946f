-- The catalog (what may be used), who is who, and the boxes between stages.

CREATE TABLE catalog_versions (
    version    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest     text NOT NULL,
    source     text NOT NULL,
    applied_by text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE meters (
    meter    text PRIMARY KEY CHECK (length(meter) BETWEEN 1 AND 100),
    scale    bigint NOT NULL CHECK (scale BETWEEN 1 AND 1000000),
    rounding text NOT NULL CHECK (rounding IN ('floor')),
    mode     text NOT NULL CHECK (mode IN ('last', 'sum'))
);
COMMENT ON TABLE meters IS 'Stripe meters by event name; value sent = floor(total x scale).';

CREATE TABLE features (
    feature     text PRIMARY KEY CHECK (octet_length(feature) BETWEEN 1 AND 256),
    description text NOT NULL DEFAULT ''
);

CREATE TABLE usage_types (
    usage_type  text PRIMARY KEY CHECK (octet_length(usage_type) BETWEEN 1 AND 256),
    description text NOT NULL DEFAULT '',
    unit        text NOT NULL DEFAULT '',
    feature     text REFERENCES features,
    meter       text REFERENCES meters
);

CREATE TABLE plans (
    plan_id text PRIMARY KEY CHECK (octet_length(plan_id) BETWEEN 1 AND 256),
    name    text NOT NULL
);

CREATE TABLE plan_features (
    plan_id text NOT NULL REFERENCES plans ON DELETE CASCADE,
    feature text NOT NULL REFERENCES features,
    enabled boolean NOT NULL,
    PRIMARY KEY (plan_id, feature)
);

CREATE TABLE plan_limits (
    plan_id       text NOT NULL REFERENCES plans ON DELETE CASCADE,
    usage_type    text NOT NULL REFERENCES usage_types,
    quantity      exact_quantity CHECK (quantity >= 0),
    hard          boolean NOT NULL,
    overage_price numeric CHECK (overage_price >= 0 AND overage_price < 'Infinity'),
    period        text NOT NULL CHECK (period IN ('day', 'month', 'billing_period', 'lifetime')),
    PRIMARY KEY (plan_id, usage_type)
);
COMMENT ON COLUMN plan_limits.quantity IS 'NULL is unlimited.';

CREATE TABLE tenants (
    tenant_id          text PRIMARY KEY CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    name               text NOT NULL DEFAULT '',
    plan_id            text REFERENCES plans,
    status             text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive')),
    anchor_day         integer NOT NULL DEFAULT 1 CHECK (anchor_day BETWEEN 1 AND 31),
    stripe_customer_id text UNIQUE,
    created_at         timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE accounts (
    app_id     text PRIMARY KEY,
    tenant_id  text NOT NULL UNIQUE REFERENCES tenants,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE accounts IS 'An account names one tenant, and a tenant has one account.';

CREATE TABLE users (
    user_id    text PRIMARY KEY,
    tenant_id  text REFERENCES tenants,
    username   text NOT NULL DEFAULT '',
    email      text,
    role       text NOT NULL CHECK (role IN ('user', 'supervisor', 'admin')),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE service_secrets (
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    secret_hash     bytea NOT NULL PRIMARY KEY CHECK (octet_length(secret_hash) = 32),
    source_services text[] NOT NULL CHECK (cardinality(source_services) > 0 AND array_position(source_services, NULL) IS NULL),
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz
);
CREATE INDEX service_secrets_by_name ON service_secrets (name);
COMMENT ON COLUMN service_secrets.source_services IS 'The source services it may emit for; {*} is every one.';
COMMENT ON COLUMN service_secrets.secret_hash IS 'SHA-256 of the secret, which is random and long, so that no salt is needed.';

CREATE TABLE inbox (
    source      text NOT NULL,
    message_id  text NOT NULL,
    body        bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    done_at     timestamptz,
    PRIMARY KEY (source, message_id)
);
CREATE INDEX inbox_waiting ON inbox (received_at) WHERE done_at IS NULL;
CREATE INDEX inbox_done ON inbox (done_at) WHERE done_at IS NOT NULL;

CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic       text NOT NULL,
    record_key  bytea NOT NULL,
    value       bytea NOT NULL,
    headers     jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    epoch       integer,
    partition   integer,
    kafka_offset bigint,
    sent_at     timestamptz,
    -- Sent means acknowledged, and an acknowledged record has a position.
    CHECK (num_nonnulls(partition, kafka_offset, sent_at) IN (0, 3))
);
CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_at IS NULL;
CREATE INDEX outbox_sent ON outbox (sent_at) WHERE sent_at IS NOT NULL;

CREATE TABLE audit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    who        text NOT NULL,
    what       text NOT NULL,
    subject    text NOT NULL,
    before     jsonb,
    after      jsonb,
    request_id text
);
CREATE INDEX audit_by_time ON audit (at);

-- History is added to and, after its time, dropped by retention; it is never rewritten.
CREATE FUNCTION audit_is_never_rewritten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit row % may not be changed', OLD.id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER audit_is_never_rewritten BEFORE UPDATE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_is_never_rewritten();
