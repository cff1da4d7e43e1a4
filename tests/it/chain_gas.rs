//! What the contract costs on XDC: receipt gas plus 52 for each non-zero byte of calldata, because anvil charges 16 for one and XDC
//! 68. `cargo test --test it chain_gas -- --nocapture` prints the table.

use alloy::sol_types::SolCall;
use xdc_grid::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::{
        At, ChainKey, Intent, IntentKind, TxCall,
        bindings::GridComputingRewards::{parametersCall, setParametersCall},
        deploy::{DeployParameters, MemberParameters, Roles, create_intent},
        registration::{NodeCapability, NodeConsent},
        rewards::EpochReport,
        votes::Ballot,
    },
    reward::{LeafChange, PackedChanges, Recipe, RewardLeaf, RewardSplit, RewardTree, pack_changes},
};

use crate::chain_anvil::{CHAIN_ID, EPOCH_SECONDS, Grid, WINDOW_SECONDS, key};

struct Table<'a> {
    grid: &'a Grid,
}

impl Table<'_> {
    /// Executes, prints and holds the gas to a limit.
    async fn row(&self, name: &str, key: &ChainKey, intent: Intent, limit: u64) {
        let surcharge = 52 * intent.call.data.iter().filter(|byte| **byte != 0).count() as u64;
        let receipt = self.grid.anvil.execute(key, intent).await.unwrap().gas_used;
        let xdc = receipt + surcharge;
        println!("{name:44} {receipt:>9} {xdc:>9} {limit:>9}");
        assert!(xdc <= limit, "{name} costs {xdc} gas on XDC, the limit is {limit}");
    }
}

fn leaves(count: u32, each: u128) -> Vec<RewardLeaf> {
    (0..count)
        .map(|index| {
            let hash = blake3::hash(&index.to_be_bytes());
            let node = NodeAddress(hash.as_bytes()[..20].try_into().unwrap());
            RewardLeaf { node, cumulative: Wei(each + u128::from(index)) }
        })
        .collect()
}

#[tokio::test]
async fn gas_on_the_xdc_schedule_stays_within_its_limits() {
    let grid = Grid::deploy().await;
    let table = Table { grid: &grid };
    println!("{:44} {:>9} {:>9} {:>9}", "operation", "anvil", "XDC", "limit");

    let parameters = DeployParameters {
        epoch_seconds: 3_600,
        challenge_window: 3_600,
        unbonding: 604_800,
        max_epoch_increase: Wei::XDC,
        roles: Roles::reporter(grid.reporter.address()),
        members: MemberParameters::default(),
        funding: Wei(0),
    };
    table.row("deploy", &grid.admin, create_intent(grid.admin.address(), &parameters), 5_000_000).await;

    for (name, seed, limit) in [("registerNodeFor, first ever", 20, 183_000), ("registerNodeFor", 21, 148_000)] {
        let node = key(seed);
        let deadline = grid.client.head().await.unwrap().timestamp + 1_000;
        let consent =
            NodeConsent { node: node.address(), payout: grid.payout, owner: grid.owner.address(), nonce: 0, deadline };
        let signature = consent.sign(&node, CHAIN_ID, grid.client.contract()).unwrap();
        let capability = NodeCapability { computing_power: 1_000, storage_gib: 50 };
        table
            .row(name, &grid.owner, grid.client.register_intent(&consent, signature, capability, Wei::XDC), limit)
            .await;
    }

    for (epoch, count, name, limit) in [
        (0, 3, "submitEpoch, 3 leaves, first ever", 96_000),
        (1, 3, "submitEpoch, 3 leaves, activates the last", 106_000),
        (2, 100, "submitEpoch, 100 leaves, activates the last", 256_000),
        (3, 1_000, "submitEpoch, 1000 leaves, activates the last", 1_980_000),
    ] {
        grid.anvil.pass(EPOCH_SECONDS).await;
        let tree = tree(&grid, count, epoch);
        let state = grid.client.epoch_state(At::Latest).await.unwrap();
        let report = EpochReport::new(EpochNumber(epoch), &tree, &state);
        table.row(name, &grid.reporter, grid.client.report_intent(&report), limit).await;
    }

    grid.anvil.pass(WINDOW_SECONDS).await;
    let pending = grid.client.epoch_state(At::Latest).await.unwrap().pending.unwrap();
    table.row("distributeRewards", &grid.owner, grid.client.activate_intent(&pending), 43_000).await;

    let live = tree(&grid, 1_000, 3);
    let nodes: Vec<_> = live.leaves().map(|leaf| leaf.node).collect();
    let first = live.proof(nodes[0]).unwrap();
    table.row("claim, first, new account, 1000 leaves", &grid.owner, grid.client.claim_intent(&first), 127_000).await;

    grid.anvil.pass(EPOCH_SECONDS).await;
    let grown = tree(&grid, 1_000, 4);
    let report = EpochReport::new(EpochNumber(4), &grown, &grid.client.epoch_state(At::Latest).await.unwrap());
    grid.anvil.execute(&grid.reporter, grid.client.report_intent(&report)).await.unwrap();
    grid.anvil.pass(WINDOW_SECONDS).await;
    let pending = grid.client.epoch_state(At::Latest).await.unwrap().pending.unwrap();
    grid.anvil.execute(&grid.owner, grid.client.activate_intent(&pending)).await.unwrap();
    let again = grown.proof(nodes[0]).unwrap();
    table.row("claim, repeat, 1000 leaves", &grid.owner, grid.client.claim_intent(&again), 82_000).await;
}

fn tree(grid: &Grid, count: u32, epoch: u64) -> RewardTree {
    let each = u128::from(epoch + 1) * (Wei::XDC.0 / 100_000);
    RewardTree::build(grid.client.tree_domain(), leaves(count, each)).unwrap()
}

/// The leaves that an epoch raised, by index (`reward::changes`). The goals are 1,500 gas a node with 100 nodes and 750 with 1,000.
#[tokio::test]
async fn a_report_in_the_compact_form_stays_within_its_limits() {
    let grid = Grid::deploy().await;
    let table = Table { grid: &grid };
    let mut total = 0;
    for (epoch, count, name, limit) in [
        (0, 3, "submitEpoch, 3 changes, first ever", 100_000),
        (1, 100, "submitEpoch, 100 changes, activates the last", 150_000),
        (2, 1_000, "submitEpoch, 1000 changes, activates the last", 750_000),
    ] {
        grid.anvil.pass(EPOCH_SECONDS).await;
        let (report, _) = compact(epoch, count, &mut total);
        table.row(name, &grid.reporter, grid.client.report_intent(&report), limit).await;
    }
}

/// A report in the compact form that gives out 10 XDC in unequal parts, and what it is made from.
fn compact(epoch: u64, count: u32, total: &mut u128) -> (EpochReport, Recipe) {
    let each = 10 * Wei::XDC.0 / u128::from(count);
    let change = |at: u32| LeafChange { index: at + 1, increase: Wei(each - 12_345_678_901 * u128::from(at)) };
    let changes: Vec<_> = (0..count).map(change).collect();
    *total += changes.iter().map(|change| change.increase.0).sum::<u128>();
    let recipe = Recipe {
        statement: blake3::hash(b"statement").as_bytes().into(),
        block: 98_802_000,
        split: RewardSplit::default(),
        budget: Wei(10 * Wei::XDC.0),
    };
    let report = EpochReport {
        epoch: EpochNumber(epoch),
        // The contract knows nothing of leaves; who reads them is tested with audit-epoch.
        root: blake3::hash(&epoch.to_be_bytes()).as_bytes().into(),
        cumulative_total: Wei(*total),
        leaves: pack_changes(&PackedChanges { recipe, changes }).unwrap(),
    };
    (report, recipe)
}

/// Three reporters who must all agree: the first to vote says what the leaves are made from, the last one carries them. The goal is
/// 55,000 gas a vote.
#[tokio::test]
async fn votes_of_reporters_stay_within_their_limits() {
    let grid = Grid::deploy().await;
    let table = Table { grid: &grid };
    let (second, third) = (key(31), key(32));
    for other in [&second, &third] {
        grid.anvil.give(other.address(), Wei(2_000 * Wei::XDC.0)).await;
        grid.anvil.execute(&grid.admin, grid.client.grant_intent("REPORTER_ROLE", other.address())).await.unwrap();
    }
    let mut next = grid.client.view(parametersCall {}, At::Latest).await.unwrap().inForce;
    next.quorum = 3;
    let call = TxCall {
        to: Some(grid.client.contract()),
        value: Wei(0),
        data: setParametersCall { next }.abi_encode().into(),
    };
    let quorum = Intent { kind: IntentKind::GrantRole, key: "quorum".into(), call };
    grid.anvil.execute(&grid.admin, quorum).await.unwrap();

    let mut total = 0;
    for (epoch, when, limits) in [(0, "first ever", [45_000, 42_000, 145_000]), (1, "later", [45_000, 42_000, 170_000])]
    {
        grid.anvil.pass(EPOCH_SECONDS).await;
        let (report, recipe) = compact(epoch, 100, &mut total);
        let ballot = Ballot::of(&report);
        let client = &grid.client;
        let [with, without, carried] = limits;
        let words = format!("voteEpoch with the recipe, {when}");
        table.row(&words, &grid.reporter, client.vote_intent(&ballot, Some(&recipe)), with).await;
        table.row(&format!("voteEpoch, {when}"), &second, client.vote_intent(&ballot, None), without).await;
        let words = format!("submitEpoch, 100 changes, third of 3, {when}");
        table.row(&words, &third, client.report_intent(&report), carried).await;
    }
}
