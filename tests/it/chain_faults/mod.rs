//! The outbox against a real chain while everything goes wrong at once: processes that die between any two questions, endpoints
//! that refuse, lose, repeat, lag and lie, blocks that are taken back, finality that stands still. Whatever the order, each epoch
//! is reported once and everybody gets what is theirs.
//!
//! `GRID_CHAIN_FAULTS` says how many faults are injected (nightly: 1000), `GRID_CHAIN_SEED` which ones.

mod process;
mod proxy;

use serde_json::json;
use xdc_grid::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::{At, Intent, OutboxState, logs::LogCursor, rewards::EpochReport},
    reward::{RewardLeaf, RewardTree},
};

use self::{
    process::Process,
    proxy::{Finality, Lie, Proxies, WireFault},
};
use crate::{
    chain::register,
    chain_anvil::{Grid, key},
};

/// More than any transaction needs, whatever happens to it.
const MAX_STEPS: usize = 400;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// splitmix64: the same faults for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }
}

/// What goes wrong around one step of a transaction.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The process ends after the step, before its result is written down.
    DieAfter,
    /// The process ends at its n-th question of the step.
    DieAt(u64),
    Wire(WireFault),
    Lie(Lie),
    /// Two blocks are taken back.
    Reorganise,
    Finality(Finality),
    /// Time passes, more than it takes to replace a transaction.
    Wait,
}

struct Storm<'a> {
    grid: &'a Grid,
    proxies: Proxies,
    dice: Dice,
    injected: u64,
    /// Steps until liars tell the truth and finality goes on.
    calm_in: u64,
    now: u64,
    /// Transactions that were mined for good.
    mined: u64,
}

impl Storm<'_> {
    fn next_fault(&mut self) -> Option<Fault> {
        let fault = match self.dice.roll(16) {
            0..=3 => return None,
            4 => Fault::DieAfter,
            5 | 6 => Fault::DieAt(self.dice.roll(8)),
            7 | 8 => Fault::Wire(WireFault::ALL[self.dice.roll(WireFault::ALL.len() as u64) as usize]),
            9 => Fault::Wire(WireFault::LoseAnswer),
            10 => Fault::Lie(Lie::Stale),
            11 => Fault::Lie(Lie::Invents),
            12 => Fault::Reorganise,
            13 => Fault::Finality(if self.dice.roll(2) == 0 { Finality::Frozen } else { Finality::Lost }),
            _ => Fault::Wait,
        };
        self.injected += 1;
        Some(fault)
    }

    /// Makes ready what is to go wrong in the next step.
    async fn prepare(&mut self, fault: Fault) {
        let endpoint = self.dice.roll(3) as usize;
        match fault {
            Fault::Wire(fault) => self.proxies.spoil(endpoint, fault),
            Fault::Lie(lie) => {
                self.proxies.lie(endpoint, lie);
                self.calm_in = 3 + self.dice.roll(4);
            }
            Fault::Finality(finality) => {
                self.proxies.set_finality(finality, self.grid.client.rpc().block(At::Finalized).await.unwrap().number);
                self.calm_in = 3 + self.dice.roll(4);
            }
            Fault::Reorganise => drop(self.grid.anvil.request("anvil_reorg", json!([2, []])).await),
            Fault::Wait => self.now += 61,
            Fault::DieAfter | Fault::DieAt(_) => {}
        }
    }

    /// Brings one transaction to its end.
    async fn carry_out(&mut self, intent: Intent) -> OutboxState {
        let mut process = Process::start(self.grid, &self.proxies, intent);
        let mut told = Vec::new();
        for _ in 0..MAX_STEPS {
            let fault = self.next_fault();
            told.extend(fault);
            if let Some(fault) = fault {
                self.prepare(fault).await;
            }
            match fault {
                Some(Fault::DieAfter) => process.step_and_die(self.now).await,
                Some(Fault::DieAt(question)) => process.die_at(&self.proxies, question, self.now).await,
                _ => process.step(self.now).await,
            }
            self.calm().await;
            if process.stored().is_finished() {
                self.mined += 1;
                return process.stored().state.clone();
            }
        }
        panic!("not done after {MAX_STEPS} steps with {told:?}: {:?}, last: {:?}", process.stored(), process.trouble());
    }

    /// A block, and the end of what has gone wrong for long enough.
    async fn calm(&mut self) {
        // Fast enough that the end of an epoch or of a window, should a reorganisation have taken it back, comes again.
        self.grid.anvil.mine_at(self.grid.anvil.time().await + 10).await;
        self.now += 2;
        self.calm_in = self.calm_in.saturating_sub(1);
        if self.calm_in == 0 {
            self.proxies.calm();
        }
    }

    /// Again until it worked, as the operator does: gas that a liar has estimated too low buys nothing, and a reorganisation can put a
    /// report into a block from before its epoch's end, which the contract refuses.
    async fn insist(&mut self, intent: impl Fn() -> Intent) {
        for _ in 0..10 {
            match self.carry_out(intent()).await {
                OutboxState::Finalized { .. } => return,
                OutboxState::Failed { refusal, .. } => assert!(refusal.passes_with_time, "{refusal}"),
                other => panic!("{other:?}"),
            }
        }
        panic!("refused ten times");
    }

    /// The truth, past all faults.
    async fn state(&self) -> xdc_grid::chain::rewards::EpochState {
        self.grid.client.epoch_state(At::Latest).await.unwrap()
    }
}

fn tree(grid: &Grid, epoch: u64) -> RewardTree {
    let earned = |share: u128| Wei(u128::from(epoch + 1) * share);
    let leaves = [
        RewardLeaf { node: grid.node.address(), cumulative: earned(1_000_000_007) },
        RewardLeaf { node: key(9).address(), cumulative: earned(3) },
    ];
    RewardTree::build(grid.client.tree_domain(), leaves).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_crash_lie_lost_answer_or_reorganisation_reports_an_epoch_twice_or_never() {
    let (faults, seed) = (setting("GRID_CHAIN_FAULTS", 40), setting("GRID_CHAIN_SEED", 7));
    println!("GRID_CHAIN_FAULTS={faults} GRID_CHAIN_SEED={seed}");
    let grid = Grid::deploy().await;
    register(&grid, Wei::XDC).await.unwrap();
    let proxies = Proxies::start(&grid.anvil.url).await;
    let mut storm = Storm { grid: &grid, proxies, dice: Dice(seed), injected: 0, calm_in: 0, now: 1_000, mined: 0 };
    let from = grid.client.head().await.unwrap().number;
    let funded = storm.state().await.reward_pool;
    let mut epoch = 0;
    while storm.injected < faults {
        let parameters = grid.client.parameters().await.unwrap();
        let time = grid.anvil.time().await;
        grid.anvil.mine_at(parameters.epoch_end(EpochNumber(epoch)).max(time)).await;
        let content = EpochReport::new(EpochNumber(epoch), &tree(&grid, epoch), &storm.state().await);
        storm.insist(|| grid.client.report_intent(&content)).await;
        let pending = storm.state().await.pending.expect("an epoch that gives something has a window");
        let time = grid.anvil.time().await;
        grid.anvil.mine_at(pending.active_at.max(time)).await;
        storm.insist(|| grid.client.activate_intent(&pending)).await;
        epoch += 1;
        let state = storm.state().await;
        assert_eq!((state.next_epoch, state.live_root), (EpochNumber(epoch), content.root), "seed {seed}");
        assert_eq!(storm.mined, storm.sent().await, "one transaction for each that was asked for; seed {seed}");
    }
    storm.settle_up(epoch, from, funded).await;
    println!("{} faults, {epoch} epochs, {} transactions, seed {seed}", storm.injected, storm.mined);
}

impl Storm<'_> {
    /// Transactions that the reporter ever got into a block.
    async fn sent(&self) -> u64 {
        self.grid.client.rpc().nonce(self.grid.reporter.address(), At::Latest).await.unwrap()
    }

    /// Each epoch is on chain once and in order, and what was earned is paid to the wei.
    async fn settle_up(&mut self, epochs: u64, from: u64, funded: Wei) {
        use xdc_grid::chain::bindings::GridComputingRewards::EpochSubmitted;
        let grid = self.grid;
        grid.anvil.mine(3).await;
        let events = grid.client.all_events::<EpochSubmitted>(LogCursor::at(from)).await.unwrap();
        let reported: Vec<u64> = events.iter().map(|(_, event)| event.epoch).collect();
        assert_eq!(reported, (0..epochs).collect::<Vec<_>>(), "each epoch once, in order");
        let tree = tree(grid, epochs - 1);
        let proof = tree.proof(grid.node.address()).unwrap();
        self.insist(|| grid.client.claim_intent(&proof)).await;
        let state = self.state().await;
        let paid = grid.client.claimed(grid.node.address(), At::Latest).await.unwrap();
        assert_eq!((paid, state.claimed_total), (proof.cumulative, proof.cumulative));
        assert_eq!(state.live_total, tree.total());
        assert_eq!(state.reward_pool.0 + state.live_total.0, funded.0, "nothing was lost and nothing made");
        let contract: NodeAddress = grid.client.contract();
        assert_eq!(grid.balance(contract).await.0, funded.0 - paid.0 + state.stake_total.0);
        assert_eq!((grid.balance(grid.payout).await, state.stake_total), (paid, Wei::XDC));
    }
}
