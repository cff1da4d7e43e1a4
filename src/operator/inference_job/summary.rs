//! Pure: what all conditions of a job amount to: the one reason that is most useful to a person, and `Reconciling` and `Stalled`
//! for tools that know nothing of jobs (kstatus). A job that is over is current or has failed, one that needs somebody is
//! stalled, any other is on its way.

use crate::api::{
    conditions::{self, Condition, Finding, Truth},
    inference_job::condition,
    reasons::Reason,
    remedies::{self, Tier},
};

/// What holds on the way of a job, in its order.
const WAY: [&str; 5] =
    [condition::ACCEPTED, condition::ADMITTED, condition::MODEL_READY, condition::RUNNING, condition::OUTPUT_PUBLISHED];

/// Summaries of other conditions: a change of theirs is no news.
const SUMMARIES: [&str; 3] = [condition::SUSPENDED, condition::RECONCILING, condition::STALLED];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Absent when the job is over: how it ended says why.
    pub reason: Option<String>,
    pub reconciling: Option<Finding>,
    pub stalled: Option<Finding>,
}

pub fn of(list: &[Condition]) -> Summary {
    if let Some(failed) = conditions::find(list, condition::FAILED).filter(|failed| failed.status == Truth::True) {
        return Summary { stalled: Some(repeated(failed)), ..Summary::default() };
    }
    if conditions::is_true(list, condition::COMPLETE) {
        return Summary::default();
    }
    let why = most_useful(list).or_else(|| conditions::find(list, condition::RUNNING));
    let Some(why) = why else { return Summary::default() };
    let summary = Summary { reason: Some(why.reason.clone()), ..Summary::default() };
    match remedies::needs_a_person(&why.reason) {
        true => Summary { stalled: Some(repeated(why)), ..summary },
        false => Summary { reconciling: Some(repeated(why)), ..summary },
    }
}

/// The condition that says best why the job is not further: the lowest tier among those that do not hold. `None` when all hold.
fn most_useful(list: &[Condition]) -> Option<&Condition> {
    // `min_by_key` keeps the first of equals: the one that comes first on the way.
    WAY.iter()
        .filter_map(|type_| conditions::find(list, type_))
        .filter(|condition| condition.status != Truth::True)
        .min_by_key(|condition| tier(&condition.reason))
}

/// A code that nobody wrote down (a newer gateway's) counts as waiting.
fn tier(code: &str) -> Tier {
    remedies::of(code).map_or(Tier::WaitingForCapacity, |remedy| remedy.tier)
}

fn repeated(condition: &Condition) -> Finding {
    Finding { truth: Truth::True, reason: condition.reason.clone(), message: condition.message.clone() }
}

/// The conditions whose changes are worth an Event: not that a job was taken, which its conditions say and which would cost every
/// job a write, and not those that follow from another one that is told.
pub fn news(list: &[Condition]) -> Vec<Condition> {
    let told = |type_| conditions::is_true(list, type_);
    let followed: &[&str] = match (told(condition::COMPLETE), told(condition::ADMITTED)) {
        (true, _) => &WAY,
        (false, true) => &[condition::ACCEPTED, condition::ADMITTED, condition::MODEL_READY],
        (false, false) => &[],
    };
    let follows = |found: &Condition| {
        let fine = found.status == Truth::True || found.reason == Reason::AllRequestsDone.as_str();
        fine && followed.contains(&found.type_.as_str())
    };
    let summary = |found: &Condition| SUMMARIES.contains(&found.type_.as_str());
    list.iter().filter(|found| !summary(found) && !follows(found)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

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

    fn reason(list: &[Condition]) -> Option<String> {
        of(list).reason
    }

    #[test]
    fn what_a_person_can_mend_is_told_before_what_they_wait_for() {
        let list = [
            condition("Running", Truth::False, Reason::WaitingForCapacity),
            condition("ModelReady", Truth::False, Reason::NoWorkerForModel),
            condition("OutputPublished", Truth::False, Reason::OutputConflict),
        ];
        assert_eq!(reason(&list).as_deref(), Some("OutputConflict"));
        assert_eq!(reason(&list[..2]).as_deref(), Some("NoWorkerForModel"));
        assert_eq!(reason(&list[..1]).as_deref(), Some("WaitingForCapacity"));
        let running = [condition("Running", Truth::True, Reason::RequestsRunning)];
        assert_eq!(reason(&running).as_deref(), Some("RequestsRunning"));
    }

    #[test]
    fn of_two_alike_the_earlier_on_the_way_is_told() {
        let list = [
            condition("OutputPublished", Truth::False, Reason::OutputConflict),
            condition("Accepted", Truth::False, Reason::InputNotFound),
        ];
        assert_eq!(reason(&list).as_deref(), Some("InputNotFound"));
    }

    #[test]
    fn reasons_are_told_in_the_order_of_their_tiers() {
        let reasons = [
            Reason::InputNotFound,
            Reason::SecretForbidden,
            Reason::OutputUnreachable,
            Reason::NoWorkerForModel,
            Reason::WaitingForCapacity,
            Reason::WaitingForQuota,
            Reason::RequestsRunning,
            Reason::AllRequestsDone,
        ];
        let tiers = reasons.map(|reason| tier(reason.as_str()));
        assert!(tiers.windows(2).all(|pair| pair[0] < pair[1]), "{tiers:?}");
    }

    #[test]
    fn a_job_that_is_held_back_on_purpose_is_not_stalled() {
        let stalled = |reason| of(&[condition("Running", Truth::False, reason)]).stalled.is_some();
        assert!(stalled(Reason::SecretForbidden) && stalled(Reason::ModelNotFound));
        assert!(!stalled(Reason::Suspended) && !stalled(Reason::NetworkPaused) && !stalled(Reason::InputUnreachable));
    }

    #[test]
    fn what_follows_from_another_news_is_no_news_and_bad_news_always_is() {
        let told = |list: &[Condition]| news(list).iter().map(|found| found.type_.clone()).collect::<Vec<_>>();
        let mut list = vec![
            condition("Accepted", Truth::True, Reason::InputRead),
            condition("Admitted", Truth::True, Reason::Submitted),
            condition("ModelReady", Truth::False, Reason::NoWorkerForModel),
            condition("Reconciling", Truth::True, Reason::NoWorkerForModel),
        ];
        assert_eq!(told(&list), ["ModelReady"], "that it was taken its conditions say");
        list.extend([
            condition("Running", Truth::False, Reason::AllRequestsDone),
            condition("OutputPublished", Truth::True, Reason::Published),
            condition("Verified", Truth::False, Reason::AuditFailed),
            condition("Complete", Truth::True, Reason::Completed),
        ]);
        assert_eq!(told(&list), ["ModelReady", "Verified", "Complete"]);
    }
}
