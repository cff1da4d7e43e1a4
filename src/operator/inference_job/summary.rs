//! Pure: what all conditions of a job amount to: the one reason that is most useful to a person, and `Reconciling` and `Stalled`
//! for tools that know nothing of jobs (kstatus). A job that is over is current or has failed, one that needs somebody is
//! stalled, any other is on its way.

use crate::api::{
    conditions::{self, Condition, Finding, Truth},
    inference_job::condition,
    tiers::{most_useful, tier_of},
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
    let why = most_useful(list, &WAY).or_else(|| conditions::find(list, condition::RUNNING));
    let Some(why) = why else { return Summary::default() };
    let summary = Summary { reason: Some(why.reason.clone()), ..Summary::default() };
    match tier_of(&why.reason).is_stalled() {
        true => Summary { stalled: Some(repeated(why)), ..summary },
        false => Summary { reconciling: Some(repeated(why)), ..summary },
    }
}

fn repeated(condition: &Condition) -> Finding {
    Finding { truth: Truth::True, reason: condition.reason.clone(), message: condition.message.clone() }
}

/// The conditions whose changes are worth an Event.
pub fn news(list: &[Condition]) -> Vec<Condition> {
    list.iter().filter(|condition| !SUMMARIES.contains(&condition.type_.as_str())).cloned().collect()
}
