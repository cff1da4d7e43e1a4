//! Pure: which of several reasons says most. What a person must correct and what somebody decided (the first tiers of
//! `api::remedies`) come before what only takes time. Among equals the first part decides, and parts come in the order of cause and
//! consequence: a worker that cannot start is why its peer is not connected, not the reverse.

use crate::api::{
    conditions::{Finding, Truth},
    remedies::{self, Tier},
};

/// Codes that somebody can act on only once the node is connected: until then they are consequences.
const CONSEQUENCES: [&str; 2] = ["NotRegistered", "ComputeChallengeFailed"];

/// Whether a reason outweighs all those that only take their time. A code that nobody wrote down (a newer gateway's) does not.
pub fn is_decisive(reason: &str) -> bool {
    remedies::of(reason).is_some_and(|remedy| remedy.tier <= Tier::Refused) && !CONSEQUENCES.contains(&reason)
}

/// The summary of `parts`: of those that are False the first decisive one, else the first; then the first that is Unknown; else
/// `ready`.
pub fn summarize(parts: &[(&str, Finding)], ready: Finding) -> Finding {
    let with = |truth: Truth| parts.iter().filter(move |(_, finding)| finding.truth == truth);
    let decides = with(Truth::False)
        .find(|(_, finding)| is_decisive(&finding.reason))
        .or_else(|| with(Truth::False).next())
        .or_else(|| with(Truth::Unknown).next());
    decides.map_or(ready, |(type_, finding)| Finding {
        message: format!("{type_}: {}", finding.message),
        ..finding.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::reasons::Reason;

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
    fn of_two_alike_the_cause_is_told_and_not_the_consequence() {
        let summary = |parts: &[(&str, Finding)]| summarize(parts, Finding::yes(Reason::Ready, "")).reason;
        let home = [("PeerConnected", no(Reason::NotConnected)), ("Registered", no(Reason::NotRegistered))];
        assert_eq!(summary(&home), "NotConnected");
        let refused = [("Approved", no(Reason::NotApproved)), ("WorkerAvailable", no(Reason::ImagePullFailed))];
        assert_eq!(summary(&refused), "NotApproved");
        let poor = [("WorkerAvailable", no(Reason::Unschedulable)), ("Registered", no(Reason::ReporterWithoutFunds))];
        assert_eq!(summary(&poor), "Unschedulable");
    }

    #[test]
    fn a_code_of_the_gateway_that_is_not_ours_is_something_to_wait_for() {
        assert!(!is_decisive("ComputeChallengePending") && !is_decisive("SomethingNew"));
        assert!(is_decisive("MissingSecret"));
    }
}
