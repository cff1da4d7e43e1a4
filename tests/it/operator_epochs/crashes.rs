//! The operator dies, or a call goes wrong, at a chosen moment; its successor finds what was written down and goes on.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::Value;

use super::stage::{NETWORK, Stage};
use crate::support::{
    faults::{Call, Fault, Faults},
    world::SYSTEM,
};

/// Every moment at which `plan` makes something happen, one epoch each: the faulty process goes as far as it gets, another one
/// brings the epoch to its end. Returns the next epoch.
async fn at_every_moment(stage: &Stage, mut epoch: u64, plan: impl Fn(usize) -> (Faults, Faults)) -> u64 {
    for n in 0.. {
        let (api, chain) = plan(n);
        let first = stage.life_with(api.clone(), chain.clone());
        let survived = stage.epoch_by(&first, epoch).await;
        drop(first);
        let hit = api.hit().or(chain.hit());
        if !survived {
            assert!(stage.epoch_by(&stage.life(), epoch).await, "after {hit:?}");
        }
        epoch += 1;
        assert_eq!(stage.sent().await, 2 * epoch, "transactions of {epoch} epochs after {hit:?}");
        if hit.is_none() {
            assert!(n > 1, "nothing ever happened");
            return epoch;
        }
    }
    unreachable!("an epoch takes finitely many calls")
}

#[tokio::test]
async fn a_crash_before_or_after_any_write_reports_every_epoch_once_and_everybody_is_paid_to_the_wei() {
    let stage = Stage::set().await;
    let mut epoch = 0;
    for fault in [Fault::DieBefore, Fault::DieAfter] {
        epoch = at_every_moment(&stage, epoch, |n| (Faults::at_write(n, fault), Faults::none())).await;
        epoch = at_every_moment(&stage, epoch, |n| (Faults::none(), Faults::at_write(n, fault))).await;
    }
    stage.assert_exactly_once(epoch).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn a_write_that_is_lost_answered_into_the_void_repeated_or_refused_reports_every_epoch_once() {
    let stage = Stage::set().await;
    let mut epoch = 0;
    for fault in [Fault::LoseAnswer, Fault::Duplicate, Fault::Refuse(409), Fault::Refuse(500)] {
        epoch = at_every_moment(&stage, epoch, |n| (Faults::at_write(n, fault), Faults::none())).await;
    }
    for fault in [Fault::LoseRequest, Fault::LoseAnswer, Fault::Duplicate, Fault::Refuse(500)] {
        epoch = at_every_moment(&stage, epoch, |n| (Faults::none(), Faults::at_write(n, fault))).await;
    }
    stage.assert_exactly_once(epoch).await;
    stage.assert_everybody_is_paid().await;
}

/// Whether a call writes down that the report's submission reached `state`.
fn writes_down(call: &Call, epoch: u64, state: &str) -> bool {
    let path = format!("PATCH /apis/xdcgrid.io/v1alpha1/contributionreports/{NETWORK}-{epoch}/status");
    let body: Value = serde_json::from_str(&call.body).unwrap_or_default();
    call.name == path && body["status"]["submit"]["state"] == state
}

#[tokio::test]
async fn a_crash_after_any_state_was_written_down_reports_every_epoch_once() {
    let stage = Stage::set().await;
    let mut epoch = 0;
    for fault in [Fault::DieBefore, Fault::DieAfter] {
        for state in ["Planned", "Signed", "Sent", "Included", "Finalized"] {
            let faults = Faults::choosing(move |call| writes_down(call, epoch, state).then_some(fault));
            let first = stage.life_with(faults.clone(), Faults::none());
            assert!(!stage.epoch_by(&first, epoch).await, "{state} is written down in every epoch");
            drop(first);
            let left = stage.report(epoch).await.unwrap().status.and_then(|status| status.submit);
            let left = left.map(|submit| format!("{:?}", submit.state));
            if fault == Fault::DieAfter {
                assert_eq!(left.as_deref(), Some(state), "what was written down last");
            } else {
                assert_ne!(left.as_deref(), Some(state), "{fault:?}");
            }
            assert!(stage.epoch_by(&stage.life(), epoch).await);
            epoch += 1;
            assert_eq!(stage.sent().await, 2 * epoch, "after {fault:?} {state}");
        }
    }
    stage.assert_exactly_once(epoch).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn an_operator_that_dies_at_every_single_write_gets_there_all_the_same() {
    let stage = Stage::set().await;
    for epoch in 0..2 {
        // Each process makes one write, if it gets that far, and dies.
        let mut lives = 0;
        while !stage.is_live(epoch).await {
            let life = stage.life_with(Faults::at_write(0, Fault::DieAfter), Faults::none());
            stage.epoch_by(&life, epoch).await;
            lives += 1;
            assert!(lives < 100, "{:#?}", stage.reports().await);
        }
        assert!(lives > 5, "an epoch takes more than {lives} writes");
    }
    stage.assert_exactly_once(2).await;
}

#[tokio::test]
async fn a_report_whose_leaves_are_gone_before_it_is_signed_is_planned_anew() {
    let stage = Stage::set().await;
    let planned = Faults::choosing(|call| writes_down(call, 0, "Planned").then_some(Fault::DieBefore));
    assert!(!stage.epoch_by(&stage.life_with(planned, Faults::none()), 0).await);
    let first = stage.report(0).await.unwrap();
    let leaves: Api<ConfigMap> = Api::namespaced(stage.island.admin.clone(), SYSTEM);
    leaves.delete(&first.spec.leaves.config_map, &DeleteParams::default()).await.unwrap();
    assert!(stage.epoch_by(&stage.life(), 0).await);
    let second = stage.report(0).await.unwrap();
    assert_ne!(first.uid(), second.uid());
    assert_eq!(first.spec.root, second.spec.root, "the same rows give the same tree");
    stage.assert_exactly_once(1).await;
    stage.assert_everybody_is_paid().await;
}
