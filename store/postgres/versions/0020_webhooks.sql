-- The inbox of webhooks becomes what a worker works off; what Clerk's objects were last seen to be; requests to the exporter.

ALTER TABLE inbox
    ADD COLUMN account     text NOT NULL DEFAULT '',
    ADD COLUMN livemode    boolean NOT NULL DEFAULT false,
    ADD COLUMN kind        text NOT NULL DEFAULT '',
    ADD COLUMN subject     text NOT NULL DEFAULT '',
    ADD COLUMN attempts    integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    ADD COLUMN next_try_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN dead_at     timestamptz,
    ADD COLUMN last_error  text,
    DROP CONSTRAINT inbox_pkey,
    ADD PRIMARY KEY (source, account, livemode, message_id),
    ADD CHECK (num_nonnulls(done_at, dead_at) <= 1);
COMMENT ON COLUMN inbox.body IS 'What the work needs of it, not what was sent.';
COMMENT ON COLUMN inbox.subject IS 'The id of the object that it is about: one at a time is worked on.';
COMMENT ON COLUMN inbox.dead_at IS 'Tries are used up; it waits for a replay.';
DROP INDEX inbox_waiting;
CREATE INDEX inbox_waiting ON inbox (next_try_at) WHERE done_at IS NULL AND dead_at IS NULL;
CREATE INDEX inbox_dead ON inbox (received_at) WHERE dead_at IS NOT NULL;
CREATE INDEX inbox_by_time ON inbox (received_at);

CREATE TABLE clerk_objects (
    object_hash bytea PRIMARY KEY CHECK (octet_length(object_hash) = 32),
    kind        text NOT NULL CHECK (kind IN ('organization', 'user', 'membership')),
    changed_ms  bigint NOT NULL CHECK (changed_ms >= 0),
    deleted     boolean NOT NULL DEFAULT false,
    tenant_id   text,
    user_id     text,
    since_ms    bigint,
    CHECK (kind <> 'membership' OR deleted OR num_nonnulls(tenant_id, user_id, since_ms) = 3)
);
CREATE INDEX clerk_memberships ON clerk_objects (user_id) WHERE kind = 'membership' AND NOT deleted;
COMMENT ON TABLE clerk_objects IS
    'The latest state of each of Clerk''s objects that was applied: an older one that arrives later changes nothing.';
COMMENT ON COLUMN clerk_objects.object_hash IS 'SHA-256 of kind and id: whoever was forgotten does not come back by an old message.';

CREATE FUNCTION clerk_objects_stay_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.deleted AND NOT NEW.deleted THEN
        RAISE EXCEPTION 'an object of Clerk that was deleted is deleted for good' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER clerk_objects_stay_deleted BEFORE UPDATE ON clerk_objects
    FOR EACH ROW EXECUTE FUNCTION clerk_objects_stay_deleted();

CREATE TABLE reconcile_requests (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason   text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE reconcile_requests IS
    'Stripe told of meter events that it could not use: the exporter''s next run compares, and drops the request.';
