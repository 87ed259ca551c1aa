-- Which accounts are suspended or closed. migrations/sqlite/0012_account_state.sql says the same: change both or none, but
-- for what is about replicas.

-- Decisions and changes read these tables: a start does not hold them up behind a long reading, such as a dump.
SET LOCAL lock_timeout = '3s';

-- By the store's time; NULL where it is not. A suspension ends, a closure does not.
ALTER TABLE account ADD COLUMN suspend_time BIGINT;
ALTER TABLE account ADD COLUMN close_time BIGINT;
-- 1 once the closed account has no token that is not deleted, and no mail that waits.
ALTER TABLE account ADD COLUMN close_done SMALLINT NOT NULL DEFAULT 0 CHECK (close_done IN (0, 1));
-- What replicas keep in memory.
CREATE INDEX account_restricted ON account (account_id)
    WHERE (suspend_time IS NOT NULL OR close_time IS NOT NULL) AND close_done = 0;
-- What a closure looks up.
CREATE INDEX account_closing ON account (close_time, account_id) WHERE close_time IS NOT NULL AND close_done = 0;
CREATE INDEX mail_waiting_of_account ON mail (account_id, mail_id) WHERE state IN ('queued', 'failing');
CREATE INDEX credential_live_of_account ON credential (account_id)
    WHERE account_id IS NOT NULL AND revoke_time IS NULL;

-- Replicas have to read accounts again, too. What stands there already keeps to the new conditions.
ALTER TABLE change
    DROP CONSTRAINT change_touched_check,
    DROP CONSTRAINT change_check,
    ADD CONSTRAINT change_touched_check
        CHECK (touched IN ('token', 'credential', 'account', 'catalog', 'secret_keys', 'nothing')) NOT VALID,
    ADD CONSTRAINT change_check
        CHECK ((touched IN ('token', 'credential', 'account')) = (key IS NOT NULL)) NOT VALID;

-- Programs that lack this would go on allowing what is suspended or closed: as for 0008.
UPDATE head SET oldest_program = 12;
ALTER TABLE replica ADD CONSTRAINT replica_knows_account_states CHECK (program >= 12) NOT VALID;
