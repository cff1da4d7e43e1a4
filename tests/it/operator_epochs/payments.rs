//! Paid jobs settled with a real escrow, and their fees in the next report, with processes that die at any moment.

use alloy::{
    primitives::{B256, keccak256},
    sol_types::{SolCall, SolEvent},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use xdc_grid::{
    api::{
        conditions::find,
        grid_network::{GridNetwork, condition},
        ids::{EscrowId, NodeAddress, Wei},
    },
    chain::{
        At, Intent, IntentKind, TxCall,
        bindings::{GridComputingRewards::revokeRoleCall, GridJobEscrow::JobSettled},
        escrow::{JobEscrow, JobState},
    },
    protocol::internal::{JobPayment, OpenPayment, TokenPrice},
};

use super::stage::{BUDGET, Life, NETWORK, Stage};
use crate::{
    chain_anvil::key,
    support::faults::{Fault, Faults},
};

const LOOKS: usize = 60;
const HELD: u128 = 10 * Wei::XDC.0;

struct Payments {
    stage: Stage,
    escrow: JobEscrow,
    opened: Vec<EscrowId>,
}

impl Payments {
    async fn set() -> Self {
        let stage = Stage::set().await;
        let patch = json!({"spec": {"chain": {"escrow": stage.grid.escrow.to_string()}}});
        let networks: Api<GridNetwork> = Api::all(stage.island.admin.clone());
        networks.patch(NETWORK, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let escrow = JobEscrow::of(&stage.grid.client, stage.grid.escrow).await.unwrap();
        Payments { stage, escrow, opened: Vec::new() }
    }

    /// A payer puts 10 XDC down, and a job that is over spent some of it.
    async fn owe(&mut self, spent: u128, served: &[(NodeAddress, u64)]) -> EscrowId {
        let (payer, salt) = (&self.stage.grid.owner, B256::with_last_byte(self.opened.len() as u8));
        let deadline = self.stage.grid.client.head().await.unwrap().timestamp + 86_400;
        let intent = self.escrow.open_intent(payer.address(), salt, deadline, Wei(HELD));
        self.stage.grid.anvil.execute(payer, intent).await.unwrap();
        let id = EscrowId(JobEscrow::job_id(payer.address(), salt).0);
        let price = TokenPrice { prompt: Wei(1), output: Wei(1) };
        let payment = JobPayment { escrow: id, max_spend: Wei(HELD), deadline, price };
        let open =
            OpenPayment { job: format!("job-{}", self.opened.len()), payment, spent: Wei(spent), finished_at_ms: 0 };
        self.stage.gateway.owe(open, served);
        self.opened.push(id);
        id
    }

    /// Looks until the gateway knows that the escrow is settled. `false` when the process died first.
    async fn settle_by(&self, life: &Life, id: &EscrowId) -> bool {
        for _ in 0..LOOKS {
            if !life.settle().await {
                return false;
            }
            if self.stage.gateway.settled(id).is_some() {
                return true;
            }
            self.stage.step().await;
        }
        panic!("not settled after {LOOKS} looks: {:#?}", self.stage.network().await.status);
    }

    /// How often the contract settled anything.
    async fn times_settled(&self) -> usize {
        let filter = json!([{
            "fromBlock": "0x0", "address": self.stage.grid.escrow.to_string(),
            "topics": [JobSettled::SIGNATURE_HASH.to_string()],
        }]);
        self.stage.grid.anvil.request("eth_getLogs", filter).await.as_array().unwrap().len()
    }
}

#[tokio::test]
async fn a_paid_job_is_settled_and_its_fee_reaches_those_who_served_it() {
    let mut payments = Payments::set().await;
    let nodes = [key(21), key(22)].map(|key| key.address());
    let id = payments.owe(Wei::XDC.0, &[(nodes[0], 300), (nodes[1], 100)]).await;
    let unused = payments.owe(0, &[]).await;
    let pool = payments.stage.state(At::Latest).await.reward_pool;
    assert!(payments.settle_by(&payments.stage.life(), &id).await);

    let settled = payments.escrow.job(id.0.into(), At::Finalized).await.unwrap().unwrap();
    assert_eq!((settled.state, settled.spent), (JobState::Settled, Wei(Wei::XDC.0)));
    let net = Wei::XDC.0 * 95 / 100;
    assert_eq!(payments.stage.state(At::Latest).await.reward_pool, Wei(pool.0 + net));
    let refund = payments.escrow.credit(payments.stage.grid.owner.address(), At::Latest).await.unwrap();
    assert_eq!(refund, Wei(2 * HELD - Wei::XDC.0), "what was not spent is the payer's again, of both jobs");
    assert_eq!(payments.stage.gateway.settled(&unused).unwrap().spent, Wei(0));
    assert_eq!(payments.stage.sent().await, 1, "one transaction for both");
    let status = payments.stage.network().await.status.unwrap();
    assert!(status.settlement.unwrap().transaction_hash.is_some());

    assert!(payments.stage.epoch_by(&payments.stage.life(), 0).await);
    let report = payments.stage.report(0).await.unwrap();
    assert_eq!(report.spec.allocated_wei, (BUDGET + net).to_string(), "the budget, and the fee on top");
    // Both, and who served nothing: the work of 100 units each is shared beside what the job's fee pays.
    let leaves = payments.stage.leaves(0).await;
    let without = leaves[&key(23).address()];
    assert!(leaves[&nodes[0]] >= without + net * 3 / 4 && leaves[&nodes[1]] >= without + net / 4);
    assert_eq!(leaves.values().sum::<u128>(), BUDGET + net);
}

#[tokio::test]
async fn a_crash_before_or_after_any_write_settles_every_job_once() {
    let mut payments = Payments::set().await;
    let node = key(21).address();
    for fault in [Fault::DieBefore, Fault::DieAfter] {
        for at_chain in [false, true] {
            for n in 0.. {
                let id = payments.owe(1_000 + n as u128, &[(node, 1)]).await;
                let faults = || Faults::at_write(n, fault);
                let (api, chain) = if at_chain { (Faults::none(), faults()) } else { (faults(), Faults::none()) };
                let life = payments.stage.life_with(api.clone(), chain.clone());
                if !payments.settle_by(&life, &id).await {
                    drop(life);
                    assert!(payments.settle_by(&payments.stage.life(), &id).await);
                }
                let jobs = payments.opened.len();
                assert_eq!(payments.times_settled().await, jobs, "after {:?}", api.hit().or(chain.hit()));
                assert_eq!(payments.stage.sent().await, jobs as u64, "one transaction each");
                let taken = payments.escrow.job(id.0.into(), At::Latest).await.unwrap().unwrap().spent;
                assert_eq!(payments.stage.gateway.settled(&id).unwrap().spent, taken);
                if api.hit().or(chain.hit()).is_none() {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_payer_who_took_the_money_back_owes_nothing_and_a_settler_without_the_role_is_told() {
    let mut payments = Payments::set().await;
    let id = payments.owe(5, &[]).await;
    let escrow = payments.escrow.job(id.0.into(), At::Latest).await.unwrap().unwrap();
    payments.stage.grid.anvil.mine_at(escrow.deadline).await;
    let owner = payments.stage.grid.owner.clone();
    payments.stage.grid.anvil.execute(&owner, payments.escrow.cancel_intent(id.0.into())).await.unwrap();
    payments.stage.grid.anvil.mine(3).await;
    assert!(payments.settle_by(&payments.stage.life(), &id).await);
    assert_eq!(payments.stage.gateway.settled(&id).unwrap().spent, Wei(0));
    assert_eq!(payments.stage.sent().await, 0, "nothing was sent for it");

    let admin = payments.stage.grid.admin.clone();
    let role = keccak256("SETTLER_ROLE");
    let call = revokeRoleCall { role, account: payments.stage.reporter.address().into() };
    let to = Some(payments.stage.grid.client.contract());
    let call = TxCall { to, value: Wei(0), data: call.abi_encode().into() };
    let revoke = Intent { kind: IntentKind::GrantRole, key: "revoke".into(), call };
    payments.stage.grid.anvil.execute(&admin, revoke).await.unwrap();
    payments.owe(5, &[]).await;
    payments.stage.life().settle().await;
    let status = payments.stage.network().await.status.unwrap();
    let found = find(&status.conditions, condition::SETTLEMENTS_CURRENT).unwrap();
    assert_eq!(found.reason, "SettlerWithoutRole", "{}", found.message);
}
