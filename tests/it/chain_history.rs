//! What anybody can know from the chain alone: the leaves behind the live root, whichever form the reports carry them in.

use serde_json::json;
use xdc_grid::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::{
        At, ChainError, ChainKey,
        registration::{NodeCapability, NodeConsent},
        rewards::EpochReport,
    },
    reward::{
        LeafChange, PackedChanges, Recipe, RewardLeaf, RewardSplit, RewardTree, changes_between, pack_changes,
        pack_leaves,
    },
};

use crate::chain_anvil::{CHAIN_ID, EPOCH_SECONDS, Grid, WINDOW_SECONDS, key};

/// More than are asked for at once.
const MANY_BLOCKS: u64 = 2_100;

async fn register(grid: &Grid, node: &ChainKey) {
    let consent = NodeConsent {
        node: node.address(),
        payout: grid.payout,
        owner: grid.owner.address(),
        nonce: grid.client.binding_nonce(node.address()).await.unwrap(),
        deadline: grid.client.head().await.unwrap().timestamp + 100_000,
    };
    let signature = consent.sign(node, CHAIN_ID, grid.client.contract()).unwrap();
    let capability = NodeCapability { computing_power: 1, storage_gib: 1 };
    let intent = grid.client.register_intent(&consent, signature, capability, Wei::XDC);
    grid.anvil.execute(&grid.owner, intent).await.unwrap();
}

fn tree(grid: &Grid, leaves: &[(NodeAddress, u128)]) -> RewardTree {
    let leaves = leaves.iter().map(|(node, wei)| RewardLeaf { node: *node, cumulative: Wei(*wei) });
    RewardTree::build(grid.client.tree_domain(), leaves).unwrap()
}

/// What the epoch raised, by index.
fn raises(before: Option<&RewardTree>, after: &RewardTree, indexes: &[(NodeAddress, u32)]) -> Vec<u8> {
    let leaves = |tree: &RewardTree| tree.leaves().collect::<Vec<_>>();
    let index_of = |node| indexes.iter().find(|(known, _)| *known == node).map(|(_, index)| *index);
    let changes = changes_between(&before.map(leaves).unwrap_or_default(), &leaves(after), index_of).unwrap();
    packed(changes)
}

fn packed(changes: Vec<LeafChange>) -> Vec<u8> {
    let recipe = Recipe { statement: Default::default(), block: 1, split: RewardSplit::default(), budget: Wei(1) };
    pack_changes(&PackedChanges { recipe, changes }).unwrap()
}

/// Reports an epoch with these bytes and makes it live.
async fn report(grid: &Grid, epoch: u64, tree: &RewardTree, leaves: Vec<u8>) {
    grid.anvil.pass(EPOCH_SECONDS).await;
    let (root, cumulative_total) = (tree.root(), tree.total());
    let report = EpochReport { epoch: EpochNumber(epoch), root, cumulative_total, leaves };
    grid.anvil.execute(&grid.reporter, grid.client.report_intent(&report)).await.unwrap();
    let Some(pending) = grid.client.epoch_state(At::Latest).await.unwrap().pending else { return };
    grid.anvil.pass(WINDOW_SECONDS).await;
    grid.anvil.execute(&grid.reporter, grid.client.activate_intent(&pending)).await.unwrap();
}

async fn many_blocks(grid: &Grid) {
    grid.anvil.request("anvil_mine", json!([MANY_BLOCKS])).await;
    grid.anvil.mine(3).await;
}

#[tokio::test]
async fn the_live_tree_is_read_back_through_raises_to_the_first_report_or_to_one_with_all_leaves() {
    let grid = Grid::deploy().await;
    let [a, b] = [key(11), key(12)];
    register(&grid, &a).await;
    register(&grid, &b).await;
    let (a, b) = (a.address(), b.address());
    let indexes = [(a, 1), (b, 2)];
    assert_eq!(grid.client.live_tree().await.unwrap(), None);

    let first = tree(&grid, &[(a, 5)]);
    report(&grid, 0, &first, raises(None, &first, &indexes)).await;
    assert_eq!(grid.client.live_tree().await.unwrap().as_ref(), Some(&first));
    report(&grid, 1, &first, Vec::new()).await;
    let third = tree(&grid, &[(a, 6), (b, 1)]);
    report(&grid, 2, &third, raises(Some(&first), &third, &indexes)).await;
    assert_eq!(grid.client.live_tree().await.unwrap().as_ref(), Some(&third), "an epoch at rest lies between");

    let whole = tree(&grid, &[(a, 8), (b, 1)]);
    report(&grid, 3, &whole, whole.packed()).await;
    let last = tree(&grid, &[(a, 8), (b, 2)]);
    report(&grid, 4, &last, raises(Some(&whole), &last, &indexes)).await;
    let found = grid.client.live_tree().await.unwrap().unwrap();
    assert_eq!(found, last);
    let claim = grid.client.claim_intent(&found.proof(b).unwrap());
    grid.anvil.execute(&grid.owner, claim).await.unwrap();
    assert_eq!(grid.client.claimed(b, At::Latest).await.unwrap(), Wei(2));
    assert_eq!(grid.client.tree_of(third.root()).await.unwrap(), third, "and any root before");
}

#[tokio::test]
async fn nodes_that_registered_long_before_are_found_by_their_leaf_and_in_old_logs() {
    let grid = Grid::deploy().await;
    let [a, b] = [key(11), key(12)];
    register(&grid, &a).await;
    register(&grid, &b).await;
    let (a, b) = (a.address(), b.address());
    many_blocks(&grid).await;
    let whole = tree(&grid, &[(a, 5)]);
    report(&grid, 0, &whole, whole.packed()).await;
    many_blocks(&grid).await;
    // The contract knows the index of a, which has a leaf; that b is meant is in the logs alone.
    let last = tree(&grid, &[(a, 6), (b, 3)]);
    report(&grid, 1, &last, raises(Some(&whole), &last, &[(a, 1), (b, 2)])).await;
    assert_eq!(grid.client.live_tree().await.unwrap(), Some(last));
}

#[tokio::test]
async fn leaves_that_cannot_be_put_together_are_missed_with_a_sentence() {
    let grid = Grid::deploy().await;
    let nobody = NodeAddress([7; 20]);
    let unknown = alloy::primitives::B256::repeat_byte(9);
    let missing = grid.client.tree_of(unknown).await.unwrap_err();
    assert_eq!(missing, ChainError::HistoryMissing { root: unknown });

    let first = tree(&grid, &[(nobody, 5)]);
    let stranger = packed(vec![LeafChange { index: 9, increase: Wei(5) }]);
    report(&grid, 0, &first, stranger).await;
    let unregistered = grid.client.live_tree().await.unwrap_err();
    assert_eq!(unregistered, ChainError::HistoryMissing { root: first.root() }, "nobody has the index 9");

    let second = tree(&grid, &[(nobody, 6)]);
    report(&grid, 1, &second, vec![1, 2, 3]).await;
    let unreadable = grid.client.live_tree().await.unwrap_err();
    assert!(unreadable.to_string().contains("cannot be read") && !unreadable.is_transient(), "{unreadable}");
    assert_eq!(unreadable.label(), "ReportUnreadable");

    // All leaves heal what was before.
    let third = tree(&grid, &[(nobody, 7)]);
    report(&grid, 2, &third, pack_leaves(&third.leaves().collect::<Vec<_>>())).await;
    assert_eq!(grid.client.live_tree().await.unwrap(), Some(third));
}
