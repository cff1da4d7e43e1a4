//! Reads a published statement and verifies every receipt of it. Pure: it is given lines.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::{BufRead, Read},
};

use alloy::primitives::B256;
use prost::Message;

use super::difference::{Differences, What};
use crate::{
    api::ids::{EpochNumber, EscrowId, NodeAddress},
    protocol::{
        internal::{EpochTotals, NodeTotals},
        names::NetworkId,
        receipt::{Acceptance, Receipt, signer_of},
        statement::{CountedReceipt, MAX_LINE, MAX_RECEIPTS, MAX_TOTALS, ReceiptsHash},
        wire,
    },
    reward::{ComputeUnits, TokenCost},
};

/// What the verified receipts of one node add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    pub requests: u64,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    pub units: ComputeUnits,
}

/// A statement, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub totals: EpochTotals,
    /// BLAKE3 of the first line.
    pub digest: B256,
    pub served: BTreeMap<NodeAddress, Served>,
    /// Units by node of what is counted for an escrow, from the receipts.
    pub paid: BTreeMap<EscrowId, BTreeMap<NodeAddress, ComputeUnits>>,
    pub receipts: u64,
    /// Receipts by who countersigned them.
    pub gateways: BTreeMap<NodeAddress, u64>,
    pub differences: Differences,
}

/// Why a statement cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    #[error("the statement cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("line {line} of the statement cannot be read: {message}")]
    Line { line: u64, message: String },
    #[error("this is the statement of epoch {found}, not of epoch {expected}")]
    OtherEpoch { expected: EpochNumber, found: EpochNumber },
    #[error("the statement has more than {MAX_RECEIPTS} receipts")]
    TooMany,
    #[error("the statements have more than {MAX_SEEN} receipts together: audit fewer epochs at once")]
    TooManyTogether,
}

/// The most receipts of all statements of one run: each is remembered with 32 bytes.
const MAX_SEEN: usize = 20_000_000;

/// Receipts that earlier statements of the run counted: no epoch may count them again.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    receipts: HashSet<B256>,
}

impl Seen {
    /// How many receipts.
    pub fn len(&self) -> usize {
        self.receipts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.receipts.is_empty()
    }
}

/// Reads uncompressed lines. `gateways` may countersign; none given: anybody. `progress` is told the number of receipts read.
pub fn read(
    mut lines: impl BufRead,
    epoch: EpochNumber,
    network: &NetworkId,
    gateways: &[NodeAddress],
    seen: &mut Seen,
    mut progress: impl FnMut(u64),
) -> Result<Statement, StatementError> {
    let mut line = Vec::new();
    next_line(&mut lines, &mut line, MAX_TOTALS, 1)?;
    let mut reading = Reading::begin(&line, epoch, network, gateways, seen)?;
    while next_line(&mut lines, &mut line, MAX_LINE, reading.statement.receipts + 2)? {
        if reading.statement.receipts >= MAX_RECEIPTS {
            return Err(StatementError::TooMany);
        }
        reading.take(&line)?;
        progress(reading.statement.receipts);
    }
    Ok(reading.finish())
}

/// The next line without its end; false at the end.
fn next_line(lines: &mut impl BufRead, line: &mut Vec<u8>, limit: usize, number: u64) -> Result<bool, StatementError> {
    line.clear();
    let read = Read::by_ref(lines).take(limit as u64 + 1).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read > limit {
        return Err(StatementError::Line { line: number, message: format!("it is longer than {limit} bytes") });
    }
    Ok(read > 0)
}

struct Reading<'a> {
    network: &'a NetworkId,
    gateways: &'a [NodeAddress],
    seen: &'a mut Seen,
    /// Nodes whose work may be paid.
    eligible: BTreeSet<NodeAddress>,
    hash: ReceiptsHash,
    last: Option<B256>,
    statement: Statement,
}

impl<'a> Reading<'a> {
    fn begin(
        line: &[u8],
        epoch: EpochNumber,
        network: &'a NetworkId,
        gateways: &'a [NodeAddress],
        seen: &'a mut Seen,
    ) -> Result<Self, StatementError> {
        let totals: EpochTotals = parse(line, 1)?;
        if totals.epoch != epoch {
            return Err(StatementError::OtherEpoch { expected: epoch, found: totals.epoch });
        }
        let eligible = totals.nodes.iter().filter(|node| node.eligible).map(|node| node.address).collect();
        let statement = Statement {
            digest: B256::from(*blake3::hash(line).as_bytes()),
            totals,
            served: BTreeMap::new(),
            paid: BTreeMap::new(),
            receipts: 0,
            gateways: BTreeMap::new(),
            differences: Differences::default(),
        };
        Ok(Reading { network, gateways, seen, eligible, hash: ReceiptsHash::default(), last: None, statement })
    }

    fn take(&mut self, line: &[u8]) -> Result<(), StatementError> {
        let number = self.statement.receipts + 2;
        let counted: CountedReceipt = parse(line, number)?;
        self.statement.receipts += 1;
        if self.seen.receipts.len() >= MAX_SEEN {
            return Err(StatementError::TooManyTogether);
        }
        let wire = wire::Receipt::decode(counted.receipt.as_slice())
            .map_err(|error| StatementError::Line { line: number, message: error.to_string() })?;
        let receipt = Receipt::from_wire(&wire).ok_or_else(|| StatementError::Line {
            line: number,
            message: "the receipt has a field of the wrong length".into(),
        })?;
        let content = receipt.content_hash();
        self.hash.add(
            &content.0,
            counted.epoch,
            counted.prefix_tokens,
            counted.cost_per_token,
            counted.escrow.as_ref(),
        );
        match self.verified(&counted, &receipt, &wire.signature, content) {
            Ok(node) => self.count(node, &counted, &receipt),
            Err((expected, found)) => self.statement.differences.add(What::Receipt, content, expected, found),
        }
        self.last = self.last.max(Some(content));
        Ok(())
    }

    /// Who served it, or what is wrong with it.
    fn verified(
        &mut self,
        counted: &CountedReceipt,
        receipt: &Receipt,
        signature: &[u8],
        content: B256,
    ) -> Result<NodeAddress, (String, String)> {
        if self.last.is_some_and(|last| last >= content) {
            return Err(("each receipt once, by ascending hash".into(), "it is listed again or out of order".into()));
        }
        let epoch = self.statement.totals.epoch;
        if counted.epoch > epoch.0 {
            return Err((
                format!("accepted in epoch {epoch} or before"),
                format!("accepted in epoch {}", counted.epoch),
            ));
        }
        if counted.prefix_tokens > receipt.outputTokens {
            let found = format!("{} of them made by an earlier worker", counted.prefix_tokens);
            return Err((format!("at most its {} output tokens", receipt.outputTokens), found));
        }
        let node = signer_of(receipt, self.network, signature).filter(|node| self.eligible.contains(node));
        let node = node.ok_or_else(|| {
            let signer = signer_of(receipt, self.network, signature);
            let found = signer.map_or_else(|| "no signature".to_owned(), |signer| format!("signed by {signer}"));
            ("signed by an eligible node of the totals".to_owned(), found)
        })?;
        let acceptance = Acceptance { receipt: content, epoch: counted.epoch };
        let gateway = signer_of(&acceptance, self.network, &counted.countersignature);
        let gateway = gateway.ok_or(("countersigned by a gateway".to_owned(), "no signature".to_owned()))?;
        if !self.gateways.is_empty() && !self.gateways.contains(&gateway) {
            return Err((
                "countersigned by a gateway that --gateway names".into(),
                format!("countersigned by {gateway}"),
            ));
        }
        if !self.seen.receipts.insert(content) {
            return Err(("counted in one epoch".to_owned(), "counted in an epoch before this one, too".to_owned()));
        }
        *self.statement.gateways.entry(gateway).or_default() += 1;
        Ok(node)
    }

    fn count(&mut self, node: NodeAddress, counted: &CountedReceipt, receipt: &Receipt) {
        let served = self.statement.served.entry(node).or_default();
        served.requests += 1;
        served.prompt_tokens += u64::from(receipt.promptTokens);
        served.output_tokens += u64::from(receipt.outputTokens);
        let cost = TokenCost(counted.cost_per_token);
        let (prompt, output) = (receipt.promptTokens, receipt.outputTokens);
        let worth = ComputeUnits::of_continuation(cost, prompt, output, counted.prefix_tokens);
        let units = match counted.escrow {
            Some(escrow) => self.statement.paid.entry(escrow).or_default().entry(node).or_default(),
            None => &mut served.units,
        };
        *units = [*units, worth].into_iter().sum();
    }

    fn finish(self) -> Statement {
        let mut statement = self.statement;
        let differences = &mut statement.differences;
        // Totals of versions that published nothing name no receipts.
        if !statement.totals.receipts_hash.is_empty() {
            differences.compare(What::Receipts, "count", statement.totals.receipts, statement.receipts);
            differences.compare(What::Receipts, "hash", statement.totals.receipts_hash.clone(), self.hash.finish());
        }
        compare_jobs(&statement.totals, &statement.paid, differences);
        for node in &statement.totals.nodes {
            compare(node, statement.served.get(&node.address).copied().unwrap_or_default(), differences);
        }
        statement
    }
}

fn compare(node: &NodeTotals, served: Served, differences: &mut Differences) {
    let mut field = |name: &str, expected: String, found: String| {
        differences.compare(What::NodeTotals, format_args!("{} {name}", node.address), expected, found);
    };
    field("requests", served.requests.to_string(), node.requests.to_string());
    field("promptTokens", served.prompt_tokens.to_string(), node.prompt_tokens.to_string());
    field("outputTokens", served.output_tokens.to_string(), node.output_tokens.to_string());
    field("units", served.units.to_string(), node.units.clone());
}

/// What the totals say that was done for each paid job, against its receipts.
fn compare_jobs(
    totals: &EpochTotals,
    paid: &BTreeMap<EscrowId, BTreeMap<NodeAddress, ComputeUnits>>,
    differences: &mut Differences,
) {
    let listed = totals
        .jobs
        .iter()
        .flat_map(|job| job.served.iter().map(|served| ((job.escrow, served.address), served.units.clone())));
    let listed: BTreeMap<(EscrowId, NodeAddress), String> = listed.collect();
    let served =
        paid.iter().flat_map(|(escrow, nodes)| nodes.iter().map(|(node, units)| ((*escrow, *node), units.to_string())));
    let served: BTreeMap<(EscrowId, NodeAddress), String> = served.collect();
    let keys: BTreeSet<_> = listed.keys().chain(served.keys()).collect();
    let of =
        |sums: &BTreeMap<(EscrowId, NodeAddress), String>, key| sums.get(key).cloned().unwrap_or_else(|| "0".into());
    for key in keys {
        let (escrow, node) = key;
        let what = format_args!("{node} units of escrow {escrow}");
        differences.compare(What::NodeTotals, what, of(&served, key), of(&listed, key));
    }
    if totals.jobs.windows(2).any(|pair| matches!(pair, [a, b] if a.escrow >= b.escrow)) {
        differences.add(What::Statement, "", "each paid job once, by ascending escrow", "a job that is listed again");
    }
}

fn parse<T: serde::de::DeserializeOwned>(line: &[u8], number: u64) -> Result<T, StatementError> {
    serde_json::from_slice(line).map_err(|error| StatementError::Line { line: number, message: error.to_string() })
}
