//! Who could audit whom: the kernel profiles of the network's verifiers. A node whose profile none of them shares can neither
//! be convicted nor cleared by any audit, and is not paid as if it had been.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{PoisonError, RwLock},
};

use super::{Gateway, peers::Served};
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    protocol::{
        fields::{RequestField, RequestFields},
        internal::{Member, NodeMode, NodeRole},
    },
    store::LedgerError,
    verify::audit,
};

/// What is known about auditing a node's answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Judgeable {
    /// For one of its models at least some verifier shares the profile, or it serves nothing.
    #[default]
    Yes,
    /// No verifier of its models has ever said what it computes with: nothing speaks against the node.
    Unknown,
    /// Verifiers of its models are known and none of them shares a profile with it. With the node's profile, for people.
    No { profile: String },
}

/// Profiles by model and verifier, as last stated: a verifier that is away comes back with the same arithmetic.
#[derive(Debug, Default)]
pub struct Judges {
    known: RwLock<HashMap<ModelDigest, BTreeMap<GridPeerId, String>>>,
}

impl Judges {
    /// Takes what a member says it serves; true when what is known of verifiers changed.
    fn stated(&self, member: &Member, models: &BTreeMap<ModelDigest, Served>) -> bool {
        let may = member.mode == NodeMode::Managed && member.roles.contains(&NodeRole::Verify);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before: usize = known.values().map(BTreeMap::len).sum();
        let mut changed = false;
        if !may {
            known.values_mut().for_each(|verifiers| {
                verifiers.remove(&member.peer_id);
            });
        }
        for (model, served) in models.iter().filter(|_| may) {
            let verifiers = known.entry(*model).or_default();
            let old = verifiers.insert(member.peer_id.clone(), served.kernel_profile.clone());
            changed |= old.as_ref() != Some(&served.kernel_profile);
        }
        known.retain(|_, verifiers| !verifiers.is_empty());
        changed || before != known.values().map(BTreeMap::len).sum::<usize>()
    }

    pub(super) fn forget(&self, peer: &GridPeerId) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.values_mut().for_each(|verifiers| {
            verifiers.remove(peer);
        });
        known.retain(|_, verifiers| !verifiers.is_empty());
    }

    /// The fields, of those that a node knows, that requests to it may use: an answer in a form is worth nothing where no verifier keeps to
    /// forms as the node does. Where none of a model is known nothing speaks against it.
    pub(super) fn judged(
        &self,
        peer: &GridPeerId,
        models: &BTreeMap<ModelDigest, Served>,
        knows: RequestFields,
    ) -> RequestFields {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let formed = [RequestField::ResponseFormat].into_iter().collect();
        let mut all = models.iter().map(|(model, served)| {
            let others = || known.get(model).into_iter().flatten().filter(|(verifier, _)| *verifier != peer);
            others().next().is_none() || others().any(|(_, profile)| judges(profile, &served.kernel_profile, formed))
        });
        if all.all(|judged| judged) { knows } else { knows.without(RequestField::ResponseFormat) }
    }

    /// Whether anybody but itself could audit what a node serves, answers without a form at least.
    pub(super) fn judgeable(&self, peer: &GridPeerId, models: &BTreeMap<ModelDigest, Served>) -> Judgeable {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut answer = if models.is_empty() { Judgeable::Yes } else { Judgeable::Unknown };
        for (model, served) in models {
            let others = known.get(model).into_iter().flatten().filter(|(verifier, _)| *verifier != peer);
            for (_, profile) in others {
                if judges(profile, &served.kernel_profile, RequestFields::NONE) {
                    return Judgeable::Yes;
                }
                answer = Judgeable::No { profile: served.kernel_profile.clone() };
            }
        }
        answer
    }
}

/// Whether a verifier of one profile can decide about answers of another to requests with these fields.
fn judges(verifier: &str, worker: &str, fields: RequestFields) -> bool {
    audit::decidable(audit::relevant(worker, fields), audit::relevant(verifier, fields))
}

impl Gateway {
    /// A member said what it serves: its own standing, or when it is a verifier that of everybody, may be another now.
    pub(super) async fn weigh_profiles(&self, peer: &GridPeerId) -> Result<(), LedgerError> {
        let Some(member) = self.members.get(peer).map(|record| record.member) else { return Ok(()) };
        let Some(statement) = self.peers.get(peer).statement else { return Ok(()) };
        if self.judges.stated(&member, &statement.models) {
            for other in self.members.all() {
                self.weigh_standing(&other.member.peer_id).await?;
            }
        }
        self.weigh_standing(peer).await
    }

    /// Reads a standing again if what is known about its audits changed.
    async fn weigh_standing(&self, peer: &GridPeerId) -> Result<(), LedgerError> {
        let before = self.standings.get(peer);
        if before.judgeable == self.judgeable(peer, &before.judgeable) {
            return Ok(());
        }
        let after = self.refresh_standing(peer).await?;
        if after.capability != before.capability {
            tracing::info!(%peer, verified = after.capability.verified, reason = after.capability.reason, "standing changed");
            self.announce_node(peer).await;
            self.dispatch.notify_one();
        }
        Ok(())
    }

    /// From what the node said last; `kept` while it says nothing.
    pub(super) fn judgeable(&self, peer: &GridPeerId, kept: &Judgeable) -> Judgeable {
        match self.peers.get(peer).statement {
            Some(statement) if !statement.models.is_empty() => self.judges.judgeable(peer, &statement.models),
            _ => kept.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{protocol::identity::NodeKey, schedule::Rates};

    const MODEL: ModelDigest = ModelDigest([1; 32]);

    fn member(role: NodeRole, mode: NodeMode) -> Member {
        Member {
            peer_id: NodeKey::generate().peer_id(),
            node_name: "a".into(),
            mode,
            roles: vec![role],
            schedulable: true,
            resting: false,
            max_requests: None,
            registered: true,
            models: vec![MODEL],
            labels: BTreeMap::new(),
        }
    }

    fn serving(profile: &str) -> BTreeMap<ModelDigest, Served> {
        [(MODEL, Served { rates: Rates::default(), kernel_profile: profile.into() })].into()
    }

    #[test]
    fn a_node_is_judgeable_by_a_verifier_of_the_same_profile_only() {
        let (judges, node) = (Judges::default(), NodeKey::generate().peer_id());
        assert_eq!(judges.judgeable(&node, &serving("cpu")), Judgeable::Unknown);
        let verifier = member(NodeRole::Verify, NodeMode::Managed);
        assert!(judges.stated(&verifier, &serving("cpu")));
        assert!(!judges.stated(&verifier, &serving("cpu")), "nothing new");
        assert_eq!(judges.judgeable(&node, &serving("cpu")), Judgeable::Yes);
        assert_eq!(judges.judgeable(&node, &serving("gpu")), Judgeable::No { profile: "gpu".into() });
        assert_eq!(judges.judgeable(&node, &serving("")), Judgeable::No { profile: String::new() });
        assert_eq!(judges.judgeable(&node, &BTreeMap::new()), Judgeable::Yes);
        assert!(judges.stated(&verifier, &serving("gpu")));
        assert_eq!(judges.judgeable(&node, &serving("gpu")), Judgeable::Yes);
        judges.forget(&verifier.peer_id);
        assert_eq!(judges.judgeable(&node, &serving("gpu")), Judgeable::Unknown);
    }

    #[test]
    fn a_node_whose_forms_nobody_judges_is_judgeable_and_asked_for_none() {
        let (judges, node) = (Judges::default(), NodeKey::generate().peer_id());
        let (all, formless) = (RequestFields::all(), RequestFields::all().without(RequestField::ResponseFormat));
        let asked = |profile: &str| judges.judged(&node, &serving(profile), all);
        assert_eq!(asked("cpu+form1"), all, "no verifier is known");
        judges.stated(&member(NodeRole::Verify, NodeMode::Managed), &serving("cpu+form2"));
        assert_eq!((asked("cpu+form1"), asked("cpu+form2"), asked("cpu")), (formless, all, formless));
        assert_eq!(judges.judgeable(&node, &serving("cpu+form1")), Judgeable::Yes);
        judges.stated(&member(NodeRole::Verify, NodeMode::Managed), &serving("cpu+form1"));
        assert_eq!(asked("cpu+form1"), all);
        let two: BTreeMap<_, _> = serving("cpu+form1")
            .into_iter()
            .chain([(ModelDigest([2; 32]), serving("gpu+form1")[&MODEL].clone())])
            .collect();
        assert_eq!(judges.judged(&node, &two, all), all, "nobody verifies the other model");
    }

    #[test]
    fn nobody_is_its_own_judge_and_strangers_are_nobodys() {
        let judges = Judges::default();
        let alone = member(NodeRole::Verify, NodeMode::Managed);
        judges.stated(&alone, &serving("cpu"));
        assert_eq!(judges.judgeable(&alone.peer_id, &serving("cpu")), Judgeable::Unknown);
        let stranger = member(NodeRole::Verify, NodeMode::External);
        assert!(!judges.stated(&stranger, &serving("gpu")));
        let node = NodeKey::generate().peer_id();
        assert_eq!(judges.judgeable(&node, &serving("gpu")), Judgeable::No { profile: "gpu".into() });
    }

    #[test]
    fn a_node_that_no_longer_verifies_judges_nobody() {
        let (judges, node) = (Judges::default(), NodeKey::generate().peer_id());
        let mut verifier = member(NodeRole::Verify, NodeMode::Managed);
        judges.stated(&verifier, &serving("cpu"));
        verifier.roles.clear();
        assert!(judges.stated(&verifier, &serving("cpu")));
        assert_eq!(judges.judgeable(&node, &serving("cpu")), Judgeable::Unknown);
    }
}
