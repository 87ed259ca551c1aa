-- Mails to admins about the expiry of a token. migrations/postgres/0009_expiry_mails.sql says the same: change both or none,
-- but for what is about replicas.

-- The expiry whose notices are queued; NULL where none is. It differs from the expiry once that is brought nearer.
ALTER TABLE token ADD COLUMN noticed_expiry INTEGER;
-- Whose notices are to be queued.
CREATE INDEX token_unnoticed_expiry ON token (expire_time, token_id)
    WHERE expire_time IS NOT NULL AND expiry_done = 0 AND delete_time IS NULL
        AND coalesce(noticed_expiry, 0) <> expire_time;
-- Whose notices concern the next admins of their account.
CREATE INDEX token_noticed_expiry ON token (account_id)
    WHERE noticed_expiry IS NOT NULL AND expiry_done = 0 AND delete_time IS NULL;

-- SQLite changes no constraint of a table: another takes its place.
CREATE TABLE new_mail (
    mail_id           BLOB    NOT NULL PRIMARY KEY,
    kind              TEXT    NOT NULL
        CHECK (kind IN ('notice', 'carried_out', 'admins_changed', 'expiry_notice', 'expired')),
    account_id        BLOB    NOT NULL REFERENCES account,
    -- NULL for a mail that is about no token.
    token_id          BLOB    REFERENCES token ON DELETE CASCADE,
    -- NULL for a mail that is about no action.
    pending_action_id BLOB    REFERENCES pending_action ON DELETE CASCADE,
    recipient         TEXT    NOT NULL CHECK (recipient <> ''),
    -- The change that everybody must know of before this is sent; 0 where it is known already.
    position          INTEGER NOT NULL CHECK (position >= 0),
    -- What it says that no other table does.
    payload_json      TEXT,
    create_time       INTEGER NOT NULL,
    -- Failing: the mail server took no mail to this recipient when it last said anything about one.
    state             TEXT    NOT NULL CHECK (state IN ('queued', 'accepted', 'failing', 'withdrawn')),
    attempts          INTEGER NOT NULL CHECK (attempts >= 0),
    -- When it is to be tried.
    next_time         INTEGER NOT NULL,
    accept_time       INTEGER,
    -- Since when it fails, and what the mail server said last.
    fail_time         INTEGER,
    failure           TEXT,
    -- The expiry that the mail states; NULL for a mail about something else.
    expire_time       INTEGER,
    CHECK ((kind IN ('notice', 'carried_out')) = (pending_action_id IS NOT NULL)),
    CHECK ((kind = 'admins_changed') = (token_id IS NULL)),
    CHECK ((kind = 'admins_changed') = (payload_json IS NOT NULL)),
    CHECK ((kind IN ('expiry_notice', 'expired')) = (expire_time IS NOT NULL)),
    CHECK ((state = 'accepted') = (accept_time IS NOT NULL)),
    CHECK ((state = 'failing') = (failure IS NOT NULL)),
    CHECK ((failure IS NULL) = (fail_time IS NULL))
) STRICT;
INSERT INTO new_mail
    SELECT mail_id, kind, account_id, token_id, pending_action_id, recipient, position, payload_json, create_time, state,
        attempts, next_time, accept_time, fail_time, failure, NULL
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
