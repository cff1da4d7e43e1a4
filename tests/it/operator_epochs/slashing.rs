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

use super::stage::{Life, NETWORK, Stage};
use crate::{
    chain_anvil::key,
    support::{
        faults::{Fault, Faults},
        world::{SYSTEM, create, create_in},
    },
};

const LOOKS: usize = 60;
const NAME: &str = "cheat";
/// One of the staked nodes of the stage.
const SEED: u8 = 21;

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
        let peer = NodeKey::from_bytes(&[SEED; 32]).unwrap().peer_id().to_string();
        let spec = json!({
            "networkRef": {"name": NETWORK}, "mode": "External", "peerID": peer, "approved": true,
            "drain": {"deadlineSeconds": 0},
        });
        create::<GridNode>(&court.stage.island.admin, json!({"metadata": {"name": NAME}, "spec": spec})).await;
        court.stage.gateway.convict(&peer, &format!("0x{}", "07".repeat(32)));
        court
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

    async fn remove_node(&self) {
        let nodes: Api<GridNode> = Api::all(self.stage.island.admin.clone());
        nodes.delete(NAME, &DeleteParams::default()).await.unwrap();
        for _ in 0..LOOKS {
            if nodes.get_opt(NAME).await.unwrap().is_none() {
                return;
            }
            self.stage.life().look_at_node(NAME).await;
        }
        panic!("the node does not go: {:#?}", self.node().await.status);
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
