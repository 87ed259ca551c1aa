-- When a credential expires, and when it was last used. migrations/sqlite/0016_credential_expiry.sql says the same:
-- change both or none, but for what is about replicas.

-- Calls read this table: a start does not hold them up behind a long reading, such as a dump.
SET LOCAL lock_timeout = '3s';

-- By the store's time; NULL where it does not end by itself. Only ever brought nearer.
ALTER TABLE credential ADD COLUMN expire_time BIGINT;
-- Written behind, once a minute; NULL where no use is recorded.
ALTER TABLE credential ADD COLUMN last_use_time BIGINT;

-- Programs that lack this would go on accepting what has expired: as for 0008.
UPDATE head SET oldest_program = 16;
ALTER TABLE replica ADD CONSTRAINT replica_knows_credential_expiry CHECK (program >= 16) NOT VALID;
