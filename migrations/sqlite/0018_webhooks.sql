-- Webhooks: whom events are sent to, and how far each has received them. migrations/postgres/0018_webhooks.sql says the same:
-- change both or none.
--
-- Programs that lack this can go on beside those that have it: they deliver nothing.

CREATE TABLE webhook (
    webhook_id     BLOB    NOT NULL PRIMARY KEY,
    name           TEXT    NOT NULL,
    url            TEXT    NOT NULL CHECK (url <> ''),
    -- Which events, separated by spaces; NULL for all.
    event_types    TEXT    CHECK (event_types <> ''),
    create_time    INTEGER NOT NULL,
    -- The secret is derived, not kept: from the key of this number (secret_key), the id, and this version.
    secret_key     INTEGER NOT NULL,
    secret_version INTEGER NOT NULL CHECK (secret_version > 0),
    -- The secret of the version before, while messages are signed with it too.
    former_key     INTEGER,
    former_until   INTEGER,
    -- Gone: the receiver answered that it wants no more.
    state          TEXT    NOT NULL CHECK (state IN ('enabled', 'disabled', 'gone')),
    -- Every event up to this position of the audit record is delivered, given up, or of another type.
    position       INTEGER NOT NULL CHECK (position >= 0),
    -- Attempts to deliver the next event that failed, and when the next one is due.
    attempts       INTEGER NOT NULL CHECK (attempts >= 0),
    next_time      INTEGER NOT NULL,
    -- While this lies in the future, one replica delivers and no other does.
    claim_until    INTEGER NOT NULL,
    -- The first failure since the last delivery, and the time of the event that waits for it; NULL where none fails.
    failing_since  INTEGER,
    pending_time   INTEGER,
    success_time   INTEGER,
    failure_time   INTEGER,
    failure        TEXT,
    delivered      INTEGER NOT NULL CHECK (delivered >= 0),
    skipped        INTEGER NOT NULL CHECK (skipped >= 0),
    CHECK ((former_key IS NULL) = (former_until IS NULL)),
    CHECK ((failing_since IS NULL) = (pending_time IS NULL)),
    CHECK ((failure_time IS NULL) = (failure IS NULL))
) STRICT;
