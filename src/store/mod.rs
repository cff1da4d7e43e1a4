//! What the gateway keeps: the ledger (sqlx) and the blob store. Owns the disk and the database; decides nothing.
