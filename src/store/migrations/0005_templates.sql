-- Chat templates that stand in for a model's own, known by their BLAKE3. A request keeps the one that it was taken with, for its audit too.
CREATE TABLE templates (
    digest BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    source TEXT NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE requests ADD COLUMN template BLOB REFERENCES templates (digest);
