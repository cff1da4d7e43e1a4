//! A slash case from the conviction to its end, against the real contracts, on a chain whose clock the test moves. Every look is another
//! process's.

use alloy::primitives::B256;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use xdc_grid::{
    api::{
        conditions::{Condition, Truth, find},
        grid_network::{GridNetwork, GridNetworkStatus, condition::SLASH_CASES_CURRENT},
        grid_node::{GridNode, condition},
        ids::Wei,
        refs::TransactionState,
    },
    chain::{
        At,
        slashing::{CaseState, SlashCase, Slashing},
    },
    protocol::identity::NodeKey,
};

use super::stage::{Life, NETWORK, Stage, jump};
use crate::{
    chain_anvil::key,
    support::{
        faults::{Fault, Faults},
        world::{SYSTEM, create, create_in, event_reasons},
    },
};

const LOOKS: usize = 60;
const NAME: &str = "cheat";
/// One of the staked nodes of the stage.
const SEED: u8 = 21;
/// What convicts it.
const PROOF: B256 = B256::repeat_byte(7);

fn peer() -> String {
    NodeKey::from_bytes(&[SEED; 32]).unwrap().peer_id().to_string()
}

struct Court {
    stage: Stage,
    slashing: Slashing,
}

impl Court {
    /// A network with a slasher, and nobody accused.
    async fn open() -> Self {
        let stage = Stage::set().await;
        let admin = &stage.island.admin;
        let secret = json!({"metadata": {"name": "slasher"}, "stringData": {"key": hex::encode([5u8; 32])}});
        create_in::<k8s_openapi::api::core::v1::Secret>(admin, SYSTEM, secret).await;
        let patch = json!({"spec": {"chain": {"slasherSecretRef": {"name": "slasher", "key": "key"}}}});
        let networks: Api<GridNetwork> = Api::all(admin.clone());
        networks.patch(NETWORK, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let slashing = Slashing::of(&stage.grid.client).await.unwrap().unwrap();
        Court { stage, slashing }
    }

    /// The same with a node that audits convicted.
    async fn sit() -> Self {
        let court = Court::open().await;
        court.admit(0).await;
        court.convict();
        court
    }

    /// Makes the node's GridNode, which has that many seconds to leave.
    async fn admit(&self, deadline: u32) {
        let spec = json!({
            "networkRef": {"name": NETWORK}, "mode": "External", "peerID": peer(), "approved": true,
            "drain": {"deadlineSeconds": deadline},
        });
        create::<GridNode>(&self.stage.island.admin, json!({"metadata": {"name": NAME}, "spec": spec})).await;
    }

    fn convict(&self) {
        self.stage.gateway.convict(&peer(), &PROOF.to_string());
    }

    async fn set_dry_run(&self, dry_run: bool) {
        let networks: Api<GridNetwork> = Api::all(self.stage.island.admin.clone());
        let patch = json!({"spec": {"rewards": {"dryRun": dry_run}}});
        networks.patch(NETWORK, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    async fn node(&self) -> GridNode {
        Api::<GridNode>::all(self.stage.island.admin.clone()).get(NAME).await.unwrap()
    }

    async fn slashed(&self) -> Option<Condition> {
        find(&self.node().await.status?.conditions, condition::SLASHED).cloned()
    }

    /// Looks, each time as a new process that dies after its first write, until the condition says `reason`.
    async fn until(&self, reason: &str) -> Condition {
        for _ in 0..LOOKS {
            let life = self.stage.life_with(Faults::at_write(0, Fault::DieAfter), Faults::none());
            life.api.until_death(Box::pin(life.look_at_node(NAME))).await;
            if let Some(found) = self.slashed().await.filter(|found| found.reason == reason) {
                return found;
            }
            self.stage.grid.anvil.mine(1).await;
        }
        panic!("the node is not {reason}: {:#?}", self.node().await.status);
    }

    async fn case(&self) -> SlashCase {
        self.case_of(1).await
    }

    async fn case_of(&self, id: u64) -> SlashCase {
        self.slashing.case(id, At::Latest).await.unwrap().unwrap()
    }

    /// Opens a case without the operator, as another slasher would. Returns its id.
    async fn accuse(&self, seed: u8) -> u64 {
        let id = self.slashing.case_count(At::Latest).await.unwrap() + 1;
        let evidence = B256::from(alloy::primitives::U256::from(id));
        let intent = self.slashing.propose_intent(key(seed).address(), Wei(Wei::XDC.0 / 1_000), evidence).unwrap();
        self.stage.grid.anvil.execute(&self.stage.grid.slasher, intent).await.unwrap();
        id
    }

    async fn network_status(&self) -> GridNetworkStatus {
        self.stage.network().await.status.unwrap_or_default()
    }

    /// Looks until a case is executed and the network says so. `false` when the process died first.
    async fn executed_by(&self, life: &Life, id: u64) -> bool {
        for _ in 0..LOOKS {
            if !life.look_at_cases().await {
                return false;
            }
            let written = self.network_status().await.slash_execution;
            if self.case_of(id).await.state == CaseState::Executed
                && written.is_some_and(|written| written.state == TransactionState::Finalized)
            {
                return true;
            }
            self.stage.grid.anvil.mine(1).await;
        }
        panic!("case {id} is not executed: {:#?}", self.network_status().await);
    }

    async fn delete_node(&self) {
        let nodes: Api<GridNode> = Api::all(self.stage.island.admin.clone());
        nodes.delete(NAME, &DeleteParams::default()).await.unwrap();
    }

    /// Looks until the deleted node is gone, a block each.
    async fn gone(&self) {
        let nodes: Api<GridNode> = Api::all(self.stage.island.admin.clone());
        for _ in 0..LOOKS {
            if nodes.get_opt(NAME).await.unwrap().is_none() {
                return;
            }
            self.stage.life().look_at_node(NAME).await;
            self.stage.grid.anvil.mine(1).await;
        }
        panic!("the node does not go: {:#?}", self.node().await.status);
    }

    async fn remove_node(&self) {
        self.delete_node().await;
        self.gone().await;
    }

    async fn pass_the_appeal(&self) {
        let last = self.slashing.case_count(At::Latest).await.unwrap();
        let (until, now) = (self.case_of(last).await.appeal_until, self.stage.grid.anvil.time().await);
        self.stage.grid.anvil.mine_at(until.max(now)).await;
        self.stage.grid.anvil.mine(3).await;
    }

    async fn stake(&self) -> Wei {
        self.stage.grid.client.node(key(SEED).address(), At::Latest).await.unwrap().unwrap().stake
    }

    /// Transactions that the slasher ever got into a block.
    async fn sent(&self) -> u64 {
        self.stage.grid.client.rpc().nonce(self.stage.grid.slasher.address(), At::Latest).await.unwrap()
    }
}

#[tokio::test]
async fn a_case_that_nobody_appeals_against_is_executed_once_when_its_time_is_over() {
    let court = Court::sit().await;
    let before = court.stake().await;
    court.until("SlashProposed").await;
    for _ in 0..3 {
        court.stage.life().look_at_node(NAME).await;
    }
    assert_eq!(court.sent().await, 1, "before its time nothing is sent but the proposal");
    assert!(court.node().await.status.unwrap().slash_execution.is_none());

    court.pass_the_appeal().await;
    court.until("SlashExecuted").await;
    let case = court.case().await;
    assert_eq!((case.state, court.stake().await), (CaseState::Executed, Wei(before.0 - case.amount.0)));
    for _ in 0..3 {
        court.stage.grid.anvil.mine(1).await;
        court.stage.life().look_at_node(NAME).await;
    }
    assert_eq!(court.sent().await, 2, "one proposal, one execution");
    assert_eq!(court.slashing.case_count(At::Latest).await.unwrap(), 1);
    assert!(court.node().await.status.unwrap().slash_execution.unwrap().transaction_hash.is_some());
}

#[tokio::test]
async fn a_case_that_was_appealed_is_left_to_the_arbiter() {
    let court = Court::sit().await;
    court.until("SlashProposed").await;
    let bond = court.slashing.appeal_bond().await.unwrap();
    let owner = court.stage.grid.owner.clone();
    court.stage.grid.anvil.execute(&owner, court.slashing.appeal_intent(1, bond)).await.unwrap();
    court.pass_the_appeal().await;
    court.until("SlashAppealed").await;
    for _ in 0..5 {
        court.stage.grid.anvil.mine(1).await;
        court.stage.life().look_at_node(NAME).await;
    }
    assert_eq!((court.sent().await, court.case().await.state), (1, CaseState::Appealed));
}

#[tokio::test]
async fn a_case_that_somebody_else_executed_is_not_sent_again() {
    let court = Court::sit().await;
    court.until("SlashProposed").await;
    court.pass_the_appeal().await;
    let owner = court.stage.grid.owner.clone();
    let executed = court.stage.grid.anvil.execute(&owner, court.slashing.execute_intent(1)).await;
    executed.unwrap();
    court.until("SlashExecuted").await;
    assert_eq!(court.sent().await, 1);
}

#[tokio::test]
async fn a_case_is_left_to_its_grid_node_while_that_is_there_and_executed_without_it() {
    let court = Court::sit().await;
    let before = court.stake().await;
    court.until("SlashProposed").await;
    court.pass_the_appeal().await;
    for _ in 0..3 {
        assert!(court.stage.life().look_at_cases().await);
    }
    assert_eq!((court.sent().await, court.network_status().await.slash_execution), (1, None), "its GridNode's case");

    court.remove_node().await;
    assert_eq!((court.sent().await, court.case().await.state), (1, CaseState::Proposed), "nobody executed it yet");
    let life = court.stage.life();
    assert!(court.executed_by(&life, 1).await);
    let case = court.case().await;
    assert_eq!(court.stake().await, Wei(before.0 - case.amount.0));
    for _ in 0..3 {
        court.stage.grid.anvil.mine(1).await;
        assert!(life.look_at_cases().await);
    }
    assert_eq!(court.sent().await, 2, "one proposal, one execution");
    let said = court.network_status().await.conditions;
    let said = find(&said, SLASH_CASES_CURRENT).unwrap();
    assert_eq!((said.status, said.reason.as_str()), (Truth::True, "SlashCasesCurrent"));
}

#[tokio::test]
async fn a_grid_node_that_is_made_anew_opens_no_second_case_and_shows_the_first_to_its_end() {
    let court = Court::sit().await;
    court.until("SlashProposed").await;
    court.remove_node().await;
    court.admit(0).await;
    let shown = court.until("SlashProposed").await;
    assert!(shown.message.starts_with("case 1 of"), "{}", shown.message);
    for _ in 0..3 {
        court.stage.life().look_at_node(NAME).await;
        court.stage.grid.anvil.mine(1).await;
    }
    assert!(court.node().await.status.unwrap().slash.is_none(), "it proposed nothing");

    court.pass_the_appeal().await;
    assert!(court.executed_by(&court.stage.life(), 1).await, "the network executes what no GridNode proposed");
    court.until("SlashExecuted").await;
    assert_eq!(court.sent().await, 2, "one proposal, one execution");
    assert_eq!(court.slashing.case_count(At::Latest).await.unwrap(), 1);
}

#[tokio::test]
async fn a_convicted_node_that_is_deleted_is_accused_before_it_goes() {
    let court = Court::open().await;
    court.admit(600).await;
    let life = court.stage.life();
    life.look_at_node(NAME).await;
    court.convict();
    court.delete_node().await;
    life.chain.set_away(true);
    for _ in 0..3 {
        life.look_at_node(NAME).await;
    }
    let waits = court.node().await.status.unwrap();
    let draining = find(&waits.conditions, condition::DRAINING).unwrap();
    assert!(draining.message.contains("once its stake can be read"), "{}", draining.message);
    assert_eq!(court.sent().await, 0);

    court.gone().await;
    assert_eq!(court.sent().await, 1, "one proposal");
    let case = court.case().await;
    assert_eq!((case.node, case.state), (key(SEED).address(), CaseState::Proposed));
    assert_eq!(court.slashing.case_of(case.node, PROOF, At::Latest).await.unwrap(), Some(1));
    court.pass_the_appeal().await;
    assert!(court.executed_by(&court.stage.life(), 1).await, "it needs its GridNode no more");
}

#[tokio::test]
async fn a_convicted_node_is_held_up_no_longer_than_its_deadline_and_an_event_says_what_was_left_undone() {
    let court = Court::open().await;
    court.admit(600).await;
    let life = court.stage.life();
    life.look_at_node(NAME).await;
    court.convict();
    court.delete_node().await;
    life.chain.set_away(true);
    life.look_at_node(NAME).await;
    assert!(court.node().await.metadata.deletion_timestamp.is_some(), "it waits");
    jump(601);
    life.look_at_node(NAME).await;
    let nodes: Api<GridNode> = Api::all(court.stage.island.admin.clone());
    assert!(nodes.get_opt(NAME).await.unwrap().is_none(), "it is gone");
    let reasons = event_reasons(&court.stage.island.admin, "default", NAME).await;
    assert!(reasons.contains(&"DrainDeadlineExceeded".to_owned()), "{reasons:?}");
    assert_eq!(court.sent().await, 0);
}

#[tokio::test]
async fn a_dry_run_keeps_proposals_and_executions_of_a_grid_node_from_the_chain() {
    let court = Court::sit().await;
    let life = court.stage.life();
    // The finalizer, and the plan.
    for _ in 0..2 {
        life.look_at_node(NAME).await;
    }
    assert_eq!(court.node().await.status.unwrap().slash.unwrap().state, TransactionState::Planned);
    court.set_dry_run(true).await;
    court.until("DryRun").await;
    assert!(court.node().await.status.unwrap().slash.is_none(), "what was planned is given up");
    court.set_dry_run(false).await;
    court.until("SlashProposed").await;

    court.pass_the_appeal().await;
    court.set_dry_run(true).await;
    court.until("DryRun").await;
    for _ in 0..3 {
        court.stage.life().look_at_node(NAME).await;
        court.stage.grid.anvil.mine(1).await;
    }
    assert_eq!((court.sent().await, court.case().await.state), (1, CaseState::Proposed));
    assert!(court.node().await.status.unwrap().slash_execution.is_none());
    court.set_dry_run(false).await;
    court.until("SlashExecuted").await;
    assert_eq!(court.sent().await, 2, "one proposal, one execution");
}

#[tokio::test]
async fn an_execution_that_could_not_be_sent_is_dropped_when_somebody_else_executed_the_case() {
    let court = Court::sit().await;
    court.until("SlashProposed").await;
    court.pass_the_appeal().await;
    let (anvil, slasher) = (&court.stage.grid.anvil, court.stage.grid.slasher.address());
    anvil.give(slasher, Wei(0)).await;
    for _ in 0..3 {
        court.stage.life().look_at_node(NAME).await;
    }
    let planned = court.node().await.status.unwrap().slash_execution.unwrap();
    assert_eq!(planned.state, TransactionState::Planned, "it has no money to go on");

    let executed = anvil.execute(&court.stage.grid.owner, court.slashing.execute_intent(1)).await;
    executed.unwrap();
    court.until("SlashExecuted").await;
    assert!(court.node().await.status.unwrap().slash_execution.is_none(), "nothing waits to be sent any more");
    assert_eq!(court.sent().await, 1, "the proposal");
}

#[tokio::test]
async fn of_cases_in_every_state_the_one_that_is_due_is_executed_and_no_other() {
    let court = Court::open().await;
    let life = court.stage.life();
    assert!(life.look_at_cases().await);
    life.chain.set_away(true);
    assert!(life.look_at_cases().await);
    life.chain.set_away(false);
    let said = court.network_status().await.conditions;
    assert_eq!(find(&said, SLASH_CASES_CURRENT), None, "where there never was a case nothing is said of any");
    let (appealed, due) = (court.accuse(21).await, court.accuse(22).await);
    let bond = court.slashing.appeal_bond().await.unwrap();
    let owner = court.stage.grid.owner.clone();
    court.stage.grid.anvil.execute(&owner, court.slashing.appeal_intent(appealed, bond)).await.unwrap();
    assert!(life.look_at_cases().await);
    assert_eq!(court.sent().await, 2, "both can still be appealed, or were");
    court.pass_the_appeal().await;
    let young = court.accuse(23).await;
    assert!(court.executed_by(&life, due).await);
    for _ in 0..5 {
        court.stage.grid.anvil.mine(1).await;
        assert!(life.look_at_cases().await);
    }
    let states =
        [court.case_of(appealed).await.state, court.case_of(due).await.state, court.case_of(young).await.state];
    assert_eq!(states, [CaseState::Appealed, CaseState::Executed, CaseState::Proposed]);
    assert_eq!(court.sent().await, 4, "three proposals, one execution");
}

#[tokio::test]
async fn an_operator_that_dies_at_any_write_executes_each_case_once() {
    let court = Court::open().await;
    let mut cases = 0;
    for at_chain in [false, true] {
        for n in 0.. {
            let id = court.accuse([21, 22, 23][n % 3]).await;
            court.pass_the_appeal().await;
            let faults = Faults::at_write(n, Fault::DieAfter);
            let (api, chain) = if at_chain { (Faults::none(), faults) } else { (faults, Faults::none()) };
            let first = court.stage.life_with(api.clone(), chain.clone());
            let survived = court.executed_by(&first, id).await;
            drop(first);
            let hit = api.hit().or(chain.hit());
            if !survived {
                assert!(court.executed_by(&court.stage.life(), id).await, "after {hit:?}");
            }
            cases += 1;
            assert_eq!(court.sent().await, 2 * cases, "a proposal and an execution each, after {hit:?}");
            if hit.is_none() {
                assert!(n > 1 || at_chain, "nothing ever happened");
                break;
            }
        }
    }
}
