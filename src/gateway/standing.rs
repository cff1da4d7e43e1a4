//! What a node has proven and what audits say about it: read from the ledger, kept at hand for the dispatcher.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use super::{Gateway, judges::Judgeable};
use crate::{
    api::ids::GridPeerId,
    protocol::internal::{Capability, Member, NodeMode, NodeRole},
    store::{ChallengeKind, ChallengeOutcome, ChallengeRecord, EvidenceRecord, LedgerError, MemberRecord},
    verify::evidence::{self, Evidence},
};

/// Canaries that an External node must answer rightly before it gets anybody's work.
pub const PROBATION_CANARIES: u64 = 2;

/// Everything that decides whether a node gets work and whether it is paid.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeStanding {
    pub capability: Capability,
    /// Its last compute challenge was answered rightly.
    pub computes: bool,
    pub canaries_passed: u64,
    /// Whether anybody could audit it.
    pub judgeable: Judgeable,
    pub evidence: EvidenceRecord,
}

impl NodeStanding {
    pub fn quarantined(&self) -> bool {
        self.evidence.quarantined_ms != 0
    }

    pub fn evidence(&self) -> Evidence {
        Evidence { log_e: self.evidence.log_e }
    }

    /// Nothing speaks against it: its unaudited work may be paid.
    pub fn is_good(&self) -> bool {
        !self.quarantined() && self.evidence().standing() == evidence::Standing::Good
    }
}

/// Standings by peer id.
#[derive(Debug, Default)]
pub struct Standings {
    known: RwLock<HashMap<GridPeerId, NodeStanding>>,
    /// Held from reading the ledger to keeping what was read: of two readers the one who began first must not have the last word.
    turn: tokio::sync::Mutex<()>,
}

impl Standings {
    pub(super) fn get(&self, peer: &GridPeerId) -> NodeStanding {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(peer).cloned().unwrap_or_default()
    }

    fn put(&self, peer: &GridPeerId, standing: NodeStanding) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(peer.clone(), standing);
    }
}

impl Gateway {
    /// Reads a member's standing from the ledger again.
    pub(super) async fn refresh_standing(&self, peer: &GridPeerId) -> Result<NodeStanding, LedgerError> {
        let Some(record) = self.members.get(peer) else { return Ok(NodeStanding::default()) };
        let _turn = self.standings.turn.lock().await;
        let standing = self.read_standing(&record).await?;
        self.standings.put(peer, standing.clone());
        Ok(standing)
    }

    /// What the ledger says about a node, a member or one that has left.
    pub(super) async fn read_standing(&self, record: &MemberRecord) -> Result<NodeStanding, LedgerError> {
        let challenges = self.ledger.last_challenges(&record.address).await?;
        let evidence = self.ledger.evidence(&record.address).await?;
        let canaries = self.ledger.canaries_passed(&record.member.peer_id).await?;
        let peer = &record.member.peer_id;
        let judgeable = self.judgeable(peer, &self.standings.get(peer).judgeable);
        Ok(judge(&record.member, &challenges, canaries, judgeable, evidence))
    }
}

fn judge(
    member: &Member,
    challenges: &[ChallengeRecord],
    canaries_passed: u64,
    judgeable: Judgeable,
    evidence: EvidenceRecord,
) -> NodeStanding {
    let gemm = challenges.iter().find(|challenge| challenge.kind == ChallengeKind::Gemm);
    let computes = gemm.is_some_and(|last| last.outcome == ChallengeOutcome::Passed);
    let mut message = String::new();
    if let Judgeable::No { profile } = &judgeable {
        let profile: String = profile.chars().take(100).collect();
        message = format!(
            "no node with the role Verify computes with the kernel profile {profile:?} of this one, so that its answers can be \
             neither confirmed nor refuted and are not paid; give the role to a managed node of that profile"
        );
    }
    let on_probation = member.mode == NodeMode::External && canaries_passed < PROBATION_CANARIES;
    let reason = match gemm {
        None => "ComputeChallengePending",
        Some(_) if !computes => "ComputeChallengeFailed",
        Some(_) if !message.is_empty() => "KernelProfileUnshared",
        Some(_) if on_probation => "ProbationPending",
        Some(_) => "",
    };
    let proven = |challenge: &&ChallengeRecord| {
        challenge.kind == ChallengeKind::Storage
            && challenge.outcome == ChallengeOutcome::Passed
            && challenge.model.is_some_and(|model| member.models.contains(&model))
    };
    let stores = member.roles.contains(&NodeRole::Storage);
    let blobs = challenges.iter().filter(proven).count();
    let capability = Capability {
        verified: reason.is_empty(),
        reason: reason.to_owned(),
        message: if reason == "KernelProfileUnshared" { message } else { String::new() },
        gemm_units: gemm.map_or(0, |last| last.units),
        storage_verified: stores && !member.models.is_empty() && blobs == member.models.len(),
        proven_bytes: if stores { challenges.iter().filter(proven).map(|blob| blob.units).sum() } else { 0 },
    };
    NodeStanding { capability, computes, canaries_passed, judgeable, evidence }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        api::ids::{ModelDigest, NodeAddress},
        protocol::identity::NodeKey,
    };

    fn member(mode: NodeMode) -> Member {
        Member {
            peer_id: NodeKey::generate().peer_id(),
            node_name: "a".into(),
            mode,
            roles: vec![NodeRole::Compute, NodeRole::Storage],
            schedulable: true,
            resting: false,
            max_requests: None,
            registered: true,
            models: vec![ModelDigest([1; 32])],
            labels: BTreeMap::new(),
        }
    }

    fn challenge(kind: ChallengeKind, outcome: ChallengeOutcome) -> ChallengeRecord {
        let model = (kind == ChallengeKind::Storage).then_some(ModelDigest([1; 32]));
        let (id, address, message) = ([0; 16], NodeAddress([0; 20]), String::new());
        ChallengeRecord { id, address, epoch: 0, kind, model, issued_ms: 0, answered_ms: 1, outcome, units: 9, message }
    }

    #[test]
    fn a_managed_node_is_proven_by_its_compute_challenge() {
        let passed = [challenge(ChallengeKind::Gemm, ChallengeOutcome::Passed)];
        assert!(
            judge(&member(NodeMode::Managed), &passed, 0, Judgeable::Yes, EvidenceRecord::default())
                .capability
                .verified
        );
        let none = judge(&member(NodeMode::Managed), &[], 0, Judgeable::Yes, EvidenceRecord::default());
        assert_eq!(none.capability.reason, "ComputeChallengePending");
    }

    #[test]
    fn an_external_node_must_answer_its_canaries_too() {
        let passed = [challenge(ChallengeKind::Gemm, ChallengeOutcome::Passed)];
        let fresh = judge(&member(NodeMode::External), &passed, 1, Judgeable::Yes, EvidenceRecord::default());
        assert_eq!((fresh.capability.verified, fresh.capability.reason.as_str()), (false, "ProbationPending"));
        assert!(
            judge(&member(NodeMode::External), &passed, 2, Judgeable::Yes, EvidenceRecord::default())
                .capability
                .verified
        );
    }

    #[test]
    fn a_node_that_nobody_can_audit_is_not_verified_and_told_why() {
        let passed = [challenge(ChallengeKind::Gemm, ChallengeOutcome::Passed)];
        let odd = Judgeable::No { profile: "made-up/9".into() };
        for mode in [NodeMode::Managed, NodeMode::External] {
            let standing = judge(&member(mode), &passed, 5, odd.clone(), EvidenceRecord::default());
            assert_eq!((standing.computes, standing.capability.verified), (true, false));
            assert_eq!(standing.capability.reason, "KernelProfileUnshared");
            assert!(standing.capability.message.contains("made-up/9"));
        }
        // No verifier was ever seen: that says nothing about the node.
        assert!(
            judge(&member(NodeMode::External), &passed, 5, Judgeable::Unknown, EvidenceRecord::default())
                .capability
                .verified
        );
    }

    #[test]
    fn storage_is_verified_when_every_assigned_blob_is() {
        let right = [challenge(ChallengeKind::Storage, ChallengeOutcome::Passed)];
        let standing = judge(&member(NodeMode::Managed), &right, 0, Judgeable::Yes, EvidenceRecord::default());
        assert_eq!((standing.capability.storage_verified, standing.capability.proven_bytes), (true, 9));
        let wrong = [challenge(ChallengeKind::Storage, ChallengeOutcome::Failed)];
        let standing = judge(&member(NodeMode::Managed), &wrong, 0, Judgeable::Yes, EvidenceRecord::default());
        assert_eq!((standing.capability.storage_verified, standing.capability.proven_bytes), (false, 0));
    }
}
