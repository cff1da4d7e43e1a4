//! In which form the operator's reports carry their leaves, and that what it lost comes back from the chain.

use alloy::sol_types::SolCall;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use xdc_grid::{
    api::ids::EpochNumber,
    chain::{bindings::GridComputingRewards::submitEpochCall, reports::Submission},
    reward::{PackedChanges, PackedReport, unpack_report},
};

use super::stage::Stage;
use crate::support::world::SYSTEM;

async fn submissions(stage: &Stage) -> Vec<Submission> {
    stage.grid.anvil.mine(3).await;
    stage.grid.client.report_history(None, |_| {}).await.unwrap().submissions
}

async fn carried(stage: &Stage, submission: &Submission) -> PackedReport {
    let sent = stage.grid.client.rpc().transaction(submission.transaction).await.unwrap().unwrap();
    unpack_report(&submitEpochCall::abi_decode(&sent.data).unwrap().leaves).unwrap()
}

fn changes(carried: PackedReport) -> PackedChanges {
    match carried {
        PackedReport::Changes(changes) => changes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reports_carry_what_their_epoch_raised_and_what_it_was_made_from() {
    let stage = Stage::set().await;
    let life = stage.life();
    for epoch in 0..3 {
        assert!(stage.epoch_by(&life, epoch).await);
    }
    for (report, submission) in stage.reports().await.iter().zip(submissions(&stage).await) {
        let found = changes(carried(&stage, &submission).await);
        assert_eq!(found.changes.len(), 3, "everybody worked");
        let allocated: u128 = found.changes.iter().map(|change| change.increase.0).sum();
        assert_eq!(allocated.to_string(), report.spec.allocated_wei);
        assert_eq!(Some(found.recipe.statement.to_string()), report.spec.statement);
        assert_eq!(found.recipe.budget.to_string(), report.spec.recipe.as_ref().unwrap().budget_wei);
        assert!(found.recipe.block < submission.block, "read before it was sent");
    }
    let live = stage.grid.client.live_tree().await.unwrap().unwrap();
    assert_eq!((live.root(), live.leaves().len()), (submissions(&stage).await[2].root, 3));
    stage.assert_exactly_once(3).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn leaves_that_are_gone_come_back_from_the_chain_and_the_next_report_carries_all() {
    let stage = Stage::set().await;
    let life = stage.life();
    for epoch in 0..2 {
        assert!(stage.epoch_by(&life, epoch).await);
    }
    let leaves: Api<ConfigMap> = Api::namespaced(stage.island.admin.clone(), SYSTEM);
    let kept = ListParams::default().labels("xdcgrid.io/leaves=packed");
    leaves.delete_collection(&DeleteParams::default(), &kept).await.unwrap();
    assert!(stage.epoch_by(&life, 2).await, "nobody had to restore anything");
    let reported = submissions(&stage).await;
    assert_eq!(reported.iter().map(|one| one.epoch).collect::<Vec<_>>(), [0, 1, 2].map(EpochNumber));
    let all = carried(&stage, &reported[2]).await;
    assert!(matches!(&all, PackedReport::Whole(leaves) if leaves.len() == 3), "{all:?}");
    assert!(stage.epoch_by(&life, 3).await);
    changes(carried(&stage, &submissions(&stage).await[3]).await);
    stage.assert_everybody_is_paid().await;
}
