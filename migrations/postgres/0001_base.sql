-- What the store keeps from the start. migrations/sqlite/0001_base.sql says the same for SQLite: change
-- both or none.
--
-- Times are microseconds since 1970-01-01 in UTC, from the store's clock. Ids are UUIDs, version 7.
-- Only digests of secrets stand here, and the keys that their tags are made under.

-- One row. Every management change takes it first (UPDATE ... position + 1), so changes are made one
-- after another and positions are their order of commit, without gaps.
CREATE TABLE head (
    id              INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    position        BIGINT  NOT NULL CHECK (position >= 0),
    -- The catalogue in force; 0 where none was ever applied.
    catalog_version BIGINT  NOT NULL CHECK (catalog_version >= 0),
    -- Whether `--dev` or a plain `serve` made this store.
    mark            TEXT    CHECK (mark IN ('development', 'production'))
);
INSERT INTO head (id, position, catalog_version) VALUES (1, 0, 0);

-- Every catalogue that was ever in force.
CREATE TABLE catalog (
    version    BIGINT NOT NULL PRIMARY KEY CHECK (version > 0),
    toml       TEXT   NOT NULL,
    apply_time BIGINT NOT NULL
);

-- The number of every scope name there ever was. Rows are never deleted or changed: tokens refer to
-- these numbers, and no number may ever come to mean another scope.
CREATE TABLE scope (
    scope_id INTEGER NOT NULL PRIMARY KEY CHECK (scope_id BETWEEN 0 AND 65535),
    name     TEXT    NOT NULL UNIQUE CHECK (name <> '')
);

CREATE TABLE account (
    account_id  UUID   NOT NULL PRIMARY KEY,
    name        TEXT   NOT NULL,
    create_time BIGINT NOT NULL
);

-- An account's admins, in the order given. Never none: every change writes them as a whole.
CREATE TABLE account_admin (
    account_id UUID    NOT NULL REFERENCES account ON DELETE CASCADE,
    ordinal    INTEGER NOT NULL CHECK (ordinal >= 0),
    email      TEXT    NOT NULL CHECK (email <> ''),
    PRIMARY KEY (account_id, ordinal)
);

CREATE TABLE token (
    token_id          UUID   NOT NULL PRIMARY KEY,
    account_id        UUID   NOT NULL REFERENCES account,
    name              TEXT   NOT NULL,
    -- What it reads as now: a downgraded READ_WRITE token has READ_ONLY and a downgrade_time.
    kind              TEXT   NOT NULL CHECK (kind IN ('READ_ONLY', 'READ_WRITE', 'CUSTOM')),
    digest            BYTEA  NOT NULL CHECK (octet_length(digest) = 32),
    -- Canonical entries joined by commas, or the word 'any', which no entry can be. Never empty:
    -- nothing that got lost can read as "from anywhere".
    whitelist         TEXT   NOT NULL CHECK (whitelist <> ''),
    whitelist_version BIGINT NOT NULL CHECK (whitelist_version > 0),
    create_time       BIGINT NOT NULL,
    delete_time       BIGINT,
    delete_cause      TEXT   CHECK (delete_cause IN ('owner', 'unused')),
    downgrade_time    BIGINT,
    CHECK ((delete_time IS NULL) = (delete_cause IS NULL)),
    CHECK (downgrade_time IS NULL OR kind = 'READ_ONLY'),
    -- There is no way around this rule, not even here.
    CHECK (kind <> 'READ_WRITE' OR whitelist <> 'any')
);
-- Lists: of one account, with and without deleted ones, and of all accounts.
CREATE INDEX token_of_account ON token (account_id, token_id);
CREATE INDEX token_live_of_account ON token (account_id, token_id) WHERE delete_time IS NULL;

-- A CUSTOM token's scopes as listed at its creation; for a downgraded READ_WRITE token those it lost.
CREATE TABLE token_scope (
    token_id   UUID    NOT NULL REFERENCES token ON DELETE CASCADE,
    scope_id   INTEGER NOT NULL REFERENCES scope,
    -- When a downgrade took it; NULL while it may be used.
    taken_time BIGINT,
    PRIMARY KEY (token_id, scope_id)
);
-- Which tokens may use a scope: asked when a catalogue drops it.
CREATE INDEX token_scope_held ON token_scope (scope_id, token_id) WHERE taken_time IS NULL;

-- What callers prove who they are with. Rows are never deleted, so that a digest that was revoked stays
-- known as revoked.
CREATE TABLE credential (
    credential_id UUID     NOT NULL PRIMARY KEY,
    role          TEXT     NOT NULL CHECK (role IN ('pep', 'account_admin', 'operator')),
    account_id    UUID     REFERENCES account,
    name          TEXT     NOT NULL,
    digest        BYTEA    NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    -- 1 for the operator credential of the settings.
    from_settings SMALLINT NOT NULL CHECK (from_settings IN (0, 1)),
    create_time   BIGINT   NOT NULL,
    revoke_time   BIGINT,
    CHECK ((role = 'account_admin') = (account_id IS NOT NULL)),
    CHECK (from_settings = 0 OR role = 'operator')
);
CREATE INDEX credential_live ON credential (credential_id) WHERE revoke_time IS NULL;
-- The settings have one credential at most.
CREATE UNIQUE INDEX credential_of_settings ON credential (from_settings)
    WHERE from_settings = 1 AND revoke_time IS NULL;

-- The keys that the tags of secrets are made under. The newest makes new secrets.
CREATE TABLE secret_key (
    number      INTEGER NOT NULL PRIMARY KEY CHECK (number BETWEEN 0 AND 3843),
    key         BYTEA   NOT NULL CHECK (octet_length(key) = 32),
    create_time BIGINT  NOT NULL
);

-- Who changed what, one row for each position. It outlives what it tells of, so nothing here refers
-- to another table. No digest, key or secret ever.
CREATE TABLE audit_event (
    position       BIGINT NOT NULL PRIMARY KEY CHECK (position > 0),
    time           BIGINT NOT NULL,
    action         TEXT   NOT NULL,
    actor          TEXT   NOT NULL,
    actor_role     TEXT   NOT NULL,
    client_address TEXT,
    account_id     UUID,
    token_id       UUID,
    before_json    TEXT,
    after_json     TEXT
);
CREATE INDEX audit_event_of_account ON audit_event (account_id, position) WHERE account_id IS NOT NULL;
CREATE INDEX audit_event_of_token ON audit_event (token_id, position) WHERE token_id IS NOT NULL;
CREATE INDEX audit_event_by_time ON audit_event (time);

-- What replicas have to read again, one row for each position.
CREATE TABLE change (
    position BIGINT NOT NULL PRIMARY KEY CHECK (position > 0),
    time     BIGINT NOT NULL,
    touched  TEXT   NOT NULL
             CHECK (touched IN ('token', 'credential', 'catalog', 'secret_keys', 'nothing')),
    key      UUID,
    CHECK ((touched IN ('token', 'credential')) = (key IS NOT NULL))
);

-- Downgrades and deletions: planned, announced, and what became of them.
CREATE TABLE pending_action (
    pending_action_id UUID   NOT NULL PRIMARY KEY,
    token_id          UUID   NOT NULL REFERENCES token ON DELETE CASCADE,
    -- The token's.
    account_id        UUID   NOT NULL REFERENCES account,
    type              TEXT   NOT NULL CHECK (type IN ('downgrade', 'deletion')),
    last_use          BIGINT,
    last_use_of_taken BIGINT,
    -- The earliest instant at which it takes effect, as far as known.
    effective_time    BIGINT NOT NULL,
    create_time       BIGINT NOT NULL,
    end_time          BIGINT,
    outcome           TEXT   CHECK (outcome IN ('carried_out', 'cancelled', 'withdrawn')),
    CHECK ((end_time IS NULL) = (outcome IS NULL))
);
CREATE INDEX pending_action_of_token ON pending_action (token_id, effective_time, pending_action_id)
    WHERE end_time IS NULL;
CREATE INDEX pending_action_of_account ON pending_action (account_id, pending_action_id)
    WHERE end_time IS NULL;
CREATE INDEX pending_action_open ON pending_action (pending_action_id) WHERE end_time IS NULL;
-- What deleting a token or an account looks up, ended ones included.
CREATE INDEX pending_action_any_of_token ON pending_action (token_id);

-- What a pending action takes, and what stays.
CREATE TABLE pending_action_scope (
    pending_action_id UUID     NOT NULL REFERENCES pending_action ON DELETE CASCADE,
    scope_id          INTEGER  NOT NULL REFERENCES scope,
    keeps             SMALLINT NOT NULL CHECK (keeps IN (0, 1)),
    PRIMARY KEY (pending_action_id, scope_id)
);

-- How far each admin's notice of a pending action got.
CREATE TABLE notice (
    pending_action_id UUID   NOT NULL REFERENCES pending_action ON DELETE CASCADE,
    email             TEXT   NOT NULL CHECK (email <> ''),
    state             TEXT   NOT NULL CHECK (state IN ('queued', 'accepted', 'failing')),
    accept_time       BIGINT,
    failure           TEXT,
    PRIMARY KEY (pending_action_id, email),
    CHECK ((state = 'accepted') = (accept_time IS NOT NULL)),
    CHECK ((state = 'failing') = (failure IS NOT NULL))
);
