-- An audit trail that is read by tenant, and only ever added to.

-- A tenant's own part of the trail.
ALTER TABLE audit ADD COLUMN tenant_id text;
CREATE INDEX audit_of_tenant ON audit (tenant_id, id);
COMMENT ON COLUMN audit.tenant_id IS 'Whose admin may read it; NULL: the operator''s alone.';

-- Added to, and dropped by age alone. TRUNCATE is not among what an application's role is granted (see `meterline migrate`).
CREATE FUNCTION audit_drop(older_than timestamptz, rows_max integer) RETURNS integer LANGUAGE plpgsql
    SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    dropped integer;
BEGIN
    PERFORM set_config('meterline.audit_retention', 'on', true);
    DELETE FROM audit WHERE id IN (
        SELECT id FROM audit WHERE at < least(older_than, now() - interval '1 day') ORDER BY at LIMIT rows_max FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS dropped = ROW_COUNT;
    PERFORM set_config('meterline.audit_retention', 'off', true);
    RETURN dropped;
END $$;
COMMENT ON FUNCTION audit_drop IS 'The one way to drop audit rows: a batch of those older than a time that is a day ago at least.';

CREATE FUNCTION audit_is_dropped_by_age_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('meterline.audit_retention', true) IS DISTINCT FROM 'on' THEN
        RAISE EXCEPTION 'audit row % may not be deleted', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER audit_is_dropped_by_age_only BEFORE DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_is_dropped_by_age_only();
