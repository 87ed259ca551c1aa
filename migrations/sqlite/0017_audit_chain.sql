-- The hash chain over audit events: docs/audit.md. migrations/postgres/0017_audit_chain.sql says the same for Postgres: change
-- both or none. The events of before are sealed by the first sweeps.

-- Over the hash of the event before and what this one says; NULL until it is sealed.
ALTER TABLE audit_event ADD COLUMN hash BLOB CHECK (length(hash) = 32);
-- The action that before_json or after_json names, to find an action's events by. The hash covers the text alone.
ALTER TABLE audit_event ADD COLUMN pending_action_id BLOB;
CREATE INDEX audit_event_of_action ON audit_event (pending_action_id, position)
    WHERE pending_action_id IS NOT NULL;

-- What the chain begins with, so that no two stores have the same.
ALTER TABLE head ADD COLUMN installation_id BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
UPDATE head SET installation_id = randomblob(16);
-- The last event that has its hash, and that hash; 0 and NULL before the first.
ALTER TABLE head ADD COLUMN chain_position INTEGER NOT NULL DEFAULT 0 CHECK (chain_position >= 0);
ALTER TABLE head ADD COLUMN chain_hash BLOB CHECK (length(chain_hash) = 32);
-- The last event that was pruned, and its hash; 0 and NULL where none was.
ALTER TABLE head ADD COLUMN pruned_position INTEGER NOT NULL DEFAULT 0 CHECK (pruned_position >= 0);
ALTER TABLE head ADD COLUMN pruned_hash BLOB CHECK (length(pruned_hash) = 32);

-- Within the transaction of the change, which holds the head row.
CREATE TRIGGER audit_event_chained AFTER INSERT ON audit_event WHEN NEW.hash IS NOT NULL
BEGIN
    UPDATE head SET chain_position = NEW.position, chain_hash = NEW.hash WHERE id = 1;
END;

-- What the relay answered when it took the mail over, at most 200 characters; NULL for mails of before.
ALTER TABLE mail ADD COLUMN answer TEXT CHECK (length(answer) <= 400);
