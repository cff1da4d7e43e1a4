//! The chain client against a real chain: what a person, the operator and a node owner can do, and what they are told when it
//! does not work.

use serde_json::json;
use xdc_grid::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::{
        At, ChainClient, ChainError, ChainKey, FeePolicy, Inclusion, NoncePool, Outbox, OutboxRecord,
        http::HttpEndpoints,
        registration::{NodeCapability, NodeConsent, RegistrationStatus},
        rewards::{EpochReport, Standing},
    },
    reward::{RewardLeaf, RewardTree},
};

use crate::chain_anvil::{Anvil, CHAIN_ID, EPOCH_SECONDS, Grid, UNBONDING_SECONDS, WINDOW_SECONDS, key};

const CAPABILITY: NodeCapability = NodeCapability { computing_power: 1_000, storage_gib: 50 };

async fn consent(grid: &Grid) -> NodeConsent {
    let node = grid.node.address();
    let deadline = grid.client.head().await.unwrap().timestamp + 1_000;
    let nonce = grid.client.binding_nonce(node).await.unwrap();
    NodeConsent { node, payout: grid.payout, owner: grid.owner.address(), nonce, deadline }
}

pub async fn register(grid: &Grid, stake: Wei) -> Result<Inclusion, ChainError> {
    let consent = consent(grid).await;
    let signature = consent.sign(&grid.node, CHAIN_ID, grid.client.contract()).unwrap();
    grid.anvil.execute(&grid.owner, grid.client.register_intent(&consent, signature, CAPABILITY, stake)).await
}

fn tree(grid: &Grid, earned: Wei) -> RewardTree {
    let leaves = [
        RewardLeaf { node: grid.node.address(), cumulative: earned },
        RewardLeaf { node: NodeAddress([5; 20]), cumulative: Wei(7) },
        RewardLeaf { node: NodeAddress([6; 20]), cumulative: Wei(Wei::XDC.0 / 3) },
    ];
    RewardTree::build(grid.client.tree_domain(), leaves).unwrap()
}

async fn report(grid: &Grid, epoch: u64, tree: &RewardTree) -> EpochReport {
    EpochReport::new(EpochNumber(epoch), tree, &grid.client.epoch_state(At::Latest).await.unwrap())
}

fn refused(outcome: Result<Inclusion, ChainError>) -> (String, String) {
    match outcome {
        Err(ChainError::Refused(refusal)) => (refusal.name, refusal.message),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_node_registers_earns_is_paid_to_its_payout_and_leaves_with_its_stake() {
    let grid = Grid::deploy().await;
    let node = grid.node.address();
    register(&grid, Wei(2 * Wei::XDC.0)).await.unwrap();
    let registration = grid.client.node(node, At::Latest).await.unwrap().unwrap();
    assert_eq!((registration.owner, registration.payout), (grid.owner.address(), grid.payout));
    assert_eq!((registration.stake, registration.status), (Wei(2 * Wei::XDC.0), RegistrationStatus::Registered));
    assert_eq!(grid.client.total_capability().await.unwrap(), (1_000, 50));

    let earned = Wei(3 * Wei::XDC.0 + 1);
    let tree = tree(&grid, earned);
    let report = report(&grid, 0, &tree).await;
    grid.anvil.pass(EPOCH_SECONDS).await;
    grid.anvil.execute(&grid.reporter, grid.client.report_intent(&report)).await.unwrap();
    let state = grid.client.epoch_state(At::Finalized).await.unwrap();
    assert_eq!(report.standing(&state), Standing::Reported);
    let pending = state.pending.unwrap();
    assert_eq!(state.reward_pool.0 + pending.total.0, 1_000 * Wei::XDC.0, "reserved at once");

    grid.anvil.pass(WINDOW_SECONDS).await;
    grid.anvil.execute(&grid.owner, grid.client.activate_intent(&pending)).await.unwrap();
    assert_eq!(grid.client.epoch_state(At::Latest).await.unwrap().live_root, tree.root());

    let proof = tree.proof(node).unwrap();
    let claim = grid.client.claim_intent(&proof);
    grid.anvil.execute(&grid.reporter, claim.clone()).await.unwrap();
    assert_eq!(grid.balance(grid.payout).await, earned);
    assert_eq!(grid.client.claimed(node, At::Latest).await.unwrap(), earned);
    assert_eq!(refused(grid.anvil.execute(&grid.reporter, claim).await).0, "NothingToClaim");

    grid.anvil.execute(&grid.owner, grid.client.unregister_intent(node, &registration)).await.unwrap();
    let exiting = grid.client.node(node, At::Latest).await.unwrap().unwrap();
    assert_eq!(exiting.status, RegistrationStatus::Exiting);
    grid.anvil.pass(UNBONDING_SECONDS).await;
    let before = grid.balance(grid.owner.address()).await;
    let withdrawn = grid.anvil.execute(&grid.owner, grid.client.unregister_intent(node, &exiting)).await.unwrap();
    let after = grid.balance(grid.owner.address()).await;
    assert_eq!(after.0, before.0 + 2 * Wei::XDC.0 - withdrawn.fee.0);
    assert_eq!(grid.client.node(node, At::Latest).await.unwrap(), None);
    assert_eq!(grid.client.payout_of(node).await.unwrap(), grid.payout);
}

#[tokio::test]
async fn nobody_registers_a_node_without_its_consent_or_with_too_little() {
    let grid = Grid::deploy().await;
    let honest = consent(&grid).await;
    let signature = honest.sign(&grid.node, CHAIN_ID, grid.client.contract()).unwrap();
    let stolen = NodeConsent { payout: grid.reporter.address(), ..honest };
    let intent = grid.client.register_intent(&stolen, signature, CAPABILITY, Wei::XDC);
    let (name, message) = refused(grid.anvil.execute(&grid.owner, intent).await);
    assert_eq!(name, "ConsentInvalid");
    assert!(message.contains(&grid.node.address().to_string()), "{message}");

    let (name, message) = refused(register(&grid, Wei(Wei::XDC.0 - 1)).await);
    assert_eq!(name, "StakeTooSmall");
    assert!(message.contains("the least is 1.0000 XDC"), "{message}");
    assert_eq!(grid.client.node(grid.node.address(), At::Latest).await.unwrap(), None);
}

#[tokio::test]
async fn a_reporter_without_the_role_is_told_who_must_grant_it() {
    let grid = Grid::deploy().await;
    assert!(grid.client.is_reporter(grid.reporter.address()).await.unwrap());
    assert!(!grid.client.is_reporter(grid.owner.address()).await.unwrap());
    let report = report(&grid, 0, &tree(&grid, Wei(1))).await;
    grid.anvil.pass(EPOCH_SECONDS).await;
    let (name, message) = refused(grid.anvil.execute(&grid.owner, grid.client.report_intent(&report)).await);
    assert_eq!(name, "MissingRole");
    assert!(message.contains("REPORTER_ROLE") && message.contains("admin must grant it"), "{message}");
}

#[tokio::test]
async fn many_nodes_are_read_at_once_with_and_without_a_multicall_contract() {
    let grid = Grid::deploy().await;
    register(&grid, Wei::XDC).await.unwrap();
    let mut asked: Vec<_> = (1..=250u8).map(|seed| NodeAddress([seed; 20])).collect();
    asked[201] = grid.node.address();
    let at = grid.client.rpc().block(At::Finalized).await.unwrap().hash;
    let singly = grid.client.nodes(&asked, at).await.unwrap();
    assert!(singly[201].is_some() && singly.iter().flatten().count() == 1);

    // What the canonical contract's creation leaves behind.
    let code = alloy::providers::bindings::IMulticall3::BYTECODE[32..].to_vec();
    let address = xdc_grid::chain::multicall::multicall_address(CHAIN_ID).unwrap();
    let code = alloy::primitives::Bytes::from(code).to_string();
    grid.anvil.request("anvil_setCode", json!([address.to_string(), code])).await;
    grid.anvil.mine(3).await;
    let at = grid.client.rpc().block(At::Finalized).await.unwrap().hash;
    assert_eq!(grid.client.nodes(&asked, at).await.unwrap(), singly);
}

#[tokio::test]
async fn a_wrong_chain_a_missing_contract_and_another_contract_are_told_apart() {
    let grid = Grid::deploy().await;
    let url = &grid.anvil.url;
    let contract = grid.client.contract();
    let wrong = ChainClient::connect(&[url], 50, contract).await.err().unwrap();
    assert!(matches!(wrong, ChainError::WrongChainId { expected: 50, found: 51, .. }), "{wrong}");
    assert!(!wrong.is_transient());

    let nobody = NodeAddress([0x77; 20]);
    let missing = ChainClient::connect(&[url], CHAIN_ID, nobody).await.err().unwrap();
    assert_eq!(missing, ChainError::NoContractCode { contract: nobody, chain_id: CHAIN_ID });

    grid.anvil.request("anvil_setCode", json!([nobody.to_string(), "0x60006000fd"])).await;
    let other = ChainClient::connect(&[url], CHAIN_ID, nobody).await.err().unwrap();
    assert!(matches!(other, ChainError::NotTheContract { .. }), "{other}");

    let nowhere = ChainClient::connect(&["http://127.0.0.1:9/secret"], CHAIN_ID, contract).await.err().unwrap();
    assert!(nowhere.is_transient() && !nowhere.to_string().contains("secret"), "{nowhere}");
    let second = ChainClient::connect(&["http://127.0.0.1:9", url.as_str()], CHAIN_ID, contract).await;
    assert!(second.is_ok(), "one endpoint that answers is enough");
}

#[tokio::test]
async fn an_account_without_money_is_told_how_much_it_needs() {
    let grid = Grid::deploy().await;
    let poor = key(99);
    let outcome = grid.anvil.execute(&poor, grid.client.fund_intent(Wei::XDC, "test")).await;
    assert_eq!(
        outcome,
        Err(ChainError::InsufficientFunds { account: poor.address(), balance: Wei(0), needed: Wei::XDC })
    );
}

/// The operator as far as the outbox sees it: keeps a record, steps it, and may die before a step's result is stored.
struct Operator<'a> {
    grid: &'a Grid,
    key: ChainKey,
    nonces: NoncePool,
    stored: OutboxRecord,
    now: u64,
}

impl<'a> Operator<'a> {
    fn start(grid: &'a Grid, report: &EpochReport) -> Self {
        let key = grid.reporter.clone();
        let stored = OutboxRecord::plan(grid.client.report_intent(report), key.address(), CHAIN_ID);
        Operator { grid, nonces: NoncePool::new(key.address()), key, stored, now: 0 }
    }

    async fn step(&self) -> Result<OutboxRecord, ChainError> {
        let rpc = self.grid.anvil.rpc();
        let outbox = Outbox { rpc: rpc.as_ref(), key: &self.key, nonces: &self.nonces, fees: FeePolicy::default() };
        outbox.step(&self.stored, self.now).await
    }

    fn restart(&mut self) {
        self.nonces = NoncePool::restore(self.key.address(), [&self.stored]);
    }
}

/// Runs a report to its end; dies at step `crash_at`, after acting and before storing. Returns the number of steps.
async fn run_with_crash(grid: &Grid, report: &EpochReport, crash_at: Option<usize>) -> usize {
    let mut operator = Operator::start(grid, report);
    for step in 0..40 {
        let next = operator.step().await.unwrap();
        if crash_at == Some(step) {
            operator.restart();
        } else {
            operator.stored = next;
        }
        operator.now += 2;
        if operator.stored.is_finished() {
            assert_eq!(operator.stored.state_name(), "Finalized");
            return step + 1;
        }
        if operator.stored.waits_for_the_chain() {
            grid.anvil.mine(1).await;
        }
    }
    panic!("not final after 40 steps: {:?}", operator.stored);
}

#[tokio::test]
async fn a_crash_between_any_two_steps_reports_an_epoch_exactly_once() {
    let grid = Grid::deploy().await;
    let mut epoch = 0;
    let mut steps = 0;
    let mut crash_at = None;
    loop {
        grid.anvil.pass(EPOCH_SECONDS).await;
        let report = report(&grid, epoch, &tree(&grid, Wei(u128::from(epoch) + 1))).await;
        let taken = run_with_crash(&grid, &report, crash_at).await;
        steps = steps.max(taken);
        epoch += 1;
        let sent = grid.client.rpc().nonce(grid.reporter.address(), At::Latest).await.unwrap();
        assert_eq!(sent, epoch, "one transaction an epoch, with a crash at step {crash_at:?}");
        let state = grid.client.epoch_state(At::Latest).await.unwrap();
        assert_eq!((state.next_epoch, report.standing(&state)), (EpochNumber(epoch), Standing::Reported));
        crash_at = Some(crash_at.map_or(0, |step| step + 1));
        if crash_at > Some(steps) {
            break;
        }
    }
    assert!(steps >= 5, "signed, sent, waiting, included, finalized");
}

#[tokio::test]
async fn a_second_operator_with_the_same_key_is_stopped_by_the_contract() {
    let grid = Grid::deploy().await;
    grid.anvil.pass(EPOCH_SECONDS).await;
    let report = report(&grid, 0, &tree(&grid, Wei(1))).await;
    let late = Operator::start(&grid, &report);
    run_with_crash(&grid, &report, None).await;
    let refusal = late.step().await.err().unwrap();
    assert!(matches!(&refusal, ChainError::Refused(why) if why.name == "WrongEpoch"), "{refusal}");
    assert_eq!(report.standing(&grid.client.epoch_state(At::Latest).await.unwrap()), Standing::Reported);
}

#[tokio::test]
async fn a_report_whose_block_is_dropped_is_sent_again() {
    let grid = Grid::deploy().await;
    grid.anvil.pass(EPOCH_SECONDS).await;
    let report = report(&grid, 0, &tree(&grid, Wei(1))).await;
    let mut operator = Operator::start(&grid, &report);
    while operator.stored.state_name() != "Included" {
        operator.stored = operator.step().await.unwrap();
        if operator.stored.state_name() == "Sent" {
            grid.anvil.mine(1).await;
        }
    }
    grid.anvil.request("anvil_reorg", json!([1, []])).await;
    assert_eq!(grid.client.epoch_state(At::Latest).await.unwrap().next_epoch, EpochNumber(0), "the report is gone");
    for _ in 0..40 {
        operator.now += 10;
        operator.stored = operator.step().await.unwrap();
        grid.anvil.mine(1).await;
    }
    assert_eq!(operator.stored.state_name(), "Finalized");
    assert_eq!(grid.client.epoch_state(At::Latest).await.unwrap().next_epoch, EpochNumber(1));
}

#[tokio::test]
async fn reports_wait_for_the_end_of_their_epoch_and_of_the_window_before() {
    let grid = Grid::deploy().await;
    let first = report(&grid, 0, &tree(&grid, Wei(1))).await;
    let early = Operator::start(&grid, &first).step().await.err().unwrap();
    assert!(early.is_transient() && early.to_string().contains("EpochNotOver"), "{early}");
    grid.anvil.pass(2 * EPOCH_SECONDS).await;
    run_with_crash(&grid, &first, None).await;
    let second = report(&grid, 1, &tree(&grid, Wei(2))).await;
    let early = Operator::start(&grid, &second).step().await.err().unwrap();
    assert!(early.is_transient() && early.to_string().contains("PendingEpoch"), "{early}");
    grid.anvil.pass(WINDOW_SECONDS).await;
    run_with_crash(&grid, &second, None).await;
    let state = grid.client.epoch_state(At::Latest).await.unwrap();
    assert_eq!(
        (state.live_root, state.pending.unwrap().root),
        (first.root, second.root),
        "reporting activated the first"
    );
}

/// Whoever has the reporter's key can report what he likes. What it costs: once `maxEpochIncrease` a window, after everybody
/// could see it for the whole window, and never a stake.
#[tokio::test]
async fn a_stolen_reporter_key_takes_at_most_one_epochs_increase_and_no_stake() {
    let grid = Grid::deploy().await;
    register(&grid, Wei(2 * Wei::XDC.0)).await.unwrap();
    let thief = NodeAddress([0x66; 20]);
    let most = grid.client.parameters().await.unwrap().max_epoch_increase;
    let all_to_the_thief = |amount| {
        let leaf = RewardLeaf { node: thief, cumulative: amount };
        RewardTree::build(grid.client.tree_domain(), [leaf]).unwrap()
    };
    grid.anvil.pass(3 * EPOCH_SECONDS).await;
    let greedy = report(&grid, 0, &all_to_the_thief(Wei(most.0 + 1))).await;
    let outcome = grid.anvil.execute(&grid.reporter, grid.client.report_intent(&greedy)).await;
    assert_eq!(refused(outcome).0, "IncreaseTooLarge");

    let loot = all_to_the_thief(most);
    let first = report(&grid, 0, &loot).await;
    grid.anvil.execute(&grid.reporter, grid.client.report_intent(&first)).await.unwrap();
    let second = report(&grid, 1, &all_to_the_thief(Wei(2 * most.0))).await;
    let outcome = grid.anvil.execute(&grid.reporter, grid.client.report_intent(&second)).await;
    assert_eq!(refused(outcome).0, "PendingEpoch", "one at a time, each for a whole window");
    let early = grid.anvil.execute(&grid.reporter, grid.client.claim_intent(&loot.proof(thief).unwrap())).await;
    assert_eq!(refused(early).0, "InvalidProof", "nothing is paid inside the window");

    // Nobody looked: what is lost is one epoch's increase.
    let pending = grid.client.epoch_state(At::Latest).await.unwrap().pending.unwrap();
    grid.anvil.pass(WINDOW_SECONDS).await;
    grid.anvil.execute(&grid.reporter, grid.client.activate_intent(&pending)).await.unwrap();
    grid.anvil.execute(&grid.reporter, grid.client.claim_intent(&loot.proof(thief).unwrap())).await.unwrap();
    assert_eq!(grid.balance(thief).await, most);
    let state = grid.client.epoch_state(At::Latest).await.unwrap();
    assert_eq!(state.reward_pool.0, 1_000 * Wei::XDC.0 - most.0);
    assert_eq!(state.stake_total, Wei(2 * Wei::XDC.0), "stakes are out of reach");
    assert_eq!(grid.balance(grid.client.contract()).await.0, state.reward_pool.0 + state.stake_total.0);
}

#[tokio::test]
async fn endpoints_of_a_stopped_node_are_unreachable_and_not_wrong() {
    let anvil = Anvil::start().await;
    let endpoints = HttpEndpoints::new(&[&anvil.url], CHAIN_ID).unwrap();
    drop(anvil);
    let error = xdc_grid::chain::ChainRpc::block(&endpoints, At::Latest).await.err().unwrap();
    assert_eq!((error.label(), error.is_transient()), ("ChainUnreachable", true));
}
