-- Whoever applies changes is told which change it was, not only that there is one. Where that is the next one,
-- the record need not be read: to acknowledge it is to compare it with the record (docs/consistency.md).
--
-- Programs that lack this can go on beside those that have it: they read the record whatever they are told.

CREATE OR REPLACE FUNCTION portcullis_tell_of_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('portcullis_change', concat_ws(' ', NEW.position, NEW.touched, NEW.key));
    RETURN NULL;
END
$$;
DROP TRIGGER change_told ON change;
CREATE TRIGGER change_told AFTER INSERT ON change
    FOR EACH ROW EXECUTE FUNCTION portcullis_tell_of_change();
