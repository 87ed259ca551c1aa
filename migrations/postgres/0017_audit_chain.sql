-- The hash chain over audit events: docs/audit.md. migrations/sqlite/0017_audit_chain.sql says the same for SQLite: change both
-- or none.
--
-- Programs that lack this can go on beside those that have it: what they record has no hash, and is sealed by the next sweep
-- of one that has it, in order, as are the events of before.

-- Changes write these tables: a start does not hold them up behind a long reading, such as a dump.
SET LOCAL lock_timeout = '3s';

-- Over the hash of the event before and what this one says; NULL until it is sealed.
ALTER TABLE audit_event ADD COLUMN hash BYTEA;
ALTER TABLE audit_event ADD CONSTRAINT audit_event_hash CHECK (length(hash) = 32) NOT VALID;
-- The action that before_json or after_json names, to find an action's events by. The hash covers the text alone.
ALTER TABLE audit_event ADD COLUMN pending_action_id UUID;
CREATE INDEX audit_event_of_action ON audit_event (pending_action_id, position)
    WHERE pending_action_id IS NOT NULL;

-- What the chain begins with, so that no two stores have the same.
ALTER TABLE head ADD COLUMN installation_id UUID NOT NULL DEFAULT gen_random_uuid();
-- The last event that has its hash, and that hash; 0 and NULL before the first.
ALTER TABLE head ADD COLUMN chain_position BIGINT NOT NULL DEFAULT 0 CHECK (chain_position >= 0);
ALTER TABLE head ADD COLUMN chain_hash BYTEA CHECK (length(chain_hash) = 32);
-- The last event that was pruned, and its hash; 0 and NULL where none was.
ALTER TABLE head ADD COLUMN pruned_position BIGINT NOT NULL DEFAULT 0 CHECK (pruned_position >= 0);
ALTER TABLE head ADD COLUMN pruned_hash BYTEA CHECK (length(pruned_hash) = 32);

-- Within the transaction of the change, which holds the head row: no statement more for the program to wait for.
CREATE FUNCTION portcullis_move_chain() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE head SET chain_position = NEW.position, chain_hash = NEW.hash WHERE id = 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER audit_event_chained AFTER INSERT ON audit_event
    FOR EACH ROW WHEN (NEW.hash IS NOT NULL) EXECUTE FUNCTION portcullis_move_chain();

-- What the relay answered when it took the mail over, at most 200 characters; NULL for mails of before.
ALTER TABLE mail ADD COLUMN answer TEXT CHECK (length(answer) <= 400);
