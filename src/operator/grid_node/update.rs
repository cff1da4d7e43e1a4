//! Replacing a worker whose pod is not what the StatefulSet wants any more, without ending a request that runs: new work is taken
//! away, the gateway says when nothing runs, then the pod goes. The decision is pure; the last two functions are IO.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
};

use super::{
    build::{COMPONENT_LABEL, NODE_LABEL, WORKER},
    dereference::Worker,
    worker::is_ready,
};
use crate::{
    api::{
        conditions,
        grid_node::{GridNode, UpdatePolicy, condition},
    },
    operator::{
        context::Context,
        error::{Error, is_not_found},
        gateway::GatewayError,
    },
    protocol::internal::NodeReport,
};

/// Of so many workers one may be away for an update, and one in any case. Other work goes on meanwhile, and a worker image that
/// does not start stops the update here.
const ONE_OF: usize = 4;
/// What an update needs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The pod is of the newest revision, or Kubernetes replaces it by itself.
    Nothing,
    /// The pod is being ended, by an update or by somebody else.
    Terminating,
    /// Other workers come first.
    WaitForTurn,
    /// Takes no new work; something runs, or may.
    WaitForIdle,
    /// Nothing runs: the pod with this name and uid goes.
    Replace { pod: String, uid: String },
}

impl Step {
    /// Whether the node may be given new work.
    pub fn keeps_work_away(&self) -> bool {
        self.is_update() || *self == Step::Terminating
    }

    pub fn is_update(&self) -> bool {
        matches!(self, Step::WaitForIdle | Step::Replace { .. })
    }
}

/// One worker, as far as updates go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    pub node: String,
    /// Its pod is of an older revision than the StatefulSet.
    pub outdated: bool,
    pub ready: bool,
    /// It is being replaced, or was and has not come back.
    pub away: bool,
}

impl Replica {
    fn of(set: &StatefulSet, pod: Option<&Pod>) -> Option<Self> {
        let terminating = pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
        let outdated = !terminating && pod.is_some_and(|pod| differs(set, pod));
        let ready = pod.is_some_and(is_ready);
        let scheduled = pod.is_some_and(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
        // One that never found a place since it was made says nothing about an update.
        let away = !ready && !outdated && (scheduled || was_changed(set));
        Some(Replica { node: set.labels().get(NODE_LABEL)?.clone(), outdated, ready, away })
    }
}

/// Under OnDelete the current revision stays the one that the StatefulSet was made with.
fn was_changed(set: &StatefulSet) -> bool {
    let status = set.status.as_ref();
    status.is_some_and(|status| status.update_revision.is_some() && status.current_revision != status.update_revision)
}

/// Whether the pod has to be replaced.
pub fn is_outdated(worker: &Worker) -> bool {
    match (&worker.stateful_set, &worker.pod) {
        (Some(set), Some(pod)) => !is_terminating(worker) && differs(set, pod),
        _ => false,
    }
}

/// Whether the pod is on its way out.
pub fn is_terminating(worker: &Worker) -> bool {
    worker.pod.as_ref().is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
}

fn differs(set: &StatefulSet, pod: &Pod) -> bool {
    let status = set.status.as_ref();
    // A revision that is not that of the newest spec says nothing.
    let current = status.and_then(|status| status.observed_generation) == set.metadata.generation;
    let wanted = status.and_then(|status| status.update_revision.as_deref());
    let found = pod.labels().get("controller-revision-hash").map(String::as_str);
    current && wanted.is_some() && found.is_some() && wanted != found
}

/// What to do about `node`, whose pod is outdated when `worker` says so; `closed` that new work is kept
/// from it already.
pub fn next(
    node: &str,
    policy: UpdatePolicy,
    worker: &Worker,
    fleet: &[Replica],
    report: &Result<Option<NodeReport>, GatewayError>,
    closed: bool,
) -> Step {
    if is_terminating(worker) {
        return Step::Terminating;
    }
    let Some(pod) = worker.pod.as_ref().filter(|_| policy == UpdatePolicy::OnIdle && is_outdated(worker)) else {
        return Step::Nothing;
    };
    // One that is ready gives something up and waits for its turn; once closed it stays so.
    if is_ready(pod) && !closed && !has_turn(node, fleet) {
        return Step::WaitForTurn;
    }
    match report {
        Ok(Some(report)) if !report.is_emptied() => Step::WaitForIdle,
        // Nobody else gave it work: no member never had any.
        Ok(_) => Step::Replace { pod: pod.name_any(), uid: pod.uid().unwrap_or_default() },
        // A gateway that is away may have given it work, and may before it hears that the node is closed.
        Err(_) => Step::WaitForIdle,
    }
}

fn has_turn(node: &str, fleet: &[Replica]) -> bool {
    let most = (fleet.len() / ONE_OF).max(1);
    let away = fleet.iter().filter(|replica| replica.away).count();
    let mut waiting: Vec<_> = fleet.iter().filter(|replica| replica.outdated && replica.ready).collect();
    waiting.sort_by(|a, b| a.node.cmp(&b.node));
    waiting.iter().take(most.saturating_sub(away)).any(|replica| replica.node == node)
}

/// Whether the node is kept from new work for an update: it is in the status, so that a restart knows.
pub fn is_closed(node: &GridNode) -> bool {
    node.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, condition::UPDATING))
}

/// All workers of this operator.
pub async fn fleet(context: &Context) -> Result<Vec<Replica>, Error> {
    let namespace = &context.config.namespace;
    let ours = ListParams::default().labels(&format!("{COMPONENT_LABEL}={WORKER},{NODE_LABEL}"));
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let pods = pods.list(&ours).await?.into_iter();
    let pods: BTreeMap<String, Pod> =
        pods.filter_map(|pod| Some((pod.labels().get(NODE_LABEL)?.clone(), pod))).collect();
    let sets = sets.list(&ours).await?.into_iter();
    Ok(sets.filter_map(|set| Replica::of(&set, pods.get(set.labels().get(NODE_LABEL)?))).collect())
}

/// Deletes the pod that was looked at and no other; the StatefulSet makes it anew.
pub async fn carry_out(step: &Step, context: &Context) -> Result<(), Error> {
    let Step::Replace { pod, uid } = step else { return Ok(()) };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &context.config.namespace);
    let this_one = Preconditions { uid: Some(uid.clone()), ..Preconditions::default() };
    match pods.delete(pod, &DeleteParams::default().preconditions(this_one)).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        // Another pod has taken its name: it is replaced already.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::grid_node::registration::tests::report;

    fn worker(revision: &str, ready: &str) -> Worker {
        let set = "metadata: {generation: 2}\nstatus: {replicas: 1, observedGeneration: 2, updateRevision: new}";
        let pod = format!(
            "metadata: {{name: worker-a-0, uid: u1, labels: {{controller-revision-hash: {revision}}}}}\nstatus: {{conditions: [{{type: Ready, status: '{ready}'}}]}}"
        );
        Worker {
            stateful_set: Some(serde_yaml::from_str(set).unwrap()),
            pod: Some(serde_yaml::from_str(&pod).unwrap()),
            ..Worker::default()
        }
    }

    fn replica(node: &str, outdated: bool, ready: bool) -> Replica {
        Replica { node: node.into(), outdated, ready, away: !outdated && !ready }
    }

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).unwrap()
    }

    /// What a gateway says that has heard of the closing.
    fn running(count: u32) -> Result<Option<NodeReport>, GatewayError> {
        Ok(Some(NodeReport { running: count, ..report(true) }))
    }

    fn not_told() -> Result<Option<NodeReport>, GatewayError> {
        Ok(Some(NodeReport { schedulable: true, ..report(true) }))
    }

    fn decide(worker: &Worker, report: &Result<Option<NodeReport>, GatewayError>, closed: bool) -> Step {
        let fleet = [replica("a", true, true), replica("b", true, true)];
        next("a", UpdatePolicy::OnIdle, worker, &fleet, report, closed)
    }

    fn replaced() -> Step {
        Step::Replace { pod: "worker-a-0".into(), uid: "u1".into() }
    }

    #[test]
    fn a_pod_of_the_newest_revision_is_left_alone() {
        assert_eq!(decide(&worker("new", "True"), &running(0), false), Step::Nothing);
        let mut unseen = worker("old", "True");
        unseen.stateful_set.as_mut().unwrap().metadata.generation = Some(3);
        assert!(!is_outdated(&unseen), "the revision is not that of the newest spec yet");
    }

    #[test]
    fn a_running_request_is_never_ended() {
        let away = || Err(GatewayError::Unavailable("away".into()));
        for ready in ["True", "False"] {
            for closed in [false, true] {
                let old = worker("old", ready);
                assert_eq!(decide(&old, &running(1), closed), Step::WaitForIdle);
                assert_eq!(decide(&old, &away(), closed), Step::WaitForIdle, "nobody knows what runs");
            }
        }
    }

    #[test]
    fn an_idle_worker_goes_only_when_the_gateway_had_heard_that_it_gets_no_new_work() {
        for ready in ["True", "False"] {
            let old = worker("old", ready);
            assert_eq!(decide(&old, &not_told(), false), Step::WaitForIdle);
            assert_eq!(
                decide(&old, &not_told(), true),
                Step::WaitForIdle,
                "the gateway was away when it was to be told"
            );
            assert_eq!(decide(&old, &running(0), true), replaced());
            assert_eq!(decide(&old, &Ok(None), false), replaced(), "no member: it never had work");
        }
    }

    #[test]
    fn only_a_worker_that_is_ready_waits_for_its_turn_and_one_that_is_closed_has_had_it() {
        let others = [replica("0", true, true), replica("a", true, true)];
        let decide =
            |ready, closed| next("a", UpdatePolicy::OnIdle, &worker("old", ready), &others, &not_told(), closed);
        assert_eq!(decide("True", false), Step::WaitForTurn);
        assert_eq!(decide("True", true), Step::WaitForIdle);
        assert_eq!(decide("False", false), Step::WaitForIdle);
    }

    #[test]
    fn one_of_four_is_away_at_once_and_a_broken_image_stops_the_update() {
        let all: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|node| replica(node, true, true)).into();
        assert!(has_turn("a", &all) && has_turn("b", &all) && !has_turn("c", &all));
        let mut broken = all.clone();
        (broken[0], broken[1]) = (replica("a", false, false), replica("b", false, false));
        assert!(!has_turn("c", &broken));
        broken[1].away = false;
        assert!(has_turn("c", &broken));
        assert!(has_turn("a", &[replica("a", true, true)]), "one in any case");
    }

    #[test]
    fn a_worker_that_was_changed_and_has_not_come_back_is_away() {
        let set = |revision: &str| {
            let yaml = format!(
                "metadata: {{generation: 2, labels: {{xdcgrid.io/node: a}}}}\nstatus: {{replicas: 1, observedGeneration: 2, currentRevision: {revision}, updateRevision: new}}"
            );
            serde_yaml::from_str::<StatefulSet>(&yaml).unwrap()
        };
        assert!(Replica::of(&set("old"), None).unwrap().away);
        assert!(!Replica::of(&set("new"), None).unwrap().away, "it never found a place since it was made");
        let mut terminating = worker("old", "True").pod.unwrap();
        terminating.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(50)));
        let replica = Replica::of(&set("old"), Some(&terminating)).unwrap();
        assert!(replica.away && !replica.outdated);
        assert!(Replica::of(&set("old"), worker("old", "True").pod.as_ref()).unwrap().outdated);
    }

    #[test]
    fn a_pod_that_is_being_ended_gets_no_new_work() {
        let mut leaving = worker("new", "True");
        leaving.pod.as_mut().unwrap().metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(50)));
        let step = decide(&leaving, &running(0), false);
        assert_eq!(step, Step::Terminating);
        assert!(step.keeps_work_away() && !step.is_update());
    }

    #[test]
    fn immediate_leaves_it_to_kubernetes() {
        let step = next("a", UpdatePolicy::Immediate, &worker("old", "True"), &[], &running(1), false);
        assert_eq!(step, Step::Nothing);
    }
}
