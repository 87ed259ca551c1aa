-- Use, and what follows from the lack of it. migrations/postgres/0002_lifecycle.sql says the same for
-- Postgres: change both or none.
--
-- What stands here are facts: when things were used, when notices were accepted. No date that follows
-- from them is stored, since it depends on settings, and those may change.

-- A token's use; one row for each token, made with it. The lock on this row is the lock on the token's
-- lifecycle: whoever records use or carries something out takes it, several at once by ascending id, and
-- nobody who has it goes on to take the head row.
CREATE TABLE token_use (
    token_id       BLOB    NOT NULL PRIMARY KEY REFERENCES token ON DELETE CASCADE,
    last_use       INTEGER,
    -- Of a scope that was a write scope then.
    last_write_use INTEGER,
    -- When the oldest thing that is not announced was last used, or an instant before that; NULL where
    -- nothing can fall due, as for deleted tokens.
    idle_since     INTEGER,
    CHECK (last_write_use IS NULL OR (last_use IS NOT NULL AND last_use >= last_write_use))
) STRICT;
CREATE INDEX token_use_idle ON token_use (idle_since, token_id) WHERE idle_since IS NOT NULL;

INSERT INTO token_use (token_id, idle_since)
    SELECT token_id, CASE WHEN delete_time IS NULL THEN create_time END FROM token;

-- The last use of each scope that a token ever used.
CREATE TABLE scope_use (
    token_id BLOB    NOT NULL REFERENCES token_use ON DELETE CASCADE,
    scope_id INTEGER NOT NULL REFERENCES scope,
    last_use INTEGER NOT NULL,
    PRIMARY KEY (token_id, scope_id)
) STRICT;

-- What is purged after a while.
CREATE INDEX token_deleted ON token (delete_time, token_id) WHERE delete_time IS NOT NULL;

-- Nothing ever wrote these tables before: they had a date, and no room for what it followed from.
DROP TABLE notice;
DROP TABLE pending_action_scope;
DROP TABLE pending_action;

-- Downgrades and deletions: announced, and what became of them.
CREATE TABLE pending_action (
    pending_action_id BLOB    NOT NULL PRIMARY KEY,
    token_id          BLOB    NOT NULL REFERENCES token ON DELETE CASCADE,
    -- The token's.
    account_id        BLOB    NOT NULL REFERENCES account,
    -- The token; the write scopes of a READ_WRITE token; some scopes of a CUSTOM token.
    takes             TEXT    NOT NULL CHECK (takes IN ('token', 'writes', 'scopes')),
    -- As they were when it was announced.
    last_use          INTEGER,
    last_use_of_taken INTEGER,
    -- The last use of what it takes, or the token's creation. A use after it cancels.
    basis_time        INTEGER NOT NULL,
    -- When the last notice of the current admins was accepted; NULL until all are.
    accepted_time     INTEGER,
    create_time       INTEGER NOT NULL,
    end_time          INTEGER,
    outcome           TEXT    CHECK (outcome IN ('carried_out', 'cancelled', 'withdrawn')),
    CHECK ((end_time IS NULL) = (outcome IS NULL))
) STRICT;
CREATE INDEX pending_action_of_token ON pending_action (token_id, pending_action_id)
    WHERE end_time IS NULL;
CREATE INDEX pending_action_of_account ON pending_action (account_id, pending_action_id)
    WHERE end_time IS NULL;
CREATE INDEX pending_action_open ON pending_action (pending_action_id) WHERE end_time IS NULL;
CREATE INDEX pending_action_accepted ON pending_action (accepted_time, pending_action_id)
    WHERE end_time IS NULL AND accepted_time IS NOT NULL;
-- A token is deleted once, and downgraded once as a whole.
CREATE UNIQUE INDEX pending_action_once ON pending_action (token_id, takes)
    WHERE end_time IS NULL AND takes <> 'scopes';
-- What deleting a token looks up, ended ones included.
CREATE INDEX pending_action_any_of_token ON pending_action (token_id);

-- What a pending action takes, and what stays.
CREATE TABLE pending_action_scope (
    pending_action_id BLOB     NOT NULL REFERENCES pending_action ON DELETE CASCADE,
    scope_id          INTEGER NOT NULL REFERENCES scope,
    keeps             INTEGER NOT NULL CHECK (keeps IN (0, 1)),
    PRIMARY KEY (pending_action_id, scope_id)
) STRICT;

-- Every mail to an admin. Its id makes its Message-ID, the same at every attempt.
CREATE TABLE mail (
    mail_id           BLOB    NOT NULL PRIMARY KEY,
    kind              TEXT    NOT NULL CHECK (kind IN ('notice', 'carried_out', 'admins_changed')),
    account_id        BLOB    NOT NULL REFERENCES account,
    -- Of the action; NULL for a mail that is about none.
    token_id          BLOB    REFERENCES token ON DELETE CASCADE,
    pending_action_id BLOB    REFERENCES pending_action ON DELETE CASCADE,
    recipient         TEXT    NOT NULL CHECK (recipient <> ''),
    -- The change that everybody must know of before this is sent; 0 where it is known already.
    position          INTEGER NOT NULL CHECK (position >= 0),
    -- What it says that no other table does.
    payload_json      TEXT,
    create_time       INTEGER NOT NULL,
    -- Failing: the mail server refuses the address for good. It is tried again all the same.
    state             TEXT    NOT NULL CHECK (state IN ('queued', 'accepted', 'failing', 'withdrawn')),
    attempts          INTEGER NOT NULL CHECK (attempts >= 0),
    -- When it is to be tried.
    next_time         INTEGER NOT NULL,
    accept_time       INTEGER,
    -- Since when the address is refused, and what the mail server said last.
    fail_time         INTEGER,
    failure           TEXT,
    CHECK ((kind = 'admins_changed') = (pending_action_id IS NULL)),
    CHECK ((token_id IS NULL) = (pending_action_id IS NULL)),
    CHECK ((kind = 'admins_changed') = (payload_json IS NOT NULL)),
    CHECK ((state = 'accepted') = (accept_time IS NOT NULL)),
    CHECK ((state = 'failing') = (failure IS NOT NULL)),
    CHECK ((failure IS NULL) = (fail_time IS NULL))
) STRICT;
-- One notice for each admin, and one mail of the end.
CREATE UNIQUE INDEX mail_of_action ON mail (pending_action_id, kind, recipient);
CREATE INDEX mail_waiting ON mail (next_time, mail_id) WHERE state IN ('queued', 'failing');
CREATE INDEX mail_of_token ON mail (token_id) WHERE token_id IS NOT NULL;
-- What is purged after a while; mails of tokens go with their token.
CREATE INDEX mail_ended ON mail (create_time)
    WHERE token_id IS NULL AND state IN ('accepted', 'withdrawn');
