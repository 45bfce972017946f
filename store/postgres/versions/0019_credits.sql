-- Credits: accounts of users, lots with an expiry, and the ledger that says where every credit went. See docs/credits.md.

CREATE TABLE credit_accounts (
    account_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  text NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    user_id    text NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 256),
    available  exact_quantity NOT NULL DEFAULT 0 CHECK (available >= 0),
    held       exact_quantity NOT NULL DEFAULT 0 CHECK (held >= 0),
    owed       exact_quantity NOT NULL DEFAULT 0 CHECK (owed >= 0),
    overdraft  exact_quantity NOT NULL DEFAULT 0 CHECK (overdraft >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credits_are_not_overdrawn CHECK (owed <= overdraft),
    CONSTRAINT credits_pay_what_is_owed CHECK (available = 0 OR owed = 0)
) WITH (fillfactor = 80);
-- An account that was forgotten keeps its history under a pseudonym, which may come a second time.
CREATE UNIQUE INDEX credit_accounts_owner ON credit_accounts (tenant_id, user_id)
    WHERE NOT starts_with(tenant_id, 'forgotten:') AND NOT starts_with(user_id, 'forgotten:');
CREATE INDEX credit_accounts_by_owner ON credit_accounts (tenant_id, user_id);
COMMENT ON TABLE credit_accounts IS 'One a user of a tenant. Locked by every operation; available, held and owed are the sums of its entries.';
COMMENT ON COLUMN credit_accounts.available IS 'Of all lots, also of those that have expired and are not written off yet: read credit_balances.';
COMMENT ON COLUMN credit_accounts.overdraft IS 'How much the account may owe; 0 for most.';

CREATE TABLE credit_lots (
    lot_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES credit_accounts,
    created_at timestamptz NOT NULL,
    expires_at timestamptz CHECK (expires_at > created_at),
    note       text NOT NULL DEFAULT '' CHECK (length(note) <= 1000),
    available  exact_quantity NOT NULL DEFAULT 0 CHECK (available >= 0),
    held       exact_quantity NOT NULL DEFAULT 0 CHECK (held >= 0)
) WITH (fillfactor = 80);
CREATE INDEX credit_lots_live ON credit_lots (account_id, expires_at) WHERE available > 0;
CREATE INDEX credit_lots_due ON credit_lots (expires_at) WHERE available > 0 AND expires_at IS NOT NULL;
COMMENT ON TABLE credit_lots IS 'Credits that came together. From expires_at on what is available is gone; what is held stays until its hold ends.';

CREATE TABLE credit_holds (
    hold_id    uuid PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES credit_accounts,
    purpose    text NOT NULL CHECK (purpose IN ('session', 'reservation')),
    amount     exact_quantity NOT NULL CHECK (amount >= 0),
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'released', 'expired')),
    created_at timestamptz NOT NULL,
    ended_at   timestamptz CHECK ((ended_at IS NULL) = (state = 'open'))
);
CREATE INDEX credit_holds_open ON credit_holds (account_id) WHERE state = 'open';
COMMENT ON TABLE credit_holds IS 'Ended by what it is held for, a session or a reservation of the same id; it has no time of its own.';

CREATE TABLE credit_operations (
    operation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id   bigint NOT NULL REFERENCES credit_accounts,
    key          text NOT NULL CHECK (length(key) BETWEEN 1 AND 600),
    digest       bytea NOT NULL,
    kind         text NOT NULL CHECK (kind IN
                 ('grant', 'set', 'adjust', 'remove', 'charge', 'hold', 'settle', 'release', 'expire', 'overdraft')),
    at           timestamptz NOT NULL,
    who          text NOT NULL,
    request_id   text,
    amount       exact_quantity NOT NULL,
    moved        exact_quantity NOT NULL,
    refunded     exact_quantity NOT NULL DEFAULT 0 CHECK (refunded >= 0),
    shortfall    exact_quantity NOT NULL DEFAULT 0 CHECK (shortfall >= 0),
    balance      exact_quantity NOT NULL,
    hold_id      uuid REFERENCES credit_holds,
    price        jsonb,
    note         text NOT NULL DEFAULT '' CHECK (length(note) <= 1000)
);
CREATE UNIQUE INDEX credit_operations_by_key ON credit_operations (account_id, key);
CREATE INDEX credit_operations_by_account ON credit_operations (account_id, operation_id);
COMMENT ON COLUMN credit_operations.key IS 'What makes it the same operation when it comes again.';
COMMENT ON COLUMN credit_operations.price IS 'The rate that the amount was worked out with, as it stood.';
COMMENT ON COLUMN credit_operations.balance IS 'After it; negative where the account owes.';

CREATE TABLE credit_entries (
    entry_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation_id bigint NOT NULL REFERENCES credit_operations,
    lot_id       bigint REFERENCES credit_lots,
    source       text NOT NULL,
    target       text NOT NULL,
    amount       exact_quantity NOT NULL CHECK (amount > 0),
    CONSTRAINT credits_move_so_and_not_otherwise CHECK ((source, target) IN (
        ('issued', 'available'), ('issued', 'owed'),
        ('available', 'held'), ('available', 'spent'), ('available', 'expired'), ('available', 'removed'), ('available', 'owed'),
        ('held', 'spent'), ('held', 'available'), ('held', 'expired'), ('held', 'owed'),
        ('owed', 'held'), ('owed', 'spent'), ('owed', 'available'))),
    -- Without a lot only debt moves.
    CHECK (lot_id IS NOT NULL OR (source, target) IN
        (('issued', 'owed'), ('owed', 'held'), ('owed', 'spent'), ('held', 'spent'), ('held', 'owed')))
);
CREATE INDEX credit_entries_of_operation ON credit_entries (operation_id);
COMMENT ON TABLE credit_entries IS 'One move each, from a place to a place: an entry has both of its sides, so all places together are always zero.';

-- The figures of lots and accounts are what the entries make them, and nothing else.
CREATE FUNCTION credit_entries_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added e JOIN credit_operations o USING (operation_id) JOIN credit_lots l USING (lot_id)
                WHERE l.account_id <> o.account_id) THEN
        RAISE EXCEPTION 'an operation moves credits of its own account only' USING ERRCODE = 'check_violation';
    END IF;
    UPDATE credit_lots l SET available = l.available + m.available, held = l.held + m.held
      FROM (SELECT e.lot_id,
                   sum(CASE 'available' WHEN e.target THEN e.amount WHEN e.source THEN -e.amount ELSE 0 END) AS available,
                   sum(CASE 'held' WHEN e.target THEN e.amount WHEN e.source THEN -e.amount ELSE 0 END) AS held
              FROM added e WHERE e.lot_id IS NOT NULL GROUP BY e.lot_id) m
     WHERE l.lot_id = m.lot_id;
    UPDATE credit_accounts a SET available = a.available + m.available, held = a.held + m.held, owed = a.owed + m.owed
      FROM (SELECT o.account_id,
                   sum(CASE 'available' WHEN e.target THEN e.amount WHEN e.source THEN -e.amount ELSE 0 END) AS available,
                   sum(CASE 'held' WHEN e.target THEN e.amount WHEN e.source THEN -e.amount ELSE 0 END) AS held,
                   sum(CASE 'owed' WHEN e.source THEN e.amount WHEN e.target THEN -e.amount ELSE 0 END) AS owed
              FROM added e JOIN credit_operations o USING (operation_id) GROUP BY o.account_id) m
     WHERE a.account_id = m.account_id;
    RETURN NULL;
END $$;
CREATE TRIGGER credit_entries_move AFTER INSERT ON credit_entries
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION credit_entries_move();

CREATE FUNCTION credit_figures_follow_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (pg_trigger_depth() = 1 AND
        (to_jsonb(NEW) - 'overdraft') IS DISTINCT FROM (to_jsonb(OLD) - 'overdraft')) THEN
        RAISE EXCEPTION 'a row of % changes by entries of the ledger only', TG_TABLE_NAME USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER credit_figures_follow_entries BEFORE UPDATE OR DELETE ON credit_accounts
    FOR EACH ROW EXECUTE FUNCTION credit_figures_follow_entries();
CREATE TRIGGER credit_figures_follow_entries BEFORE UPDATE OR DELETE ON credit_lots
    FOR EACH ROW EXECUTE FUNCTION credit_figures_follow_entries();
CREATE FUNCTION credit_figures_begin_at_zero() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.available <> 0 OR NEW.held <> 0 THEN
        RAISE EXCEPTION 'a row of % begins with nothing: entries of the ledger fill it', TG_TABLE_NAME
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER credit_figures_begin_at_zero BEFORE INSERT ON credit_accounts
    FOR EACH ROW EXECUTE FUNCTION credit_figures_begin_at_zero();
CREATE TRIGGER credit_figures_begin_at_zero BEFORE INSERT ON credit_lots
    FOR EACH ROW EXECUTE FUNCTION credit_figures_begin_at_zero();

-- The ledger is added to; nothing in it is ever rewritten or taken away.
CREATE FUNCTION credit_ledger_is_never_rewritten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is history: a mistake is put right by another operation', TG_TABLE_NAME USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER credit_ledger_is_never_rewritten BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_operations
    FOR EACH STATEMENT EXECUTE FUNCTION credit_ledger_is_never_rewritten();
CREATE TRIGGER credit_ledger_is_never_rewritten BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION credit_ledger_is_never_rewritten();

CREATE FUNCTION credit_holds_end_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (NEW.hold_id, NEW.account_id, NEW.purpose, NEW.amount, NEW.created_at)
            IS DISTINCT FROM (OLD.hold_id, OLD.account_id, OLD.purpose, OLD.amount, OLD.created_at)
        OR (OLD.state, NEW.state) NOT IN
           (('open', 'settled'), ('open', 'released'), ('open', 'expired'), ('expired', 'settled'))
    THEN
        RAISE EXCEPTION 'the hold % of credits ends once, and may not go from %', OLD.hold_id, OLD.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER credit_holds_end_once BEFORE UPDATE OR DELETE ON credit_holds
    FOR EACH ROW EXECUTE FUNCTION credit_holds_end_once();

-- What stood in the table of balances becomes the first entries of the ledger.
INSERT INTO credit_accounts (tenant_id, user_id) SELECT tenant_id, user_id FROM credit_balances;
INSERT INTO credit_lots (account_id, created_at, note)
SELECT a.account_id, now(), 'opening balance'
  FROM credit_accounts a JOIN credit_balances b USING (tenant_id, user_id) WHERE b.balance > 0;
INSERT INTO credit_operations (account_id, key, digest, kind, at, who, amount, moved, balance, note)
SELECT a.account_id, 'opening balance', '', 'grant', now(), 'migrate', b.balance, b.balance, b.balance, 'opening balance'
  FROM credit_accounts a JOIN credit_balances b USING (tenant_id, user_id) WHERE b.balance > 0;
INSERT INTO credit_entries (operation_id, lot_id, source, target, amount)
SELECT o.operation_id, l.lot_id, 'issued', 'available', o.amount
  FROM credit_operations o JOIN credit_lots l USING (account_id);
DROP TABLE credit_balances;

-- The one place that says what may be spent now, read by checks: no lot that has expired is in it, written off or not.
CREATE VIEW credit_balances AS
SELECT a.user_id, a.tenant_id, a.available - a.owed + a.overdraft - coalesce(due.available, 0) AS balance
  FROM credit_accounts a
  LEFT JOIN LATERAL (SELECT sum(l.available) AS available FROM credit_lots l
                      WHERE l.account_id = a.account_id AND l.available > 0 AND l.expires_at <= statement_timestamp()) due ON true;
COMMENT ON COLUMN credit_balances.balance IS 'With what the account may owe; never negative.';

-- What models and operations cost in credits.
CREATE TABLE rates (
    rate        text PRIMARY KEY CHECK (octet_length(rate) BETWEEN 1 AND 256),
    description text NOT NULL DEFAULT '',
    per_tokens  bigint CHECK (per_tokens BETWEEN 1 AND 1000000000)
);
COMMENT ON COLUMN rates.per_tokens IS 'Prices of a model are for so many tokens; NULL: it is an operation, with a price for each time.';

CREATE TABLE rate_prices (
    rate        text NOT NULL REFERENCES rates ON DELETE CASCADE,
    valid_from  date NOT NULL,
    valid_until date CHECK (valid_until > valid_from),
    input       numeric CHECK (input >= 0 AND input < 'Infinity'),
    output      numeric CHECK (output >= 0 AND output < 'Infinity'),
    cached      numeric CHECK (cached >= 0 AND cached < 'Infinity'),
    each        numeric CHECK (each >= 0 AND each < 'Infinity'),
    PRIMARY KEY (rate, valid_from),
    CHECK (num_nonnulls(input, output, cached) = CASE WHEN each IS NULL THEN 3 ELSE 0 END)
);
COMMENT ON COLUMN rate_prices.valid_until IS 'The first day without it; NULL: until the next one begins.';

ALTER TABLE plans ADD COLUMN credit_overrun text NOT NULL DEFAULT 'balance' CHECK (credit_overrun IN ('balance', 'held'));
COMMENT ON COLUMN plans.credit_overrun IS 'What pays where more was used than was held in credits: the balance as far as it reaches, or nothing.';

-- The price in credits that a reservation was made at.
ALTER TABLE holds ADD COLUMN credits numeric CHECK (credits >= 0 AND credits < 'Infinity');
COMMENT ON COLUMN holds.credits IS 'What a unit costs, as it was when it was reserved; NULL: not priced in credits. The credits are held under the same id.';
