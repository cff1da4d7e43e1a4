//! IO: what the pods handed back, in input order, as the stream that the gateway would give. What is missing is a failure
//! with a reason, so every request has exactly one result.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use crate::{
    api::ids::RequestId,
    operator::{error::Error, gateway::ndjson},
    protocol::{
        internal::{JobNode, JobReport, Outcome, ResultLine},
        shard::{Counts, INPUT, PART, Part, RESULTS, config_map_name, read_input, read_results},
    },
};

/// Counts of the results that were read, exact where a report before was not.
#[derive(Debug, Clone, Default)]
pub struct Totals(Arc<Mutex<Sums>>);

#[derive(Debug, Default)]
struct Sums {
    counts: Counts,
    nodes: BTreeMap<String, u32>,
}

impl Totals {
    pub(super) fn add(&self, line: &ResultLine) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sums.counts.add(&line.outcome);
        if let Outcome::Completed { node_name, .. } | Outcome::Embedded { node_name, .. } = &line.outcome {
            *sums.nodes.entry(node_name.clone()).or_default() += 1;
        }
    }

    /// Puts the exact counts into a report.
    pub fn correct(&self, report: &mut JobReport) {
        let sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        report.completed = sums.counts.completed;
        report.failed = sums.counts.failed;
        report.prompt_tokens = sums.counts.prompt_tokens;
        report.output_tokens = sums.counts.output_tokens;
        let nodes = sums.nodes.iter().map(|(name, requests)| JobNode { node_name: name.clone(), requests: *requests });
        report.nodes = nodes.collect();
    }
}

/// Why requests without an answer have none.
#[derive(Debug, Clone)]
pub struct Unanswered {
    pub reason: String,
    pub message: String,
}

/// NDJSON of [`ResultLine`], a shard a chunk. `shards`: how many there are.
pub fn stream(
    maps: Api<ConfigMap>,
    child: String,
    uid: String,
    shards: u32,
    unanswered: Unanswered,
    totals: Totals,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    stream::iter((0..shards).map(Ok::<u32, Error>)).and_then(move |index| {
        let (maps, name, uid) = (maps.clone(), config_map_name(&child, index), uid.clone());
        let (unanswered, totals) = (unanswered.clone(), totals.clone());
        async move {
            let found = maps.get_opt(&name).await?.ok_or_else(|| Error::ShardMissing(name.clone()))?;
            let mut bytes = Vec::new();
            let asked = text(&found, INPUT).to_owned();
            for line in lines(&asked, &[found], &uid, &unanswered) {
                totals.add(&line);
                bytes.extend_from_slice(&ndjson(&line)?);
            }
            Ok(Bytes::from(bytes))
        }
    })
}

/// One result for each request of the input `asked`, from what pods handed back; of two for one request the first. What they wrote is
/// believed only as far as it answers what was asked: the namespace's own people can write these ConfigMaps too.
pub(super) fn lines(asked: &str, handed_back: &[ConfigMap], uid: &str, unanswered: &Unanswered) -> Vec<ResultLine> {
    let mut answered: BTreeMap<u32, ResultLine> = BTreeMap::new();
    for map in handed_back {
        let part = serde_json::from_str::<Part>(text(map, PART)).ok();
        let results = part.map(|part| read_results(asked, text(map, RESULTS), &part)).unwrap_or_default();
        for line in results {
            answered.entry(line.index).or_insert(line);
        }
    }
    let asked = read_input(asked).unwrap_or_default();
    let results = asked.into_iter().map(|request| {
        let found = answered.remove(&request.index).filter(|line| line.custom_id == request.custom_id);
        let outcome = found.map_or_else(|| unanswered.outcome(), |line| line.outcome);
        let request_id = RequestId::of_job_line(uid, &request.custom_id);
        ResultLine { index: request.index, custom_id: request.custom_id, request_id, outcome }
    });
    results.collect()
}

fn text<'a>(map: &'a ConfigMap, key: &str) -> &'a str {
    map.data.as_ref().and_then(|data| data.get(key)).map(String::as_str).unwrap_or_default()
}

impl Unanswered {
    fn outcome(&self) -> Outcome {
        Outcome::Failed { reason: self.reason.clone(), message: self.message.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::shard::sha256;

    const ASKED: &str = r#"{"index":4,"customId":"a","prompt":"x","maxTokens":1,"temperature":0.0,"topP":1.0,"topK":0,"seed":0}
{"index":5,"customId":"b","prompt":"y","maxTokens":1,"temperature":0.0,"topP":1.0,"topK":0,"seed":0}
"#;

    fn shard(results: &str, of_input: &str) -> ConfigMap {
        let part = Part {
            input_sha256: sha256(of_input),
            results_sha256: sha256(results),
            complete: true,
            counts: Counts::default(),
        };
        let part = serde_json::to_string(&part).unwrap();
        let data = [(INPUT, ASKED.to_owned()), (RESULTS, results.to_owned()), (PART, part)];
        ConfigMap {
            data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), text)).collect()),
            ..ConfigMap::default()
        }
    }

    fn answer(index: u32, custom_id: &str) -> String {
        let outcome = Outcome::Failed { reason: format!("Answer{index}"), message: String::new() };
        let line = ResultLine { index, custom_id: custom_id.into(), request_id: RequestId([9; 32]), outcome };
        serde_json::to_string(&line).unwrap() + "\n"
    }

    fn reasons(shard: &ConfigMap) -> Vec<String> {
        let unanswered = Unanswered { reason: "ShardFailed".into(), message: "no answer".into() };
        let reason = |line: ResultLine| match line.outcome {
            Outcome::Failed { reason, .. } => reason,
            Outcome::Completed { .. } | Outcome::Embedded { .. } => "completed".into(),
        };
        lines(ASKED, std::slice::from_ref(shard), "u1", &unanswered).into_iter().map(reason).collect()
    }

    #[test]
    fn what_several_pods_answered_before_they_were_stopped_is_put_together() {
        let unanswered = Unanswered { reason: "Cancelled".into(), message: String::new() };
        let handed_back = [shard(&answer(5, "b"), ASKED), shard(&(answer(5, "b") + &answer(4, "a")), ASKED)];
        let found = lines(ASKED, &handed_back, "u1", &unanswered);
        assert_eq!(found.iter().map(|line| line.custom_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(found.iter().all(|line| line.outcome != unanswered.outcome()));
    }

    #[test]
    fn every_request_has_exactly_one_result() {
        assert_eq!(reasons(&shard(&answer(4, "a"), ASKED)), ["Answer4", "ShardFailed"]);
        assert_eq!(reasons(&shard("", ASKED)), ["ShardFailed", "ShardFailed"]);
    }

    #[test]
    fn answers_to_other_questions_are_passed_over() {
        let strange = answer(4, "another") + &answer(99, "a") + "not JSON\n" + &answer(5, "b");
        assert_eq!(reasons(&shard(&strange, ASKED)), ["ShardFailed", "Answer5"]);
        assert_eq!(reasons(&shard(&answer(4, "a"), "another input")), ["ShardFailed", "ShardFailed"]);
    }

    #[test]
    fn request_ids_are_computed_and_not_believed() {
        let unanswered = Unanswered { reason: "X".into(), message: String::new() };
        let found = lines(ASKED, &[shard(&answer(4, "a"), ASKED)], "u1", &unanswered);
        assert_eq!(found[0].request_id, RequestId::of_job_line("u1", "a"));
    }
}
