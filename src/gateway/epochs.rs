//! Closing an epoch: when it may be, what it amounts to, and that it amounts to the same ever after.

use std::collections::BTreeMap;

use super::{Gateway, GatewayError, receipts::millis, standing::NodeStanding};
use crate::{
    api::ids::{EpochNumber, EscrowId, NodeAddress},
    protocol::{
        internal::{EpochTotals, NodeTotals, PaidJobTotals, ServedUnits, SettledPayment},
        statement::ReceiptsHash,
    },
    reward::units::{ComputeUnits, TokenCost},
    store::{AuditState, ChallengeKind, ChallengeTally, MemberRecord, PayableReceipt, Payer},
};

/// What is known of a node when an epoch closes.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    pub record: MemberRecord,
    pub standing: NodeStanding,
}

/// Totals, the receipts that they count, and the escrows that some of those are paid from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    pub totals: EpochTotals,
    pub counted: Vec<[u8; 32]>,
    pub paid: Vec<EscrowId>,
}

impl Gateway {
    /// Closes an epoch and returns its totals as JSON, the same bytes every time.
    pub async fn close_epoch(&self, epoch: EpochNumber) -> Result<Vec<u8>, GatewayError> {
        if let Some(closed) = self.ledger.closed_epoch(epoch.0).await? {
            return Ok(closed.totals);
        }
        self.check_closable(epoch).await?;
        let receipts = self.ledger.payable_receipts(epoch.0).await?;
        let tallies = self.ledger.challenge_tallies(epoch.0).await?;
        let secret = self.ledger.epoch_secret(epoch.0, rand::random()).await?;
        let closing = close(epoch, &self.node_facts().await?, &receipts, &tallies, &secret);
        let totals = serde_json::to_vec(&closing.totals)
            .map_err(|error| GatewayError::Io { what: "writing the totals", source: error.into() })?;
        let stored =
            self.ledger.close_epoch(epoch.0, &totals, &closing.counted, &closing.paid, self.clock.now_ms()).await?;
        tracing::info!(%epoch, nodes = closing.totals.nodes.len(), receipts = closing.counted.len(), "epoch closed");
        Ok(stored.totals)
    }

    async fn check_closable(&self, epoch: EpochNumber) -> Result<(), GatewayError> {
        let too_early = |reason, message| Err(GatewayError::TooEarly { reason, message });
        let Some(network) = self.network_config() else {
            return too_early("NetworkUnknown", "the gateway was not told its network yet".into());
        };
        let end = network.genesis.saturating_add(epoch.0.saturating_add(1).saturating_mul(network.epoch_seconds));
        let closable_ms = end.saturating_mul(1000).saturating_add(millis(self.settings.epoch_grace));
        let now_ms = self.clock.now_ms();
        if now_ms < closable_ms {
            let seconds = (closable_ms - now_ms).div_ceil(1000);
            return too_early("EpochNotOver", format!("epoch {epoch} can be closed in {seconds} s"));
        }
        match self.ledger.owed_until(epoch.0).await? {
            0 => Ok(()),
            owed => too_early("AuditsOwed", format!("{owed} audits of epoch {epoch} or before are not decided yet")),
        }
    }

    async fn node_facts(&self) -> Result<Vec<NodeFacts>, GatewayError> {
        let mut facts = Vec::new();
        for record in self.ledger.members_ever().await? {
            let peer = &record.member.peer_id;
            // Whoever has left is judged by what it did: its last work is owed to it like any other.
            let standing = match self.members.get(peer) {
                Some(_) => self.standings.get(peer),
                None => self.read_standing(&record).await?,
            };
            facts.push(NodeFacts { record, standing });
        }
        Ok(facts)
    }
}

/// The totals of an epoch. Pure: rows in, totals out.
///
/// A receipt counts when its node is eligible and its audit, if one was owed, did not fail. One whose audit was inconclusive
/// counts while nothing speaks against its node: a verifier's fault is not the node's. An answer that nobody can judge
/// because of the kernel profile that its node claims does not count: a made-up profile would be a way out. Every other receipt stays uncounted
/// and is looked at again when the next epoch closes: it moves on, it does not vanish.
///
/// What a user pays for is counted once, in the first epoch that closes after its escrow was settled: before that nobody knows
/// how much it earns. Its units are the paid job's and not those of unpaid work.
pub fn close(
    epoch: EpochNumber,
    nodes: &[NodeFacts],
    receipts: &[PayableReceipt],
    tallies: &[ChallengeTally],
    secret: &[u8; 32],
) -> Closing {
    let mut rows: BTreeMap<NodeAddress, (NodeTotals, ComputeUnits)> = BTreeMap::new();
    let mut counted: Vec<&PayableReceipt> = Vec::new();
    let mut jobs = PaidJobs::default();
    let mut work = by_address(receipts, |receipt| receipt.address);
    let mut proofs = by_address(tallies, |tally| tally.address);
    for facts in nodes {
        let work = work.remove(&facts.record.address).unwrap_or_default();
        let proofs = proofs.remove(&facts.record.address).unwrap_or_default();
        let mut totals = empty(facts);
        let mut units = ComputeUnits::default();
        for receipt in work.into_iter().filter(|receipt| totals.eligible && counts(receipt, &facts.standing)) {
            totals.requests += 1;
            totals.prompt_tokens += u64::from(receipt.prompt_tokens);
            totals.output_tokens += u64::from(receipt.output_tokens);
            match receipt.payer {
                Payer::Settled { escrow, settled } => jobs.add(escrow, settled, receipt.address, worth(receipt)),
                Payer::Nobody | Payer::Unsettled => units = [units, worth(receipt)].into_iter().sum(),
            }
            counted.push(receipt);
        }
        totals.capacity_units = capacity(&proofs);
        totals.proven_bytes = proven(&proofs);
        // Who neither worked nor proved anything has nothing to be told.
        if totals.requests > 0 || !proofs.is_empty() {
            rows.insert(facts.record.address, (totals, units));
        }
    }
    counted.sort_unstable_by_key(|receipt| receipt.hash);
    let mut hash = ReceiptsHash::default();
    for receipt in &counted {
        let escrow = match &receipt.payer {
            Payer::Settled { escrow, .. } => Some(escrow),
            Payer::Nobody | Payer::Unsettled => None,
        };
        hash.add(&receipt.hash, receipt.epoch, receipt.prefix_tokens, receipt.cost_per_token, escrow);
    }
    let totals = EpochTotals {
        epoch,
        nodes: rows.into_values().map(|(totals, units)| NodeTotals { units: units.to_string(), ..totals }).collect(),
        audit_secret: hex::encode(secret),
        jobs: jobs.totals(),
        receipts: counted.len() as u64,
        receipts_hash: hash.finish(),
    };
    let paid = totals.jobs.iter().map(|job| job.escrow).collect();
    Closing { totals, counted: counted.into_iter().map(|receipt| receipt.hash).collect(), paid }
}

/// Paid jobs of an epoch by escrow, with what each node did for them.
#[derive(Default)]
struct PaidJobs(BTreeMap<EscrowId, (SettledPayment, BTreeMap<NodeAddress, ComputeUnits>)>);

impl PaidJobs {
    fn add(&mut self, escrow: EscrowId, settled: SettledPayment, node: NodeAddress, worth: ComputeUnits) {
        let (_, served) = self.0.entry(escrow).or_insert_with(|| (settled, BTreeMap::new()));
        let sum = served.entry(node).or_default();
        *sum = [*sum, worth].into_iter().sum();
    }

    fn totals(self) -> Vec<PaidJobTotals> {
        let job = |(escrow, (settled, served)): (EscrowId, (SettledPayment, BTreeMap<NodeAddress, ComputeUnits>))| {
            let units =
                |(address, units): (NodeAddress, ComputeUnits)| ServedUnits { address, units: units.to_string() };
            let SettledPayment { spent, fee_bps } = settled;
            PaidJobTotals { escrow, spent, fee_bps, served: served.into_iter().map(units).collect() }
        };
        self.0.into_iter().map(job).collect()
    }
}

fn by_address<T>(rows: &[T], address: impl Fn(&T) -> NodeAddress) -> BTreeMap<NodeAddress, Vec<&T>> {
    let mut by_address: BTreeMap<NodeAddress, Vec<&T>> = BTreeMap::new();
    for row in rows {
        by_address.entry(address(row)).or_default().push(row);
    }
    by_address
}

fn worth(receipt: &PayableReceipt) -> ComputeUnits {
    let (prompt, output) = (receipt.prompt_tokens, receipt.output_tokens);
    ComputeUnits::of_continuation(TokenCost(receipt.cost_per_token), prompt, output, receipt.prefix_tokens)
}

fn empty(facts: &NodeFacts) -> NodeTotals {
    let reason = ineligible(facts).unwrap_or_default();
    NodeTotals {
        address: facts.record.address,
        node_name: facts.record.member.node_name.clone(),
        requests: 0,
        prompt_tokens: 0,
        output_tokens: 0,
        units: String::new(),
        capacity_units: 0,
        proven_bytes: 0,
        eligible: reason.is_empty(),
        reason: reason.to_owned(),
    }
}

/// Why a node earns nothing in this epoch.
fn ineligible(facts: &NodeFacts) -> Option<&'static str> {
    if facts.standing.quarantined() {
        Some("Quarantined")
    } else if !facts.record.member.registered {
        Some("NotRegistered")
    } else if !facts.standing.capability.verified {
        Some("CapabilityNotVerified")
    } else {
        None
    }
}

fn counts(receipt: &PayableReceipt, standing: &NodeStanding) -> bool {
    if receipt.payer == Payer::Unsettled {
        return false;
    }
    match receipt.audit {
        None | Some(AuditState::Passed) => true,
        Some(AuditState::Inconclusive) => standing.is_good() && !receipt.undecidable,
        Some(AuditState::Owed | AuditState::Failed) => false,
    }
}

/// Least proven rate × share of challenges answered. A wrong answer in the epoch makes it nothing.
fn capacity(proofs: &[&ChallengeTally]) -> u64 {
    proofs.iter().filter(|tally| tally.kind == ChallengeKind::Gemm).map(|tally| answered_share(tally)).sum()
}

fn proven(proofs: &[&ChallengeTally]) -> u64 {
    proofs.iter().filter(|tally| tally.kind == ChallengeKind::Storage).map(|tally| answered_share(tally)).sum()
}

fn answered_share(tally: &ChallengeTally) -> u64 {
    if tally.failed > 0 || tally.issued == 0 {
        return 0;
    }
    let share = u128::from(tally.least_units) * u128::from(tally.passed) / u128::from(tally.issued);
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::{
            identity::NodeKey,
            internal::{Capability, Member, NodeMode},
        },
        store::EvidenceRecord,
    };

    fn facts() -> NodeFacts {
        let key = NodeKey::generate();
        let member = Member {
            peer_id: key.peer_id(),
            node_name: "a".into(),
            mode: NodeMode::Managed,
            roles: vec![],
            schedulable: true,
            resting: false,
            max_requests: None,
            registered: true,
            models: vec![],
            labels: Default::default(),
        };
        let capability = Capability { verified: true, ..Capability::default() };
        let standing = NodeStanding { capability, computes: true, ..NodeStanding::default() };
        NodeFacts { record: MemberRecord { member, address: key.address() }, standing }
    }

    fn receipt(node: &NodeFacts, hash: u8, audit: Option<AuditState>) -> PayableReceipt {
        PayableReceipt {
            hash: [hash; 32],
            address: node.record.address,
            epoch: 4,
            prompt_tokens: 10,
            output_tokens: 5,
            prefix_tokens: 0,
            cost_per_token: 2,
            audit,
            undecidable: false,
            payer: Payer::Nobody,
        }
    }

    #[test]
    fn units_are_cost_times_weighted_tokens_of_what_was_not_rejected() {
        let node = facts();
        let rows = [
            receipt(&node, 1, None),
            receipt(&node, 2, Some(AuditState::Passed)),
            receipt(&node, 3, Some(AuditState::Failed)),
        ];
        let continued = [PayableReceipt { prefix_tokens: 4, ..rows[0].clone() }];
        let units =
            close(EpochNumber(4), std::slice::from_ref(&node), &continued, &[], &[0; 32]).totals.nodes[0].units.clone();
        assert_eq!(units, "44", "2 · (8 · 1 made + 14 read)");
        let closing = close(EpochNumber(4), &[node], &rows, &[], &[7; 32]);
        let totals = &closing.totals.nodes[0];
        assert_eq!((totals.requests, totals.output_tokens, totals.units.as_str()), (2, 10, "200"));
        assert_eq!(closing.counted, [[1; 32], [2; 32]]);
        assert_eq!((closing.totals.receipts, closing.totals.receipts_hash.len()), (2, 64));
        assert_eq!(closing.totals.audit_secret, hex::encode([7; 32]));
    }

    #[test]
    fn an_inconclusive_audit_counts_only_while_nothing_speaks_against_the_node() {
        let good = facts();
        let rows = [receipt(&good, 1, Some(AuditState::Inconclusive))];
        assert_eq!(close(EpochNumber(4), std::slice::from_ref(&good), &rows, &[], &[0; 32]).counted.len(), 1);
        let undecidable = [PayableReceipt { undecidable: true, ..rows[0].clone() }];
        assert_eq!(close(EpochNumber(4), std::slice::from_ref(&good), &undecidable, &[], &[0; 32]).counted.len(), 0);
        let mut suspect = good;
        suspect.standing.evidence = EvidenceRecord { log_e: 3.0, ..EvidenceRecord::default() };
        assert_eq!(close(EpochNumber(4), &[suspect], &rows, &[], &[0; 32]).counted.len(), 0);
    }

    #[test]
    fn a_quarantined_or_unregistered_node_earns_nothing_and_its_work_is_not_used_up() {
        let mut node = facts();
        node.standing.evidence.quarantined_ms = 1;
        let rows = [receipt(&node, 1, None)];
        let tally = ChallengeTally {
            address: node.record.address,
            kind: ChallengeKind::Gemm,
            issued: 2,
            passed: 1,
            failed: 0,
            least_units: 9,
        };
        let closing = close(EpochNumber(4), std::slice::from_ref(&node), &rows, std::slice::from_ref(&tally), &[0; 32]);
        let totals = &closing.totals.nodes[0];
        assert_eq!((totals.eligible, totals.reason.as_str(), totals.units.as_str()), (false, "Quarantined", "0"));
        assert_eq!((totals.requests, totals.capacity_units), (0, 4));
        assert!(closing.counted.is_empty());
        node.standing.evidence.quarantined_ms = 0;
        node.record.member.registered = false;
        assert_eq!(close(EpochNumber(4), &[node], &rows, &[tally], &[0; 32]).totals.nodes[0].reason, "NotRegistered");
    }

    #[test]
    fn what_a_user_paid_for_is_counted_for_its_escrow_and_not_before_that_is_settled() {
        let (a, b) = (facts(), facts());
        let settled = SettledPayment { spent: crate::api::ids::Wei(70), fee_bps: 500 };
        let payer = Payer::Settled { escrow: EscrowId([8; 32]), settled };
        let rows = [
            receipt(&a, 1, None),
            PayableReceipt { payer, ..receipt(&a, 2, None) },
            PayableReceipt { payer, ..receipt(&b, 3, None) },
            PayableReceipt { payer, ..receipt(&b, 4, Some(AuditState::Failed)) },
            PayableReceipt { payer: Payer::Unsettled, ..receipt(&b, 5, None) },
        ];
        let closing = close(EpochNumber(4), &[a.clone(), b.clone()], &rows, &[], &[0; 32]);
        assert_eq!(closing.counted, [[1; 32], [2; 32], [3; 32]]);
        assert_eq!(closing.paid, [EscrowId([8; 32])]);
        let [job] = closing.totals.jobs.as_slice() else { panic!("{:?}", closing.totals.jobs) };
        assert_eq!((job.spent, job.fee_bps), (settled.spent, 500));
        assert!(job.served.iter().all(|served| served.units == "100") && job.served.len() == 2);
        let of = |facts: &NodeFacts| {
            let node = closing.totals.nodes.iter().find(|node| node.address == facts.record.address).unwrap();
            (node.requests, node.units.clone())
        };
        assert_eq!((of(&a), of(&b)), ((2, "100".into()), (1, "0".into())));
    }

    #[test]
    fn the_order_of_rows_does_not_matter() {
        let (a, b) = (facts(), facts());
        let rows = [receipt(&a, 1, None), receipt(&b, 2, None), receipt(&a, 3, None)];
        let mut reversed = rows.clone();
        reversed.reverse();
        let one = close(EpochNumber(4), &[a.clone(), b.clone()], &rows, &[], &[0; 32]);
        assert_eq!(one, close(EpochNumber(4), &[b, a], &reversed, &[], &[0; 32]));
    }

    #[test]
    fn one_wrong_proof_voids_the_epochs_proofs() {
        let node = facts();
        let tally = |kind, failed| ChallengeTally {
            address: node.record.address,
            kind,
            issued: 4,
            passed: 3,
            failed,
            least_units: 100,
        };
        let tallies = [tally(ChallengeKind::Gemm, 0), tally(ChallengeKind::Storage, 1)];
        let totals = close(EpochNumber(0), std::slice::from_ref(&node), &[], &tallies, &[0; 32]).totals;
        assert_eq!((totals.nodes[0].capacity_units, totals.nodes[0].proven_bytes), (75, 0));
    }
}
