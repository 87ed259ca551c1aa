-- What is seen of the requests of tokens. migrations/sqlite/0010_activity.sql says the same for SQLite: change both or
-- none.
--
-- Nothing here decides anything. Addresses are personal data: each table is purged after its time.

-- Foreign keys take locks on tables that decisions and changes use: a start does not hold them up.
SET LOCAL lock_timeout = '3s';

-- One row: since when this is recorded. What is missing before that was not observed.
CREATE TABLE activity_record (
    id         BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    start_time BIGINT NOT NULL
);
INSERT INTO activity_record (id, start_time)
    VALUES (1, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT));

-- The addresses of allowed requests, the latest of each token; IPv4-mapped ones as IPv4.
CREATE TABLE token_address (
    token_id   UUID   NOT NULL REFERENCES token_use ON DELETE CASCADE,
    address    TEXT   NOT NULL CHECK (address <> ''),
    first_time BIGINT NOT NULL,
    last_time  BIGINT NOT NULL CHECK (last_time >= first_time),
    PRIMARY KEY (token_id, address)
);
CREATE INDEX token_address_by_time ON token_address (last_time);

-- The last match of each whitelist entry that any matched.
CREATE TABLE whitelist_match (
    token_id  UUID   NOT NULL REFERENCES token_use ON DELETE CASCADE,
    entry     TEXT   NOT NULL CHECK (entry <> ''),
    last_time BIGINT NOT NULL,
    PRIMARY KEY (token_id, entry)
);
CREATE INDEX whitelist_match_by_time ON whitelist_match (last_time);

-- How many requests were allowed on a day of UTC, counted from 1970-01-01.
CREATE TABLE token_usage (
    token_id UUID   NOT NULL REFERENCES token_use ON DELETE CASCADE,
    day      BIGINT NOT NULL,
    scope_id INTEGER NOT NULL REFERENCES scope,
    count    BIGINT NOT NULL CHECK (count > 0),
    PRIMARY KEY (token_id, day, scope_id)
);
CREATE INDEX token_usage_by_day ON token_usage (day);

-- Denied requests of known tokens, added up by hour (from 1970-01-01T00:00Z). How many rows a token and an account get in
-- an hour is bounded: what goes beyond a token's share has the reason 'OTHERS' here.
CREATE TABLE denial (
    denial_id  UUID   NOT NULL PRIMARY KEY,
    token_id   UUID   NOT NULL REFERENCES token_use ON DELETE CASCADE,
    -- The token's.
    account_id UUID   NOT NULL REFERENCES account,
    hour       BIGINT NOT NULL,
    reason     TEXT   NOT NULL CHECK (reason <> ''),
    -- Empty where the request named none.
    address    TEXT   NOT NULL,
    -- The required scope; -1 where the checks did not get that far.
    scope_id   INTEGER NOT NULL CHECK (scope_id BETWEEN -1 AND 65535),
    -- Method and path of the first request whose path matched no scope; empty elsewhere.
    operation  TEXT   NOT NULL,
    count      BIGINT NOT NULL CHECK (count > 0),
    first_time BIGINT NOT NULL,
    last_time  BIGINT NOT NULL CHECK (last_time >= first_time),
    UNIQUE (token_id, hour, reason, address, scope_id)
);
CREATE INDEX denial_of_account ON denial (account_id, denial_id);
CREATE INDEX denial_of_account_by_hour ON denial (account_id, hour);
CREATE INDEX denial_by_hour ON denial (hour);

-- What went beyond an account's share.
CREATE TABLE denial_rest (
    account_id UUID   NOT NULL REFERENCES account,
    hour       BIGINT NOT NULL,
    count      BIGINT NOT NULL CHECK (count > 0),
    first_time BIGINT NOT NULL,
    last_time  BIGINT NOT NULL CHECK (last_time >= first_time),
    PRIMARY KEY (account_id, hour)
);
CREATE INDEX denial_rest_by_hour ON denial_rest (hour);
