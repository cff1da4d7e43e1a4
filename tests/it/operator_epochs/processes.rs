//! Real `grid-operator` processes: killed with SIGKILL, ended by their own crash hook, frozen, and in pairs.

use std::{
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use serde_json::Value;
use xdc_grid::{api::contribution_report::ReportState, protocol::internal::ChangeKind};

use super::stage::{NETWORK, Stage};
use crate::support::{plane::OPERATOR, world::SYSTEM};

/// An operator process. Killed when dropped; its log stays for a failure to show.
pub(super) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

pub(super) struct Options<'a> {
    /// Name of its pod.
    pub(super) name: &'a str,
    pub(super) lease_seconds: u32,
    pub(super) poll_seconds: u32,
    pub(super) crash_after: Option<&'a str>,
}

impl Process {
    pub(super) async fn start(stage: &Stage, options: Options<'_>) -> Self {
        let Options { name, lease_seconds, poll_seconds, crash_after } = options;
        let kubeconfig = stage.island.operator_kubeconfig(name).await;
        let log = kubeconfig.with_extension("log");
        let out = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_grid-operator"));
        command
            .arg("run")
            .args(["--worker-image=none", "--http-address=127.0.0.1:0"])
            .args([
                format!("--namespace={SYSTEM}"),
                format!("--lease-name={OPERATOR}"),
                format!("--lease-seconds={lease_seconds}"),
                format!("--chain-poll-seconds={poll_seconds}"),
                format!("--identity={name}"),
                format!("--gateway-url={}", stage.gateway_url),
            ])
            .env("KUBECONFIG", &kubeconfig)
            // The end of the log is to be its last words.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out);
        if let Some(state) = crash_after {
            command.env("GRID_CRASH_AFTER", state);
        }
        Process { child: command.spawn().unwrap(), name: name.to_owned(), log }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the end of the log of {}\n{}", self.name, self.tail());
        }
    }
}

/// Moves the chain on and wakes the operators until `done`, for at most four minutes.
pub(super) async fn until(stage: &Stage, what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(240);
    while !done().await {
        assert!(Instant::now() < deadline, "not within four minutes: {what}: {:#?}", stage.reports().await);
        stage.step().await;
        stage.gateway.changed(ChangeKind::Epoch, NETWORK);
        // The operators poll every second.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// With a lease that a busy machine does not lose: whoever loses it ends.
fn plain(name: &str) -> Options<'_> {
    Options { name, lease_seconds: 15, poll_seconds: 1, crash_after: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_after_any_state_loses_no_epoch_and_repeats_none() {
    let stage = Stage::set().await;
    let states = ["Planned", "Signed", "Sent", "Included", "Finalized"];
    for (epoch, state) in (0..).zip(states) {
        stage.end_epoch(epoch).await;
        let mut process = Process::start(&stage, Options { crash_after: Some(state), ..plain("crashing") }).await;
        let mut code = None;
        until(&stage, &format!("the process ends after {state}"), async || {
            code = process.ended();
            code.is_some()
        })
        .await;
        assert_eq!(code.unwrap().code(), Some(70), "after {state}:\n{}", process.tail());
        // The same pod, started again: the lease is its own.
        let process = Process::start(&stage, plain("crashing")).await;
        until(&stage, &format!("epoch {epoch} is live"), async || stage.is_live(epoch).await).await;
        drop(process);
    }
    stage.assert_exactly_once(states.len() as u64).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_no_epoch_and_repeats_none() {
    let stage = Stage::set().await;
    let states = [ReportState::Planned, ReportState::Sent, ReportState::Included, ReportState::Finalized];
    for (epoch, state) in (0..).zip(states) {
        stage.end_epoch(epoch).await;
        let mut process = Process::start(&stage, plain("killed")).await;
        until(&stage, &format!("epoch {epoch} is {state:?}"), async || stage.report_state(epoch).await >= Some(state))
            .await;
        process.kill();
        let process = Process::start(&stage, plain("killed")).await;
        until(&stage, &format!("epoch {epoch} is live"), async || stage.is_live(epoch).await).await;
        drop(process);
    }
    stage.assert_exactly_once(states.len() as u64).await;
    stage.assert_everybody_is_paid().await;
}

async fn lease(stage: &Stage) -> Option<LeaseSpec> {
    let api: Api<Lease> = Api::namespaced(stage.island.admin.clone(), SYSTEM);
    api.get_opt(OPERATOR).await.unwrap()?.spec
}

async fn holder(stage: &Stage) -> Option<String> {
    lease(stage).await?.holder_identity
}

/// When whoever holds it took it.
async fn acquired(stage: &Stage) -> Option<Timestamp> {
    Some(lease(stage).await?.acquire_time?.0)
}

/// What a token was used for, by time: when each request arrived, and `verb resource`.
fn deeds(audit: &[Value]) -> Vec<(String, String)> {
    let deed = |event: &Value| {
        let what =
            format!("{} {}", event["verb"].as_str().unwrap(), event["objectRef"]["resource"].as_str().unwrap_or("-"));
        (event["requestReceivedTimestamp"].as_str().unwrap().to_owned(), what)
    };
    let mut deeds: Vec<_> = audit.iter().map(deed).collect();
    deeds.sort();
    deeds
}

/// The audit events of each token, by its id.
fn by_token(audit: &[Value]) -> std::collections::BTreeMap<String, Vec<Value>> {
    let mut tokens = std::collections::BTreeMap::<String, Vec<Value>>::new();
    for event in audit {
        let id = event["user"]["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap_or_default();
        tokens.entry(id.to_owned()).or_default().push(event.clone());
    }
    tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_one_writes_and_the_other_takes_over_within_twenty_seconds_of_a_kill() {
    let stage = Stage::set().await;
    let mark = stage.island.audit_mark();
    let options = |name| Options { name, lease_seconds: 15, poll_seconds: 1, crash_after: None };
    let mut first = Process::start(&stage, options("replica-a")).await;
    until(&stage, "the first leads", async || holder(&stage).await.as_deref() == Some("replica-a")).await;
    let second = Process::start(&stage, options("replica-b")).await;
    stage.end_epoch(0).await;
    until(&stage, "epoch 0 is live", async || stage.is_live(0).await).await;
    stage.end_epoch(1).await;
    until(&stage, "epoch 1 is on its way", async || stage.report_state(1).await >= Some(ReportState::Sent)).await;

    first.kill();
    let killed = Timestamp::now();
    until(&stage, "the second leads", async || holder(&stage).await.as_deref() == Some("replica-b")).await;
    // When it took the lease, and not when this test saw that.
    let took = acquired(&stage).await.unwrap().duration_since(killed);
    println!("the lease moved {:.1} s after the kill", took.as_secs_f64());
    assert!(took < SignedDuration::from_secs(20), "{took:?}");
    until(&stage, "epoch 1 is live", async || stage.is_live(1).await).await;
    drop(second);

    let audit = stage.island.audit_since(mark);
    let tokens = by_token(&audit);
    assert_eq!(tokens.len(), 2, "each replica has a token of its own");
    let mut lives: Vec<_> = tokens.values().map(|events| deeds(events)).collect();
    // By who came first.
    lives.sort();
    let last_of_first = lives[0].last().unwrap().0.clone();
    let early: Vec<_> =
        lives[1].iter().filter(|(at, what)| *at <= last_of_first && !what.ends_with(" leases")).collect();
    assert!(early.is_empty(), "the second did nothing but watch the lease while the first led: {early:?}");
    stage.assert_exactly_once(2).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_frozen_while_another_took_over_ends_without_harm() {
    let stage = Stage::set().await;
    let mut first = Process::start(&stage, plain("frozen")).await;
    stage.end_epoch(0).await;
    until(&stage, "epoch 0 is on its way", async || stage.report_state(0).await >= Some(ReportState::Sent)).await;
    first.signal("-STOP");
    let second = Process::start(&stage, plain("awake")).await;
    until(&stage, "epoch 0 is live", async || stage.is_live(0).await).await;
    assert_eq!(holder(&stage).await.as_deref(), Some("awake"));
    stage.end_epoch(1).await;
    first.signal("-CONT");
    let mut code = None;
    until(&stage, "the former leader ends", async || {
        code = first.ended();
        code.is_some()
    })
    .await;
    assert_eq!(code.unwrap().code(), Some(1), "{}", first.tail());
    assert!(first.tail().contains("the lease is lost"), "{}", first.tail());
    until(&stage, "epoch 1 is live", async || stage.is_live(1).await).await;
    drop(second);
    stage.assert_exactly_once(2).await;
    stage.assert_everybody_is_paid().await;
}
