-- Whoever applies changes is told which change it was, not only that there is one. Where that is the next one,
-- the record need not be read: to acknowledge it is to compare it with the record (docs/consistency.md).
--
-- Programs that lack this can go on beside those that have it: they read the record whatever they are told, and
-- what they record gets a nonce as well.

-- Changes are held up for as long as this waits for a long reading of the record, such as a dump: not longer
-- than a change waits. Whoever starts then is told so, and starts again.
SET LOCAL lock_timeout = '3s';

-- Known to nobody before the change is committed, so whoever tells of it was told after that. Changes of before
-- have none, and are told of no more.
ALTER TABLE change ADD COLUMN nonce UUID;
ALTER TABLE change ALTER COLUMN nonce SET DEFAULT gen_random_uuid();

CREATE OR REPLACE FUNCTION portcullis_tell_of_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(
        'portcullis_change', concat_ws(' ', NEW.position, NEW.nonce, NEW.touched, NEW.key));
    RETURN NULL;
END
$$;
DROP TRIGGER change_told ON change;
CREATE TRIGGER change_told AFTER INSERT ON change
    FOR EACH ROW EXECUTE FUNCTION portcullis_tell_of_change();
