-- From when on a token is denied. migrations/postgres/0008_token_expiry.sql says the same: change both or none, but for
-- what is about replicas.

-- By the store's time; NULL where it does not end by itself. Only ever brought nearer.
ALTER TABLE token ADD COLUMN expire_time INTEGER;
-- 1 once the expiry is reached and its consequences are recorded: nothing is announced for the token any more.
ALTER TABLE token ADD COLUMN expiry_done INTEGER NOT NULL DEFAULT 0 CHECK (expiry_done IN (0, 1));
-- Whose expiry is to be recorded.
CREATE INDEX token_expiring ON token (expire_time, token_id)
    WHERE expire_time IS NOT NULL AND expiry_done = 0 AND delete_time IS NULL;
-- What is purged after a while.
CREATE INDEX token_expired ON token (expire_time, token_id)
    WHERE expire_time IS NOT NULL AND delete_time IS NULL;
