-- Tokens that replace others. migrations/postgres/0013_replacement.sql says the same: change both or none, but for what is
-- about replicas.

-- The token that this one replaced, and the one that replaced it; both outlive what they name.
ALTER TABLE token ADD COLUMN replaces_token_id BLOB;
ALTER TABLE token ADD COLUMN replaced_by_token_id BLOB;
-- From when on the lifecycle counts what was never used; NULL for the creation.
ALTER TABLE token ADD COLUMN clock_time INTEGER;
-- A token is replaced once.
CREATE UNIQUE INDEX token_replaces ON token (replaces_token_id) WHERE replaces_token_id IS NOT NULL;

-- The newest successor, while there is one: uses of this token count for it as well, and what is announced for it
-- takes from this token too. Written with the head row and the lock on this row taken.
ALTER TABLE token_use ADD COLUMN heir_id BLOB;
CREATE INDEX token_use_heir ON token_use (heir_id, token_id) WHERE heir_id IS NOT NULL;
