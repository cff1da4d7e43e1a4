use proptest::prelude::*;

use super::*;
use crate::reward::fees::{FeeBps, share_fees};

/// An epoch in which no user paid for anything.
fn subsidy(budget: Wei, nodes: &[NodeContribution]) -> Result<Allocation, AllocationError> {
    allocate(budget, RewardSplit::default(), nodes, PaidWork::default())
}

fn contribution(id: u16, work: u128, capacity: u128, storage: u128) -> NodeContribution {
    let mut address = [0; 20];
    address[..2].copy_from_slice(&id.to_be_bytes());
    NodeContribution { node: NodeAddress(address), work: ComputeUnits(work), capacity, storage }
}

fn paid(allocation: &Allocation, node: NodeAddress) -> u128 {
    allocation.amounts.get(&node).map_or(0, |amounts| amounts.total().0)
}

#[test]
fn a_budget_is_split_60_25_15_and_sums_to_the_wei() {
    let nodes = [contribution(1, 3, 1, 1), contribution(2, 1, 1, 0), contribution(3, 0, 1, 0)];
    let allocation = subsidy(Wei(1_000), &nodes).unwrap();
    let amounts = |id| allocation.amounts[&contribution(id, 0, 0, 0).node];
    assert_eq!(amounts(1), NodeAmounts { work: Wei(450), capacity: Wei(84), storage: Wei(150) });
    assert_eq!(amounts(2), NodeAmounts { work: Wei(150), capacity: Wei(83), storage: Wei(0) });
    assert_eq!(amounts(3), NodeAmounts { work: Wei(0), capacity: Wei(83), storage: Wei(0) });
    assert_eq!((allocation.allocated, allocation.unallocated), (Wei(1_000), Wei(0)));
}

#[test]
fn the_share_of_a_class_without_anyone_stays_in_the_pool() {
    let allocation = subsidy(Wei(1_000), &[contribution(1, 5, 0, 0)]).unwrap();
    assert_eq!((allocation.allocated, allocation.unallocated), (Wei(600), Wei(400)));
    let nobody = subsidy(Wei(1_000), &[]).unwrap();
    assert_eq!((nobody.amounts.len(), nobody.unallocated), (0, Wei(1_000)));
}

#[test]
fn the_whole_range_of_amounts_is_exact() {
    let nodes = [contribution(1, u128::MAX, u128::MAX, 1), contribution(2, u128::MAX, 1, u128::MAX)];
    let allocation = subsidy(Wei(u128::MAX), &nodes).unwrap();
    assert_eq!(allocation.allocated, Wei(u128::MAX));
}

#[test]
fn a_split_that_is_not_whole_and_a_node_listed_twice_are_refused() {
    assert_eq!(RewardSplit::new(6_000, 2_500, 1_000), Err(AllocationError::Split { sum: 9_500 }));
    assert!(serde_json::from_str::<RewardSplit>("[6000,2500,1501]").is_err());
    let twice = [contribution(1, 1, 1, 1), contribution(1, 2, 2, 2)];
    let refused = subsidy(Wei(1), &twice);
    assert_eq!(refused, Err(AllocationError::DuplicateNode(twice[0].node)));
}

prop_compose! {
    fn epochs()(budget in prop_oneof![0..1_000u128, any::<u128>()],
                nodes in prop::collection::vec((0..1_000_000u128, 0..1_000u128, 0..50u128), 0..24))
                -> (Wei, Vec<NodeContribution>) {
        let nodes = nodes.into_iter().zip(0u16..).map(|((w, c, s), id)| contribution(id, w, c, s)).collect();
        (Wei(budget), nodes)
    }
}

proptest! {
    #[test]
    fn the_sum_paid_is_the_budget_less_what_stays_in_the_pool((budget, nodes) in epochs()) {
        let allocation = subsidy(budget, &nodes).unwrap();
        let sum: u128 = nodes.iter().map(|node| paid(&allocation, node.node)).sum();
        prop_assert_eq!(sum, allocation.allocated.0);
        prop_assert_eq!(sum + allocation.unallocated.0, budget.0);
    }

    #[test]
    fn the_order_of_nodes_does_not_matter((budget, nodes) in epochs(), seed in any::<u64>()) {
        let mut shuffled = nodes.clone();
        shuffled.sort_by_key(|node| blake3::hash(&[&node.node.0[..], &seed.to_be_bytes()].concat()).as_bytes().to_owned());
        prop_assert_eq!(subsidy(budget, &nodes), subsidy(budget, &shuffled));
    }

    #[test]
    fn more_verified_work_never_earns_less((budget, mut nodes) in epochs(), pick in any::<prop::sample::Index>(), more in 0..1_000_000u128) {
        prop_assume!(!nodes.is_empty());
        let before = subsidy(budget, &nodes).unwrap();
        let index = pick.index(nodes.len());
        nodes[index].work.0 += more;
        let after = subsidy(budget, &nodes).unwrap();
        prop_assert!(paid(&after, nodes[index].node) >= paid(&before, nodes[index].node));
    }

    /// No integer rule can be exact here (whoever rounds, rounds for somebody); a wei per identity and class buys no gas.
    #[test]
    fn splitting_or_merging_identities_gains_nothing_but_rounding((budget, nodes) in epochs(), cut in 0..=100u128) {
        prop_assume!(!nodes.is_empty());
        let whole = nodes[0];
        let part = |value: u128| value * cut / 100;
        let first = contribution(1_000, part(whole.work.0), part(whole.capacity), part(whole.storage));
        let second = contribution(1_001, whole.work.0 - first.work.0, whole.capacity - first.capacity, whole.storage - first.storage);
        let mut split = nodes.clone();
        split.splice(0..1, [first, second]);
        let one = paid(&subsidy(budget, &nodes).unwrap(), whole.node);
        let both = subsidy(budget, &split).unwrap();
        let two = paid(&both, first.node) + paid(&both, second.node);
        prop_assert!(two.abs_diff(one) <= 6, "{one} as one, {two} as two");
    }
}

// ---------------------------------------------------------------- work that users paid for

const FEE: u16 = 500;

fn job(id: u8, spent: u128, served: &[(u16, u128)]) -> PaidJob {
    let served = served.iter().map(|(node, units)| (contribution(*node, 0, 0, 0).node, ComputeUnits(*units))).collect();
    PaidJob { job: [id; 32], spent: Wei(spent), fee: FeeBps::new(FEE).unwrap(), served }
}

fn with_jobs(budget: Wei, nodes: &[NodeContribution], jobs: &[PaidJob]) -> Allocation {
    allocate(budget, RewardSplit::default(), nodes, PaidWork { jobs }).unwrap()
}

/// Subsidy and fees of a node.
fn income(allocation: &Allocation, jobs: &[PaidJob], node: NodeAddress) -> u128 {
    let fees = share_fees(PaidWork { jobs }).unwrap();
    paid(allocation, node) + fees.get(&node).map_or(0, |wei| wei.0)
}

#[test]
fn paid_work_is_subsidised_with_at_most_what_the_network_kept_of_its_fee() {
    // 600 wei for work. The job's linear half would be 300; 5 % of its fee are 100. The other node has the rest.
    let jobs = [job(1, 2_000, &[(1, 10)])];
    let nodes = [contribution(2, 10, 0, 0)];
    let allocation = with_jobs(Wei(1_000), &nodes, &jobs);
    assert_eq!(allocation.amounts[&contribution(1, 0, 0, 0).node].work, Wei(100));
    assert_eq!(allocation.amounts[&contribution(2, 0, 0, 0).node].work, Wei(500));
    // A job that paid enough is one like any other.
    let rich = [job(1, 20_000, &[(1, 10)])];
    let allocation = with_jobs(Wei(1_000), &nodes, &rich);
    assert_eq!(allocation.amounts[&contribution(1, 0, 0, 0).node].work, Wei(300));
    // Without any other work the rest of the class stays in the pool.
    assert_eq!(with_jobs(Wei(1_000), &[], &jobs).allocated, Wei(100));
}

prop_compose! {
    fn paid_epochs()(mut epoch in epochs(),
                     jobs in prop::collection::vec((0..1_000_000_000u128, prop::collection::vec((0..24u16, 0..1_000_000u128), 0..5)), 0..6),
                     budget in prop_oneof![0..1_000u128, 0..1_000_000_000_000_000_000_000u128])
                     -> (Wei, Vec<NodeContribution>, Vec<PaidJob>) {
        epoch.0 = Wei(budget);
        let jobs = jobs.into_iter().zip(0u8..).map(|((spent, served), id)| job(id, spent, &served)).collect();
        (epoch.0, epoch.1, jobs)
    }
}

proptest! {
    #[test]
    fn with_paid_work_the_sum_paid_never_exceeds_the_budget((budget, nodes, jobs) in paid_epochs()) {
        let allocation = with_jobs(budget, &nodes, &jobs);
        let sum: u128 = allocation.amounts.values().map(|amounts| amounts.total().0).sum();
        prop_assert_eq!(sum, allocation.allocated.0);
        prop_assert_eq!(sum + allocation.unallocated.0, budget.0);
        let paid = PaidWork { jobs: &jobs };
        let fees: u128 = share_fees(paid).unwrap().values().map(|wei| wei.0).sum();
        prop_assert_eq!(fees, paid.net().0, "what is set aside for fees is what they come to");
        prop_assert!(fees <= jobs.iter().map(|job| job.spent.0).sum::<u128>());
    }

    /// Whoever pays its own nodes for work that nobody wanted loses by it, whatever the others do.
    #[test]
    fn paying_ones_own_nodes_for_made_up_work_gains_nothing(
        (budget, nodes, jobs) in paid_epochs(), spent in 0..1_000_000_000_000u128, units in 1..u64::MAX as u128,
    ) {
        let own = contribution(2_000, 0, 0, 0).node;
        let mut washed = jobs.clone();
        washed.push(job(99, spent, &[(2_000, units)]));
        let back = income(&with_jobs(budget, &nodes, &washed), &washed, own);
        prop_assert!(back <= spent, "{spent} paid, {back} back");
    }

    #[test]
    fn the_order_of_jobs_does_not_matter((budget, nodes, jobs) in paid_epochs(), seed in any::<u64>()) {
        let mut shuffled = jobs.clone();
        shuffled.sort_by_key(|job| blake3::hash(&[&job.job[..], &seed.to_be_bytes()].concat()).as_bytes().to_owned());
        prop_assert_eq!(with_jobs(budget, &nodes, &jobs), with_jobs(budget, &nodes, &shuffled));
    }

    /// Up to the rounding of each job's share and of the open one, before and after.
    #[test]
    fn more_unpaid_work_never_earns_less_beside_paid_work(
        (budget, mut nodes, jobs) in paid_epochs(), pick in any::<prop::sample::Index>(), more in 0..1_000_000u128,
    ) {
        prop_assume!(!nodes.is_empty());
        let index = pick.index(nodes.len());
        let node = nodes[index].node;
        let before = income(&with_jobs(budget, &nodes, &jobs), &jobs, node);
        nodes[index].work.0 += more;
        let after = income(&with_jobs(budget, &nodes, &jobs), &jobs, node);
        prop_assert!(after + 2 * (jobs.len() as u128 + 1) >= before, "{before} before, {after} after");
    }

    /// More work on a job that pays by the unit: its fee grows with its units.
    #[test]
    fn more_paid_work_never_earns_less(
        (budget, nodes, jobs) in paid_epochs(), price in 0..1_000u128, units in 1..1_000_000u128, more in 0..1_000_000u128,
    ) {
        let node = contribution(3, 0, 0, 0).node;
        let earned = |units: u128| {
            let mut jobs = jobs.clone();
            jobs.push(job(99, price * (units + 500), &[(3, units), (4, 500)]));
            income(&with_jobs(budget, &nodes, &jobs), &jobs, node)
        };
        let (before, after) = (earned(units), earned(units + more));
        prop_assert!(after + 2 * (jobs.len() as u128 + 3) >= before, "{before} before, {after} after");
    }

    #[test]
    fn serving_a_paid_job_as_two_identities_gains_nothing_but_rounding(
        (budget, nodes, jobs) in paid_epochs(), spent in 0..1_000_000_000u128, units in 1..1_000_000u128, cut in 0..=100u128,
    ) {
        let part = units * cut / 100;
        let serve = |served: &[(u16, u128)]| {
            let mut jobs = jobs.clone();
            jobs.push(job(99, spent, served));
            let allocation = with_jobs(budget, &nodes, &jobs);
            served.iter().map(|(id, _)| income(&allocation, &jobs, contribution(*id, 0, 0, 0).node)).sum::<u128>()
        };
        let (one, two) = (serve(&[(3_000, units)]), serve(&[(3_000, part), (3_001, units - part)]));
        prop_assert!(two.abs_diff(one) <= 6, "{one} as one, {two} as two");
    }
}
