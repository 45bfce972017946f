-- An epoch that has ended is retired once nothing can reach its topic any more; see docs/operations.md, 'Repartitioning'.

ALTER TABLE epochs ADD COLUMN retired_at timestamptz,
    ADD CONSTRAINT only_an_ended_epoch_is_retired CHECK (retired_at IS NULL OR ends IS NOT NULL);
COMMENT ON COLUMN epochs.retired_at IS 'From then on its topic takes no records, and nothing of it is forwarded.';

CREATE OR REPLACE FUNCTION epochs_only_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.epoch, NEW.topic, NEW.cluster_id, NEW.topic_id, NEW.partitions, NEW.starts, NEW.created_at)
            IS DISTINCT FROM
       (OLD.epoch, OLD.topic, OLD.cluster_id, OLD.topic_id, OLD.partitions, OLD.starts, OLD.created_at)
        OR (OLD.ends IS NOT NULL AND NEW.ends IS DISTINCT FROM OLD.ends)
        OR (OLD.ends IS NOT NULL AND NEW.retired_at IS NOT DISTINCT FROM OLD.retired_at)
        OR OLD.retired_at IS NOT NULL
    THEN
        RAISE EXCEPTION 'epoch % is history: only its ends may be set, once, and then when it was retired, once', OLD.epoch
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

-- What reached the topic of an ended epoch past its end gets no verdict there; it is sent on to the epoch that goes on.
CREATE TABLE forwarding (
    epoch       integer NOT NULL REFERENCES epochs,
    partition   integer NOT NULL CHECK (partition >= 0),
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    forwarded   bigint NOT NULL DEFAULT 0 CHECK (forwarded >= 0),
    moved_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (epoch, partition)
);
COMMENT ON TABLE forwarding IS
    'Every record of an ended epoch''s topic below next_offset and past the end is acknowledged by the topic of a later epoch.';

-- Two versions may begin at one offset, where no record came between them; the higher one holds.
ALTER TABLE rules_from DROP CONSTRAINT rules_from_pkey, ADD PRIMARY KEY (epoch, partition, from_offset, version);
