//! The ledger's invariants, each a query that finds whatever breaks it.

use sqlx::Row;

use super::{Ledger, LedgerError, columns::Columns};
use crate::protocol::{
    internal::EpochTotals,
    receipt::{Receipt, signer_of},
    wire,
};

/// Name of the invariant, and a query for the keys of the rows that break it.
const INVARIANTS: [(&str, &str); 15] = [
    (
        "a request is done exactly when a receipt answers it",
        "SELECT hex(id) AS key FROM requests WHERE (state = 'Done') <> EXISTS (SELECT 1 FROM wins WHERE request = id)",
    ),
    (
        "a leased request has the open lease of its attempt",
        "SELECT hex(id) AS key FROM requests WHERE state = 'Leased' AND NOT EXISTS
         (SELECT 1 FROM leases WHERE request = id AND leases.attempt = requests.attempt AND ended_ms IS NULL)",
    ),
    (
        "only a leased request has an open lease",
        "SELECT hex(request) AS key FROM leases JOIN requests ON id = request
         WHERE ended_ms IS NULL AND (state <> 'Leased' OR leases.attempt <> requests.attempt)",
    ),
    (
        "a lease does not end before it begins",
        "SELECT hex(request) AS key FROM leases WHERE ended_ms < granted_ms",
    ),
    (
        "what answers a request is an accepted receipt for that request",
        "SELECT hex(w.request) AS key FROM wins w JOIN receipts c ON c.hash = w.receipt
         WHERE c.standing <> 'Accepted' OR c.request <> w.request",
    ),
    (
        "an accepted receipt answers its request or was rejected",
        "SELECT hex(hash) AS key FROM receipts WHERE standing = 'Accepted'
         AND NOT EXISTS (SELECT 1 FROM wins WHERE receipt = hash)
         AND NOT EXISTS (SELECT 1 FROM rejections WHERE receipt = hash)",
    ),
    (
        "an open job does not keep a rejected answer",
        "SELECT hex(x.receipt) AS key FROM rejections x JOIN wins w ON w.receipt = x.receipt
         JOIN requests r ON r.id = w.request JOIN jobs j ON j.uid = r.job WHERE j.finished_ms = 0 AND j.deleted = 0",
    ),
    (
        "the receipt of a failed audit is rejected",
        "SELECT hex(receipt) AS key FROM audits a WHERE state = 'Failed'
         AND NOT EXISTS (SELECT 1 FROM rejections x WHERE x.receipt = a.receipt)",
    ),
    (
        "an owed audit has its answer and its prompt",
        "SELECT hex(a.receipt) AS key FROM audits a JOIN requests r ON r.id = a.request WHERE a.state = 'Owed'
         AND (r.body IS NULL OR NOT EXISTS (SELECT 1 FROM answers n WHERE n.receipt = a.receipt))",
    ),
    (
        "only payable, accepted receipts are counted",
        "SELECT hex(s.receipt) AS key FROM settlements s JOIN receipts c ON c.hash = s.receipt
         WHERE c.payable = 0 OR c.standing <> 'Accepted' OR c.epoch > s.epoch",
    ),
    (
        "a counted receipt was not rejected before",
        "SELECT hex(s.receipt) AS key FROM settlements s JOIN rejections x ON x.receipt = s.receipt
         JOIN epochs e ON e.epoch = s.epoch WHERE x.at_ms <= e.closed_ms",
    ),
    (
        "a paid job is charged for the answers of payable workers that were not rejected",
        "SELECT p.job AS key FROM payments p WHERE p.prompt_tokens <> (
             SELECT COALESCE(SUM(c.prompt_tokens), 0) FROM requests r JOIN receipts c ON c.request = r.id
             WHERE r.job = p.job AND c.payable = 1 AND c.standing = 'Accepted'
             AND NOT EXISTS (SELECT 1 FROM rejections x WHERE x.receipt = c.hash))",
    ),
    (
        "a paid job is counted once its escrow is settled",
        "SELECT job AS key FROM payments WHERE epoch IS NOT NULL AND settled IS NULL",
    ),
    (
        "a finished job has nothing queued, leased or owed",
        "SELECT uid AS key FROM jobs WHERE finished_ms > 0 AND (
            EXISTS (SELECT 1 FROM requests r WHERE r.job = uid AND r.state IN ('Queued', 'Leased'))
            OR EXISTS (SELECT 1 FROM requests r JOIN audits a ON a.request = r.id WHERE r.job = uid AND a.state = 'Owed'))",
    ),
    (
        "a job that is not deleted keeps its answers",
        "SELECT hex(w.request) AS key FROM wins w JOIN requests r ON r.id = w.request JOIN jobs j ON j.uid = r.job
         WHERE j.deleted = 0 AND NOT EXISTS (SELECT 1 FROM answers n WHERE n.receipt = w.receipt)",
    ),
];

/// Broken rows that are named per invariant.
const NAMED: usize = 5;

/// Checks everything; returns a line for each finding, none when the ledger is whole.
pub async fn fsck(ledger: &Ledger) -> Result<Vec<String>, LedgerError> {
    let mut findings = database(ledger).await?;
    for (name, query) in INVARIANTS {
        let broken = sqlx::query(query).fetch_all(ledger.readers()).await?;
        if !broken.is_empty() {
            let keys: Vec<String> = broken.iter().take(NAMED).map(|row| row.text("key")).collect::<Result<_, _>>()?;
            findings.push(format!("{} × not so: {name}: {}", broken.len(), keys.join(" ")));
        }
    }
    findings.extend(receipts(ledger).await?);
    findings.extend(epochs(ledger).await?);
    Ok(findings)
}

async fn database(ledger: &Ledger) -> Result<Vec<String>, LedgerError> {
    let mut findings = Vec::new();
    for row in sqlx::query("PRAGMA integrity_check").fetch_all(ledger.readers()).await? {
        let line: String = row.try_get(0)?;
        if line != "ok" {
            findings.push(format!("the database file is damaged: {line}"));
        }
    }
    let dangling = sqlx::query("PRAGMA foreign_key_check").fetch_all(ledger.readers()).await?;
    if !dangling.is_empty() {
        findings.push(format!("{} × a row refers to one that is not there", dangling.len()));
    }
    Ok(findings)
}

/// Every receipt is what its node signed, and says what its columns say.
async fn receipts(ledger: &Ledger) -> Result<Vec<String>, LedgerError> {
    let Some(network) = ledger.network().await? else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    let mut last = vec![0; 32];
    loop {
        let rows = sqlx::query("SELECT * FROM receipts WHERE hash > ? ORDER BY hash LIMIT 500")
            .bind(&last)
            .fetch_all(ledger.readers())
            .await?;
        let Some(end) = rows.last() else { return Ok(findings) };
        last = end.bytes("hash")?;
        for row in &rows {
            let encoded = row.bytes("encoded")?;
            let wire: Option<wire::Receipt> = prost::Message::decode(encoded.as_slice()).ok();
            let receipt = wire.as_ref().and_then(Receipt::from_wire);
            let hash = row.bytes("hash")?;
            let holds = wire.zip(receipt).is_some_and(|(wire, receipt)| {
                receipt.content_hash().as_slice() == hash
                    && signer_of(&receipt, &network.network, &wire.signature)
                        .is_some_and(|signer| row.text("address").is_ok_and(|address| address == signer.to_string()))
                    && row.count("output_tokens").is_ok_and(|tokens| tokens == u64::from(receipt.outputTokens))
                    && row.count("prompt_tokens").is_ok_and(|tokens| tokens == u64::from(receipt.promptTokens))
            });
            if !holds {
                findings.push(format!("receipt {} is not what its node signed", hex::encode(hash)));
            }
        }
    }
}

/// Totals are unchanged and count exactly the receipts that are settled with them.
async fn epochs(ledger: &Ledger) -> Result<Vec<String>, LedgerError> {
    let mut findings = Vec::new();
    let rows = sqlx::query(
        "SELECT e.epoch, e.totals, e.hash, COUNT(s.receipt) AS receipts, COALESCE(SUM(c.output_tokens), 0) AS output
         FROM epochs e LEFT JOIN settlements s ON s.epoch = e.epoch LEFT JOIN receipts c ON c.hash = s.receipt
         GROUP BY e.epoch",
    )
    .fetch_all(ledger.readers())
    .await?;
    for row in &rows {
        let (epoch, bytes) = (row.count("epoch")?, row.bytes("totals")?);
        if blake3::hash(&bytes).as_bytes().as_slice() != row.bytes("hash")? {
            findings.push(format!("the totals of epoch {epoch} do not match their hash"));
        }
        let Ok(totals) = serde_json::from_slice::<EpochTotals>(&bytes) else {
            findings.push(format!("the totals of epoch {epoch} cannot be read"));
            continue;
        };
        let counted: u64 = totals.nodes.iter().map(|node| node.requests).sum();
        let output: u64 = totals.nodes.iter().map(|node| node.output_tokens).sum();
        if (counted, output) != (row.count("receipts")?, row.count("output")?) {
            findings.push(format!("the totals of epoch {epoch} count other receipts than those settled with it"));
        }
    }
    Ok(findings)
}
