-- Tokens that were issued elsewhere. migrations/postgres/0014_import.sql says the same: change both or none, but for
-- what is about replicas.

-- When a token was imported, and the revision that the import made; NULL for one that was made here. The random half of
-- its token_id follows from its digest (src/secret.rs).
ALTER TABLE token ADD COLUMN import_time INTEGER;
ALTER TABLE token ADD COLUMN import_revision INTEGER CHECK ((import_time IS NULL) = (import_revision IS NULL));
-- Which tokens are imported, in the order of their imports: what the server reads at its start.
CREATE INDEX token_imported ON token (import_revision, token_id) WHERE import_revision IS NOT NULL;

-- The digests of imported tokens that ended and were purged: they are never imported again. The times and the cause are
-- those of the token.
CREATE TABLE retired_digest (
    digest       BLOB    NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    account_id   BLOB    NOT NULL REFERENCES account,
    delete_time  INTEGER,
    delete_cause TEXT,
    leaked       INTEGER NOT NULL CHECK (leaked IN (0, 1)),
    expire_time  INTEGER,
    CHECK ((delete_time IS NULL) = (delete_cause IS NULL)),
    CHECK (delete_time IS NOT NULL OR expire_time IS NOT NULL)
) STRICT;

-- What has to be read again may be which tokens are imported. SQLite changes no constraint: the table is made again.
CREATE TABLE change_new (
    position INTEGER NOT NULL PRIMARY KEY CHECK (position > 0),
    time     INTEGER NOT NULL,
    touched  TEXT    NOT NULL
             CHECK (touched IN ('token', 'credential', 'account', 'catalog', 'secret_keys', 'imports', 'nothing')),
    key      BLOB,
    CHECK ((touched IN ('token', 'credential', 'account')) = (key IS NOT NULL))
) STRICT;
INSERT INTO change_new (position, time, touched, key) SELECT position, time, touched, key FROM change;
DROP TABLE change;
ALTER TABLE change_new RENAME TO change;
