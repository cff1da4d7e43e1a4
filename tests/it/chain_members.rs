//! Job escrow and slash cases through the same outbox as reports: whoever dies between two steps, each is sent once.

use alloy::primitives::B256;
use xdc_grid::{
    api::ids::Wei,
    chain::{
        At, ChainError, ChainKey, FeePolicy, Inclusion, Intent, NoncePool, Outbox, OutboxRecord,
        escrow::{JobEscrow, JobState, Settlement},
        slashing::{CaseState, Slashing, evidence_of},
    },
};

use crate::{
    chain::register,
    chain_anvil::{CHAIN_ID, Grid},
};

/// Carries an intent out; the process dies after every step once, before it has written down what came of it.
async fn with_crashes(grid: &Grid, key: &ChainKey, intent: Intent) -> Inclusion {
    let rpc = grid.anvil.rpc();
    let mut stored = OutboxRecord::plan(intent, key.address(), CHAIN_ID);
    let mut crash = true;
    for now in 0..60 {
        let nonces = NoncePool::restore(key.address(), [&stored]);
        let outbox = Outbox { rpc: rpc.as_ref(), key, nonces: &nonces, fees: FeePolicy::default() };
        let next = outbox.step(&stored, 2 * now).await.unwrap();
        crash = !crash;
        if crash {
            stored = next;
        }
        grid.anvil.mine(1).await;
        if stored.is_finished() {
            assert_eq!(stored.state_name(), "Finalized");
            return stored.inclusion().unwrap().clone();
        }
    }
    panic!("not final after 60 steps: {stored:?}");
}

fn refused(outcome: Result<Inclusion, ChainError>) -> String {
    match outcome {
        Err(ChainError::Refused(refusal)) => refusal.name,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

async fn sent(grid: &Grid, key: &ChainKey) -> u64 {
    grid.client.rpc().nonce(key.address(), At::Latest).await.unwrap()
}

#[tokio::test]
async fn a_paid_job_is_opened_topped_up_and_settled_once_whatever_dies() {
    let grid = Grid::deploy().await;
    let escrow = JobEscrow::of(&grid.client, grid.escrow).await.unwrap();
    let (payer, settler) = (&grid.owner, &grid.reporter);
    let salt = B256::repeat_byte(7);
    let job = JobEscrow::job_id(payer.address(), salt);
    let deadline = grid.anvil.time().await + 3_600;
    with_crashes(&grid, payer, escrow.open_intent(payer.address(), salt, deadline, Wei::XDC)).await;
    with_crashes(&grid, payer, escrow.top_up_intent(job, Wei::XDC, "more")).await;
    let open = escrow.job(job, At::Finalized).await.unwrap().unwrap();
    assert_eq!((open.state, open.payer, open.escrow), (JobState::Open, payer.address(), Wei(2 * Wei::XDC.0)));
    assert_eq!(sent(&grid, payer).await, 2, "one transaction each");

    let pool = grid.client.epoch_state(At::Latest).await.unwrap().reward_pool;
    let spent = Wei(Wei::XDC.0 / 2);
    let settle = escrow.settle_intent(&[Settlement { job, spent }]).unwrap();
    with_crashes(&grid, settler, settle.clone()).await;
    assert_eq!(sent(&grid, settler).await, 1);
    let settled = escrow.job(job, At::Latest).await.unwrap().unwrap();
    assert_eq!((settled.state, settled.spent), (JobState::Settled, spent));
    let fee = spent.0 * u128::from(settled.fee_bps) / 10_000;
    let grown = grid.client.epoch_state(At::Latest).await.unwrap().reward_pool.0 - pool.0;
    assert_eq!(grown, spent.0 - fee, "what was spent, minus the fee, is the nodes'");
    let rest = escrow.credit(payer.address(), At::Latest).await.unwrap();
    assert_eq!(rest, Wei(2 * Wei::XDC.0 - spent.0));
    let before = grid.balance(payer.address()).await;
    let taken = with_crashes(&grid, payer, escrow.withdraw_credit_intent(payer.address(), rest)).await;
    assert_eq!(grid.balance(payer.address()).await.0, before.0 + rest.0 - taken.fee.0);
}

#[tokio::test]
async fn only_a_settler_settles_and_only_the_payer_takes_an_unsettled_job_back_after_its_deadline() {
    let grid = Grid::deploy().await;
    let escrow = JobEscrow::of(&grid.client, grid.escrow).await.unwrap();
    let (payer, salt) = (&grid.owner, B256::repeat_byte(9));
    let job = JobEscrow::job_id(payer.address(), salt);
    let deadline = grid.anvil.time().await + 900;
    grid.anvil.execute(payer, escrow.open_intent(payer.address(), salt, deadline, Wei::XDC)).await.unwrap();
    let settle = escrow.settle_intent(&[Settlement { job, spent: Wei::XDC }]).unwrap();
    assert_eq!(refused(grid.anvil.execute(payer, settle).await), "MissingRole");
    assert_eq!(refused(grid.anvil.execute(payer, escrow.cancel_intent(job)).await), "JobBeforeDeadline");
    grid.anvil.mine_at(deadline.max(grid.anvil.time().await)).await;
    assert_eq!(refused(grid.anvil.execute(&grid.admin, escrow.cancel_intent(job)).await), "NotPayer");
    grid.anvil.execute(payer, escrow.cancel_intent(job)).await.unwrap();
    assert_eq!(escrow.job(job, At::Latest).await.unwrap().unwrap().state, JobState::Cancelled);
}

#[tokio::test]
async fn a_slash_is_proposed_once_and_takes_what_it_froze_when_nobody_appeals() {
    let grid = Grid::deploy().await;
    register(&grid, Wei(4 * Wei::XDC.0)).await.unwrap();
    let slashing = Slashing::of(&grid.client).await.unwrap().unwrap();
    let node = grid.node.address();
    let propose = slashing.propose_intent(node, Wei::XDC, B256::repeat_byte(1)).unwrap();
    assert_eq!(
        refused(grid.anvil.execute(&grid.reporter, propose.clone()).await),
        "MissingRole",
        "who reports does not accuse"
    );
    with_crashes(&grid, &grid.slasher, propose).await;
    assert_eq!((sent(&grid, &grid.slasher).await, slashing.case_count(At::Latest).await.unwrap()), (1, 1));
    let case = slashing.case(1, At::Latest).await.unwrap().unwrap();
    assert_eq!((case.node, case.amount, case.state), (node, Wei::XDC, CaseState::Proposed));
    assert_eq!(grid.client.node(node, At::Latest).await.unwrap().unwrap().frozen, Wei::XDC);
    grid.anvil.mine_at(case.appeal_until.max(grid.anvil.time().await)).await;
    with_crashes(&grid, &grid.owner, slashing.execute_intent(1)).await;
    let after = grid.client.node(node, At::Latest).await.unwrap().unwrap();
    assert_eq!((after.stake, after.frozen), (Wei(3 * Wei::XDC.0), Wei(0)));
    assert_eq!(slashing.case(1, At::Latest).await.unwrap().unwrap().state, CaseState::Executed);
    // What may be frozen is counted by epoch, and its share of a smaller stake is less.
    grid.anvil.mine_at(grid.anvil.time().await + 40 * 86_400).await;
    let again = |evidence| slashing.propose_intent(node, Wei(Wei::XDC.0 / 2), B256::repeat_byte(evidence)).unwrap();
    assert_eq!(refused(grid.anvil.execute(&grid.slasher, again(1)).await), "EvidenceUsed");
    assert_eq!(refused(grid.anvil.execute(&grid.slasher, again(0)).await), "NoEvidence");
    assert_eq!(evidence_of(&again(2)), Some(B256::repeat_byte(2)));
    grid.anvil.execute(&grid.slasher, again(2)).await.unwrap();
    for (evidence, case) in [(1, Some(1)), (2, Some(2)), (3, None)] {
        let found = slashing.case_of(node, B256::repeat_byte(evidence), At::Finalized).await.unwrap();
        assert_eq!(found, case, "the case on evidence {evidence}");
    }
}
