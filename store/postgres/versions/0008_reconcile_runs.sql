-- What reconcile found, so that a stage that goes on running can show it as a metric.

CREATE TABLE reconcile_runs (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),
    who      text NOT NULL,
    ok       boolean NOT NULL,
    findings jsonb NOT NULL CHECK (jsonb_typeof(findings) = 'object')
);
COMMENT ON COLUMN reconcile_runs.findings IS 'How many findings each invariant had; the newest runs are kept, see store/reconcile_runs.py.';
