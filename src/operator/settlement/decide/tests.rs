use std::collections::BTreeMap;

use alloy::primitives::B256;
use proptest::prelude::*;

use super::*;
use crate::{
    api::ids::{EscrowId, NodeAddress},
    protocol::internal::{JobPayment, TokenPrice},
};

const CLOCK: Clock = Clock { genesis: 1_000, epoch_seconds: 100, now: 1_250 };
const DEADLINE: u64 = 100_000;

fn open(id: u8, spent: u128, finished: u64) -> OpenPayment {
    let price = TokenPrice { prompt: Wei(1), output: Wei(1) };
    let payment = JobPayment { escrow: EscrowId([id; 32]), max_spend: Wei(500), deadline: DEADLINE, price };
    OpenPayment { job: id.to_string(), payment, spent: Wei(spent), finished_at_ms: finished * 1000 }
}

fn escrow(state: JobState) -> EscrowedJob {
    let payer = NodeAddress([1; 20]);
    EscrowedJob { payer, escrow: Wei(500), deadline: DEADLINE, fee_bps: 300, state, spent: Wei(77) }
}

fn ids(payments: &[OpenPayment]) -> Vec<u8> {
    payments.iter().map(|payment| payment.payment.escrow.0[0]).collect()
}

#[test]
fn jobs_wait_for_the_end_of_their_epoch_and_no_longer() {
    // Epoch 2 goes on until 1 300.
    let payments = vec![open(1, 1, 1_199), open(2, 1, 1_200), open(3, 1, 0)];
    assert_eq!(ids(&due(payments.clone(), &CLOCK)), [1, 3]);
    assert_eq!(ids(&due(payments, &Clock { now: 1_300, ..CLOCK })), [1, 2, 3]);
}

#[test]
fn a_full_batch_and_an_escrow_that_soon_ends_wait_for_nothing() {
    let many: Vec<_> = (0..FULL_BATCH as u8).map(|id| open(id, 1, 1_240)).collect();
    assert_eq!(due(many.clone(), &CLOCK).len(), FULL_BATCH);
    assert_eq!(due(many[1..].to_vec(), &CLOCK).len(), 0);
    let mut ends = open(1, 1, 1_240);
    ends.payment.deadline = CLOCK.now + DEADLINE_NEAR;
    assert_eq!(due(vec![ends], &CLOCK).len(), 1);
    let thousand: Vec<_> = (0..1_000).map(|_| open(1, 1, 0)).collect();
    assert_eq!(due(thousand, &CLOCK).len(), MAX_SETTLEMENTS);
}

#[test]
fn an_escrow_is_settled_for_what_was_spent_and_never_for_more_than_it_holds() {
    let settle = |payment, found| match fate(&payment, Some(&found), 0) {
        Fate::Settle(settlement) => settlement.spent.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(settle(open(1, 120, 0), escrow(JobState::Open)), 120);
    assert_eq!(settle(open(1, 900, 0), escrow(JobState::Open)), 500);
    assert_eq!(settle(open(1, 120, 0), EscrowedJob { escrow: Wei(50), ..escrow(JobState::Open) }), 50);
}

#[test]
fn what_a_final_block_says_of_a_closed_escrow_stands() {
    let payment = open(1, 120, 0);
    let told = |state, time| fate(&payment, Some(&escrow(state)), time);
    let taken = |spent| Fate::Final(SettledPayment { spent: Wei(spent), fee_bps: 300 });
    assert_eq!(told(JobState::Settled, 0), taken(77));
    assert_eq!(told(JobState::Cancelled, 0), taken(0));
    assert_eq!(told(JobState::Open, DEADLINE), taken(0));
    assert!(matches!(told(JobState::Open, DEADLINE - 1), Fate::Settle(_)));
    assert_eq!(fate(&payment, None, 0), Fate::Wait, "an endpoint that lags decides nothing");
}

proptest! {
    #[test]
    fn a_batch_never_asks_for_more_than_an_epoch_pays_out(
        spent in prop::collection::vec(0..1_000u128, 1..300), most in 1..100_000u128,
    ) {
        let all: Vec<_> = spent.iter().map(|wei| Settlement { job: B256::ZERO, spent: Wei(*wei) }).collect();
        let batch = batch(all.clone(), Wei(most));
        let sum: u128 = batch.iter().map(|one| one.spent.0).sum();
        let paying = batch.iter().filter(|one| one.spent.0 > 0).count();
        prop_assert!(!batch.is_empty() && batch.len() <= MAX_SETTLEMENTS);
        prop_assert!(sum <= most || paying == 1);
        prop_assert_eq!(&all[..batch.len()], batch.as_slice(), "the oldest first");
    }
}

// ---------------------------------------------------------------- any number of crashes

/// Ledger, contract and the one record, as the controller sees them. The chain is final at once; a step that is cut off leaves
/// what was written before it.
struct World {
    ledger: BTreeMap<u8, (OpenPayment, Option<SettledPayment>)>,
    chain: BTreeMap<u8, EscrowedJob>,
    record: Option<Vec<Settlement>>,
    /// Taken from escrows by all transactions together.
    taken: u128,
    times_settled: BTreeMap<u8, u32>,
}

impl World {
    fn of(spent: &[(u128, u128)]) -> Self {
        let ids = 1u8..;
        let ledger = ids.clone().zip(spent).map(|(id, (spent, _))| (id, (open(id, (*spent).min(500), 0), None)));
        let chain = ids
            .zip(spent)
            .map(|(id, (_, held))| (id, EscrowedJob { escrow: Wei(*held), spent: Wei(0), ..escrow(JobState::Open) }));
        World {
            ledger: ledger.collect(),
            chain: chain.collect(),
            record: None,
            taken: 0,
            times_settled: BTreeMap::new(),
        }
    }

    /// The contract: each escrow once, and never more than it holds.
    fn mine(&mut self, batch: &[Settlement]) {
        for one in batch {
            let id = one.job.0[0];
            let escrow = self.chain.get_mut(&id).unwrap();
            if escrow.state != JobState::Open || one.spent > escrow.escrow {
                continue;
            }
            (escrow.state, escrow.spent) = (JobState::Settled, one.spent);
            self.taken += one.spent.0;
            *self.times_settled.entry(id).or_default() += 1;
        }
    }

    /// One look, cut off after `steps` effects. True when it came to its end.
    fn look(&mut self, mut steps: usize, most: Wei) -> bool {
        let mut step = || steps.checked_sub(1).map(|left| steps = left).is_some();
        if let Some(batch) = self.record.clone() {
            // Sent again and again until the record says that it is final.
            if !step() {
                return false;
            }
            self.mine(&batch);
            if !step() {
                return false;
            }
            self.record = None;
            return true;
        }
        let payments = self.ledger.values().filter(|(_, settled)| settled.is_none()).map(|(open, _)| open.clone());
        let mut settlements = Vec::new();
        for payment in due(payments.collect(), &CLOCK) {
            let id = payment.payment.escrow.0[0];
            match fate(&payment, self.chain.get(&id), 0) {
                Fate::Final(settled) => {
                    if !step() {
                        return false;
                    }
                    self.ledger.get_mut(&id).unwrap().1 = Some(settled);
                }
                Fate::Settle(settlement) => settlements.push(settlement),
                Fate::Wait => {}
            }
        }
        let batch = batch(settlements, most);
        if !batch.is_empty() && step() {
            self.record = Some(batch);
        }
        true
    }
}

proptest! {
    #[test]
    fn no_order_of_crashes_settles_twice_or_loses_a_fee(
        spent in prop::collection::vec((0..900u128, 0..900u128), 1..30),
        crashes in prop::collection::vec(0..6usize, 0..60),
        most in 1..2_000u128,
    ) {
        let mut world = World::of(&spent);
        for steps in crashes {
            world.look(steps, Wei(most));
        }
        for _ in 0..200 {
            world.look(usize::MAX, Wei(most));
        }
        prop_assert!(world.times_settled.values().all(|times| *times == 1));
        let mut told = 0;
        for (payment, settled) in world.ledger.values() {
            let settled = settled.expect("every job is settled in the end");
            prop_assert!(settled.spent <= payment.payment.max_spend && settled.spent <= payment.spent);
            told += settled.spent.0;
        }
        prop_assert_eq!(told, world.taken, "what the ledger counts as fees is what escrows gave");
    }
}
