-- Accounts as they are made, step by step; API keys that can be revealed, rotated, and say when they were used.

ALTER TABLE api_keys
    ADD COLUMN lookup_before bytea CHECK (octet_length(lookup_before) = 32),
    ADD COLUMN last_used_at  timestamptz;
CREATE UNIQUE INDEX api_keys_lookup_before ON api_keys (lookup_before) WHERE lookup_before IS NOT NULL;
COMMENT ON COLUMN api_keys.lookup_before IS
    'Its hash under the secret before the last rotation, so that a server that does not have the new one yet finds it too.';
COMMENT ON COLUMN api_keys.last_used_at IS 'To the minute: written once in this time at most.';

CREATE TABLE api_key_secrets (
    secret_id  text PRIMARY KEY CHECK (length(secret_id) BETWEEN 1 AND 64),
    key_id     text NOT NULL UNIQUE REFERENCES api_keys,
    sealed_by  text NOT NULL CHECK (length(sealed_by) = 16),
    nonce      bytea NOT NULL CHECK (octet_length(nonce) = 12),
    ciphertext bytea NOT NULL CHECK (octet_length(ciphertext) BETWEEN 17 AND 1024),
    sealed_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX api_key_secrets_sealed_by ON api_key_secrets (sealed_by, secret_id);
COMMENT ON TABLE api_key_secrets IS
    'Keys under AES-256-GCM, bound to their tenant and secret_id; the key is derived from SECRET_ENCRYPT_KEY. A revoked key has none.';
COMMENT ON COLUMN api_key_secrets.sealed_by IS 'Which of the setting''s secrets: an id that tells nothing of it.';

CREATE TABLE account_creations (
    app_id          text PRIMARY KEY CHECK (length(app_id) BETWEEN 1 AND 64),
    tenant_id       text NOT NULL UNIQUE REFERENCES tenants,
    digest          bytea NOT NULL CHECK (octet_length(digest) = 32),
    state           text NOT NULL CHECK (state IN ('begun', 'customer', 'done', 'refused')),
    name            text NOT NULL,
    email           text,
    source_services text[] CHECK (array_position(source_services, NULL) IS NULL),
    secret_id       text,
    reason          text,
    tries           integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    begun_at        timestamptz NOT NULL DEFAULT now(),
    next_try_at     timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'done') = (secret_id IS NOT NULL)),
    CHECK ((state = 'refused') = (reason IS NOT NULL)),
    -- What was needed to go on is not kept longer than that.
    CHECK (state <> 'done' OR (name = '' AND email IS NULL))
);
CREATE INDEX account_creations_unfinished ON account_creations (next_try_at) WHERE state IN ('begun', 'customer');
COMMENT ON TABLE account_creations IS
    'How far the making of each account has come: begun (the tenant is there), customer (the provider''s customer too), done (the account, its key and secret too).';
COMMENT ON COLUMN account_creations.digest IS 'Of what was asked for, so that a repeated call is told from another one.';

-- A creation goes forward only; what was refused may be asked for anew.
CREATE FUNCTION account_creations_go_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN
        (('begun', 'customer'), ('begun', 'refused'), ('customer', 'done'), ('refused', 'begun')) THEN
        RAISE EXCEPTION 'the creation of account % may not go from % to %', OLD.app_id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER account_creations_go_forward BEFORE UPDATE ON account_creations
    FOR EACH ROW EXECUTE FUNCTION account_creations_go_forward();
