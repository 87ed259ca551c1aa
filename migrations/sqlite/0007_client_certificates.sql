-- Certificates with which a gateway may identify itself: a property of its credential.
-- migrations/postgres/0007_client_certificates.sql says the same: change both or none.
--
-- Programs that lack this can go on beside those that have it: they never take a certificate for a credential, and
-- what they create is bound to none.

-- SHA-256 of each in DER, as `sha256:` and hexadecimal digits, separated by commas; NULL where there is none. No two
-- credentials that are not revoked have one in common: src/store/sql/credential.rs checks that behind the head row.
ALTER TABLE credential ADD COLUMN client_certificates TEXT CHECK (client_certificates IS NULL OR role = 'pep');
