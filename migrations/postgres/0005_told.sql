-- Whoever applies changes is told which change it was, not only that there is one. Where that is the next one,
-- the record need not be read: to acknowledge it is to compare it with the record (docs/consistency.md).
--
-- Programs that lack this can go on beside those that have it: they read the record whatever they are told, and
-- what they record gets a nonce as well.

-- Changes are held up for as long as this waits for a long reading of the record, such as a dump: not longer
-- than a change waits. Whoever starts then is told so, and starts again.
SET LOCAL lock_timeout = '3s';

-- Who wrote it: a notification says whose it is, and nobody else's is believed while the change waits for a
-- standby, where it may be seen before it is here. And a number that nobody knows before, since a session's may be
-- given away again, and another server gives the same. Changes of before have neither, and are told of no more.
ALTER TABLE change ADD COLUMN writer INTEGER, ADD COLUMN nonce UUID;
ALTER TABLE change
    ALTER COLUMN writer SET DEFAULT pg_backend_pid(), ALTER COLUMN nonce SET DEFAULT gen_random_uuid();

CREATE OR REPLACE FUNCTION portcullis_tell_of_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify(
        'portcullis_change',
        pg_catalog.concat_ws(' ', NEW.position, NEW.nonce, NEW.touched, NEW.key));
    RETURN NULL;
END
$$;
DROP TRIGGER change_told ON change;
CREATE TRIGGER change_told AFTER INSERT ON change
    FOR EACH ROW EXECUTE FUNCTION portcullis_tell_of_change();
