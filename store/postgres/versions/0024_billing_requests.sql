-- Billing a tenant's period on request: asked by the control plane, closed and exported by the exporter, ended when it is paid.

CREATE TABLE billing_requests (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id    text NOT NULL REFERENCES tenants,
    app_id       text NOT NULL,
    period_start date NOT NULL,
    period_end   date NOT NULL CHECK (period_end > period_start),
    state        text NOT NULL DEFAULT 'requested' CHECK (state IN (
                     'requested', 'closed', 'exported', 'confirmed', 'paid', 'uncollected', 'completed')),
    reason       text,
    invoice_id   text,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    changed_at   timestamptz NOT NULL DEFAULT now(),
    look_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, period_start)
);
COMMENT ON COLUMN billing_requests.reason IS 'What it waits for, or what became of it.';
COMMENT ON COLUMN billing_requests.look_at IS 'When the workflow looks at it again.';
CREATE INDEX billing_requests_open ON billing_requests (look_at) WHERE state <> 'completed';

CREATE TABLE billing_request_moves (
    request_id bigint NOT NULL REFERENCES billing_requests,
    from_state text NOT NULL,
    to_state   text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (request_id, to_state)
);
COMMENT ON TABLE billing_request_moves IS 'No state is come to twice: one close, one export, one payment, one end.';

-- The arrows, as metering/billing.py has them.
CREATE FUNCTION billing_requests_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF (OLD.state, NEW.state) NOT IN (('requested', 'closed'), ('closed', 'exported'), ('exported', 'confirmed'),
                                      ('confirmed', 'paid'), ('confirmed', 'uncollected'), ('uncollected', 'paid'),
                                      ('paid', 'completed'), ('uncollected', 'completed')) THEN
        RAISE EXCEPTION 'billing request % may not go from % to %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO billing_request_moves (request_id, from_state, to_state, at) VALUES (OLD.id, OLD.state, NEW.state, NEW.changed_at);
    RETURN NEW;
END $$;
CREATE TRIGGER billing_requests_move BEFORE UPDATE ON billing_requests
    FOR EACH ROW EXECUTE FUNCTION billing_requests_move();
