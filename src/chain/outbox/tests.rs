use alloy::primitives::Bytes;
use futures::executor::block_on;
use proptest::prelude::*;

use super::{
    simulated::{CHAIN_ID, SimulatedChain},
    *,
};
use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{error::ChainError, fees::FeePolicy, nonces::NoncePool, refusal::Refusal, signer::ChainKey},
};

fn key() -> ChainKey {
    ChainKey::from_bytes(&[7; 32]).unwrap()
}

fn planned() -> OutboxRecord {
    let call =
        TxCall { to: Some(NodeAddress([9; 20])), value: Wei(0), data: Bytes::from_static(b"report of epoch 17") };
    let intent = Intent { kind: IntentKind::SubmitEpoch, key: "epoch/main/17".to_owned(), call };
    OutboxRecord::plan(intent, key().address(), CHAIN_ID)
}

/// A process that persists a record after each step, until it crashes.
struct Process<'a> {
    chain: &'a SimulatedChain,
    key: ChainKey,
    nonces: NoncePool,
    persisted: OutboxRecord,
    now: u64,
}

impl<'a> Process<'a> {
    fn start(chain: &'a SimulatedChain) -> Self {
        let key = key();
        Process { chain, nonces: NoncePool::new(key.address()), key, persisted: planned(), now: 1_000 }
    }

    fn attempt(&self) -> Result<OutboxRecord, ChainError> {
        let outbox = Outbox { rpc: self.chain, key: &self.key, nonces: &self.nonces, fees: FeePolicy::default() };
        block_on(outbox.step(&self.persisted, self.now))
    }

    fn step(&mut self) -> &'static str {
        self.persisted = self.attempt().unwrap();
        self.persisted.state_name()
    }

    /// Takes the step, dies before its result is stored, and comes back.
    fn step_and_crash(&mut self) {
        let _ = self.attempt();
        self.restart();
    }

    fn restart(&mut self) {
        let stored = serde_json::to_string(&self.persisted).unwrap();
        self.persisted = serde_json::from_str(&stored).unwrap();
        self.nonces = NoncePool::restore(self.key.address(), [&self.persisted]);
    }

    fn data(&self) -> Bytes {
        self.persisted.intent.call.data.clone()
    }
}

#[test]
fn a_record_goes_from_plan_to_finality() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    assert_eq!(process.step(), "Signed");
    assert_eq!(process.step(), "Sent");
    assert_eq!(process.step(), "Sent", "nothing is mined yet");
    chain.mine();
    assert_eq!(process.step(), "Included");
    assert_eq!(process.step(), "Included", "not final yet");
    chain.mine();
    chain.mine();
    assert_eq!(process.step(), "Finalized");
    assert_eq!(process.step(), "Finalized");
    let inclusion = process.persisted.inclusion().unwrap();
    assert_eq!(inclusion.fee, Wei(60_000 * 12_500_000_000));
    assert_eq!(chain.times_mined(&process.data()), 1);
}

#[test]
fn a_crash_after_signing_or_sending_repeats_the_same_bytes() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    process.step_and_crash();
    assert_eq!(process.persisted.state_name(), "Planned");
    process.step();
    let signed = process.persisted.attempts().to_vec();
    process.step_and_crash();
    assert_eq!(process.persisted.state_name(), "Signed", "it was sent, but nobody wrote that down");
    assert_eq!(process.step(), "Sent");
    assert_eq!(process.persisted.attempts(), signed);
    chain.mine();
    process.step_and_crash();
    assert_eq!(process.step(), "Included");
    assert_eq!(chain.times_mined(&process.data()), 1);
}

#[test]
fn receipts_that_lag_behind_their_blocks_do_not_send_twice() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    process.step();
    process.step();
    chain.set_receipts_lag(true);
    for _ in 0..6 {
        chain.mine();
        assert_eq!(process.step(), "Sent");
    }
    chain.set_receipts_lag(false);
    assert_eq!(process.step(), "Included");
    assert_eq!(process.step(), "Finalized");
    assert_eq!(chain.times_mined(&process.data()), 1);
}

#[test]
fn a_lost_answer_does_not_send_twice() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    process.step();
    chain.lose_next_answer();
    assert!(process.attempt().unwrap_err().is_transient());
    chain.mine();
    assert_eq!(process.step(), "Sent", "nonce too low, because it is mined");
    assert_eq!(process.step(), "Included");
    assert_eq!(chain.times_mined(&process.data()), 1);
}

#[test]
fn a_block_that_is_dropped_sends_the_record_back() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    process.step();
    process.step();
    let hash = process.persisted.attempts()[0].hash;
    chain.mine();
    assert_eq!(process.step(), "Included");
    chain.reorganise();
    for _ in 0..3 {
        chain.mine();
    }
    assert_eq!(process.step(), "Sent", "the block it was in never became final");
    process.now += 10;
    assert_eq!(process.step(), "Sent", "no node knows it, so it goes out again");
    chain.mine();
    assert_eq!(process.step(), "Included");
    assert_eq!(process.persisted.inclusion().unwrap().hash, hash, "the same transaction");
}

#[test]
fn a_transaction_that_waits_is_replaced_under_the_same_nonce() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    process.step();
    process.step();
    process.now += 60;
    assert_eq!(process.step(), "Signed", "persisted before it is sent");
    assert_eq!(chain.pool_prices(), [12_500_000_000]);
    process.step_and_crash();
    assert_eq!(process.step(), "Sent");
    assert_eq!(chain.pool_prices(), [14_062_500_000]);
    let attempts = process.persisted.attempts();
    assert_eq!((attempts.len(), attempts[0].nonce), (2, attempts[1].nonce));
    for _ in 0..20 {
        process.now += 60;
        process.step();
    }
    assert_eq!(process.persisted.attempts().len(), MAX_ATTEMPTS, "the ladder ends");
    chain.mine();
    process.now = 0;
    while !process.persisted.is_finished() {
        process.step();
        chain.mine();
    }
    assert_eq!(chain.times_mined(&process.data()), 1);
}

#[test]
fn a_nonce_used_by_somebody_else_is_proven_before_anything_is_signed_again() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    process.step();
    process.step();
    chain.mine_foreign();
    assert_eq!(process.step(), "Sent", "used, but not finally");
    chain.mine();
    chain.mine();
    assert_eq!(process.step(), "Sent", "first seen in a final block");
    chain.mine();
    assert_eq!(process.step(), "Planned");
    process.step();
    assert_eq!(process.persisted.nonce(), Some(1));
}

#[test]
fn a_contract_that_refuses_costs_nothing_and_is_asked_again() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    let refusal = Refusal::new("MissingRole", "account lacks the role");
    chain.refuse(Some(refusal.clone()));
    assert_eq!(process.attempt(), Err(ChainError::Refused(refusal)));
    chain.refuse(None);
    assert_eq!(process.step(), "Signed");
}

#[test]
fn a_mined_revert_is_final_and_has_a_reason() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    process.step();
    process.step();
    chain.fail_mined_transactions();
    let refusal = Refusal::new("WrongEpoch", "epoch 17 was sent, the contract expects epoch 18");
    chain.refuse(Some(refusal.clone()));
    for _ in 0..3 {
        chain.mine();
        process.step();
    }
    let OutboxState::Failed { refusal: found, .. } = &process.persisted.state else {
        panic!("{:?}", process.persisted)
    };
    assert_eq!(*found, refusal);
}

#[test]
fn a_record_of_another_account_is_refused() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    process.persisted.from = NodeAddress([1; 20]);
    assert!(matches!(process.attempt(), Err(ChainError::WrongSigner { .. })));
}

#[test]
fn a_stored_record_is_flat_and_reads_back() {
    let chain = SimulatedChain::new();
    let mut process = Process::start(&chain);
    process.step();
    let json = serde_json::to_value(&process.persisted).unwrap();
    assert_eq!(json["state"], "Signed");
    assert_eq!(json["attempts"][0]["gasPrice"], "12500000000");
    assert_eq!(json["attempts"][0]["nonce"], 0);
    assert_eq!(serde_json::from_value::<OutboxRecord>(json).unwrap(), process.persisted);
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Step,
    StepAndCrash,
    Restart,
    Wait,
    Mine,
    MineForeign,
    Reorganise,
    ForgetPool,
    LoseNextAnswer,
    Cut,
    Heal,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => Just(Event::Step),
        3 => Just(Event::StepAndCrash),
        1 => Just(Event::Restart),
        2 => Just(Event::Wait),
        4 => Just(Event::Mine),
        1 => Just(Event::MineForeign),
        1 => Just(Event::Reorganise),
        1 => Just(Event::ForgetPool),
        1 => Just(Event::LoseNextAnswer),
        1 => Just(Event::Cut),
        2 => Just(Event::Heal),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_order_of_crashes_and_faults_reports_twice_or_never(events in events()) {
        let chain = SimulatedChain::new();
        let mut process = Process::start(&chain);
        for event in events {
            match event {
                Event::Step => if let Ok(next) = process.attempt() { process.persisted = next },
                Event::StepAndCrash => process.step_and_crash(),
                Event::Restart => process.restart(),
                Event::Wait => process.now += 30,
                Event::Mine => chain.mine(),
                Event::MineForeign => chain.mine_foreign(),
                Event::Reorganise => chain.reorganise(),
                Event::ForgetPool => chain.forget_pool(),
                Event::LoseNextAnswer => chain.lose_next_answer(),
                Event::Cut => chain.set_unreachable(true),
                Event::Heal => chain.set_unreachable(false),
            }
            prop_assert!(chain.times_mined(&process.data()) <= 1);
        }
        chain.set_unreachable(false);
        for _ in 0..40 {
            if let Ok(next) = process.attempt() { process.persisted = next }
            process.now += 5;
            chain.mine();
        }
        prop_assert_eq!(process.persisted.state_name(), "Finalized");
        prop_assert_eq!(chain.times_mined(&process.data()), 1);
    }
}
