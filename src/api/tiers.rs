//! Which of several reasons is the most useful to a person: what they can mend comes before what they can only wait for.

use super::conditions::{Condition, Truth};

/// How near a job is to its end, by what holds it up; the first that applies is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Something that the job names is missing, wrong or closed to it: somebody has to act.
    Misconfigured,
    /// A rule or a person holds it back.
    Refused,
    /// Somebody who has to be asked does not answer.
    Unreachable,
    /// No node could take its requests, however long it waits.
    NoMatchingNode,
    WaitingForCapacity,
    WaitingForQuota,
    Running,
    Publishing,
}

impl Tier {
    /// Progress needs somebody to act; waiting does not help.
    pub fn is_stalled(self) -> bool {
        self == Tier::Misconfigured
    }
}

/// The tier of a reason code; codes that are not known (a newer gateway's) count as waiting.
pub fn tier_of(reason: &str) -> Tier {
    match reason {
        "ModelNotFound"
        | "EndpointNotServed"
        | "LocalJobsDisabled"
        | "NameTaken"
        | "ImagePullBackOff"
        | "OOMKilled"
        | "ModelUnusable"
        | "InvalidInput"
        | "InputNotFound"
        | "InputForbidden"
        | "InputDigestMismatch"
        | "InputTooLarge"
        | "SecretNotFound"
        | "SecretForbidden"
        | "AddressRefused"
        | "Forbidden"
        | "OutputConflict"
        | "OutputForbidden"
        | "OutputTooLarge"
        | "StoreFull"
        | "SubmissionConflict"
        | "ModelDigestMismatch"
        | "ModelUnreachable"
        | "ModelTooLarge"
        | "ModelFailed" => Tier::Misconfigured,
        "GatewayRefused" | "NetworkPaused" | "Suspended" | "Cancelled" | "AuditFailed" => Tier::Refused,
        "GatewayUnavailable" | "InputUnreachable" | "OutputUnreachable" => Tier::Unreachable,
        "NoWorkerForModel" | "NoMatchingGridNode" | "ModelNotReady" | "ModelFetching" | "ContextTooShort"
        | "Unschedulable" => Tier::NoMatchingNode,
        "WaitingForQuota" => Tier::WaitingForQuota,
        "RequestsRunning" | "ModelServed" => Tier::Running,
        "AllRequestsDone" | "AuditsPending" | "Published" => Tier::Publishing,
        _ => Tier::WaitingForCapacity,
    }
}

/// Of `types`, in the order of a job's way, the condition that says best why the job is not further: the lowest tier among
/// those that do not hold. `None` when all of them hold.
pub fn most_useful<'a>(conditions: &'a [Condition], types: &[&str]) -> Option<&'a Condition> {
    let of_type = |type_: &&str| conditions.iter().find(|condition| condition.type_ == **type_);
    // `min_by_key` keeps the first of equals: the one that comes first on the way.
    types
        .iter()
        .filter_map(of_type)
        .filter(|condition| condition.status != Truth::True)
        .min_by_key(|condition| tier_of(&condition.reason))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::reasons::Reason;

    fn condition(type_: &str, status: Truth, reason: Reason) -> Condition {
        Condition {
            type_: type_.into(),
            status,
            observed_generation: None,
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            reason: reason.as_str().into(),
            message: String::new(),
        }
    }

    const WAY: [&str; 4] = ["Accepted", "ModelReady", "Running", "OutputPublished"];

    #[test]
    fn what_a_person_can_mend_is_told_before_what_they_wait_for() {
        let list = [
            condition("Running", Truth::False, Reason::WaitingForCapacity),
            condition("ModelReady", Truth::False, Reason::NoWorkerForModel),
            condition("OutputPublished", Truth::False, Reason::OutputConflict),
        ];
        let reason = |list: &[Condition]| most_useful(list, &WAY).map(|found| found.reason.clone());
        assert_eq!(reason(&list).as_deref(), Some("OutputConflict"));
        assert_eq!(reason(&list[..2]).as_deref(), Some("NoWorkerForModel"));
        assert_eq!(reason(&list[..1]).as_deref(), Some("WaitingForCapacity"));
        assert_eq!(reason(&[condition("Running", Truth::True, Reason::RequestsRunning)]), None);
    }

    #[test]
    fn of_two_alike_the_earlier_on_the_way_is_told() {
        let list = [
            condition("OutputPublished", Truth::False, Reason::SecretForbidden),
            condition("Accepted", Truth::False, Reason::InputNotFound),
        ];
        assert_eq!(most_useful(&list, &WAY).map(|found| found.type_.as_str()), Some("Accepted"));
    }

    #[test]
    fn tiers_are_in_the_order_in_which_they_are_told() {
        let reasons = [
            Reason::SecretForbidden,
            Reason::NetworkPaused,
            Reason::GatewayUnavailable,
            Reason::NoWorkerForModel,
            Reason::WaitingForCapacity,
            Reason::RequestsRunning,
            Reason::AllRequestsDone,
        ];
        let tiers = reasons.map(|reason| tier_of(reason.as_str()));
        assert!(tiers.is_sorted() && tiers.windows(2).all(|pair| pair[0] != pair[1]), "{tiers:?}");
        assert!(tiers[0].is_stalled() && !tiers[1].is_stalled());
    }
}
