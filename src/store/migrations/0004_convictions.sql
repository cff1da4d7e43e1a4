-- The receipts whose failed audits convicted a node: those that had failed when the evidence became enough for its stake. The list is
-- never changed: what fails later belongs to the same case.
CREATE TABLE convictions (
    address TEXT NOT NULL REFERENCES members (address),
    receipt BLOB NOT NULL REFERENCES audits (receipt),
    PRIMARY KEY (address, receipt)
) STRICT, WITHOUT ROWID;

ALTER TABLE evidence ADD COLUMN convicted_ms INTEGER NOT NULL DEFAULT 0;

-- An e-value of 10⁶ and more, whose logarithm is 13.81551055…
UPDATE evidence SET convicted_ms = quarantined_ms WHERE log_e > 13.8155105;
INSERT INTO convictions
SELECT a.address, a.receipt FROM audits a JOIN evidence e ON e.address = a.address
WHERE a.state = 'Failed' AND e.convicted_ms != 0;
