-- The ledger, first version. Money and counts are integers, identifiers that people compare are text (hexadecimal digests,
-- 0x addresses, base58 peer ids), request ids and receipt hashes are 32-byte blobs. Times are unix milliseconds.

CREATE TABLE network (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    config TEXT NOT NULL
) STRICT;

-- A removed member keeps its row: its receipts go on to name it.
CREATE TABLE members (
    peer_id   TEXT PRIMARY KEY,
    address   TEXT NOT NULL UNIQUE,
    node_name TEXT NOT NULL,
    member    TEXT NOT NULL,
    removed   INTEGER NOT NULL DEFAULT 0 CHECK (removed IN (0, 1))
) STRICT;

CREATE TABLE models (
    digest         TEXT PRIMARY KEY,
    source         TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('Fetching', 'Ready', 'Failed')),
    reason         TEXT NOT NULL DEFAULT '',
    message        TEXT NOT NULL DEFAULT '',
    bytes          INTEGER NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    cost_per_token INTEGER NOT NULL DEFAULT 0 CHECK (cost_per_token >= 0),
    removed        INTEGER NOT NULL DEFAULT 0 CHECK (removed IN (0, 1))
) STRICT;

-- No foreign key to models: a job may come before its model and then waits for it.
CREATE TABLE jobs (
    uid            TEXT PRIMARY KEY,
    namespace      TEXT NOT NULL,
    spec           TEXT NOT NULL,
    spec_hash      BLOB NOT NULL CHECK (length(spec_hash) = 32),
    input_hash     BLOB CHECK (length(input_hash) = 32),
    suspended      INTEGER NOT NULL DEFAULT 0 CHECK (suspended IN (0, 1)),
    cancelled      INTEGER NOT NULL DEFAULT 0 CHECK (cancelled IN (0, 1)),
    parallelism    INTEGER NOT NULL DEFAULT 0 CHECK (parallelism >= 0),
    created_ms     INTEGER NOT NULL,
    started_ms     INTEGER NOT NULL DEFAULT 0,
    finished_ms    INTEGER NOT NULL DEFAULT 0,
    receipts_root  TEXT NOT NULL DEFAULT '',
    deleted        INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1))
) STRICT;

CREATE TABLE requests (
    id             BLOB PRIMARY KEY CHECK (length(id) = 32),
    kind           TEXT NOT NULL CHECK (kind IN ('Job', 'Online', 'Canary')),
    owner          TEXT NOT NULL,
    job            TEXT REFERENCES jobs (uid),
    line           INTEGER NOT NULL DEFAULT 0,
    custom_id      TEXT NOT NULL,
    model          TEXT NOT NULL,
    endpoint       TEXT NOT NULL,
    -- The input line; NULL once the text is forgotten.
    body           TEXT,
    prompt_bytes   INTEGER NOT NULL CHECK (prompt_bytes >= 0),
    max_tokens     INTEGER NOT NULL CHECK (max_tokens > 0),
    beacon         BLOB NOT NULL CHECK (length(beacon) = 32),
    sample_percent INTEGER,
    state          TEXT NOT NULL DEFAULT 'Queued' CHECK (state IN ('Queued', 'Leased', 'Done', 'Failed')),
    -- Number of the current lease when Leased, of the next one when Queued. Never used twice.
    attempt        INTEGER NOT NULL DEFAULT 1 CHECK (attempt > 0),
    -- Tries that count against max_attempts.
    tries          INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    max_attempts   INTEGER NOT NULL CHECK (max_attempts > 0),
    -- Workers that must not get it again (a rejected answer), separated by blanks.
    excluded       TEXT NOT NULL DEFAULT '',
    -- Worker that lost it last: gets it again only when there is no other.
    avoid          TEXT,
    -- The only worker that may get it (canaries).
    pinned         TEXT,
    queued_ms      INTEGER NOT NULL,
    finished_ms    INTEGER NOT NULL DEFAULT 0,
    reason         TEXT NOT NULL DEFAULT '',
    message        TEXT NOT NULL DEFAULT '',
    CHECK ((kind = 'Job') = (job IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX requests_line ON requests (job, line) WHERE job IS NOT NULL;
CREATE INDEX requests_queue ON requests (job, line) WHERE state = 'Queued';
CREATE INDEX requests_state ON requests (job, state);
CREATE INDEX requests_text ON requests (finished_ms) WHERE kind <> 'Job' AND body IS NOT NULL;
CREATE INDEX requests_job_text ON requests (job) WHERE job IS NOT NULL AND body IS NOT NULL;
CREATE INDEX requests_pinned ON requests (pinned) WHERE pinned IS NOT NULL;

CREATE TABLE leases (
    request    BLOB NOT NULL REFERENCES requests (id),
    attempt    INTEGER NOT NULL,
    peer_id    TEXT NOT NULL REFERENCES members (peer_id),
    granted_ms INTEGER NOT NULL,
    ended_ms   INTEGER,
    outcome    TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (request, attempt)
) STRICT, WITHOUT ROWID;
-- A request is at one worker at a time.
CREATE UNIQUE INDEX leases_open ON leases (request) WHERE ended_ms IS NULL;

-- Append-only: what a worker stated, what the gateway countersigned, and when. Never any text.
CREATE TABLE receipts (
    hash             BLOB PRIMARY KEY CHECK (length(hash) = 32),
    request          BLOB NOT NULL,
    attempt          INTEGER NOT NULL,
    address          TEXT NOT NULL REFERENCES members (address),
    model            TEXT NOT NULL,
    prompt_tokens    INTEGER NOT NULL CHECK (prompt_tokens >= 0),
    output_tokens    INTEGER NOT NULL CHECK (output_tokens >= 0),
    -- Of the output tokens, those that an earlier worker made: read, not made, by this one.
    prefix_tokens    INTEGER NOT NULL CHECK (prefix_tokens BETWEEN 0 AND output_tokens),
    cost_per_token   INTEGER NOT NULL CHECK (cost_per_token >= 0),
    epoch            INTEGER NOT NULL,
    accepted_ms      INTEGER NOT NULL,
    -- The worker was registered and proven when it answered; else this was unpaid probation work.
    payable          INTEGER NOT NULL CHECK (payable IN (0, 1)),
    standing         TEXT NOT NULL CHECK (standing IN ('Accepted', 'Superseded')),
    kernel_profile   TEXT NOT NULL,
    encoded          BLOB NOT NULL,
    countersignature BLOB NOT NULL,
    FOREIGN KEY (request, attempt) REFERENCES leases (request, attempt)
) STRICT;
CREATE INDEX receipts_node ON receipts (address, epoch);
CREATE INDEX receipts_epoch ON receipts (epoch);
CREATE INDEX receipts_request ON receipts (request);
CREATE TRIGGER receipts_are_never_changed BEFORE UPDATE ON receipts
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;
CREATE TRIGGER receipts_are_never_deleted BEFORE DELETE ON receipts
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;

-- The one receipt that answers a request. Its key is what makes paying or answering twice impossible.
CREATE TABLE wins (
    request BLOB PRIMARY KEY REFERENCES requests (id),
    receipt BLOB NOT NULL UNIQUE REFERENCES receipts (hash)
) STRICT, WITHOUT ROWID;

-- Accepted receipts that lost their worth later: a failed audit, or unaudited work of a node that was convicted.
CREATE TABLE rejections (
    receipt BLOB PRIMARY KEY REFERENCES receipts (hash),
    reason  TEXT NOT NULL,
    message TEXT NOT NULL,
    at_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The text of answers, kept until retention ends.
CREATE TABLE answers (
    receipt       BLOB PRIMARY KEY REFERENCES receipts (hash),
    request       BLOB NOT NULL REFERENCES requests (id),
    finish_reason TEXT NOT NULL,
    text          TEXT NOT NULL,
    -- Token ids, four little-endian bytes each: all, and the first of them that an earlier worker had made.
    output        BLOB NOT NULL,
    prefix        BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_request ON answers (request);

CREATE TABLE audits (
    receipt     BLOB PRIMARY KEY REFERENCES receipts (hash),
    request     BLOB NOT NULL REFERENCES requests (id),
    address     TEXT NOT NULL REFERENCES members (address),
    epoch       INTEGER NOT NULL,
    state       TEXT NOT NULL DEFAULT 'Owed' CHECK (state IN ('Owed', 'Passed', 'Failed', 'Inconclusive')),
    tries       INTEGER NOT NULL DEFAULT 0,
    deadline_ms INTEGER NOT NULL,
    verifier    TEXT NOT NULL DEFAULT '',
    decided_ms  INTEGER NOT NULL DEFAULT 0,
    -- For Inconclusive: whose fault, CamelCase. What lies with the worker (Undecidable) is not paid.
    reason      TEXT NOT NULL DEFAULT '',
    message     TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE INDEX audits_owed ON audits (deadline_ms) WHERE state = 'Owed';
CREATE INDEX audits_request ON audits (request);

CREATE TABLE evidence (
    address        TEXT PRIMARY KEY REFERENCES members (address),
    -- Natural logarithm of the e-value (verify::evidence).
    log_e          REAL NOT NULL DEFAULT 0,
    passed         INTEGER NOT NULL DEFAULT 0,
    failed         INTEGER NOT NULL DEFAULT 0,
    inconclusive   INTEGER NOT NULL DEFAULT 0,
    quarantined_ms INTEGER NOT NULL DEFAULT 0,
    message        TEXT NOT NULL DEFAULT ''
) STRICT;

-- Append-only: written when a challenge is over, so that a gateway that dies in the middle blames nobody.
CREATE TABLE challenges (
    id          BLOB PRIMARY KEY CHECK (length(id) = 16),
    address     TEXT NOT NULL REFERENCES members (address),
    epoch       INTEGER NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('Gemm', 'Storage')),
    model       TEXT NOT NULL DEFAULT '',
    issued_ms   INTEGER NOT NULL,
    answered_ms INTEGER NOT NULL,
    outcome     TEXT NOT NULL CHECK (outcome IN ('Passed', 'Failed', 'Unanswered')),
    -- Gemm: multiply-adds per millisecond. Storage: bytes of the blob.
    units       INTEGER NOT NULL CHECK (units >= 0),
    message     TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX challenges_node ON challenges (address, kind, model, issued_ms);
CREATE INDEX challenges_epoch ON challenges (epoch, kind);

CREATE TABLE epoch_secrets (
    epoch  INTEGER PRIMARY KEY,
    secret BLOB NOT NULL CHECK (length(secret) = 32)
) STRICT;

-- Append-only: which epoch counted a receipt. Its key is what makes counting twice impossible.
CREATE TABLE settlements (
    receipt BLOB PRIMARY KEY REFERENCES receipts (hash),
    epoch   INTEGER NOT NULL REFERENCES epochs (epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX settlements_epoch ON settlements (epoch);

CREATE TABLE epochs (
    epoch     INTEGER PRIMARY KEY,
    totals    BLOB NOT NULL,
    hash      BLOB NOT NULL CHECK (length(hash) = 32),
    closed_ms INTEGER NOT NULL
) STRICT;
CREATE TRIGGER epochs_are_never_changed BEFORE UPDATE ON epochs
BEGIN SELECT RAISE(ABORT, 'epochs are append-only'); END;
CREATE TRIGGER epochs_are_never_deleted BEFORE DELETE ON epochs
BEGIN SELECT RAISE(ABORT, 'epochs are append-only'); END;

-- The last change of each object, under a revision that only grows: a reader that was away misses nothing.
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    UNIQUE (kind, key)
) STRICT;
