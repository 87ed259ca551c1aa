-- Which accounts are suspended or closed. migrations/postgres/0012_account_state.sql says the same: change both or none,
-- but for what is about replicas.

-- By the store's time; NULL where it is not. A suspension ends, a closure does not.
ALTER TABLE account ADD COLUMN suspend_time INTEGER;
ALTER TABLE account ADD COLUMN close_time INTEGER;
-- 1 once the closed account has no token that is not deleted, and no mail that waits.
ALTER TABLE account ADD COLUMN close_done INTEGER NOT NULL DEFAULT 0 CHECK (close_done IN (0, 1));
-- What is kept in memory.
CREATE INDEX account_restricted ON account (account_id)
    WHERE (suspend_time IS NOT NULL OR close_time IS NOT NULL) AND close_done = 0;
-- What a closure looks up.
CREATE INDEX account_closing ON account (close_time, account_id) WHERE close_time IS NOT NULL AND close_done = 0;
CREATE INDEX mail_waiting_of_account ON mail (account_id, mail_id) WHERE state IN ('queued', 'failing');
CREATE INDEX credential_live_of_account ON credential (account_id)
    WHERE account_id IS NOT NULL AND revoke_time IS NULL;

-- Accounts have to be read again, too. SQLite changes no condition of a table that there is.
CREATE TABLE change_new (
    position INTEGER NOT NULL PRIMARY KEY CHECK (position > 0),
    time     INTEGER NOT NULL,
    touched  TEXT    NOT NULL
             CHECK (touched IN ('token', 'credential', 'account', 'catalog', 'secret_keys', 'nothing')),
    key      BLOB,
    CHECK ((touched IN ('token', 'credential', 'account')) = (key IS NOT NULL))
) STRICT;
INSERT INTO change_new (position, time, touched, key) SELECT position, time, touched, key FROM change;
DROP TABLE change;
ALTER TABLE change_new RENAME TO change;
