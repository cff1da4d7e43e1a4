//! Audits: owed ones are replayed by a Verify node of the network's own and judged; what nobody can replay in time is
//! inconclusive and never counts against a node.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prost::Message;
use tokio::time::timeout;

use super::{Gateway, WorkerError, reasons::FORM_REFUSED, start};
use crate::{
    api::ids::GridPeerId,
    protocol::{
        fields::RequestFields,
        receipt::Receipt,
        wire::{self, AnswerLogprobs, AuditRequest, Replay, audit_event},
    },
    store::{AuditDecision, AuditState, EvidenceRecord, LedgerError, OwedAudit, UNDECIDABLE},
    verify::{
        audit::{self, Verdict},
        evidence::{Evidence, Standing},
        told,
    },
};

/// Owed audits that one round looks at.
const BATCH: u32 = 256;
/// Longest pause between two rounds: deadlines pass without waking anybody.
const TICK: Duration = Duration::from_secs(1);
/// Tries at one audit before it is inconclusive: a verifier that always fails must not hold an epoch up.
const TRIES: u32 = 5;

/// Audits that are being replayed.
#[derive(Debug, Default)]
struct Running {
    receipts: HashSet<[u8; 32]>,
    per_verifier: HashMap<GridPeerId, u32>,
}

/// Shared between the round and the replays that it started.
type Shared = Arc<Mutex<Running>>;

impl Gateway {
    /// Decides owed audits until the gateway stops.
    pub(super) async fn audit_forever(self: Arc<Self>) {
        let running = Shared::default();
        loop {
            if let Err(error) = self.audit_round(&running).await {
                self.ledger_failed("reading owed audits", &error);
            }
            // Both outcomes mean: look again.
            let _ = timeout(TICK, self.audit.notified()).await;
        }
    }

    async fn audit_round(self: &Arc<Self>, running: &Shared) -> Result<(), LedgerError> {
        for owed in self.ledger.owed_audits(BATCH).await? {
            if running.lock().unwrap_or_else(PoisonError::into_inner).receipts.contains(&owed.receipt) {
                continue;
            }
            if let Some((reason, why)) = self.is_hopeless(&owed) {
                self.decide(&owed, Verdict::Inconclusive(why), reason, "").await?;
            } else if let Some(verifier) = self.free_verifier(&owed, running) {
                let (gateway, running) = (self.clone(), running.clone());
                self.spawn(async move { gateway.replay_and_decide(owed, verifier, running).await });
            }
        }
        Ok(())
    }

    /// Why nothing will come of an audit.
    fn is_hopeless(&self, owed: &OwedAudit) -> Option<(&'static str, String)> {
        if self.members.verifiers(&owed.work.model).iter().all(|record| record.address == owed.address) {
            return Some(("NoVerifier", "no other node of this network has the role Verify and this model".into()));
        }
        if owed.tries >= TRIES {
            return Some(("VerifierFailed", format!("{TRIES} tries at a replay failed")));
        }
        let late = self.clock.now_ms() >= owed.deadline_ms;
        late.then(|| ("NoVerifier", "no verifier was free in time".into()))
    }

    /// A connected Verify node that serves the model and is not the subject; claims a place on it.
    fn free_verifier(&self, owed: &OwedAudit, running: &Shared) -> Option<GridPeerId> {
        let now_ms = self.clock.now_ms();
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = |peer: &GridPeerId| running.per_verifier.get(peer).copied().unwrap_or(0);
        let fields = owed.work.fields();
        let own = audit::relevant(&owed.kernel_profile, fields);
        let profile = |peer: &GridPeerId| {
            let statement = self.peers.get(peer).fresh(now_ms)?.models.get(&owed.work.model)?.kernel_profile.clone();
            Some(statement)
        };
        let knows =
            |peer: &GridPeerId| self.peers.get(peer).fresh(now_ms).map_or(RequestFields::NONE, |said| said.knows);
        let candidates = self.members.verifiers(&owed.work.model).into_iter().filter_map(|record| {
            let peer = record.member.peer_id;
            // One that skips a field would find another sampler and convict an honest worker.
            let knows = fields.missing_in(knows(&peer)).is_empty();
            let free = knows && record.address != owed.address && busy(&peer) < self.settings.audits_per_verifier;
            // One that cannot judge the arithmetic still finds another prompt, seed or sampler.
            let undecidable = !audit::decidable(own, audit::relevant(&profile(&peer)?, fields));
            free.then(|| ((undecidable, busy(&peer)), peer))
        });
        let (_, verifier) = candidates.min()?;
        *running.per_verifier.entry(verifier.clone()).or_default() += 1;
        running.receipts.insert(owed.receipt);
        Some(verifier)
    }

    async fn replay_and_decide(self: Arc<Self>, owed: OwedAudit, verifier: GridPeerId, running: Shared) {
        let outcome = self.replay(&owed, &verifier).await.and_then(|replay| judge(&owed, replay));
        let written = match outcome {
            Ok(verdict) => self.decide(&owed, verdict, UNDECIDABLE, verifier.as_str()).await,
            // A worker of the same profile would have refused the request. Answers that nobody can judge are not paid.
            Err(WorkerError::Refused(refused)) if refused.reason == FORM_REFUSED => {
                let why = format!("the verifier cannot keep to the form: {}", refused.message);
                let why = why.chars().take(300).collect();
                self.decide(&owed, Verdict::Inconclusive(why), UNDECIDABLE, verifier.as_str()).await
            }
            Err(error) => {
                tracing::info!(request = %owed.work.request, %verifier, "an audit will be tried again: {error}");
                self.ledger.audit_tried(&owed.receipt).await
            }
        };
        if let Err(error) = written {
            self.ledger_failed("deciding an audit", &error);
        }
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        running.receipts.remove(&owed.receipt);
        if let Some(count) = running.per_verifier.get_mut(&verifier) {
            *count = count.saturating_sub(1);
        }
        drop(running);
        self.audit.notify_one();
    }

    async fn replay(&self, owed: &OwedAudit, verifier: &GridPeerId) -> Result<Replay, WorkerError> {
        let left = Duration::from_millis(owed.deadline_ms.saturating_sub(self.clock.now_ms()));
        let work = async {
            let workers = self.workers().ok_or(WorkerError::NotConnected)?;
            let mut link = workers.audit(verifier).await?;
            let start = start::start(&owed.work, owed.attempt, Vec::new(), owed.prefix.clone());
            link.sink.send(&AuditRequest { start: Some(start), output: owed.output.clone() }).await?;
            loop {
                let event = timeout(self.settings.heartbeat_limit, link.source.next()).await;
                match event.map_err(|_| WorkerError::Silent)??.and_then(|event| event.kind) {
                    Some(audit_event::Kind::Replay(replay)) => return Ok(replay),
                    Some(audit_event::Kind::Error(refused)) => return Err(WorkerError::Refused(refused)),
                    Some(audit_event::Kind::Heartbeat(_)) => {}
                    None => return Err(WorkerError::Broken("the verifier closed the stream before its replay".into())),
                }
            }
        };
        timeout(left, work).await.map_err(|_| WorkerError::Silent)?
    }

    /// `reason`: whose fault it is if the verdict is inconclusive.
    async fn decide(
        &self,
        owed: &OwedAudit,
        verdict: Verdict,
        reason: &'static str,
        verifier: &str,
    ) -> Result<(), LedgerError> {
        let (state, label, message) = match &verdict {
            Verdict::Pass => (AuditState::Passed, "pass", String::new()),
            Verdict::Mismatch(message) => (AuditState::Failed, "mismatch", message.clone()),
            Verdict::Inconclusive(message) => (AuditState::Inconclusive, "inconclusive", message.clone()),
        };
        let now_ms = self.clock.now_ms();
        let reason = if state == AuditState::Inconclusive { reason } else { "" };
        let verifier = verifier.to_owned();
        let decision = AuditDecision { receipt: owed.receipt, state, verifier, reason, message, now_ms };
        match self.ledger.decide_audit(&decision, |before| weigh(before, &verdict, now_ms)).await {
            Ok(_) => {}
            Err(LedgerError::Stale { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.metrics.audits.with_label_values(&[label]).inc();
        self.after_decision(owed, state).await
    }

    async fn after_decision(&self, owed: &OwedAudit, state: AuditState) -> Result<(), LedgerError> {
        let subject = self.members.all().into_iter().find(|record| record.address == owed.address);
        if let Some(peer) = subject.map(|record| record.member.peer_id) {
            let was_quarantined = self.standings.get(&peer).quarantined();
            let standing = self.refresh_standing(&peer).await?;
            if state == AuditState::Failed {
                tracing::warn!(%peer, request = %owed.work.request, log10_e = standing.evidence().log10_e(),
                               "an answer failed its audit");
            }
            if standing.quarantined() && !was_quarantined {
                tracing::warn!(%peer, "quarantined: {}", standing.evidence.message);
                self.flights.cancel_peer(&peer);
            }
        }
        if let Some(job) = &owed.work.job {
            self.finish_if_settled(job).await?;
        }
        self.dispatch.notify_one();
        Ok(())
    }
}

/// A verdict about the worker; `Err` when it is the verifier who answered nonsense.
fn judge(owed: &OwedAudit, mut replay: Replay) -> Result<Verdict, WorkerError> {
    let fields = owed.work.fields();
    let profile = audit::relevant(&owed.kernel_profile, fields);
    replay.kernel_profile = audit::relevant(&replay.kernel_profile, fields).to_owned();
    let wire = wire::Receipt::decode(owed.encoded.as_slice()).ok();
    let receipt = wire.as_ref().and_then(Receipt::from_wire);
    let receipt = receipt.ok_or_else(|| WorkerError::Broken("the receipt in the ledger cannot be read".into()))?;
    let verdict = match owed.work.line.top_logprobs {
        None => audit::compare(&receipt, profile, &replay),
        Some(_) => {
            let told = AnswerLogprobs::decode(owed.logprobs.as_slice());
            let told =
                told.map_err(|_| WorkerError::Broken("the log-probabilities in the ledger cannot be read".into()))?;
            audit::compare_told(&receipt, profile, &told::hash(&told.tokens), &replay)
        }
    };
    match verdict {
        Verdict::Inconclusive(why) if audit::decidable(profile, &replay.kernel_profile) => {
            Err(WorkerError::Malformed(why))
        }
        verdict => Ok(verdict),
    }
}

/// The evidence after one more verdict, and what it calls for.
fn weigh(before: &EvidenceRecord, verdict: &Verdict, now_ms: u64) -> EvidenceRecord {
    let evidence = Evidence { log_e: before.log_e }.observe(verdict);
    let mut after = EvidenceRecord { log_e: evidence.log_e, ..before.clone() };
    match verdict {
        Verdict::Pass => after.passed += 1,
        Verdict::Mismatch(message) => {
            after.failed += 1;
            after.message.clone_from(message);
        }
        Verdict::Inconclusive(_) => after.inconclusive += 1,
    }
    if after.quarantined_ms == 0 && evidence.standing() >= Standing::Quarantined {
        after.quarantined_ms = now_ms.max(1);
    }
    if after.convicted_ms == 0 && evidence.standing() == Standing::Slashable {
        after.convicted_ms = now_ms.max(1);
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_wrong_answers_quarantine_and_an_inconclusive_audit_changes_nothing() {
        let wrong = Verdict::Mismatch("token 3".into());
        let start = EvidenceRecord::default();
        let once = weigh(&start, &wrong, 5);
        assert_eq!((once.failed, once.quarantined_ms), (1, 0));
        let unknown = weigh(&once, &Verdict::Inconclusive("no verifier".into()), 6);
        assert_eq!((unknown.log_e, unknown.inconclusive), (once.log_e, 1));
        let twice = weigh(&unknown, &wrong, 7);
        assert_eq!((twice.failed, twice.quarantined_ms, twice.message.as_str()), (2, 7, "token 3"));
    }

    #[test]
    fn a_third_wrong_answer_convicts_and_later_audits_change_nothing_about_it() {
        let wrong = Verdict::Mismatch("token 3".into());
        let [_, twice, convicted] = [5, 6, 7].map({
            let mut evidence = EvidenceRecord::default();
            move |now_ms| {
                evidence = weigh(&evidence, &wrong, now_ms);
                evidence.clone()
            }
        });
        assert_eq!((twice.convicted_ms, convicted.convicted_ms), (0, 7));
        let later = weigh(&convicted, &Verdict::Pass, 8);
        assert_eq!(later.convicted_ms, 7, "a right answer takes no conviction back");
        assert_eq!(weigh(&later, &Verdict::Mismatch("token 4".into()), 9).convicted_ms, 7);
    }

    #[test]
    fn a_quarantine_is_not_lifted_by_later_right_answers() {
        let record = EvidenceRecord { quarantined_ms: 3, ..EvidenceRecord::default() };
        assert_eq!(weigh(&record, &Verdict::Pass, 9).quarantined_ms, 3);
    }
}
