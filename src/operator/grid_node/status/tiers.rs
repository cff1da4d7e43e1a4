//! Pure: which of several reasons says most. What a person must correct comes before what somebody decided, that before what the
//! cluster does, and last what only takes time: a worker that cannot start is why its peer is not connected, not the reverse.

use crate::api::{
    conditions::{Finding, Truth},
    reasons::Reason,
};

/// From the one that explains most to the one that explains least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Somebody has to correct something.
    Misconfigured,
    /// A policy, an admin or the evidence says no.
    Refused,
    /// The cluster does not run the worker.
    Cluster,
    /// The worker runs, and a model of its does not.
    Model,
    /// The contract or its RPC.
    Chain,
    /// It takes its time.
    Waiting,
}

pub fn tier(reason: &str) -> Tier {
    use Reason as R;
    match Reason::of(reason) {
        Some(
            R::InvalidObject
            | R::NetworkNotFound
            | R::NodeKeyInvalid
            | R::MissingSecret
            | R::ModelNotFound
            | R::PodRefused
            | R::GatewayServesAnotherNetwork,
        ) => Tier::Misconfigured,
        Some(R::NotApproved | R::EvidenceAgainstNode | R::PeerRefused | R::GatewayRefused) => Tier::Refused,
        Some(
            R::ImagePullFailed
            | R::Unschedulable
            | R::VolumeNotMounted
            | R::OOMKilled
            | R::Evicted
            | R::Preempted
            | R::DeviceLost
            | R::CrashLoopBackOff,
        ) => Tier::Cluster,
        Some(R::ModelDigestMismatch | R::ModelUnreachable | R::ModelTooLarge | R::ModelFailed) => Tier::Model,
        Some(
            R::TransactionReverted
            | R::RegistrationDiffers
            | R::ReporterSecretMissing
            | R::ReporterKeyInvalid
            | R::ReporterKeyLocked
            | R::SignerInvalid
            | R::ContractCodeDiffers
            | R::ReporterWithoutFunds
            | R::WrongChainId
            | R::ContractWithoutCode
            | R::ContractUnreadable,
        ) => Tier::Chain,
        _ => Tier::Waiting,
    }
}

/// The summary of `parts`: of those that are False the one with the strongest tier decides, the first of equals; then the first
/// that is Unknown; else `ready`.
pub fn summarize(parts: &[(&str, Finding)], ready: Finding) -> Finding {
    let no = parts.iter().filter(|(_, finding)| finding.truth == Truth::False);
    let unknown = || parts.iter().find(|(_, finding)| finding.truth == Truth::Unknown);
    let decides = no.min_by_key(|(_, finding)| tier(&finding.reason)).or_else(unknown);
    decides.map_or(ready, |(type_, finding)| Finding {
        message: format!("{type_}: {}", finding.message),
        ..finding.clone()
    })
}

/// Whether nothing goes on until somebody acts. Everything else may pass by itself.
pub fn needs_a_person(reason: &str) -> bool {
    match tier(reason) {
        Tier::Misconfigured | Tier::Model => true,
        Tier::Refused => Reason::of(reason) == Some(Reason::PeerRefused),
        Tier::Chain => Reason::of(reason) == Some(Reason::TransactionReverted),
        Tier::Cluster | Tier::Waiting => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no(reason: Reason) -> Finding {
        Finding::no(reason, "why")
    }

    #[test]
    fn the_cause_outweighs_its_consequences() {
        let parts = [
            ("WorkerAvailable", no(Reason::WorkerStarting)),
            ("PeerConnected", no(Reason::PeerRefused)),
            ("CapabilityVerified", no(Reason::NotChallenged)),
        ];
        let found = summarize(&parts, Finding::yes(Reason::Ready, ""));
        assert_eq!((found.reason.as_str(), found.message.as_str()), ("PeerRefused", "PeerConnected: why"));
        let parts = [("PeerConnected", no(Reason::NotConnected)), ("WorkerAvailable", no(Reason::ImagePullFailed))];
        assert_eq!(summarize(&parts, Finding::yes(Reason::Ready, "")).reason, "ImagePullFailed");
        let parts = [("WorkerAvailable", no(Reason::WorkerStarting)), ("ModelsReady", no(Reason::ModelDigestMismatch))];
        assert_eq!(summarize(&parts, Finding::yes(Reason::Ready, "")).reason, "ModelDigestMismatch");
    }

    #[test]
    fn what_is_known_to_be_wrong_outweighs_what_is_not_known() {
        let unknown = Finding::unknown(Reason::RpcUnreachable, "away");
        let parts = [("Registered", unknown.clone()), ("WorkerAvailable", no(Reason::WorkerStarting))];
        assert_eq!(summarize(&parts, Finding::yes(Reason::Ready, "")).reason, "WorkerStarting");
        let parts = [("Registered", unknown)];
        assert_eq!(summarize(&parts, Finding::yes(Reason::Ready, "")).truth, Truth::Unknown);
        assert!(summarize(&[], Finding::yes(Reason::Ready, "")).is_true());
    }

    #[test]
    fn a_code_of_the_gateway_that_is_not_ours_is_something_to_wait_for() {
        assert_eq!(tier("ComputeChallengePending"), Tier::Waiting);
        assert!(!needs_a_person("ComputeChallengePending") && needs_a_person("MissingSecret"));
        assert!(!needs_a_person("NotApproved"), "that is somebody's decision, and no failure");
    }
}
