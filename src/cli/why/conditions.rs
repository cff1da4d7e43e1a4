//! Which conditions of an object stand in its way. Pure.

use super::cause::{About, Cause};
use crate::api::conditions::{Condition, Truth};

/// Conditions that are bad when they are True. `Reconciling` is no cause: it only says that the operator is at work.
const ABNORMAL: [&str; 8] =
    ["Stalled", "Draining", "Quarantined", "Slashed", "Degraded", "Failed", "Updating", "PayoutDiffers"];
/// Conditions that say nothing about what is in the way: terminal ones, and the pay, which never holds anything up.
const SILENT: [&str; 5] = ["Reconciling", "Complete", "Settled", "Verified", "Suspended"];

/// True when a condition says that something is not as it should be.
pub fn stands_in_the_way(condition: &Condition) -> bool {
    let type_ = condition.type_.as_str();
    if SILENT.contains(&type_) {
        return false;
    }
    (condition.status == Truth::True) == ABNORMAL.contains(&type_)
}

pub fn cause(about: &About, condition: &Condition) -> Cause {
    Cause::new(about, &condition.reason, condition.message.clone())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn condition(type_: &str, status: Truth) -> Condition {
        Condition {
            type_: type_.into(),
            status,
            observed_generation: None,
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            reason: "X".into(),
            message: String::new(),
        }
    }

    #[test]
    fn a_good_condition_that_is_not_true_and_a_bad_one_that_is_stand_in_the_way() {
        for (type_, status, expected) in [
            ("Accepted", Truth::True, false),
            ("Accepted", Truth::False, true),
            ("Accepted", Truth::Unknown, true),
            ("Stalled", Truth::True, true),
            ("Stalled", Truth::False, false),
            ("Stalled", Truth::Unknown, false),
            ("Reconciling", Truth::True, false),
            ("Settled", Truth::False, false),
        ] {
            assert_eq!(stands_in_the_way(&condition(type_, status)), expected, "{type_} {status:?}");
        }
    }
}
