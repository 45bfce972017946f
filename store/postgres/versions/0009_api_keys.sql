-- API keys of organizations, and which organization a source service belongs to.

CREATE TABLE source_claims (
    source_service text PRIMARY KEY CHECK (octet_length(source_service) BETWEEN 1 AND 256),
    tenant_id      text NOT NULL REFERENCES tenants,
    claimed_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE source_claims IS
    'A source service that a tenant''s keys emit for. The dedup key holds no tenant, so no other tenant may ever emit for it.';

CREATE TABLE api_keys (
    key_id          text PRIMARY KEY CHECK (length(key_id) BETWEEN 1 AND 64),
    tenant_id       text NOT NULL REFERENCES tenants,
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    lookup          bytea NOT NULL UNIQUE CHECK (octet_length(lookup) = 32),
    shown           text NOT NULL,
    source_services text[] NOT NULL CHECK (array_position(source_services, NULL) IS NULL),
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz,
    revoked_at      timestamptz
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_at);
COMMENT ON COLUMN api_keys.lookup IS 'HMAC-SHA-256 of the key under a key derived from SECRET_ENCRYPT_KEY: finds it, and tells nothing.';
COMMENT ON COLUMN api_keys.shown IS 'Its beginning, by which people tell keys apart.';
