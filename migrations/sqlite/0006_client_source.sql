-- Where a gateway reads its client from: a property of its credential. migrations/postgres/0006_client_source.sql says
-- the same: change both or none. The number
-- before this one is about replicas, which SQLite has not.
--
-- Programs that lack this can go on beside those that have it. They serve no gateway, so that there is no decision
-- in which they would have to heed it, and what they create has none: then no header names a client's address.

-- A JSON object (src/store/sql/client_source.rs); NULL where the credential says nothing of it.
ALTER TABLE credential ADD COLUMN client_source TEXT CHECK (client_source IS NULL OR role = 'pep');
