-- Who is signed in to the management page. migrations/postgres/0004_sessions.sql says the same for Postgres, but
-- for the indexes at the end: change both or none. The number before this one is about replicas, which SQLite
-- has not.

-- Of the secret in a browser's cookie only the digest stands here. A session that was ended has no row; one
-- whose time is over, or whose credential is revoked, may still have one.
CREATE TABLE session (
    digest        BLOB    NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    -- With what it was begun; NULL on a server that asks for no credential.
    credential_id BLOB    REFERENCES credential,
    create_time   INTEGER NOT NULL,
    -- When it ends, however much it is used.
    expire_time   INTEGER NOT NULL,
    -- When it was last used, or a little before that: not every use is noted.
    seen_time     INTEGER NOT NULL CHECK (seen_time >= create_time)
) STRICT;
-- Signing out everywhere, and forgetting what is over: both hold up every other change.
CREATE INDEX session_of_credential ON session (credential_id);
CREATE INDEX session_ending ON session (expire_time);

-- Forms that were sent, each of which is good for once.
CREATE TABLE session_form (
    session_digest BLOB NOT NULL REFERENCES session ON DELETE CASCADE,
    form           BLOB NOT NULL CHECK (length(form) = 16),
    PRIMARY KEY (session_digest, form)
) STRICT;

-- The page searches the tokens of an account, of which there may be ten thousand. It reads these instead of the
-- tokens' rows, each of which may stand on another page of the file. Postgres has enough of them at hand, and
-- to build these there would hold up every change meanwhile.
DROP INDEX token_live_of_account;
CREATE INDEX token_live_of_account ON token (account_id, token_id, name, kind, create_time)
    WHERE delete_time IS NULL;
CREATE INDEX token_open_of_account ON token (account_id, token_id, name, kind, create_time)
    WHERE delete_time IS NULL AND whitelist = 'any';
