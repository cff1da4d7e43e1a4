//! A slash case from the conviction to its end, against the real contracts, on a chain whose clock the test moves. Every look is another
//! process's.

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use xdc_grid::{
    api::{
        conditions::{Condition, find},
        grid_network::GridNetwork,
        grid_node::{GridNode, condition},
        ids::Wei,
    },
    chain::{
        At,
        slashing::{CaseState, SlashCase, Slashing},
    },
    protocol::identity::NodeKey,
};

use super::stage::{NETWORK, Stage};
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
    /// A node that audits convicted, and a network with a slasher.
    async fn sit() -> Self {
        let stage = Stage::set().await;
        let admin = &stage.island.admin;
        let secret = json!({"metadata": {"name": "slasher"}, "stringData": {"key": hex::encode([5u8; 32])}});
        create_in::<k8s_openapi::api::core::v1::Secret>(admin, SYSTEM, secret).await;
        let patch = json!({"spec": {"chain": {"slasherSecretRef": {"name": "slasher", "key": "key"}}}});
        let networks: Api<GridNetwork> = Api::all(admin.clone());
        networks.patch(NETWORK, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let peer = NodeKey::from_bytes(&[SEED; 32]).unwrap().peer_id().to_string();
        let spec = json!({"networkRef": {"name": NETWORK}, "mode": "External", "peerID": peer, "approved": true});
        create::<GridNode>(admin, json!({"metadata": {"name": NAME}, "spec": spec})).await;
        stage.gateway.convict(&peer, &format!("0x{}", "07".repeat(32)));
        let slashing = Slashing::of(&stage.grid.client).await.unwrap().unwrap();
        Court { stage, slashing }
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
        self.slashing.case(1, At::Latest).await.unwrap().unwrap()
    }

    async fn pass_the_appeal(&self) {
        let (until, now) = (self.case().await.appeal_until, self.stage.grid.anvil.time().await);
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
