-- How jobs are paid. An escrow pays one job: its key is what makes spending it twice impossible. Tokens are those of answers that
-- were taken from payable workers and not rejected; what they cost follows from the price in the payment.
CREATE TABLE payments (
    job           TEXT PRIMARY KEY REFERENCES jobs (uid),
    escrow        TEXT NOT NULL UNIQUE,
    -- As in the job's spec.
    payment       TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL DEFAULT 0 CHECK (prompt_tokens >= 0),
    output_tokens INTEGER NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
    -- What the chain says about the escrow in a final block; NULL before.
    settled       TEXT,
    -- The epoch that counted it as a paid job.
    epoch         INTEGER REFERENCES epochs (epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX payments_open ON payments (job) WHERE settled IS NULL;

CREATE TRIGGER payments_charge_an_answer AFTER INSERT ON wins
BEGIN
    UPDATE payments
    SET prompt_tokens = prompt_tokens + (SELECT c.prompt_tokens FROM receipts c WHERE c.hash = NEW.receipt),
        output_tokens = output_tokens + (SELECT c.output_tokens FROM receipts c WHERE c.hash = NEW.receipt)
    WHERE job = (SELECT r.job FROM requests r WHERE r.id = NEW.request)
      AND (SELECT c.payable FROM receipts c WHERE c.hash = NEW.receipt) = 1;
END;

-- An accepted receipt was charged once, and is rejected at most once.
CREATE TRIGGER payments_release_a_rejected_answer AFTER INSERT ON rejections
BEGIN
    UPDATE payments
    SET prompt_tokens = prompt_tokens - (SELECT c.prompt_tokens FROM receipts c WHERE c.hash = NEW.receipt),
        output_tokens = output_tokens - (SELECT c.output_tokens FROM receipts c WHERE c.hash = NEW.receipt)
    WHERE job = (SELECT r.job FROM receipts c JOIN requests r ON r.id = c.request WHERE c.hash = NEW.receipt)
      AND (SELECT c.payable = 1 AND c.standing = 'Accepted' FROM receipts c WHERE c.hash = NEW.receipt);
END;
