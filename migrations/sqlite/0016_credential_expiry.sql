-- When a credential expires, and when it was last used. migrations/postgres/0016_credential_expiry.sql says the same:
-- change both or none, but for what is about replicas.

-- By the store's time; NULL where it does not end by itself. Only ever brought nearer.
ALTER TABLE credential ADD COLUMN expire_time INTEGER;
-- Written behind, once a minute; NULL where no use is recorded.
ALTER TABLE credential ADD COLUMN last_use_time INTEGER;
