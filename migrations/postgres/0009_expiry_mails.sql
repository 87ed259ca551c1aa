-- Mails to admins about the expiry of a token. migrations/sqlite/0009_expiry_mails.sql says the same: change both or none,
-- but for what is about replicas.

-- Decisions and changes read this table: a start does not hold them up behind a long reading, such as a dump.
SET LOCAL lock_timeout = '3s';

-- The expiry whose notices are queued; NULL where none is. It differs from the expiry once that is brought nearer.
ALTER TABLE token ADD COLUMN noticed_expiry BIGINT;
-- Whose notices are to be queued.
CREATE INDEX token_unnoticed_expiry ON token (expire_time, token_id)
    WHERE expire_time IS NOT NULL AND expiry_done = 0 AND delete_time IS NULL
        AND coalesce(noticed_expiry, 0) <> expire_time;
-- Whose notices concern the next admins of their account.
CREATE INDEX token_noticed_expiry ON token (account_id)
    WHERE noticed_expiry IS NOT NULL AND expiry_done = 0 AND delete_time IS NULL;

-- The expiry that the mail states; NULL for a mail about something else.
ALTER TABLE mail ADD COLUMN expire_time BIGINT;
ALTER TABLE mail DROP CONSTRAINT mail_kind_check, DROP CONSTRAINT mail_check, DROP CONSTRAINT mail_check1;
ALTER TABLE mail
    ADD CONSTRAINT mail_kind_check
        CHECK (kind IN ('notice', 'carried_out', 'admins_changed', 'expiry_notice', 'expired')),
    ADD CONSTRAINT mail_of_action_check
        CHECK ((kind IN ('notice', 'carried_out')) = (pending_action_id IS NOT NULL)),
    ADD CONSTRAINT mail_of_token_check CHECK ((kind = 'admins_changed') = (token_id IS NULL)),
    ADD CONSTRAINT mail_of_expiry_check
        CHECK ((kind IN ('expiry_notice', 'expired')) = (expire_time IS NOT NULL));
-- One notice of each expiry for each admin, and one mail of the end.
CREATE UNIQUE INDEX mail_of_expiry ON mail (token_id, expire_time, kind, recipient)
    WHERE expire_time IS NOT NULL;

-- Programs that lack this can't read these mails, and would record the expiry of a token without a mail about it.
UPDATE head SET oldest_program = 9;
ALTER TABLE replica ADD CONSTRAINT replica_knows_expiry_mails CHECK (program >= 9) NOT VALID;
