//! A contract that wants two reporters to agree: the real operator is one of them, a key of its own or the real `grid-operator vote-epoch`
//! the other.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use alloy::{primitives::B256, sol_types::SolCall};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use xdc_grid::{
    api::{
        conditions::Condition,
        contribution_report::{ContributionReport, condition},
        ids::{EpochNumber, Wei},
    },
    chain::{
        At, ChainKey, Intent, IntentKind, TxCall,
        bindings::GridComputingRewards::{disableEpochCall, parametersCall, setParametersCall},
        votes::{Ballot, CastVote},
    },
    operator::chains::record_of,
    protocol::names::NetworkId,
};

use super::stage::{Life, NETWORK, Stage};
use crate::{
    chain_anvil::{CHAIN_ID, key},
    support::{
        eventually,
        faults::{Fault, Faults},
        signer::{Authority, SigningServer},
        statement::Publisher,
        world::SYSTEM,
    },
};

const LOOKS: usize = 60;
/// For a word of a program that looks every second.
const PATIENCE: Duration = Duration::from_secs(120);
const SECOND: u8 = 31;
const THIRD: u8 = 32;
/// Keys of the nodes that are staked on the stage.
const NODES: [u8; 3] = [21, 22, 23];

/// The stage with more reporters than the operator, several of which must agree from epoch 0 on: two, unless a test says otherwise.
struct Two {
    stage: Stage,
    second: ChainKey,
}

impl Two {
    async fn set() -> Self {
        Two::with(2, &[SECOND]).await
    }

    async fn with(quorum: u8, others: &[u8]) -> Self {
        let (stage, second) = (Stage::set().await, key(SECOND));
        let (anvil, client, admin) = (&stage.grid.anvil, &stage.grid.client, &stage.grid.admin);
        for other in others.iter().map(|seed| key(*seed).address()) {
            anvil.give(other, Wei(2_000 * Wei::XDC.0)).await;
            anvil.execute(admin, client.grant_intent("REPORTER_ROLE", other)).await.unwrap();
        }
        let mut next = client.view(parametersCall {}, At::Latest).await.unwrap().inForce;
        next.quorum = quorum;
        let data = setParametersCall { next }.abi_encode().into();
        let call = TxCall { to: Some(client.contract()), value: Wei(0), data };
        let set = Intent { kind: IntentKind::GrantRole, key: "quorum".into(), call };
        anvil.execute(admin, set).await.unwrap();
        Two { stage, second }
    }

    /// Looks and mines until the report's condition Finalized says `reason`.
    async fn until(&self, life: &Life, epoch: u64, reason: &str, words: &str) -> Condition {
        self.stage.end_epoch(epoch).await;
        for _ in 0..LOOKS {
            let _ = life.look().await;
            let found = self.stage.report_condition(epoch, condition::FINALIZED).await;
            if let Some(found) = found.filter(|found| found.reason == reason && found.message.contains(words)) {
                return found;
            }
            self.stage.grid.anvil.mine(1).await;
        }
        panic!("epoch {epoch} is not {reason}: {:#?}", self.stage.reports().await);
    }

    /// The operator's vote for an epoch, once a final block has it.
    async fn vote(&self, epoch: u64) -> Option<CastVote> {
        let client = &self.stage.grid.client;
        let last = client.rpc().block(At::Finalized).await.unwrap().number;
        let cast = client.votes_cast(EpochNumber(epoch), 0, last).await.unwrap();
        cast.into_iter().find(|vote| vote.reporter == self.stage.reporter.address())
    }

    async fn proposed(&self, epoch: u64) -> Ballot {
        let vote = self.vote(epoch).await.expect("the operator has voted");
        self.stage.grid.client.proposal(&vote).await.unwrap().unwrap().ballot
    }

    async fn vote_for(&self, ballot: &Ballot) {
        let intent = self.stage.grid.client.vote_intent(ballot, None);
        self.stage.grid.anvil.execute(&self.second, intent).await.unwrap();
    }

    /// The second reporter votes for what the operator voted for, if it has and is not agreed with yet.
    async fn agree(&self, epoch: u64) {
        let Some(vote) = self.vote(epoch).await else { return };
        let client = &self.stage.grid.client;
        if client.vote_of(self.second.address(), At::Latest).await.unwrap() != vote.hash {
            self.vote_for(&self.proposed(epoch).await).await;
        }
    }

    /// Closes an epoch and lets it end, and looks until it is live by the vote of another process.
    async fn epoch_with_a_follower(&self, publisher: &Publisher, life: &Life, epoch: u64) {
        self.close(publisher, epoch);
        self.stage.end_epoch(epoch).await;
        eventually(&format!("epoch {epoch} is live"), async || {
            let _ = life.look().await;
            self.stage.step().await;
            self.stage.is_live(epoch).await.then_some(())
        })
        .await;
    }

    async fn sent_by_second(&self) -> u64 {
        self.stage.grid.client.rpc().nonce(self.second.address(), At::Latest).await.unwrap()
    }

    /// Brings an epoch to life while the second reporter agrees. `false` when the process died first.
    async fn epoch_by(&self, life: &Life, epoch: u64) -> bool {
        let work = async {
            self.stage.end_epoch(epoch).await;
            for _ in 0..2 * LOOKS {
                let _ = life.look().await;
                if self.stage.is_live(epoch).await {
                    return;
                }
                if self.stage.state(At::Latest).await.next_epoch.0 == epoch {
                    self.agree(epoch).await;
                }
                self.stage.step().await;
            }
            panic!("epoch {epoch} is not live: {:#?}", self.stage.reports().await);
        };
        let living = life.api.until_death(life.chain.until_death(Box::pin(work)));
        matches!(living.await, Some(Some(())))
    }
}

#[tokio::test]
async fn two_reporters_who_agree_bring_every_epoch_to_life_whichever_of_them_carries_it() {
    let two = Two::set().await;
    let stage = &two.stage;
    let life = stage.life();
    let waits = two.until(&life, 0, "WaitingForVotes", "1 of 2").await;
    assert_eq!(waits.message, "waiting for votes: 1 of 2");
    let said = stage.reports_current().await;
    assert_eq!(said.reason, "WaitingForVotes", "{}", said.message);
    assert_eq!((stage.submitted().await, stage.sent().await), (vec![], 1), "a vote, and nothing of the report");

    two.vote_for(&two.proposed(0).await).await;
    assert!(stage.epoch_by(&life, 0).await);
    assert_eq!((stage.submitted().await, stage.sent().await), (vec![0], 3), "vote, report, activation");
    assert_eq!(two.sent_by_second().await, 1);

    // The other one makes up the number: it carries the very bytes that the operator voted for.
    two.until(&life, 1, "WaitingForVotes", "1 of 2").await;
    let planned = stage.report(1).await.unwrap().status.unwrap().submit.unwrap();
    let intent = record_of(&planned).unwrap().intent;
    stage.grid.anvil.execute(&two.second, intent).await.unwrap();
    assert!(stage.epoch_by(&life, 1).await);
    assert_eq!((stage.submitted().await, stage.sent().await), (vec![0, 1], 5), "vote and activation");

    // And what comes after goes on from there.
    assert!(two.epoch_by(&life, 2).await);
    assert_eq!((stage.submitted().await, stage.sent().await), (vec![0, 1, 2], 8));
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn when_the_other_reporter_votes_for_something_else_nothing_is_reported_and_the_condition_says_who() {
    let two = Two::set().await;
    let stage = &two.stage;
    let life = stage.life();
    two.until(&life, 0, "WaitingForVotes", "1 of 2").await;
    let right = two.proposed(0).await;
    two.vote_for(&Ballot { root: B256::repeat_byte(9), ..right }).await;
    let found = two.until(&life, 0, "VotesDiffer", "1 of 2").await;
    assert!(found.message.contains(&two.second.address().to_string()), "{}", found.message);
    let stalled = stage.report_condition(0, condition::STALLED).await.unwrap();
    assert_eq!(stalled.reason, "VotesDiffer");
    for _ in 0..10 {
        life.look().await.unwrap();
        stage.step().await;
    }
    assert_eq!((stage.submitted().await, stage.sent().await), (vec![], 1), "nothing more was sent");
    assert_eq!(stage.reports_current().await.reason, "VotesDiffer");

    two.vote_for(&right).await;
    assert!(stage.epoch_by(&life, 0).await, "once they agree it goes on by itself");
    assert_eq!((stage.submitted().await, stage.sent().await), (vec![0], 3));
}

#[tokio::test]
async fn an_operator_that_dies_at_any_write_between_vote_and_data_sends_each_once() {
    let two = Two::set().await;
    let mut epoch = 0;
    for at_chain in [false, true] {
        for n in 0.. {
            let faults = Faults::at_write(n, Fault::DieAfter);
            let (api, chain) = if at_chain { (Faults::none(), faults) } else { (faults, Faults::none()) };
            let first = two.stage.life_with(api.clone(), chain.clone());
            let survived = two.epoch_by(&first, epoch).await;
            drop(first);
            let hit = api.hit().or(chain.hit());
            if !survived {
                assert!(two.epoch_by(&two.stage.life(), epoch).await, "after {hit:?}");
            }
            epoch += 1;
            assert_eq!(two.stage.sent().await, 3 * epoch, "vote, report and activation, after {hit:?}");
            assert_eq!(two.sent_by_second().await, epoch, "what was voted for did not change, after {hit:?}");
            if hit.is_none() {
                assert!(n > 1, "nothing ever happened");
                break;
            }
        }
    }
    assert_eq!(two.stage.submitted().await, (0..epoch).collect::<Vec<_>>());
    two.stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn what_was_voted_for_is_sent_whatever_became_of_what_it_was_made_from() {
    let two = Two::set().await;
    two.until(&two.stage.life(), 0, "WaitingForVotes", "1 of 2").await;
    let leaves: Api<ConfigMap> = Api::namespaced(two.stage.island.admin.clone(), SYSTEM);
    let kept = ListParams::default().labels("xdcgrid.io/leaves=packed");
    leaves.delete_collection(&DeleteParams::default(), &kept).await.unwrap();
    let root = two.stage.report(0).await.unwrap().spec.root;
    assert!(two.epoch_by(&two.stage.life(), 0).await);
    assert_eq!((two.stage.submitted().await, two.stage.sent().await), (vec![0], 3));
    assert_eq!(two.stage.state(At::Latest).await.live_root.to_string(), root);
}

#[tokio::test]
async fn a_report_that_was_voted_for_and_dropped_by_the_guardian_is_not_voted_for_again_by_itself() {
    let two = Two::set().await;
    let (stage, life) = (&two.stage, two.stage.life());
    two.until(&life, 0, "WaitingForVotes", "1 of 2").await;
    let planned = stage.report(0).await.unwrap().status.unwrap().submit.unwrap();
    stage.grid.anvil.execute(&two.second, record_of(&planned).unwrap().intent).await.unwrap();
    two.until(&life, 0, "ReportFinal", "").await;
    let call = disableEpochCall { epoch: 0 }.abi_encode().into();
    let call = TxCall { to: Some(stage.grid.client.contract()), value: Wei(0), data: call };
    let drop = Intent { kind: IntentKind::GrantRole, key: "drop".into(), call };
    stage.grid.anvil.execute(&stage.grid.admin, drop).await.unwrap();
    let dropped = two.until(&life, 0, "EpochDropped", "vote").await;
    for _ in 0..5 {
        life.look().await.unwrap();
        stage.grid.anvil.mine(1).await;
    }
    assert_eq!(stage.sent().await, 1, "{}", dropped.message);

    // A person found out why and has it planned anew: votes of the round before do not count.
    let reports: Api<ContributionReport> = Api::all(stage.island.admin.clone());
    reports.delete(&format!("{NETWORK}-0"), &DeleteParams::default()).await.unwrap();
    two.until(&life, 0, "WaitingForVotes", "1 of 2").await;
    assert!(two.epoch_by(&life, 0).await);
    assert_eq!((stage.submitted().await, stage.sent().await), (vec![0, 0], 4), "vote, vote, report, activation");
}

// ------------------------------------------------------------------------------------------------ the program

fn key_file(publisher: &Publisher, reporter: u8) -> PathBuf {
    publisher.folder.path().join(format!("reporter-{reporter}.key"))
}

struct Ran {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Two {
    fn publisher(&self) -> Publisher {
        let (chain_id, contract) = (CHAIN_ID, self.stage.grid.client.contract());
        let publisher = Publisher::new(NetworkId { chain_id, contract, salt: String::new() });
        for seed in [SECOND, THIRD, NODES[0]] {
            std::fs::write(key_file(&publisher, seed), hex::encode([seed; 32])).unwrap();
        }
        publisher
    }

    /// Publishes an epoch; the operator's gateway closes it with the same totals.
    fn close(&self, publisher: &Publisher, epoch: u64) {
        let [a, b, c] = NODES;
        let published = publisher.publish(epoch, &[(a, &[10, 11]), (b, &[12]), (c, &[13, 14, 15])]);
        self.stage.gateway.close_with(epoch, &published.first_line);
    }

    fn command(&self, publisher: &Publisher, reporter: u8, words: &[&str]) -> tokio::process::Command {
        let mut command = self.command_of_nobody(publisher, words);
        command.arg("--key-file").arg(key_file(publisher, reporter));
        command
    }

    /// Without a word of where the key is.
    fn command_of_nobody(&self, publisher: &Publisher, words: &[&str]) -> tokio::process::Command {
        let contract = self.stage.grid.client.contract().to_string();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_grid-operator"));
        command.args(["vote-epoch", "--rpc-url", &self.stage.grid.anvil.url, "--contract", &contract]);
        command.arg("--receipts").arg(publisher.files()).args(words);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, publisher: &Publisher, words: &[&str]) -> Ran {
        self.run_as(publisher, SECOND, words).await
    }

    async fn run_as(&self, publisher: &Publisher, reporter: u8, words: &[&str]) -> Ran {
        self.ran(self.command(publisher, reporter, words)).await
    }

    async fn ran(&self, mut command: tokio::process::Command) -> Ran {
        let output = self.stage.grid.anvil.mining(command.output()).await.unwrap();
        Ran {
            status: output.status,
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

#[tokio::test]
async fn a_second_reporter_works_the_epoch_out_and_votes_only_when_all_of_it_is_right() {
    let two = Two::set().await;
    let (stage, publisher) = (&two.stage, two.publisher());
    let life = stage.life();
    two.close(&publisher, 0);
    stage.end_epoch(0).await;
    let early = two.run(&publisher, &["0"]).await;
    assert_eq!(early.status.code(), Some(3), "{} {}", early.out, early.err);
    two.until(&life, 0, "WaitingForVotes", "1 of 2").await;

    let dry = two.run(&publisher, &["0", "--dry-run"]).await;
    assert_eq!(dry.status.code(), Some(0), "{} {}", dry.out, dry.err);
    assert!(dry.out.contains("equal") && dry.err.contains("gas at 12.5 gwei"), "{} {}", dry.out, dry.err);
    assert_eq!(two.sent_by_second().await, 0);
    let strict = two.run(&publisher, &["0", "--max-budget-wei", "5"]).await;
    assert_eq!(strict.status.code(), Some(2), "{} {}", strict.out, strict.err);

    // Its vote would make two: it carries the report.
    let voted = two.run(&publisher, &["0", "-o", "json"]).await;
    assert_eq!(voted.status.code(), Some(0), "{} {}", voted.out, voted.err);
    let documents: Vec<Value> =
        serde_json::Deserializer::from_str(&voted.out).into_iter().map(Result::unwrap).collect();
    assert_eq!((documents[0]["agrees"].as_bool(), documents[1]["sent"].as_str()), (Some(true), Some("SubmitEpoch")));
    assert_eq!((stage.submitted().await, two.sent_by_second().await), (vec![0], 1));
    let again = two.run(&publisher, &["0"]).await;
    assert_eq!(again.status.code(), Some(0), "{} {}", again.out, again.err);
    assert_eq!(two.sent_by_second().await, 1, "nothing is sent twice");
    assert!(stage.epoch_by(&life, 0).await);
    assert_eq!(stage.sent().await, 2, "vote and activation");

    // Following, it needs nobody.
    let mut following = two.command(&publisher, SECOND, &["--follow", "--poll-seconds", "1"]);
    let mut following = following.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    two.epoch_with_a_follower(&publisher, &life, 1).await;
    following.kill().await.unwrap();
    assert_eq!((stage.submitted().await, two.sent_by_second().await), (vec![0, 1], 2));

    // The operator is told of work that no receipt shows.
    let [a, b, c] = NODES;
    let published = publisher.publish(2, &[(a, &[20]), (b, &[21]), (c, &[22])]);
    let mut lie = published.totals.clone();
    let units: u64 = lie.nodes[1].units.parse().unwrap();
    lie.nodes[1].units = (units * 5).to_string();
    stage.gateway.close_with(2, &serde_json::to_string(&lie).unwrap());
    two.until(&life, 2, "WaitingForVotes", "1 of 2").await;
    let differs = two.run(&publisher, &["2", "-o", "json"]).await;
    assert_eq!(differs.status.code(), Some(2), "{} {}", differs.out, differs.err);
    let said: Value = serde_json::from_str(&differs.out).unwrap();
    let kinds: Vec<_> = said["verdict"]["differences"].as_array().unwrap().iter().map(|found| &found["what"]).collect();
    assert!(said["agrees"] == false && kinds.contains(&&Value::from("Root")), "{kinds:?}");
    assert_eq!((stage.submitted().await, two.sent_by_second().await), (vec![0, 1], 2), "no vote was sent");
    two.until(&life, 2, "WaitingForVotes", "1 of 2").await;
}

#[tokio::test]
async fn of_three_reporters_who_must_agree_the_second_votes_and_the_third_carries_the_report() {
    let two = Two::with(3, &[SECOND, THIRD]).await;
    let (stage, publisher) = (&two.stage, two.publisher());
    let life = stage.life();
    two.close(&publisher, 0);
    two.until(&life, 0, "WaitingForVotes", "1 of 3").await;
    let voted = two.run(&publisher, &["0", "-o", "json"]).await;
    assert_eq!(voted.status.code(), Some(0), "{} {}", voted.out, voted.err);
    assert!(voted.out.contains("VoteEpoch"), "{}", voted.out);
    let again = two.run(&publisher, &["0"]).await;
    assert_eq!(again.status.code(), Some(0), "{} {}", again.out, again.err);
    assert!(again.err.contains("2 of 3"), "{}", again.err);
    assert_eq!((stage.submitted().await, two.sent_by_second().await), (vec![], 1), "one vote, and nothing more");
    two.until(&life, 0, "WaitingForVotes", "2 of 3").await;

    let carried = two.run_as(&publisher, THIRD, &["0", "-o", "json"]).await;
    assert_eq!(carried.status.code(), Some(0), "{} {}", carried.out, carried.err);
    assert!(carried.out.contains("SubmitEpoch"), "{}", carried.out);
    assert!(stage.epoch_by(&life, 0).await);
    assert_eq!((stage.submitted().await, stage.sent().await), (vec![0], 2), "the operator's vote and the activation");
    let stranger = two.run_as(&publisher, NODES[0], &["1"]).await;
    assert_eq!(stranger.status.code(), Some(1), "{} {}", stranger.out, stranger.err);
    assert!(stranger.err.contains("lacks REPORTER_ROLE"), "{}", stranger.err);
}

/// Options of a remote signer over mutual TLS.
fn signer_words(url: &str, account: &ChainKey, [ca, certificate, key]: &[PathBuf; 3]) -> Vec<String> {
    let path = |path: &PathBuf| path.display().to_string();
    let words = [
        ("--remote-signer-url", url.to_owned()),
        ("--remote-signer-address", account.address().to_string()),
        ("--remote-signer-ca", path(ca)),
        ("--remote-signer-cert", path(certificate)),
        ("--remote-signer-key", path(key)),
    ];
    words.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
}

#[tokio::test]
async fn a_second_reporter_whose_key_is_with_a_remote_signer_votes_over_mutual_tls_and_takes_up_new_certificates() {
    let two = Two::set().await;
    let (stage, publisher, life) = (&two.stage, two.publisher(), two.stage.life());
    let (authority, another, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let (server, url) = SigningServer::start_tls(&[&two.second], &authority).await;
    let files = authority.write_client(folder.path());
    let words = signer_words(&url, &two.second, &files);
    two.close(&publisher, 0);
    two.until(&life, 0, "WaitingForVotes", "1 of 2").await;

    let mut without = two.command_of_nobody(&publisher, &["0"]);
    without.args(&words[..6]);
    let without = two.ran(without).await;
    assert_eq!(without.status.code(), Some(1), "{} {}", without.out, without.err);
    assert!(without.err.contains("remote signer"), "{}", without.err);
    let mut plain = two.command_of_nobody(&publisher, &["0"]);
    plain.args(["--remote-signer-url", "http://10.0.0.1:9", "--remote-signer-address", &words[3]]);
    let plain = two.ran(plain).await;
    assert!(plain.status.code() == Some(1) && plain.err.contains("name it with https://"), "{}", plain.err);
    assert_eq!((two.sent_by_second().await, server.signed()), (0, 0));

    let mut voting = two.command_of_nobody(&publisher, &["0"]);
    voting.args(&words);
    let voted = two.ran(voting).await;
    assert_eq!(voted.status.code(), Some(0), "{} {}", voted.out, voted.err);
    assert_eq!((stage.submitted().await, two.sent_by_second().await, server.signed()), (vec![0], 1, 1));
    assert!(stage.epoch_by(&life, 0).await);

    // A program that runs for months outlives its certificate.
    let mut following = two.command_of_nobody(&publisher, &["--follow", "--poll-seconds", "1"]);
    let mut following = following.args(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(following.stderr.take().unwrap()).lines();
    let mut says = async |what: &str| {
        let heard = async {
            while let Some(line) = said.next_line().await.unwrap() {
                if line.contains(what) {
                    return;
                }
            }
            panic!("it ended without a word of {what:?}");
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("it never says {what:?}"));
    };
    says("no other reporter's vote").await;
    another.write_client(folder.path());
    says("remote signer").await;
    authority.write_client(folder.path());
    two.epoch_with_a_follower(&publisher, &life, 1).await;
    following.kill().await.unwrap();
    assert_eq!((stage.submitted().await, two.sent_by_second().await, server.signed()), (vec![0, 1], 2, 2));
}
