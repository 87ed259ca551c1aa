-- Tokens that are revoked because their secrets leaked, and the mails about that. migrations/sqlite/0011_leaks.sql says
-- the same: change both or none, but for what is about replicas.

-- Decisions and changes read these tables: a start does not hold them up behind a long reading, such as a dump.
SET LOCAL lock_timeout = '3s';

-- To look up the token of a reported secret: a report may have only its digest. Before the table is changed: while an
-- index is built, decisions can still read it.
CREATE UNIQUE INDEX token_digest ON token (digest);

-- 1 where `delete_time` is when it was revoked because its secret was reported as leaked. Earlier programs read such a
-- token as deleted.
ALTER TABLE token
    ADD COLUMN leaked SMALLINT NOT NULL DEFAULT 0,
    ADD CONSTRAINT token_leaked_check CHECK (leaked IN (0, 1)) NOT VALID,
    ADD CONSTRAINT token_leaked_is_ended CHECK (leaked = 0 OR delete_time IS NOT NULL) NOT VALID;

-- Which kinds of mail there are is for the program to check: another kind needs no other constraint. `leaked` is about a
-- token, or about a credential that its payload names.
ALTER TABLE mail DROP CONSTRAINT mail_kind_check, DROP CONSTRAINT mail_of_token_check, DROP CONSTRAINT mail_check2;
ALTER TABLE mail
    ADD CONSTRAINT mail_kind_check CHECK (kind <> '') NOT VALID,
    ADD CONSTRAINT mail_of_token_check
        CHECK (token_id IS NOT NULL OR (pending_action_id IS NULL AND expire_time IS NULL)) NOT VALID,
    ADD CONSTRAINT mail_payload_check
        CHECK (payload_json IS NULL OR (pending_action_id IS NULL AND expire_time IS NULL)) NOT VALID;

-- Programs that lack this can't read the new mails, and would send no other one while one of them waits. They refuse to
-- start, and those that run can't renew their leases.
UPDATE head SET oldest_program = 11;
ALTER TABLE replica ADD CONSTRAINT replica_knows_leaks CHECK (program >= 11) NOT VALID;
