//! The ledger alone: its unique keys, what survives a crash, and that `fsck` sees what is broken.

use std::{collections::BTreeMap, path::Path};

use prost::Message as _;
use sqlx::{Connection, SqliteConnection};
use xdc_grid::{
    api::ids::{EscrowId, ModelDigest, NodeAddress, RequestId, Wei},
    protocol::{
        identity::NodeKey,
        internal::{
            Endpoint, InputLine, JobControl, JobPayment, JobSpec, Member, Message, NetworkConfig, NodeMode,
            PlacementFilter, TokenPrice,
        },
        names::NetworkId,
        receipt::{Receipt, hash_tokens, sign},
    },
    store::{
        After, AuditDecision, AuditOrder, AuditState, Ending, EvidenceRecord, Ledger, LedgerError, LoggedReceipt,
        Requeued, Standing, fsck,
    },
};

const MODEL: ModelDigest = ModelDigest([5; 32]);
const JOB: &str = "job-1";

struct Fixture {
    folder: tempfile::TempDir,
    ledger: Ledger,
    node: NodeKey,
    other: NodeKey,
}

fn network() -> NetworkConfig {
    NetworkConfig {
        name: "test".into(),
        network: NetworkId { chain_id: 51, contract: NodeAddress([9; 20]), salt: String::new() },
        genesis: 0,
        epoch_seconds: 60,
        paused: false,
        external_addresses: vec![],
        sample_percent: 0,
        namespace_weights: BTreeMap::new(),
    }
}

fn member(key: &NodeKey, name: &str) -> Member {
    Member {
        peer_id: key.peer_id(),
        node_name: name.into(),
        mode: NodeMode::Managed,
        roles: vec![],
        schedulable: true,
        resting: false,
        max_requests: None,
        registered: true,
        models: vec![MODEL],
        labels: BTreeMap::new(),
    }
}

fn spec(total_requests: u32) -> JobSpec {
    JobSpec {
        namespace: "a".into(),
        name: "b".into(),
        model: MODEL,
        model_name: "m".into(),
        endpoint: Endpoint::ChatCompletions,
        max_attempts: 2,
        total_requests,
        rejected_lines: 0,
        sample_percent: None,
        placement: PlacementFilter::default(),
        payment: None,
        chat_template: String::new(),
    }
}

fn line(index: u32) -> InputLine {
    InputLine {
        messages: vec![Message { role: "user".into(), content: "hi".into() }],
        max_tokens: 4,
        seed: 1,
        ..InputLine::blank(index, format!("c{index}"))
    }
}

fn id(index: u32) -> RequestId {
    RequestId::of_job_line(JOB, &format!("c{index}"))
}

impl Fixture {
    /// A job of so many queued requests, and two members.
    async fn new(requests: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.db")).await.unwrap();
        let (node, other) = (NodeKey::generate(), NodeKey::generate());
        ledger.put_network(&network()).await.unwrap();
        ledger.put_member(&member(&node, "node")).await.unwrap();
        ledger.put_member(&member(&other, "other")).await.unwrap();
        ledger.put_job(JOB, &spec(requests), 1).await.unwrap();
        let mut input = ledger.begin_input(JOB, &spec(requests), 1).await.unwrap();
        for index in 0..requests {
            input.add(line(index), [3; 32]).await.unwrap();
        }
        input.finish([1; 32]).await.unwrap();
        Fixture { folder, ledger, node, other }
    }

    /// As after a crash: nothing is closed, the files are opened again.
    async fn reopen(&mut self) {
        self.ledger = Ledger::open(&self.path()).await.unwrap();
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("ledger.db")
    }

    fn receipt(&self, key: &NodeKey, index: u32, attempt: u32, output: &[u32]) -> LoggedReceipt {
        self.receipt_for(id(index), key, attempt, output)
    }

    fn receipt_for(&self, request: RequestId, key: &NodeKey, attempt: u32, output: &[u32]) -> LoggedReceipt {
        let receipt = Receipt {
            requestId: request.0.into(),
            attempt,
            model: MODEL.0.into(),
            promptHash: hash_tokens(&[1]).into(),
            outputHash: hash_tokens(output).into(),
            promptTokens: 1,
            outputTokens: output.len() as u32,
            sampler: [0; 32].into(),
            seed: [0; 32].into(),
            traceRoot: [0; 32].into(),
            startedAt: 1,
            finishedAt: 2,
        };
        let signature = sign(&receipt, &network().network, key).unwrap();
        LoggedReceipt {
            hash: receipt.content_hash().0,
            request,
            attempt,
            peer: key.peer_id(),
            address: key.address(),
            model: MODEL,
            prompt_tokens: 1,
            output_tokens: output.len() as u32,
            cost_per_token: 2,
            epoch: 4,
            accepted_ms: 50,
            payable: true,
            kernel_profile: "p".into(),
            encoded: receipt.to_wire(&signature).encode_to_vec(),
            countersignature: vec![1; 65],
            finish_reason: "stop".into(),
            text: "yes".into(),
            output: output.to_vec(),
            prefix: vec![],
            logprobs: vec![],
            audit: Some(AuditOrder { deadline_ms: 1000 }),
        }
    }

    async fn whole(&self) -> Vec<String> {
        fsck(&self.ledger).await.unwrap()
    }

    /// A statement behind the ledger's back.
    async fn sabotage(&self, statement: &str) -> Result<u64, sqlx::Error> {
        let mut connection = SqliteConnection::connect(&url(&self.path())).await.unwrap();
        sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut connection).await.unwrap();
        Ok(sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut connection).await?.rows_affected())
    }
}

fn url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

fn lost(after: After) -> Ending {
    Ending { reason: "WorkerGone".into(), message: "gone".into(), then: after, avoid: None, exclude: false }
}

async fn decide(
    ledger: &Ledger,
    receipt: [u8; 32],
    state: AuditState,
    after: EvidenceRecord,
) -> Result<(), LedgerError> {
    let decision = AuditDecision { receipt, state, verifier: "v".into(), reason: "", message: "m".into(), now_ms: 60 };
    ledger.decide_audit(&decision, |_| after).await.map(|_| ())
}

#[tokio::test]
async fn the_first_valid_receipt_wins_and_a_later_one_is_superseded() {
    let f = Fixture::new(1).await;
    f.ledger.lease(&id(0), 1, &f.node.peer_id(), 10).await.unwrap();
    // The lease is lost, the request goes to another worker, and then both answer.
    assert_eq!(f.ledger.end_lease(&id(0), 1, &lost(After::CountTry), 20).await.unwrap(), Requeued::Queued);
    f.ledger.lease(&id(0), 2, &f.other.peer_id(), 30).await.unwrap();
    let late = f.receipt(&f.node, 0, 1, &[7]);
    let second = f.receipt(&f.other, 0, 2, &[7]);
    assert_eq!(f.ledger.log_receipt(&late).await.unwrap(), Standing::Accepted);
    assert_eq!(f.ledger.log_receipt(&second).await.unwrap(), Standing::Superseded);
    assert_eq!(f.ledger.log_receipt(&late).await.unwrap(), Standing::Accepted, "again is the same");
    assert_eq!(f.ledger.payable_receipts(4).await.unwrap().len(), 1);
    let ended = f.ledger.end_lease(&id(0), 2, &lost(After::CountTry), 60).await;
    assert!(matches!(ended, Err(LedgerError::Stale { .. })));
    assert_eq!(f.whole().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_paid_job_is_charged_for_answers_that_are_not_rejected_and_only_once() {
    let f = Fixture::new(1).await;
    let price = TokenPrice { prompt: Wei(0), output: Wei(1_000_000) };
    let payment = JobPayment { escrow: EscrowId([1; 32]), max_spend: Wei(100), deadline: 9, price };
    let paid = JobSpec { payment: Some(payment), ..spec(2) };
    f.ledger.put_job("paid", &paid, 1).await.unwrap();
    let mut input = f.ledger.begin_input("paid", &paid, 1).await.unwrap();
    for index in 0..2 {
        input.add(line(index), [3; 32]).await.unwrap();
    }
    input.finish([1; 32]).await.unwrap();
    let spent = async || f.ledger.payment("paid").await.unwrap().unwrap().spent();
    let answer = async |index, output: &[u32], payable| {
        let request = RequestId::of_job_line("paid", &format!("c{index}"));
        f.ledger.lease(&request, 1, &f.node.peer_id(), 10).await.unwrap();
        let receipt = f.receipt_for(request, &f.node, 1, output);
        let receipt = LoggedReceipt { payable, ..receipt };
        f.ledger.log_receipt(&receipt).await.unwrap();
        f.ledger.log_receipt(&receipt).await.unwrap();
        receipt.hash
    };
    let first = answer(0, &[7, 8, 9], true).await;
    assert_eq!(spent().await, Wei(3));
    answer(1, &[7, 8], false).await;
    assert_eq!(spent().await, Wei(3), "probation work costs nothing");
    decide(&f.ledger, first, AuditState::Failed, EvidenceRecord::default()).await.unwrap();
    assert_eq!(spent().await, Wei(0), "what is rejected is not paid");
    assert_eq!(f.whole().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_request_is_at_one_worker_at_a_time() {
    let f = Fixture::new(1).await;
    f.ledger.lease(&id(0), 1, &f.node.peer_id(), 10).await.unwrap();
    for attempt in [1, 2] {
        let again = f.ledger.lease(&id(0), attempt, &f.other.peer_id(), 10).await;
        assert!(matches!(again, Err(LedgerError::Stale { .. })), "{again:?}");
    }
}

#[tokio::test]
async fn tries_run_out_but_free_returns_do_not_count() {
    let f = Fixture::new(1).await;
    for attempt in 1..=3 {
        f.ledger.lease(&id(0), attempt, &f.node.peer_id(), 10).await.unwrap();
        assert_eq!(f.ledger.end_lease(&id(0), attempt, &lost(After::Free), 20).await.unwrap(), Requeued::Queued);
    }
    f.ledger.lease(&id(0), 4, &f.node.peer_id(), 10).await.unwrap();
    assert_eq!(f.ledger.end_lease(&id(0), 4, &lost(After::CountTry), 20).await.unwrap(), Requeued::Queued);
    f.ledger.lease(&id(0), 5, &f.node.peer_id(), 10).await.unwrap();
    assert_eq!(f.ledger.end_lease(&id(0), 5, &lost(After::CountTry), 20).await.unwrap(), Requeued::Failed);
    let counts = f.ledger.job_counts(JOB).await.unwrap();
    assert_eq!((counts.failed, counts.last_failures[0].reason.as_str()), (1, "WorkerGone"));
    assert_eq!(f.whole().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_crash_with_open_leases_loses_nothing() {
    let mut f = Fixture::new(3).await;
    f.ledger.lease(&id(0), 1, &f.node.peer_id(), 10).await.unwrap();
    f.ledger.lease(&id(1), 1, &f.node.peer_id(), 10).await.unwrap();
    f.ledger.log_receipt(&f.receipt(&f.node, 0, 1, &[7])).await.unwrap();
    f.reopen().await;
    assert_eq!(f.ledger.recover(100).await.unwrap(), 1);
    let counts = f.ledger.job_counts(JOB).await.unwrap();
    assert_eq!((counts.queued, counts.leased, counts.done), (2, 0, 1));
    let queued = f.ledger.queued_of_job(JOB, None, 10).await.unwrap();
    assert_eq!(queued.iter().map(|request| request.attempt).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(f.ledger.recover(100).await.unwrap(), 0);
    assert_eq!(f.whole().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_input_that_broke_off_is_thrown_away_by_the_next_one() {
    let f = Fixture::new(0).await;
    f.ledger.put_job("job-2", &spec(2), 1).await.unwrap();
    let mut broken = f.ledger.begin_input("job-2", &spec(2), 1).await.unwrap();
    broken.add(line(0), [0; 32]).await.unwrap();
    drop(broken);
    let mut input = f.ledger.begin_input("job-2", &spec(2), 1).await.unwrap();
    input.add(line(0), [0; 32]).await.unwrap();
    let twice = input.add(InputLine { index: 1, ..line(0) }, [0; 32]).await;
    assert!(matches!(twice, Err(LedgerError::Conflict { reason: "DuplicateCustomId", .. })), "{twice:?}");
    let twice = input.add(InputLine { custom_id: "d".into(), ..line(0) }, [0; 32]).await;
    assert!(matches!(twice, Ok(()) | Err(LedgerError::Conflict { reason: "DuplicateIndex", .. })), "{twice:?}");
    // One writer: an open input holds it.
    drop(input);
    f.ledger.discard_input("job-2").await.unwrap();
    assert_eq!(f.ledger.job_counts("job-2").await.unwrap().queued, 0);
}

#[tokio::test]
async fn a_long_input_takes_many_transactions() {
    let f = Fixture::new(1203).await;
    assert_eq!(f.ledger.job_counts(JOB).await.unwrap().queued, 1203);
    assert_eq!(f.whole().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_failed_audit_sends_the_request_elsewhere_and_its_receipt_is_never_payable_again() {
    let f = Fixture::new(1).await;
    f.ledger.lease(&id(0), 1, &f.node.peer_id(), 10).await.unwrap();
    let receipt = f.receipt(&f.node, 0, 1, &[7]);
    f.ledger.log_receipt(&receipt).await.unwrap();
    assert_eq!(f.ledger.owed_audits(10).await.unwrap()[0].output, [7]);
    assert!(!f.ledger.job_is_settled(JOB).await.unwrap(), "an audit is owed");
    decide(&f.ledger, receipt.hash, AuditState::Failed, EvidenceRecord { failed: 1, log_e: 4.6, ..Default::default() })
        .await
        .unwrap();
    let twice = decide(&f.ledger, receipt.hash, AuditState::Passed, EvidenceRecord::default()).await;
    assert!(matches!(twice, Err(LedgerError::Stale { .. })), "decided once");
    let queued = f.ledger.queued_of_job(JOB, None, 1).await.unwrap().remove(0);
    assert_eq!((queued.attempt, queued.excluded), (2, vec![f.node.peer_id()]));
    assert!(f.ledger.payable_receipts(4).await.unwrap().is_empty());
    assert_eq!(f.ledger.evidence(&f.node.address()).await.unwrap().failed, 1);
    f.ledger.forget_text().await.unwrap();
    assert_eq!(f.whole().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_conviction_voids_unaudited_work_and_keeps_what_passed() {
    let f = Fixture::new(3).await;
    for index in 0..3 {
        f.ledger.lease(&id(index), 1, &f.node.peer_id(), 10).await.unwrap();
        f.ledger.log_receipt(&f.receipt(&f.node, index, 1, &[index])).await.unwrap();
    }
    let hash = |index: u32| f.receipt(&f.node, index, 1, &[index]).hash;
    decide(&f.ledger, hash(0), AuditState::Passed, EvidenceRecord::default()).await.unwrap();
    let convicted = EvidenceRecord { quarantined_ms: 60, ..EvidenceRecord::default() };
    decide(&f.ledger, hash(1), AuditState::Failed, convicted).await.unwrap();
    let payable: Vec<_> = f.ledger.payable_receipts(4).await.unwrap().iter().map(|receipt| receipt.hash).collect();
    assert_eq!(payable, [hash(0)]);
    let counts = f.ledger.job_counts(JOB).await.unwrap();
    assert_eq!((counts.done, counts.queued), (1, 2), "both are made again");
    // The voided one's audit is still owed, and says what it says.
    decide(&f.ledger, hash(2), AuditState::Passed, EvidenceRecord { quarantined_ms: 60, ..Default::default() })
        .await
        .unwrap();
    assert_eq!(f.ledger.job_counts(JOB).await.unwrap().queued, 2);
    assert_eq!(f.whole().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_convicts_a_node_is_what_failed_until_then_and_nothing_that_failed_later() {
    let f = Fixture::new(4).await;
    for index in 0..4 {
        f.ledger.lease(&id(index), 1, &f.node.peer_id(), 10).await.unwrap();
        f.ledger.log_receipt(&f.receipt(&f.node, index, 1, &[index])).await.unwrap();
    }
    let hash = |index: u32| f.receipt(&f.node, index, 1, &[index]).hash;
    let suspect = EvidenceRecord { quarantined_ms: 60, ..EvidenceRecord::default() };
    let convicted = EvidenceRecord { convicted_ms: 61, ..suspect.clone() };
    for (index, state, evidence) in [
        (0, AuditState::Failed, &suspect),
        (1, AuditState::Passed, &suspect),
        (2, AuditState::Failed, &convicted),
        (3, AuditState::Failed, &convicted),
    ] {
        let before = f.ledger.conviction(&f.node.address()).await.unwrap();
        assert_eq!(before.is_empty(), index < 3, "before audit {index}");
        decide(&f.ledger, hash(index), state, evidence.clone()).await.unwrap();
    }
    let mut expected = [hash(0), hash(2)];
    expected.sort_unstable();
    assert_eq!(f.ledger.conviction(&f.node.address()).await.unwrap(), expected);
    assert_eq!(f.ledger.evidence(&f.node.address()).await.unwrap().convicted_ms, 61);
    assert_eq!(f.whole().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_epoch_is_written_once_and_counts_a_receipt_once() {
    let f = Fixture::new(2).await;
    for index in 0..2 {
        f.ledger.lease(&id(index), 1, &f.node.peer_id(), 10).await.unwrap();
        f.ledger.log_receipt(&f.receipt(&f.node, index, 1, &[index])).await.unwrap();
    }
    let hashes: Vec<_> = f.ledger.payable_receipts(4).await.unwrap().iter().map(|receipt| receipt.hash).collect();
    let first = f.ledger.close_epoch(4, b"totals", &hashes[..1], &[], 70).await.unwrap();
    let again = f.ledger.close_epoch(4, b"other totals", &hashes[1..], &[], 80).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(f.ledger.payable_receipts(5).await.unwrap().len(), 1, "what was not counted moves on");
    assert!(f.ledger.close_epoch(5, b"x", &hashes[..1], &[], 90).await.is_err(), "a receipt counts in one epoch");
    let secret = f.ledger.epoch_secret(4, [1; 32]).await.unwrap();
    assert_eq!(f.ledger.epoch_secret(4, [2; 32]).await.unwrap(), secret);
}

#[tokio::test]
async fn receipts_and_epochs_cannot_be_changed_even_by_hand() {
    let f = Fixture::new(1).await;
    f.ledger.lease(&id(0), 1, &f.node.peer_id(), 10).await.unwrap();
    f.ledger.log_receipt(&f.receipt(&f.node, 0, 1, &[7])).await.unwrap();
    f.ledger.close_epoch(4, b"totals", &[], &[], 70).await.unwrap();
    for statement in [
        "UPDATE receipts SET output_tokens = 9",
        "DELETE FROM receipts",
        "UPDATE epochs SET totals = x'00'",
        "DELETE FROM epochs",
    ] {
        let error = f.sabotage(statement).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{statement}: {error}");
    }
}

#[tokio::test]
async fn fsck_finds_what_is_broken() {
    for (statement, finding) in [
        ("UPDATE requests SET state = 'Queued' WHERE state = 'Done'", "a request is done exactly when"),
        ("UPDATE leases SET ended_ms = NULL", "only a leased request"),
        ("DELETE FROM leases", "a row refers to one that is not there"),
        ("DELETE FROM wins", "an accepted receipt answers its request"),
        ("DELETE FROM answers", "an owed audit has its answer"),
        ("UPDATE jobs SET finished_ms = 9", "a finished job has nothing"),
        ("INSERT INTO rejections SELECT hash, 'a', 'b', 1 FROM receipts", "an open job does not keep"),
        (
            "DROP TRIGGER receipts_are_never_changed; UPDATE receipts SET output_tokens = 9",
            "is not what its node signed",
        ),
        ("INSERT INTO epochs VALUES (9, x'7b7d', zeroblob(32), 1)", "do not match their hash"),
    ] {
        let f = Fixture::new(1).await;
        f.ledger.lease(&id(0), 1, &f.node.peer_id(), 10).await.unwrap();
        f.ledger.log_receipt(&f.receipt(&f.node, 0, 1, &[7])).await.unwrap();
        assert_eq!(f.whole().await, Vec::<String>::new());
        for part in statement.split("; ") {
            f.sabotage(part).await.unwrap();
        }
        let findings = f.whole().await.join("\n");
        assert!(findings.contains(finding), "{statement}: {findings:?}");
    }
}

#[tokio::test]
async fn a_change_is_told_once_under_the_newest_revision() {
    let f = Fixture::new(1).await;
    let before = *f.ledger.revisions().borrow();
    let mut revisions = f.ledger.revisions();
    f.ledger.control_job(JOB, &JobControl { suspended: true, ..Default::default() }, 5).await.unwrap();
    f.ledger.control_job(JOB, &JobControl { suspended: true, ..Default::default() }, 5).await.unwrap();
    assert!(*revisions.borrow_and_update() == before + 1, "the same again is no change");
    let changes = f.ledger.changes(0, 100).await.unwrap();
    assert_eq!(changes.iter().filter(|change| change.key == JOB).count(), 1);
    assert_eq!(changes.last().unwrap().revision, before + 1);
    assert!(f.ledger.changes(before + 1, 100).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_member_that_was_removed_is_still_named_by_its_receipts() {
    let f = Fixture::new(1).await;
    f.ledger.lease(&id(0), 1, &f.node.peer_id(), 10).await.unwrap();
    f.ledger.log_receipt(&f.receipt(&f.node, 0, 1, &[7])).await.unwrap();
    assert!(f.ledger.remove_member(&f.node.peer_id()).await.unwrap());
    assert!(!f.ledger.remove_member(&f.node.peer_id()).await.unwrap());
    assert_eq!(f.ledger.members().await.unwrap().len(), 1);
    assert_eq!(f.ledger.job_counts(JOB).await.unwrap().nodes[0].node_name, "node");
    assert!(f.ledger.put_member(&member(&f.node, "node")).await.unwrap());
    assert!(!f.ledger.put_member(&member(&f.node, "node")).await.unwrap());
}
