-- Tokens that are revoked because their secrets leaked, and the mails about that. migrations/postgres/0011_leaks.sql
-- says the same: change both or none, but for what is about replicas.

-- 1 where `delete_time` is when it was revoked because its secret was reported as leaked. Earlier programs read such a
-- token as deleted.
ALTER TABLE token ADD COLUMN leaked INTEGER NOT NULL DEFAULT 0
    CHECK (leaked IN (0, 1) AND (leaked = 0 OR delete_time IS NOT NULL));
-- To look up the token of a reported secret: a report may have only its digest.
CREATE UNIQUE INDEX token_digest ON token (digest);

-- A constraint can't be replaced here, so the table is made again. Which kinds of mail there are is for the program to
-- check: another kind needs no other table. `leaked` is about a token, or about a credential that its payload names.
CREATE TABLE new_mail (
    mail_id           BLOB    NOT NULL PRIMARY KEY,
    kind              TEXT    NOT NULL CHECK (kind <> ''),
    account_id        BLOB    NOT NULL REFERENCES account,
    -- NULL for a mail that is about none.
    token_id          BLOB    REFERENCES token ON DELETE CASCADE,
    -- Of notices and of what was carried out; NULL for others.
    pending_action_id BLOB    REFERENCES pending_action ON DELETE CASCADE,
    recipient         TEXT    NOT NULL CHECK (recipient <> ''),
    -- The change that everybody must know of before this is sent; 0 where it is known already.
    position          INTEGER NOT NULL CHECK (position >= 0),
    -- What it says that no other table does.
    payload_json      TEXT,
    create_time       INTEGER NOT NULL,
    -- Failing: the mail server does not take it. It is tried again all the same.
    state             TEXT    NOT NULL CHECK (state IN ('queued', 'accepted', 'failing', 'withdrawn')),
    attempts          INTEGER NOT NULL CHECK (attempts >= 0),
    -- When it is to be tried.
    next_time         INTEGER NOT NULL,
    accept_time       INTEGER,
    -- Since when it is not taken, and what the mail server said last.
    fail_time         INTEGER,
    failure           TEXT,
    -- The expiry that the mail states; NULL for a mail about something else.
    expire_time       INTEGER,
    CHECK ((kind IN ('notice', 'carried_out')) = (pending_action_id IS NOT NULL)),
    CHECK ((kind IN ('expiry_notice', 'expired')) = (expire_time IS NOT NULL)),
    CHECK (token_id IS NOT NULL OR (pending_action_id IS NULL AND expire_time IS NULL)),
    CHECK (payload_json IS NULL OR (pending_action_id IS NULL AND expire_time IS NULL)),
    CHECK ((state = 'accepted') = (accept_time IS NOT NULL)),
    CHECK ((state = 'failing') = (failure IS NOT NULL)),
    CHECK ((failure IS NULL) = (fail_time IS NULL))
) STRICT;
INSERT INTO new_mail
    SELECT mail_id, kind, account_id, token_id, pending_action_id, recipient, position, payload_json, create_time, state,
        attempts, next_time, accept_time, fail_time, failure, expire_time
    FROM mail;
DROP TABLE mail;
ALTER TABLE new_mail RENAME TO mail;
-- One notice for each admin, and one mail of the end.
CREATE UNIQUE INDEX mail_of_action ON mail (pending_action_id, kind, recipient);
CREATE INDEX mail_waiting ON mail (next_time, mail_id) WHERE state IN ('queued', 'failing');
CREATE INDEX mail_of_token ON mail (token_id) WHERE token_id IS NOT NULL;
-- What is purged after a while; mails of tokens go with their token.
CREATE INDEX mail_ended ON mail (create_time)
    WHERE token_id IS NULL AND state IN ('accepted', 'withdrawn');
-- One notice of each expiry for each admin, and one mail of the end.
CREATE UNIQUE INDEX mail_of_expiry ON mail (token_id, expire_time, kind, recipient)
    WHERE expire_time IS NOT NULL;
