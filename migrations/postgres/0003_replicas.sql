-- Many servers over one database: what they know of each other (docs/consistency.md). SQLite has one
-- process and no such table: there, this number is skipped.

-- Versions before this one know of no other server and would go on deciding on what these change. Each
-- of them holds this lock for as long as it serves; later ones refuse this schema.
DO $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(8101820098873224300) THEN
        RAISE EXCEPTION 'a server of an earlier version still serves from this database: stop it first';
    END IF;
END
$$;

-- The newest migration that a program must know to serve from this database. A later migration leaves it
-- where programs that lack that one can go on beside those that have it: servers are replaced one by
-- one, and an earlier version must be able to come back.
ALTER TABLE head ADD COLUMN oldest_program BIGINT NOT NULL DEFAULT 3;

-- A row for each server that may decide from memory. Each registration makes a new id.
CREATE TABLE replica (
    replica_id   UUID   NOT NULL PRIMARY KEY,
    -- How long a lease lasts, in microseconds; and how often it was renewed.
    lease        BIGINT NOT NULL CHECK (lease > 0),
    renewals     BIGINT NOT NULL CHECK (renewals >= 0),
    -- The position up to which it has applied every change.
    applied      BIGINT NOT NULL CHECK (applied >= 0),
    -- For people: what it is, and since when.
    name         TEXT   NOT NULL,
    version      TEXT   NOT NULL,
    create_time  BIGINT NOT NULL,
    -- By which rules it takes what is not used: those of all must be alike.
    lifecycle    TEXT   NOT NULL
) WITH (fillfactor = 50);

-- Whoever applies changes is told of each when it is committed.
CREATE FUNCTION portcullis_tell_of_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('portcullis_change', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER change_told AFTER INSERT ON change
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis_tell_of_change();
