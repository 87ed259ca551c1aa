-- Labels of tokens. migrations/postgres/0015_token_labels.sql says the same: change both or none.
--
-- Programs that lack this can go on beside those that have it: their tokens have no labels, and no decision rests on them.

-- A JSON object of texts by key, the keys in order.
ALTER TABLE token ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
