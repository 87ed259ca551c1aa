-- Who is signed in to the management page. migrations/sqlite/0004_sessions.sql says the same for SQLite, but for
-- some indexes: change both or none.
--
-- Programs that lack this can go on beside those that have it: they write nothing here, and a credential that
-- they revoke ends its sessions all the same, since it is read with them.

-- Of the secret in a browser's cookie only the digest stands here. A session that was ended has no row; one
-- whose time is over, or whose credential is revoked, may still have one.
CREATE TABLE session (
    digest        BYTEA  NOT NULL PRIMARY KEY CHECK (octet_length(digest) = 32),
    -- With what it was begun; NULL on a server that asks for no credential.
    credential_id UUID   REFERENCES credential,
    create_time   BIGINT NOT NULL,
    -- When it ends, however much it is used.
    expire_time   BIGINT NOT NULL,
    -- When it was last used, or a little before that: not every use is noted.
    seen_time     BIGINT NOT NULL CHECK (seen_time >= create_time)
);
-- Signing out everywhere, and forgetting what is over: both hold up every other change.
CREATE INDEX session_of_credential ON session (credential_id);
CREATE INDEX session_ending ON session (expire_time);

-- Forms that were sent, each of which is good for once.
CREATE TABLE session_form (
    session_digest BYTEA NOT NULL REFERENCES session ON DELETE CASCADE,
    form           BYTEA NOT NULL CHECK (octet_length(form) = 16),
    PRIMARY KEY (session_digest, form)
);
