-- Tokens that were issued elsewhere. migrations/sqlite/0014_import.sql says the same: change both or none, but for what
-- is about replicas.

-- Decisions and changes read these tables: a start does not hold them up behind a long reading, such as a dump.
SET LOCAL lock_timeout = '3s';

-- When a token was imported, and the revision that the import made; NULL for one that was made here. The random half of
-- its token_id follows from its digest (src/secret.rs).
ALTER TABLE token ADD COLUMN import_time BIGINT, ADD COLUMN import_revision BIGINT;
ALTER TABLE token ADD CONSTRAINT token_import CHECK ((import_time IS NULL) = (import_revision IS NULL)) NOT VALID;
-- Which tokens are imported, in the order of their imports: what each replica reads.
CREATE INDEX token_imported ON token (import_revision, token_id) WHERE import_revision IS NOT NULL;

-- The digests of imported tokens that ended and were purged: they are never imported again. The times and the cause are
-- those of the token.
CREATE TABLE retired_digest (
    digest       BYTEA  NOT NULL PRIMARY KEY CHECK (octet_length(digest) = 32),
    account_id   UUID   NOT NULL REFERENCES account,
    delete_time  BIGINT,
    delete_cause TEXT,
    leaked       SMALLINT NOT NULL CHECK (leaked IN (0, 1)),
    expire_time  BIGINT,
    CHECK ((delete_time IS NULL) = (delete_cause IS NULL)),
    CHECK (delete_time IS NOT NULL OR expire_time IS NOT NULL)
);

-- What replicas have to read again may be which tokens are imported.
ALTER TABLE change DROP CONSTRAINT change_touched_check;
ALTER TABLE change ADD CONSTRAINT change_touched_check
    CHECK (touched IN ('token', 'credential', 'account', 'catalog', 'secret_keys', 'imports', 'nothing')) NOT VALID;

-- Programs that lack this can't read such a change. They refuse to start; and those that run can't renew their leases.
UPDATE head SET oldest_program = 14;
ALTER TABLE replica ADD CONSTRAINT replica_knows_imports CHECK (program >= 14) NOT VALID;
