//! Faults that a test or a curious person asks for: which call meets which. Draws come from a seed and the number of the call, so the same
//! calls meet the same faults again.

use serde::{Deserialize, Serialize};

use super::view::Finality;

/// Faults at one time.
pub const MAX_FAULTS: usize = 64;
/// The longest delay, and the longest silence before a connection is closed.
pub const MAX_MILLIS: u64 = 60_000;
const MAX_METHODS: usize = 32;
const MAX_DEPTH: u64 = 64;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FaultKind {
    /// The connection is closed without an answer.
    Drop,
    /// The call is taken late.
    Delay,
    /// HTTP 429.
    TooManyRequests,
    /// The answer is of a node that has fallen behind.
    Lie,
    /// A transaction arrives twice, and the answer is that to the second arrival.
    Duplicate,
    /// The newest blocks are replaced after the call was answered.
    Reorg,
    /// `finalized` stands still.
    FinalityFrozen,
    /// `finalized` is an error, as on a node that was just restarted.
    FinalityError,
}

/// Which half of an exchange a dropped connection loses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Loses {
    /// The call never reached the node.
    Request,
    /// The node did what it was asked, and nobody learns of it.
    #[default]
    Answer,
}

/// Where the transactions of replaced blocks are afterwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// Back in the pool; the next block takes them.
    #[default]
    Pooled,
    /// In the blocks that replace theirs.
    Mined,
    /// Nowhere.
    Lost,
}

/// A replacement of the newest blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reorg {
    /// How many.
    #[serde(default = "two")]
    pub depth: u64,
    #[serde(default)]
    pub transactions: Fate,
}

fn two() -> u64 {
    2
}

impl Reorg {
    /// Refuses a depth that no chain has.
    pub fn checked(self) -> Result<Self, String> {
        bounded("depth", self.depth, 1, MAX_DEPTH).map(|_| self)
    }
}

/// A fault as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultSpec {
    pub kind: FaultKind,
    /// Which methods meet it, a trailing `*` for the rest of a name; all but `anvil_*` and its like when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// After so many calls that met it, it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The share of calls that meet it; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Of the draws; 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Over when the chain has grown by so many blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_blocks: Option<u64>,
    /// Of `delay`: how late. Of `drop`: how long nothing is said before the connection is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millis: Option<u64>,
    /// Of `drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loses: Option<Loses>,
    /// Of `lie`: by how many blocks the node is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
    /// Of `reorg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u64>,
    /// Of `reorg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<Fate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Drop { loses: Loses, millis: u64 },
    Delay { millis: u64 },
    TooManyRequests,
    Lie { behind: u64 },
    Duplicate,
    Reorg(Reorg),
    Finality(Finality),
}

impl FaultSpec {
    /// A fault of this kind on every call, for ever.
    pub fn new(kind: FaultKind) -> Self {
        FaultSpec {
            kind,
            methods: Vec::new(),
            count: None,
            probability: None,
            seed: None,
            for_blocks: None,
            millis: None,
            loses: None,
            behind: None,
            depth: None,
            transactions: None,
        }
    }

    /// What it does; `finalized` is the block at which finality stops, if that is what it does.
    fn effect(&self, finalized: u64) -> Result<Effect, String> {
        let mut rest = self.clone();
        let effect = match self.kind {
            FaultKind::Drop => {
                let millis = bounded("millis", rest.millis.take().unwrap_or(0), 0, MAX_MILLIS)?;
                Effect::Drop { loses: rest.loses.take().unwrap_or_default(), millis }
            }
            FaultKind::Delay => {
                let millis = rest.millis.take().ok_or("kind delay needs \"millis\"")?;
                Effect::Delay { millis: bounded("millis", millis, 1, MAX_MILLIS)? }
            }
            FaultKind::Lie => {
                let behind = rest.behind.take().ok_or("kind lie needs \"behind\", a number of blocks")?;
                Effect::Lie { behind: bounded("behind", behind, 1, u64::MAX)? }
            }
            FaultKind::Reorg => {
                let (depth, transactions) = (rest.depth.take(), rest.transactions.take());
                let reorg = Reorg { depth: depth.unwrap_or_else(two), transactions: transactions.unwrap_or_default() };
                Effect::Reorg(reorg.checked()?)
            }
            FaultKind::TooManyRequests => Effect::TooManyRequests,
            FaultKind::Duplicate => Effect::Duplicate,
            FaultKind::FinalityFrozen => Effect::Finality(Finality::Frozen { at: finalized }),
            FaultKind::FinalityError => Effect::Finality(Finality::Lost),
        };
        rest.refuse_leftovers()?;
        Ok(effect)
    }

    fn refuse_leftovers(&self) -> Result<(), String> {
        let leftovers = [
            (self.millis.is_some(), "\"millis\" is for the kinds delay and drop"),
            (self.loses.is_some(), "\"loses\" is for the kind drop"),
            (self.behind.is_some(), "\"behind\" is for the kind lie"),
            (self.depth.is_some(), "\"depth\" is for the kind reorg"),
            (self.transactions.is_some(), "\"transactions\" is for the kind reorg"),
        ];
        leftovers.into_iter().find(|(left, _)| *left).map_or(Ok(()), |(_, message)| Err(message.to_owned()))
    }

    fn check_bounds(&self) -> Result<(), String> {
        if self.methods.len() > MAX_METHODS || self.methods.iter().any(|name| name.len() > 100) {
            return Err(format!("\"methods\" has more than {MAX_METHODS} names, or one longer than 100 bytes"));
        }
        if self.probability.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return Err("\"probability\" is a number from 0 to 1".to_owned());
        }
        if self.seed.is_some() && self.probability.is_none() {
            return Err("\"seed\" is for draws: give a \"probability\" too".to_owned());
        }
        Ok(())
    }

    fn concerns(&self, method: &str) -> bool {
        if self.kind == FaultKind::Duplicate && method != "eth_sendRawTransaction" {
            return false;
        }
        if self.methods.is_empty() {
            return !is_control(method);
        }
        self.methods.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => method.starts_with(start),
            None => method == name,
        })
    }
}

/// Methods with which a test drives the chain; no node on XDC has them.
pub fn is_control(method: &str) -> bool {
    ["anvil_", "evm_", "hardhat_"].iter().any(|space| method.starts_with(space))
}

fn bounded(name: &str, value: u64, least: u64, most: u64) -> Result<u64, String> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!("\"{name}\" is {value}, it must be from {least} to {most}"))
    }
}

/// A fault at work.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    pub id: u64,
    #[serde(flatten)]
    pub spec: FaultSpec,
    /// Calls that it concerned.
    pub seen: u64,
    /// Calls that met it.
    pub hits: u64,
    #[serde(skip)]
    effect: Effect,
    /// The block with which it is over.
    #[serde(skip)]
    until: Option<u64>,
}

impl Fault {
    fn is_over(&self, head: u64) -> bool {
        self.spec.count.is_some_and(|count| self.hits >= count) || self.until.is_some_and(|until| head >= until)
    }

    /// Whether this call meets it.
    fn strikes(&mut self, method: &str, head: u64) -> bool {
        if self.is_over(head) || !self.spec.concerns(method) {
            return false;
        }
        let nth = self.seen;
        self.seen += 1;
        let struck = self.spec.probability.is_none_or(|share| draw(self.spec.seed.unwrap_or(0), nth) < share);
        self.hits += u64::from(struck);
        struck
    }
}

/// The `nth` draw of a seed, in [0, 1).
fn draw(seed: u64, nth: u64) -> f64 {
    let hash = blake3::hash(&[seed.to_be_bytes(), nth.to_be_bytes()].concat());
    let bits = hash.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    pub delay_millis: u64,
    pub too_many_requests: bool,
    /// What is lost, and for how many milliseconds nothing is said before.
    pub lost: Option<(Loses, u64)>,
    pub behind: u64,
    pub twice: bool,
    pub reorg: Option<Reorg>,
    pub finality: Finality,
}

impl Plan {
    fn add(&mut self, effect: Effect) {
        match effect {
            Effect::Drop { loses, millis } => self.lost = Some((loses, millis)),
            Effect::Delay { millis } => self.delay_millis = self.delay_millis.saturating_add(millis).min(MAX_MILLIS),
            Effect::TooManyRequests => self.too_many_requests = true,
            Effect::Lie { behind } => self.behind = self.behind.max(behind),
            Effect::Duplicate => self.twice = true,
            Effect::Reorg(reorg) => self.reorg = Some(reorg),
            Effect::Finality(finality) => self.finality = finality,
        }
    }
}

/// All faults that were asked for and not cleared.
#[derive(Debug, Default)]
pub struct Faults {
    list: Vec<Fault>,
    made: u64,
}

impl Faults {
    /// Takes up a fault; `head` and `finalized` are the chain's now. The error names the field and what it may be.
    pub fn add(&mut self, spec: FaultSpec, head: u64, finalized: u64) -> Result<Fault, String> {
        spec.check_bounds()?;
        let effect = spec.effect(finalized)?;
        if self.list.len() >= MAX_FAULTS {
            self.list.retain(|fault| !fault.is_over(head));
        }
        if self.list.len() >= MAX_FAULTS {
            return Err(format!("there are {MAX_FAULTS} faults already: DELETE /devnet/faults clears them"));
        }
        self.made += 1;
        let until = spec.for_blocks.map(|blocks| head.saturating_add(blocks));
        let fault = Fault { id: self.made, spec, seen: 0, hits: 0, effect, until };
        self.list.push(fault.clone());
        Ok(fault)
    }

    pub fn list(&self) -> &[Fault] {
        &self.list
    }

    /// Ends all faults and says how many there were.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.list).len()
    }

    /// Ends one fault; whether there was one.
    pub fn remove(&mut self, id: u64) -> bool {
        let before = self.list.len();
        self.list.retain(|fault| fault.id != id);
        self.list.len() < before
    }

    /// Whether [`Faults::plan`] looks at the head.
    pub fn need_head(&self) -> bool {
        self.list.iter().any(|fault| fault.until.is_some())
    }

    /// What happens to a call of `method`, and remembers that it did.
    pub fn plan(&mut self, method: &str, head: u64) -> Plan {
        let mut plan = Plan::default();
        for fault in &mut self.list {
            if fault.strikes(method, head) {
                plan.add(fault.effect);
            }
        }
        plan
    }

    /// What finality is to everybody while such a fault is at work, whoever it strikes.
    pub fn finality(&self, head: u64) -> Finality {
        let newest_first = self.list.iter().rev().filter(|fault| !fault.is_over(head));
        let found = newest_first.map(|fault| fault.effect).find_map(|effect| match effect {
            Effect::Finality(finality) => Some(finality),
            _ => None,
        });
        found.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> FaultSpec {
        serde_json::from_str(json).unwrap()
    }

    fn faults(json: &str) -> Faults {
        let mut faults = Faults::default();
        faults.add(spec(json), 10, 8).unwrap();
        faults
    }

    #[test]
    fn a_fault_concerns_the_methods_it_names() {
        let mut faults = faults(r#"{"kind": "tooManyRequests", "methods": ["eth_call", "eth_get*"]}"#);
        let mut meets = |method: &str| faults.plan(method, 10).too_many_requests;
        assert!(meets("eth_call") && meets("eth_getBalance"));
        assert!(!meets("eth_callMany") && !meets("eth_sendRawTransaction"));
    }

    #[test]
    fn a_fault_without_names_spares_what_drives_the_chain() {
        let mut faults = faults(r#"{"kind": "tooManyRequests"}"#);
        assert!(faults.plan("eth_chainId", 10).too_many_requests);
        assert_eq!(faults.plan("anvil_mine", 10), Plan::default());
        assert_eq!(faults.plan("evm_increaseTime", 10), Plan::default());
    }

    #[test]
    fn a_fault_ends_with_its_count_or_with_a_block() {
        let mut counted = faults(r#"{"kind": "lie", "behind": 3, "count": 2}"#);
        let met: Vec<_> = (0..4).map(|_| counted.plan("eth_call", 10).behind).collect();
        assert_eq!(met, [3, 3, 0, 0]);
        assert_eq!((counted.list()[0].seen, counted.list()[0].hits), (2, 2));

        let mut timed = faults(r#"{"kind": "finalityError", "forBlocks": 3}"#);
        assert!(timed.need_head());
        assert_eq!(timed.plan("eth_call", 12).finality, Finality::Lost);
        assert_eq!(timed.finality(12), Finality::Lost);
        assert_eq!(
            (timed.plan("eth_call", 13).finality, timed.finality(13)),
            (Finality::Following, Finality::Following)
        );
    }

    #[test]
    fn the_same_seed_strikes_the_same_calls() {
        let struck = |seed: u64| {
            let json = format!(r#"{{"kind": "drop", "probability": 0.3, "seed": {seed}}}"#);
            let mut faults = faults(&json);
            (0..1_000).map(|_| faults.plan("eth_call", 10).lost.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(struck(7), struck(7));
        assert_ne!(struck(7), struck(8));
        let share = struck(7).iter().filter(|hit| **hit).count();
        assert!((230..370).contains(&share), "{share} of 1000");
    }

    #[test]
    fn several_faults_meet_one_call() {
        let mut faults = faults(r#"{"kind": "delay", "millis": 50}"#);
        faults.add(spec(r#"{"kind": "drop", "loses": "request", "millis": 9}"#), 10, 8).unwrap();
        faults.add(spec(r#"{"kind": "finalityFrozen"}"#), 10, 8).unwrap();
        faults.add(spec(r#"{"kind": "reorg", "transactions": "lost"}"#), 10, 8).unwrap();
        faults.add(spec(r#"{"kind": "duplicate"}"#), 10, 8).unwrap();
        let plan = faults.plan("eth_sendRawTransaction", 10);
        let reorg = Some(Reorg { depth: 2, transactions: Fate::Lost });
        let wanted = Plan {
            delay_millis: 50,
            lost: Some((Loses::Request, 9)),
            twice: true,
            reorg,
            finality: Finality::Frozen { at: 8 },
            ..Plan::default()
        };
        assert_eq!(plan, wanted);
        assert!(!faults.plan("eth_call", 10).twice, "only transactions arrive twice");
        assert!(faults.remove(2) && !faults.remove(2));
        assert_eq!(faults.clear(), 4);
    }

    #[test]
    fn a_wrong_field_is_named_with_its_cure() {
        let refused = |json: &str| Faults::default().add(spec(json), 0, 0).unwrap_err();
        assert_eq!(refused(r#"{"kind": "delay"}"#), "kind delay needs \"millis\"");
        assert_eq!(refused(r#"{"kind": "delay", "millis": 60001}"#), "\"millis\" is 60001, it must be from 1 to 60000");
        assert_eq!(refused(r#"{"kind": "lie", "behind": 1, "depth": 2}"#), "\"depth\" is for the kind reorg");
        assert_eq!(refused(r#"{"kind": "reorg", "depth": 0}"#), "\"depth\" is 0, it must be from 1 to 64");
        assert_eq!(refused(r#"{"kind": "drop", "probability": 1.5}"#), "\"probability\" is a number from 0 to 1");
        assert!(refused(r#"{"kind": "drop", "seed": 1}"#).contains("probability"));
        let unknown = serde_json::from_str::<FaultSpec>(r#"{"kind": "drop", "milis": 5}"#).unwrap_err().to_string();
        assert!(unknown.contains("milis") && unknown.contains("millis"), "{unknown}");
        assert!(serde_json::from_str::<FaultSpec>(r#"{"kind": "explode"}"#).is_err());
    }

    #[test]
    fn faults_are_bounded_and_spent_ones_make_room() {
        let mut faults = Faults::default();
        for _ in 0..MAX_FAULTS {
            faults.add(spec(r#"{"kind": "drop", "count": 1}"#), 0, 0).unwrap();
        }
        assert!(faults.add(spec(r#"{"kind": "drop"}"#), 0, 0).is_err());
        faults.plan("eth_call", 0);
        assert!(faults.add(spec(r#"{"kind": "drop"}"#), 0, 0).is_ok());
        assert_eq!(faults.list().len(), 1);
    }
}
