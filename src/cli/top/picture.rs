//! One look at the grid. Pure.

use std::{collections::BTreeMap, io::Write, time::Duration};

use kube::ResourceExt;
use serde::Serialize;

use crate::{
    api::{
        conditions,
        grid_node::{self, GridNode},
        inference_job::{InferenceJob, JobPhase, Target},
    },
    cli::{CliError, nodes, output, submit::wait::is_over},
};

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// None when the person may not see nodes.
    pub nodes: Option<Vec<GridNode>>,
    pub jobs: Vec<InferenceJob>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    pub nodes: Vec<NodeRow>,
    pub jobs: Vec<JobRow>,
    pub summary: Summary,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes_ready: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<usize>,
    pub jobs: usize,
    pub running: usize,
    /// Output tokens per second between the last look and this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    pub name: String,
    pub ready: String,
    pub reason: String,
    pub accelerator: String,
    /// Measured, not what it does now.
    pub tokens_per_second: String,
    /// Models that it can serve now, of those that it knows.
    pub models: String,
    pub score: String,
    pub earned: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRow {
    pub namespace: String,
    pub name: String,
    pub model: String,
    pub target: Target,
    pub phase: String,
    pub progress: String,
    pub failed: i64,
    pub nodes: i64,
    /// Since the last look where there was one, else over the whole run.
    pub tokens_per_second: String,
    pub reason: String,
}

impl Picture {
    /// `before` is the last look and how long it is ago; `over` shows jobs that ended, too.
    pub fn of(seen: &Seen, before: Option<(Duration, &Seen)>, over: bool) -> Self {
        let earlier: BTreeMap<String, i64> = before
            .iter()
            .flat_map(|(_, seen)| &seen.jobs)
            .map(|job| (job.uid().unwrap_or_default(), tokens(job)))
            .collect();
        let seconds = before.map(|(ago, _)| ago.as_secs_f64()).filter(|seconds| *seconds > 0.0);
        let rate = |job: &InferenceJob| {
            let written = tokens(job) - earlier.get(&job.uid().unwrap_or_default())?;
            Some(written.max(0) as f64 / seconds?)
        };
        let shown = seen.jobs.iter().filter(|job| over || !is_over(job));
        let mut jobs: Vec<JobRow> = shown.map(|job| job_row(job, rate(job))).collect();
        jobs.sort_by(|a, b| (rank(&a.phase), &a.namespace, &a.name).cmp(&(rank(&b.phase), &b.namespace, &b.name)));
        let nodes: Vec<NodeRow> = seen.nodes.iter().flatten().map(node_row).collect();
        let ready = nodes.iter().filter(|node| node.ready == "True").count();
        let summary = Summary {
            nodes_ready: seen.nodes.as_ref().map(|_| ready),
            nodes: seen.nodes.as_ref().map(Vec::len),
            jobs: jobs.len(),
            running: jobs.iter().filter(|job| job.phase == "Running").count(),
            tokens_per_second: before.map(|_| seen.jobs.iter().filter_map(rate).sum()),
        };
        Picture { nodes, jobs, summary }
    }

    pub fn names(&self) -> Vec<String> {
        let nodes = self.nodes.iter().map(|node| format!("gridnode.xdcgrid.io/{}", node.name));
        nodes.chain(self.jobs.iter().map(|job| format!("inferencejob.xdcgrid.io/{}", job.name))).collect()
    }

    pub fn draw(&self, namespaces: bool, out: &mut dyn Write) -> Result<(), CliError> {
        let Summary { nodes_ready, nodes, jobs, running, tokens_per_second } = &self.summary;
        let machines = nodes_ready.zip(*nodes).map(|(ready, all)| format!("{ready}/{all} nodes ready, "));
        let rate = tokens_per_second.map(|rate| format!(", {rate:.1} tokens/s")).unwrap_or_default();
        writeln!(out, "{}{jobs} jobs, {running} running{rate}\n", machines.unwrap_or_default())?;
        if !self.nodes.is_empty() {
            let header = ["node", "ready", "reason", "gpu", "tok/s", "models", "score", "earned"];
            output::table(out, &header, self.nodes.iter().map(node_cells).collect())?;
            writeln!(out)?;
        }
        let header =
            ["namespace", "job", "model", "target", "status", "progress", "failed", "nodes", "tok/s", "reason"];
        let from = usize::from(!namespaces);
        let rows = self.jobs.iter().map(|job| job_cells(job).into_iter().skip(from).collect()).collect();
        output::table(out, header.get(from..).unwrap_or_default(), rows)
    }
}

fn tokens(job: &InferenceJob) -> i64 {
    job.status.as_ref().and_then(|status| status.tokens).map_or(0, |tokens| tokens.output)
}

/// What runs first, then what waits, then what is over.
fn rank(phase: &str) -> u8 {
    match phase {
        "Running" => 0,
        "Finalizing" => 1,
        "Queued" | "Pending" => 2,
        "Suspended" => 3,
        _ => 4,
    }
}

fn node_row(node: &GridNode) -> NodeRow {
    let status = node.status.clone().unwrap_or_default();
    let columns = status.columns.unwrap_or_default();
    let able = status.models.iter().filter(|model| model.state == "Ready").count();
    let ready = conditions::find(&status.conditions, grid_node::condition::READY);
    let cells = nodes::cells(node);
    let cell = |at: usize| cells.get(at).cloned().unwrap_or_default();
    // A cordoned node is as ready as any other, but a person wants to see it.
    let cordoned = node.spec.unschedulable && ready.is_some_and(|ready| ready.reason == "Ready");
    NodeRow {
        name: cell(0),
        ready: cell(1),
        reason: if cordoned { "Cordoned".into() } else { cell(2) },
        accelerator: columns.gpu.unwrap_or_default(),
        tokens_per_second: columns.tokens_per_second.unwrap_or_default(),
        models: format!("{able}/{}", node.spec.models.len()),
        score: columns.score.unwrap_or_default(),
        earned: columns.earned.unwrap_or_default(),
    }
}

fn job_row(job: &InferenceJob, rate: Option<f64>) -> JobRow {
    let status = job.status.clone().unwrap_or_default();
    let average = status.throughput.unwrap_or_default();
    JobRow {
        namespace: job.namespace().unwrap_or_default(),
        name: job.name_any(),
        model: job.spec.workload.model_ref.name.clone(),
        target: job.spec.placement.target,
        phase: format!("{:?}", status.phase.unwrap_or(JobPhase::Pending)),
        progress: status.progress.unwrap_or_default(),
        failed: status.requests.map_or(0, |requests| requests.failed),
        nodes: status.nodes.unwrap_or(0),
        tokens_per_second: rate.map_or(average, |rate| format!("{rate:.1}")),
        reason: status.reason.unwrap_or_default(),
    }
}

fn node_cells(row: &NodeRow) -> Vec<String> {
    let NodeRow { name, ready, reason, accelerator, tokens_per_second, models, score, earned } = row;
    [name, ready, reason, accelerator, tokens_per_second, models, score, earned].map(String::clone).into()
}

fn job_cells(row: &JobRow) -> Vec<String> {
    vec![
        row.namespace.clone(),
        row.name.clone(),
        row.model.clone(),
        format!("{:?}", row.target),
        row.phase.clone(),
        row.progress.clone(),
        row.failed.to_string(),
        row.nodes.to_string(),
        row.tokens_per_second.clone(),
        row.reason.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(name: &str, status: Value) -> InferenceJob {
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob",
            "metadata": {"name": name, "namespace": "team-a", "uid": name},
            "spec": {"workload": {"modelRef": {"name": "tiny"}, "input": {"inline": "a"}, "output": {"configMap": {"name": "r"}}}},
            "status": status
        }))
        .unwrap()
    }

    fn node() -> GridNode {
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridNode", "metadata": {"name": "cpu-1"},
            "spec": {"networkRef": {"name": "main"}, "mode": "Managed", "models": ["tiny"]},
            "status": {"columns": {"gpu": "cpu", "tokensPerSecond": "50.0"}, "conditions": [
                {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-11-24T00:00:00Z"}
            ], "models": [{"digest": "00", "state": "Ready"}]}
        }))
        .unwrap()
    }

    fn running(output: i64) -> InferenceJob {
        job(
            "b",
            json!({"phase": "Running", "progress": "1/4", "tokens": {"prompt": 9, "output": output}, "throughput": "3.0"}),
        )
    }

    #[test]
    fn what_runs_is_on_top_and_what_is_over_is_left_out() {
        let over = json!({"phase": "Complete", "conditions": [
            {"type": "Complete", "status": "True", "reason": "Completed", "message": "", "lastTransitionTime": "2026-11-24T00:00:00Z"}
        ]});
        let jobs =
            vec![job("a", json!({"phase": "Queued", "reason": "NoWorkerForModel"})), running(10), job("c", over)];
        let seen = Seen { nodes: Some(vec![node()]), jobs };
        let picture = Picture::of(&seen, None, false);
        let mut out = Vec::new();
        picture.draw(false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(text.lines().next(), Some("1/1 nodes ready, 2 jobs, 1 running"));
        assert_eq!(lines[3], ["cpu-1", "True", "Ready", "cpu", "50.0", "1/1", "-", "-"]);
        assert_eq!(lines[6][..5], ["b", "tiny", "Grid", "Running", "1/4"]);
        assert_eq!((lines[7][0], lines[7][8]), ("a", "NoWorkerForModel"));
        assert_eq!(Picture::of(&seen, None, true).jobs.len(), 3);
    }

    #[test]
    fn between_two_looks_the_rate_is_what_was_written_since() {
        let before = Seen { nodes: None, jobs: vec![running(10)] };
        let now = Seen { nodes: None, jobs: vec![running(30)] };
        let picture = Picture::of(&now, Some((Duration::from_secs(2), &before)), false);
        assert_eq!(picture.summary.tokens_per_second, Some(10.0));
        assert_eq!(picture.jobs[0].tokens_per_second, "10.0");
        assert_eq!((picture.summary.nodes, picture.names()), (None, vec!["inferencejob.xdcgrid.io/b".to_owned()]));
    }
}
