-- From when on a token is denied. migrations/sqlite/0008_token_expiry.sql says the same: change both or none, but for
-- what is about replicas.

-- Decisions and changes read this table: a start does not hold them up behind a long reading, such as a dump.
SET LOCAL lock_timeout = '3s';

-- By the store's time; NULL where it does not end by itself. Only ever brought nearer.
ALTER TABLE token ADD COLUMN expire_time BIGINT;
-- 1 once the expiry is reached and its consequences are recorded: nothing is announced for the token any more.
ALTER TABLE token ADD COLUMN expiry_done SMALLINT NOT NULL DEFAULT 0 CHECK (expiry_done IN (0, 1));
-- Whose expiry is to be recorded.
CREATE INDEX token_expiring ON token (expire_time, token_id)
    WHERE expire_time IS NOT NULL AND expiry_done = 0 AND delete_time IS NULL;
-- What is purged after a while.
CREATE INDEX token_expired ON token (expire_time, token_id)
    WHERE expire_time IS NOT NULL AND delete_time IS NULL;

-- Programs that lack this would go on allowing what has expired. They refuse to start; and those that run can't renew
-- their leases, since they don't write the new column, so that they decide nothing once these are over.
UPDATE head SET oldest_program = 8;
-- The newest migration that the replica's program knows.
ALTER TABLE replica ADD COLUMN program BIGINT NOT NULL DEFAULT 0;
ALTER TABLE replica ADD CONSTRAINT replica_knows_expiry CHECK (program >= 8) NOT VALID;
