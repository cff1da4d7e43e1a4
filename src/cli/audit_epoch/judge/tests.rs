use std::collections::BTreeMap;

use super::*;
use crate::{
    api::ids::EscrowId,
    cli::audit_epoch::statement::{Seen, read},
    protocol::{
        identity::NodeKey,
        internal::{EpochTotals, NodeTotals, PaidJobTotals, ServedUnits},
        names::NetworkId,
        receipt::{Acceptance, Receipt, sign},
        statement::{CountedReceipt, ReceiptsHash},
    },
    reward::{ComputeUnits, LeafChange, PackedChanges, TokenCost, changes_between, pack_changes, pack_leaves},
};

const COST: u64 = 270;
const EPOCH: EpochNumber = EpochNumber(7);
const BUDGET: u128 = 1_000_000_000_000_000_019;

fn network() -> NetworkId {
    NetworkId { chain_id: 51, contract: NodeAddress([9; 20]), salt: String::new() }
}

fn domain() -> TreeDomain {
    TreeDomain { chain_id: 51, contract: NodeAddress([9; 20]) }
}

/// Two nodes, a gateway, and what they signed in one epoch.
struct World {
    nodes: [NodeKey; 2],
    gateway: NodeKey,
    lines: Vec<(B256, CountedReceipt)>,
    before: Before,
    registrations: Registrations,
}

impl World {
    fn new() -> Self {
        let nodes = [NodeKey::generate(), NodeKey::generate()];
        let mut registrations = Registrations::default();
        for node in &nodes {
            registrations.registered(node.address(), 10);
        }
        let leaves = vec![RewardLeaf { node: nodes[0].address(), cumulative: Wei(77) }];
        let tree = RewardTree::build(domain(), leaves.clone()).unwrap();
        let before = Before { leaves, root: tree.root(), total: tree.total(), block: 100 };
        let mut world = World { nodes, gateway: NodeKey::generate(), lines: Vec::new(), before, registrations };
        for (at, node) in [0, 1, 0, 0].into_iter().enumerate() {
            world.answer(at as u32, node);
        }
        world
    }

    fn answer(&mut self, at: u32, node: usize) {
        let receipt = Receipt {
            requestId: B256::repeat_byte(at as u8),
            attempt: 1,
            model: B256::repeat_byte(2),
            promptHash: B256::ZERO,
            outputHash: B256::ZERO,
            promptTokens: 10 + at,
            outputTokens: 5,
            sampler: B256::ZERO,
            seed: B256::ZERO,
            traceRoot: B256::ZERO,
            startedAt: 1,
            finishedAt: 2,
        };
        let content = receipt.content_hash();
        let signature = sign(&receipt, &network(), &self.nodes[node]).unwrap();
        let acceptance = Acceptance { receipt: content, epoch: EPOCH.0 };
        let line = CountedReceipt {
            receipt: prost::Message::encode_to_vec(&receipt.to_wire(&signature)),
            epoch: EPOCH.0,
            countersignature: sign(&acceptance, &network(), &self.gateway).unwrap().to_vec(),
            prefix_tokens: 0,
            cost_per_token: COST,
            escrow: None,
        };
        self.lines.push((content, line));
        self.lines.sort_by_key(|(content, _)| *content);
    }

    fn node_totals(&self, at: usize, receipts: &[u32]) -> NodeTotals {
        let worth = receipts.iter().map(|at| ComputeUnits::of_response(TokenCost(COST), 10 + at, 5));
        NodeTotals {
            address: self.nodes[at].address(),
            node_name: String::new(),
            requests: receipts.len() as u64,
            prompt_tokens: receipts.iter().map(|at| 10 + u64::from(*at)).sum(),
            output_tokens: 5 * receipts.len() as u64,
            units: worth.sum::<ComputeUnits>().to_string(),
            capacity_units: 10 + at as u64,
            proven_bytes: 0,
            eligible: true,
            reason: String::new(),
        }
    }

    fn totals(&self) -> EpochTotals {
        let mut hash = ReceiptsHash::default();
        for (content, line) in &self.lines {
            hash.add(&content.0, line.epoch, line.prefix_tokens, line.cost_per_token, line.escrow.as_ref());
        }
        EpochTotals {
            epoch: EPOCH,
            nodes: vec![self.node_totals(0, &[0, 2, 3]), self.node_totals(1, &[1])],
            jobs: Vec::new(),
            audit_secret: String::new(),
            receipts: self.lines.len() as u64,
            receipts_hash: hash.finish(),
        }
    }

    fn text(&self, totals: &EpochTotals) -> String {
        let mut text = serde_json::to_string(totals).unwrap();
        for (_, line) in &self.lines {
            text += "\n";
            text += &serde_json::to_string(line).unwrap();
        }
        text
    }

    fn statement(&self, text: &str) -> Statement {
        read(text.as_bytes(), EPOCH, &network(), &[], &mut Seen::default(), |_| {}).unwrap()
    }

    /// What an honest reporter reports.
    fn honest(&self) -> RewardTree {
        let totals = self.totals();
        let nodes: Vec<_> = totals
            .nodes
            .iter()
            .map(|node| NodeContribution {
                node: node.address,
                work: ComputeUnits(node.units.parse().unwrap()),
                capacity: node.capacity_units.into(),
                storage: node.proven_bytes.into(),
            })
            .collect();
        let inputs = EpochInputs {
            domain: domain(),
            previous: &self.before.leaves,
            nodes: &nodes,
            paid: PaidWork::default(),
            budget: Wei(BUDGET),
            split: RewardSplit::default(),
        };
        settle(inputs).unwrap().tree
    }

    fn judge(&self, tree: &RewardTree, packed: &[u8], statement: Option<&Statement>, rules: Rules) -> Verdict {
        let submission = submission(tree, packed);
        judge(&self.case(&submission, packed, statement, rules)).0
    }

    fn case<'a>(
        &'a self,
        submission: &'a Submission,
        packed: &'a [u8],
        statement: Option<&'a Statement>,
        rules: Rules,
    ) -> Case<'a> {
        Case {
            domain: domain(),
            submission,
            packed,
            before: &self.before,
            registrations: &self.registrations,
            statement,
            recipe: None,
            rules,
        }
    }

    fn changes(&self, tree: &RewardTree, statement: B256) -> Vec<u8> {
        let after: Vec<_> = tree.leaves().collect();
        let index_of = |node| self.registrations.index_of(node, 150);
        let changes: Vec<LeafChange> = changes_between(&self.before.leaves, &after, index_of).unwrap();
        let recipe = Recipe { statement, block: 150, split: RewardSplit::default(), budget: Wei(BUDGET) };
        pack_changes(&PackedChanges { recipe, changes }).unwrap()
    }
}

fn submission(tree: &RewardTree, packed: &[u8]) -> Submission {
    Submission {
        epoch: EPOCH,
        root: tree.root(),
        total: tree.total(),
        data_hash: keccak256(packed),
        transaction: B256::repeat_byte(3),
        block: 200,
        dropped: false,
    }
}

fn rules() -> Rules {
    Rules { budget: None, split: RewardSplit::default(), statement: None }
}

fn kinds(verdict: &Verdict) -> Vec<What> {
    let mut kinds: Vec<_> = verdict.differences.iter().map(|difference| difference.what).collect();
    kinds.dedup();
    kinds
}

/// Leaves of a tree with a change of some.
fn with(tree: &RewardTree, change: impl Fn(&mut BTreeMap<NodeAddress, Wei>)) -> RewardTree {
    let mut leaves = by_node(tree.leaves());
    change(&mut leaves);
    RewardTree::build(domain(), leaves.into_iter().map(|(node, cumulative)| RewardLeaf { node, cumulative })).unwrap()
}

#[test]
fn an_honest_report_is_equal_in_either_form_and_without_being_told_the_budget() {
    let world = World::new();
    let (tree, statement) = (world.honest(), world.statement(&world.text(&world.totals())));
    let whole = world.judge(&tree, &tree.packed(), Some(&statement), rules());
    assert_eq!((whole.differences.as_slice(), whole.form, whole.recomputed), (&[][..], Form::Whole, true));
    assert_eq!((whole.leaves, whole.receipts, whole.gateways[&world.gateway.address()]), (2, 4, 4));
    // Nobody holds storage: 15 % of the budget stayed in the pool.
    assert!(whole.increase_wei.0.abs_diff(BUDGET * 85 / 100) <= 1);
    let packed = world.changes(&tree, statement.digest);
    let changes = world.judge(&tree, &packed, Some(&statement), rules());
    assert_eq!((changes.differences.as_slice(), changes.form), (&[][..], Form::Changes));
    assert_eq!(changes.budget_wei, Some(Wei(BUDGET)));
}

#[test]
fn a_vote_is_worked_out_in_the_form_that_it_stands_for_and_a_wrong_one_differs() {
    let world = World::new();
    let (tree, statement) = (world.honest(), world.statement(&world.text(&world.totals())));
    let split = RewardSplit::default();
    let recipe = Some(Recipe { statement: statement.digest, block: 150, split, budget: Wei(BUDGET) });
    for packed in [tree.packed(), world.changes(&tree, statement.digest)] {
        let voted = submission(&tree, &packed);
        let case = Case { recipe, ..world.case(&voted, &[], Some(&statement), rules()) };
        let anew = packed_anew(&case).unwrap();
        assert_eq!(anew, packed);
        let (verdict, _) = judge(&Case { packed: &anew, ..case });
        assert!(verdict.is_equal() && verdict.recomputed, "{:?}", verdict.differences);
    }
    let false_tree = with(&tree, |leaves| leaves.values_mut().for_each(|wei| wei.0 += 1));
    let voted = submission(&false_tree, &false_tree.packed());
    let case = Case { recipe, ..world.case(&voted, &[], Some(&statement), rules()) };
    let anew = packed_anew(&case).unwrap();
    let (verdict, _) = judge(&Case { packed: &anew, ..case });
    let found = kinds(&verdict);
    assert!([What::DataHash, What::Root, What::Total].iter().all(|what| found.contains(what)), "{found:?}");
    let mute = world.case(&voted, &[], Some(&statement), rules());
    assert!(packed_anew(&mute).is_err(), "without a recipe nothing can be worked out");
}

#[test]
fn a_leaf_that_is_too_high_is_named_with_what_it_should_be() {
    let world = World::new();
    let (tree, statement) = (world.honest(), world.statement(&world.text(&world.totals())));
    let [a, b] = [0, 1].map(|at: usize| world.nodes[at].address());
    let false_tree = with(&tree, |leaves| {
        leaves.get_mut(&a).unwrap().0 -= 5;
        leaves.get_mut(&b).unwrap().0 += 5;
    });
    for packed in [false_tree.packed(), world.changes(&false_tree, statement.digest)] {
        let verdict = world.judge(&false_tree, &packed, Some(&statement), rules());
        assert_eq!(kinds(&verdict), [What::Leaf, What::Root]);
        let leaf = verdict.differences.iter().find(|difference| difference.subject == b.to_string()).unwrap();
        assert_eq!(
            (leaf.expected.clone(), leaf.found.clone()),
            (tree.cumulative(b).to_string(), false_tree.cumulative(b).to_string())
        );
        assert_eq!(verdict.differences.len(), 3, "two leaves and the root");
    }
}

#[test]
fn a_stranger_who_never_worked_is_found_in_the_leaves() {
    let world = World::new();
    let (tree, statement) = (world.honest(), world.statement(&world.text(&world.totals())));
    let stranger = NodeAddress([0xee; 20]);
    let false_tree = with(&tree, |leaves| {
        leaves.insert(stranger, Wei(1));
    });
    let verdict = world.judge(&false_tree, &false_tree.packed(), Some(&statement), rules());
    let leaf = verdict.differences.iter().find(|difference| difference.subject == stranger.to_string()).unwrap();
    assert_eq!((leaf.what, leaf.expected.as_str(), leaf.found.as_str()), (What::Leaf, "0", "1"));
}

#[test]
fn leaves_that_do_not_hash_to_the_root_are_found_without_a_statement() {
    let world = World::new();
    let tree = world.honest();
    let other = with(&tree, |leaves| leaves.values_mut().for_each(|wei| wei.0 += 1));
    let verdict = world.judge(&tree, &other.packed(), None, rules());
    assert_eq!(kinds(&verdict), [What::CalldataRoot, What::CalldataTotal]);
    assert!(!verdict.recomputed);
    let honest = world.judge(&tree, &tree.packed(), None, rules());
    assert!(honest.is_equal() && honest.notes.len() == 1);
    let broken = world.judge(&tree, &[1, 2, 3], None, rules());
    assert_eq!(kinds(&broken), [What::Calldata]);
}

#[test]
fn a_leaf_that_fell_is_found() {
    let world = World::new();
    let lower = [RewardLeaf { node: world.nodes[0].address(), cumulative: Wei(76) }];
    let tree = RewardTree::build(domain(), lower).unwrap();
    let verdict = world.judge(&tree, &pack_leaves(&lower), None, rules());
    assert_eq!(kinds(&verdict), [What::LeafFell]);
}

#[test]
fn a_receipt_whose_counts_were_changed_does_not_verify_and_is_not_counted() {
    let mut world = World::new();
    let tree = world.honest();
    let (content, line) = &mut world.lines[2];
    let mut wire: crate::protocol::wire::Receipt = prost::Message::decode(line.receipt.as_slice()).unwrap();
    wire.output_tokens += 100;
    line.receipt = prost::Message::encode_to_vec(&wire);
    *content = Receipt::from_wire(&wire).unwrap().content_hash();
    world.lines.sort_by_key(|(content, _)| *content);
    let totals = world.totals();
    let statement = world.statement(&world.text(&totals));
    let receipt = statement.differences.listed.iter().find(|difference| difference.what == What::Receipt).unwrap();
    assert!(receipt.found.starts_with("signed by 0x"), "{receipt:?}");
    assert_eq!(statement.served.values().map(|served| served.requests).sum::<u64>(), 3);
    let verdict = world.judge(&tree, &tree.packed(), Some(&statement), rules());
    assert!(kinds(&verdict).contains(&What::NodeTotals) && kinds(&verdict).contains(&What::Leaf));
}

#[test]
fn a_receipt_that_was_left_out_added_or_counted_twice_is_found() {
    let world = World::new();
    let text = world.text(&world.totals());
    let lines: Vec<&str> = text.lines().collect();
    let without = world.statement(&lines[..lines.len() - 1].join("\n"));
    let kinds = |statement: &Statement| statement.differences.listed.iter().map(|found| found.what).collect::<Vec<_>>();
    assert_eq!(kinds(&without)[..2], [What::Receipts, What::Receipts]);
    let twice = world.statement(&[&lines[..], &lines[lines.len() - 1..]].concat().join("\n"));
    assert_eq!(kinds(&twice)[0], What::Receipt);
    assert_eq!(twice.served, world.statement(&text).served, "the second is not counted");
    // And not in the next epoch either.
    let mut seen = Seen::default();
    let first = read(text.as_bytes(), EPOCH, &network(), &[], &mut seen, |_| {}).unwrap();
    assert!(kinds(&first).is_empty());
    let again = read(text.as_bytes(), EPOCH, &network(), &[], &mut seen, |_| {}).unwrap();
    assert_eq!(again.served, BTreeMap::new());
}

#[test]
fn a_gateway_that_was_not_named_may_not_countersign() {
    let world = World::new();
    let text = world.text(&world.totals());
    let read_with = |gateway: NodeAddress| {
        read(text.as_bytes(), EPOCH, &network(), &[gateway], &mut Seen::default(), |_| {}).unwrap()
    };
    assert_eq!(read_with(world.gateway.address()).served.len(), 2);
    assert_eq!(read_with(NodeAddress([5; 20])).served.len(), 0);
}

#[test]
fn another_statement_than_the_one_on_chain_or_in_the_report_is_found() {
    let world = World::new();
    let (tree, statement) = (world.honest(), world.statement(&world.text(&world.totals())));
    let packed = world.changes(&tree, B256::repeat_byte(1));
    assert_eq!(kinds(&world.judge(&tree, &packed, Some(&statement), rules())), [What::Statement]);
    let named = Rules { statement: Some(B256::repeat_byte(1)), ..rules() };
    assert_eq!(kinds(&world.judge(&tree, &tree.packed(), Some(&statement), named)), [What::Statement]);
}

#[test]
fn a_node_without_a_stake_may_not_be_paid() {
    let mut world = World::new();
    let (tree, statement) = (world.honest(), world.statement(&world.text(&world.totals())));
    // Long before the report before: nothing is open to interpretation.
    world.registrations.withdrawn(world.nodes[1].address(), 50);
    let verdict = world.judge(&tree, &tree.packed(), Some(&statement), rules());
    assert_eq!(verdict.differences.iter().filter(|difference| difference.what == What::Leaf).count(), 2);
    // One that left between two reports is taken as the report took it, and named.
    let mut world = World::new();
    let (tree, statement) = (world.honest(), world.statement(&world.text(&world.totals())));
    world.registrations.withdrawn(world.nodes[1].address(), 180);
    let verdict = world.judge(&tree, &tree.packed(), Some(&statement), rules());
    assert!(verdict.is_equal() && verdict.notes[0].contains(&world.nodes[1].address().to_string()), "{verdict:?}");
}

#[test]
fn an_epoch_that_changed_nothing_is_equal_unless_a_budget_was_to_be_allocated() {
    let world = World::new();
    let unchanged = RewardTree::build(domain(), world.before.leaves.iter().copied()).unwrap();
    let statement = world.statement(&world.text(&world.totals()));
    let verdict = world.judge(&unchanged, &[], Some(&statement), rules());
    assert!(verdict.is_equal() && verdict.form == Form::Unchanged, "{verdict:?}");
    let told = Rules { budget: Some(Wei(BUDGET)), ..rules() };
    assert!(kinds(&world.judge(&unchanged, &[], Some(&statement), told)).contains(&What::Leaf));
}

#[test]
fn a_statement_that_is_none_is_refused_with_its_line() {
    let read = |text: &str| {
        read(text.as_bytes(), EPOCH, &network(), &[], &mut Seen::default(), |_| {}).map(|_| ()).unwrap_err().to_string()
    };
    assert!(read("").contains("line 1"));
    let world = World::new();
    let other = EpochTotals { epoch: EpochNumber(8), ..world.totals() };
    assert!(read(&world.text(&other)).contains("of epoch 8, not of epoch 7"));
    let text = world.text(&world.totals()) + "\n{}";
    assert!(read(&text).contains("line 6"), "{}", read(&text));
    let long = world.text(&world.totals()) + "\n" + &"x".repeat(5_000);
    assert!(read(&long).contains("longer than 4096 bytes"), "{}", read(&long));
}

#[test]
fn the_fees_of_paid_jobs_are_split_again_from_the_receipts_without_being_told_the_budget() {
    let escrow = EscrowId([5; 32]);
    // Receipts of the two nodes that nobody paid for, and those of the job; a fee that bounds the subsidy, and one that does not.
    let all: [&[u32]; 2] = [&[0, 2, 3], &[1]];
    for (unpaid, paid) in [([&[0, 2][..], &[]], [&[3][..], &[1]]), ([&[][..], &[]], all)] {
        for spent in [Wei(1_000), Wei(1_000 * Wei::XDC.0)] {
            let mut world = World::new();
            for (_, line) in &mut world.lines {
                let receipt = <crate::protocol::wire::Receipt as prost::Message>::decode(&*line.receipt).unwrap();
                let of_job = paid.iter().any(|ats| ats.contains(&(receipt.prompt_tokens - 10)));
                line.escrow = of_job.then_some(escrow);
            }
            let mut totals = world.totals();
            let worth = |ats: &[u32]| -> ComputeUnits {
                ats.iter().map(|at| ComputeUnits::of_response(TokenCost(COST), 10 + at, 5)).sum()
            };
            let mut served = Vec::new();
            for (at, node) in totals.nodes.iter_mut().enumerate() {
                node.units = worth(unpaid[at]).to_string();
                served.push((node.address, worth(paid[at])));
            }
            served.sort_by_key(|(node, _)| *node);
            let listed =
                served.iter().map(|(address, units)| ServedUnits { address: *address, units: units.to_string() });
            totals.jobs = vec![PaidJobTotals { escrow, spent, fee_bps: 500, served: listed.collect() }];
            let contribution = |node: &NodeTotals| NodeContribution {
                node: node.address,
                work: ComputeUnits(node.units.parse().unwrap()),
                capacity: node.capacity_units.into(),
                storage: 0,
            };
            let nodes: Vec<_> = totals.nodes.iter().map(contribution).collect();
            let jobs = [PaidJob { job: escrow.0, spent, fee: FeeBps::new(500).unwrap(), served }];
            let tree = settle(EpochInputs {
                domain: domain(),
                previous: &world.before.leaves,
                nodes: &nodes,
                paid: PaidWork { jobs: &jobs },
                budget: Wei(BUDGET),
                split: RewardSplit::default(),
            })
            .unwrap()
            .tree;
            let statement = world.statement(&world.text(&totals));
            let packed = [tree.packed(), world.changes(&tree, statement.digest)];
            for packed in &packed {
                let verdict = world.judge(&tree, packed, Some(&statement), rules());
                assert_eq!(verdict.differences, [], "{spent} {paid:?}");
            }
            let mut misstated = totals.clone();
            misstated.jobs[0].served[0].units = "1".into();
            let statement = world.statement(&world.text(&misstated));
            assert!(kinds(&world.judge(&tree, &packed[0], Some(&statement), rules())).contains(&What::NodeTotals));
        }
    }
}
