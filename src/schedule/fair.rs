//! Weighted fair shares of namespaces: start-time fair queueing over tokens (Goyal, Vin, Cheng, 1996). Every flow has a tag,
//! the virtual time at which its next request starts; the flow with the lowest tag is next and its tag grows by the tokens of
//! the request over its weight.

use std::collections::BTreeMap;

/// Virtual time of one token at weight 1. Weights are at most 1000, so that a token is never rounded away.
const TOKEN: u128 = 1_000_000;
/// Tokens that a flow may lag behind the others: what a namespace saves up while none of its workers is free.
pub const MOST_CREDIT: u64 = 16_384;

/// Virtual time.
pub(super) type Tag = u128;

/// What a request was charged, to be settled when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge {
    tokens: u64,
    virtual_time: Tag,
}

/// The tags of all flows of one class.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    /// Start tag of the newest start.
    clock: Tag,
    tags: BTreeMap<String, Tag>,
}

impl Shares {
    /// A flow that had nothing to start has something: what it did not use before is lost, what it owes is not.
    pub(super) fn arrive(&mut self, flow: &str) {
        let clock = self.clock;
        match self.tags.get_mut(flow) {
            Some(tag) => *tag = clock.max(*tag),
            None => {
                self.tags.insert(flow.to_owned(), clock);
            }
        }
    }

    /// When the flow's next request starts.
    pub(super) fn start_tag(&self, flow: &str, weight: u32) -> Tag {
        let least = self.clock.saturating_sub(over(MOST_CREDIT, weight));
        self.tags.get(flow).copied().unwrap_or(self.clock).max(least)
    }

    /// A request of the flow starts.
    pub(super) fn charge(&mut self, flow: &str, weight: u32, tokens: u64) -> Charge {
        let start = self.start_tag(flow, weight);
        let tokens = tokens.max(1);
        let virtual_time = over(tokens, weight);
        self.clock = self.clock.max(start);
        self.tags.insert(flow.to_owned(), start + virtual_time);
        Charge { tokens, virtual_time }
    }

    /// It is over and took so many tokens.
    pub(super) fn settle(&mut self, flow: &str, charge: Charge, tokens: u64) {
        let Some(tag) = self.tags.get_mut(flow) else { return };
        let used = charge.virtual_time * u128::from(tokens) / u128::from(charge.tokens);
        *tag = (*tag + used).saturating_sub(charge.virtual_time);
    }

    /// Forgets flows that `keep` does not name and that owe nothing.
    pub(super) fn forget(&mut self, keep: impl Fn(&str) -> bool) {
        let clock = self.clock;
        self.tags.retain(|flow, tag| *tag > clock || keep(flow));
    }

    /// Flows that are remembered.
    pub(super) fn len(&self) -> usize {
        self.tags.len()
    }
}

fn over(tokens: u64, weight: u32) -> Tag {
    u128::from(tokens) * TOKEN / u128::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Serves the lowest tag of flows that always have something, `rounds` times; tokens served per flow.
    fn serve(shares: &mut Shares, weights: &[u32], sizes: &[u64], rounds: usize) -> Vec<u64> {
        let names: Vec<String> = (0..weights.len()).map(|flow| format!("flow-{flow}")).collect();
        names.iter().for_each(|name| shares.arrive(name));
        let mut served = vec![0; weights.len()];
        for round in 0..rounds {
            let next = (0..weights.len()).min_by_key(|flow| shares.start_tag(&names[*flow], weights[*flow])).unwrap();
            let tokens = sizes[(round + next) % sizes.len()];
            shares.charge(&names[next], weights[next], tokens);
            served[next] += tokens;
        }
        served
    }

    #[test]
    fn a_flow_that_comes_late_gets_no_more_than_its_share_from_then_on() {
        let mut shares = Shares::default();
        serve(&mut shares, &[1], &[10], 1000);
        let served = serve(&mut shares, &[1, 1], &[10], 100);
        assert!(served[0].abs_diff(served[1]) <= 20, "{served:?}");
    }

    #[test]
    fn a_flow_that_could_not_start_saves_up_no_more_than_the_credit() {
        let mut shares = Shares::default();
        shares.arrive("blocked");
        serve(&mut shares, &[1], &[100], 10_000);
        let mut alone = 0;
        while shares.start_tag("blocked", 1) <= shares.start_tag("flow-0", 1) {
            shares.charge("blocked", 1, 64);
            alone += 64;
        }
        assert!((MOST_CREDIT..=MOST_CREDIT + 200).contains(&alone), "{alone}");
    }

    #[test]
    fn what_was_charged_too_much_comes_back() {
        let mut shares = Shares::default();
        shares.arrive("a");
        let charge = shares.charge("a", 2, 1000);
        shares.settle("a", charge, 10);
        assert_eq!(shares.start_tag("a", 2), 5 * TOKEN);
        let charge = shares.charge("a", 2, 10);
        shares.settle("a", charge, 30);
        assert_eq!(shares.start_tag("a", 2), 20 * TOKEN);
    }

    #[test]
    fn flows_that_owe_nothing_are_forgotten() {
        let mut shares = Shares::default();
        shares.arrive("idle");
        shares.charge("busy", 1, 10);
        shares.charge("other", 1, 20);
        shares.forget(|_| false);
        assert_eq!(shares.len(), 2, "both owe");
        shares.arrive("next");
        serve(&mut shares, &[1], &[100], 3);
        shares.forget(|flow| flow == "next");
        assert_eq!(shares.len(), 2, "the next one and the one just charged");
    }

    proptest! {
        #[test]
        fn tokens_over_weight_differ_by_at_most_one_largest_request_each(
            weights in prop::collection::vec(1u32..=1000, 2..6), sizes in prop::collection::vec(1u64..5000, 1..20), rounds in 1usize..400,
        ) {
            let served = serve(&mut Shares::default(), &weights, &sizes, rounds);
            let largest = *sizes.iter().max().unwrap() as f64;
            for (a, of_a) in served.iter().enumerate() {
                for (b, of_b) in served.iter().enumerate() {
                    let [a, b] = [a, b].map(|flow| f64::from(weights[flow]));
                    let apart = *of_a as f64 / a - *of_b as f64 / b;
                    prop_assert!(apart <= largest / a + largest / b + 1e-3, "{:?} of {:?}", served, weights);
                }
            }
        }
    }
}
