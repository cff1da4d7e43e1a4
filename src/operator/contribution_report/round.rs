//! One look at everything: each report takes at most one step, then the next epoch is planned.

use std::time::Duration;

use alloy::primitives::B256;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::{
    CLOSE_AGAIN, LONGEST, LOOK_AGAIN, MANAGER, Outcome,
    content::content,
    decide::{self, ChainView, Next, Sending, Step},
    dereference,
    drive::{self, Slot},
    leaves, plan,
    report::{self, Report},
    status::{self, Said, Trouble},
};
use crate::{
    api::{
        conditions::Finding,
        contribution_report::ContributionReport,
        grid_network::GridNetwork,
        ids::{EpochNumber, Wei},
        reasons::Reason,
    },
    chain::ChainError,
    operator::{
        chains::{self, Session},
        context::Context,
        error::{Error, is_not_found},
        gateway::Close,
        grid_network::validate::identity,
        write,
    },
    protocol::internal::EpochTotals,
    reward::{PaidWork, RewardLeaf, epoch::budget},
};

/// One look at everything, with at most one step for each report.
pub(super) struct Round<'a> {
    pub(super) network: &'a GridNetwork,
    pub(super) session: Session,
    pub(super) chain: ChainView,
    pub(super) sending: Sending,
    pub(super) context: &'a Context,
}

impl Round<'_> {
    pub(super) async fn run(&self, mut reports: Vec<Report>) -> Result<Outcome, Error> {
        let steps = decide::steps(&reports, &self.chain, self.sending);
        let mut again = LONGEST;
        let mut stuck = None;
        let mut voting = None;
        let mut discarded = false;
        for (index, step) in steps {
            if step == Step::Discard {
                self.discard(reports.get(index)).await?;
                discarded = true;
                continue;
            }
            let said = self.take(&mut reports, index, step).await?;
            if said.step == Step::Discard {
                discarded = true;
                continue;
            }
            let Some(report) = reports.get(index) else { continue };
            again = again.min(self.pause_after(&said));
            if stuck.is_none() {
                stuck = trouble_of(report, &said);
            }
            if let Step::Votes(poll) = &said.step {
                voting = Some(of_report(report, poll.finding()));
            }
            let status = status::of(report, &said, (self.context.clock)());
            status::update(report, &status, self.context).await?;
        }
        if discarded {
            let finding = Finding::no(Reason::ReportsBehind, "a report that no longer fits is planned anew");
            return Ok(Outcome { finding, again: Duration::from_millis(100) });
        }
        if let Some(finding) = stuck {
            return Ok(Outcome { finding, again });
        }
        let outcome = self.plan_next(&reports).await?;
        self.remember_earnings(&reports).await?;
        self.prune(&reports).await?;
        Ok(Outcome { finding: voting.unwrap_or(outcome.finding), again: outcome.again.min(again) })
    }

    fn pause_after(&self, said: &Said) -> Duration {
        let poll = self.context.config.chain_poll();
        match said.step {
            _ if said.trouble.as_ref().is_some_and(|trouble| trouble.needs_a_person) => LOOK_AGAIN,
            Step::Vote | Step::Submit | Step::Activate | Step::Wait(_) | Step::ActivatedByNext { .. } => poll,
            Step::Votes(_) => LOOK_AGAIN,
            Step::Window { active_at } => self.until(active_at),
            Step::Challenged { ruling_due_at } => self.until(ruling_due_at),
            // What is live now may have been all that the next plan waited for.
            Step::Live => Duration::from_millis(100),
            Step::Held(_) | Step::Discard | Step::Stuck(_) => LONGEST,
        }
    }

    /// Until a moment on the chain's clock.
    fn until(&self, at: u64) -> Duration {
        Duration::from_secs(at.saturating_sub(self.chain.time)).clamp(Duration::from_secs(1), LONGEST)
    }

    async fn take(&self, reports: &mut [Report], index: usize, step: Step) -> Result<Said, Error> {
        let trouble = match step {
            Step::Submit => return self.submit(reports, index).await,
            Step::Vote => return self.follow_vote(reports, index).await,
            Step::Activate => self.activate(reports, index).await?,
            Step::Held(_) => {
                if let Some(report) = reports.get(index).filter(|report| report.object.status.is_none()) {
                    leaves::adopt(&report.object, self.context).await?;
                }
                None
            }
            _ => None,
        };
        Ok(Said { step, trouble })
    }

    async fn submit(&self, reports: &mut [Report], index: usize) -> Result<Said, Error> {
        let said = |step, trouble| Ok(Said { step, trouble });
        let Some(report) = reports.get(index) else { return said(Step::Submit, None) };
        let intent = match report.submit {
            // The transaction is fixed; its content was checked when it was planned. So it is once we voted for it.
            Some(ref record) if report::is_under_way(Some(record)) || report.vote.is_some() => record.intent.clone(),
            _ => match content(report, reports, &self.session, &self.chain, self.context).await? {
                Ok(content) => self.session.chain.report_intent(&content),
                // Collected with a report of the same leaves that went before this one. Nothing was signed yet.
                Err(Trouble { finding, .. })
                    if finding.reason == Reason::LeavesMissing.as_str() && report.is_untouched() =>
                {
                    self.discard(Some(report)).await?;
                    return said(Step::Discard, None);
                }
                Err(trouble) => return said(Step::Submit, Some(trouble)),
            },
        };
        let Some(report) = reports.get_mut(index) else { return said(Step::Submit, None) };
        if !report::is_under_way(report.submit.as_ref())
            && let Some(said) = self.vote(report, &intent).await?
        {
            return Ok(said);
        }
        let outcome = drive::advance(report, Slot::Submit, || intent, &self.session, self.context).await?;
        said(Step::Submit, outcome.err().map(|error| self.trouble(&error)))
    }

    async fn follow_vote(&self, reports: &mut [Report], index: usize) -> Result<Said, Error> {
        let vote = reports.get(index).and_then(|report| Some(report.vote.as_ref()?.intent.clone()));
        match (reports.get_mut(index), vote) {
            (Some(report), Some(vote)) => self.cast(report, vote).await,
            _ => Ok(Said { step: Step::Vote, trouble: None }),
        }
    }

    async fn activate(&self, reports: &mut [Report], index: usize) -> Result<Option<Trouble>, Error> {
        let Some(report) = reports.get_mut(index) else { return Ok(None) };
        let intent = match report.activate {
            // Followed to its end also when nothing is pending any more.
            Some(ref record) if report::is_under_way(Some(record)) => record.intent.clone(),
            _ => match self.chain.latest.pending.or(self.chain.finalized.pending) {
                Some(pending) => self.session.chain.activate_intent(&pending),
                None => return Ok(None),
            },
        };
        let outcome = drive::advance(report, Slot::Activate, || intent, &self.session, self.context).await?;
        // Somebody else was faster: the next look shows it live.
        let refused =
            outcome.err().filter(|error| !matches!(error, ChainError::Refused(why) if why.name == "NothingPending"));
        Ok(refused.map(|error| self.trouble(&error)))
    }

    pub(super) fn trouble(&self, error: &ChainError) -> Trouble {
        status::trouble(error, &self.session.chain, self.session.key.address())
    }

    // -------------------------------------------------------------------------------------------- the next epoch

    async fn plan_next(&self, reports: &[Report]) -> Result<Outcome, Error> {
        let behind =
            |message: String, again| Ok(Outcome { finding: Finding::no(Reason::ReportsBehind, message), again });
        match decide::next(reports, &self.chain, self.sending) {
            Next::Plan { epoch, after, pool } => {
                self.close(epoch, after.and_then(|index| reports.get(index)), reports, pool).await
            }
            Next::NotOver { epoch, ends_at } => {
                let message =
                    format!("epoch {epoch} ends at {}; every epoch before it is reported", status::time(ends_at));
                Ok(Outcome { finding: Finding::yes(Reason::ReportsCurrent, message), again: self.until(ends_at) })
            }
            Next::Busy => match reports.last() {
                Some(last) => behind(format!("{} is on its way to the chain", last.name()), LONGEST),
                None => behind("a report is on its way to the chain".to_owned(), LONGEST),
            },
            Next::Stuck(stuck) => Ok(Outcome { finding: status::said_of(&stuck), again: LONGEST }),
        }
    }

    async fn close(
        &self,
        epoch: EpochNumber,
        before: Option<&Report>,
        reports: &[Report],
        pool: Wei,
    ) -> Result<Outcome, Error> {
        if let Some(finding) = self.gateway_serves_another().await {
            return Ok(Outcome { finding, again: LOOK_AGAIN });
        }
        let (totals, statement) = match self.context.gateway.close_epoch(epoch).await {
            Ok(Close::Closed { totals, statement }) => (totals, statement),
            Ok(Close::NotYet(why)) => {
                let finding =
                    Finding::no(Reason::ReportsBehind, format!("epoch {epoch} is over and not closed yet: {why}"));
                return Ok(Outcome { finding, again: CLOSE_AGAIN });
            }
            Err(error) => return Ok(Outcome { finding: error.finding(), again: LOOK_AGAIN }),
        };
        let previous = match before {
            None => Vec::new(),
            Some(report) => match leaves::read_or_rebuild(report, reports, &self.session.chain, self.context).await? {
                Ok(leaves) => leaves,
                Err(finding) => return Ok(Outcome { finding, again: LONGEST }),
            },
        };
        match self.plan(epoch, &totals, statement.into(), &previous, pool).await {
            Ok(Ok(planned)) => self.write_down(planned).await,
            Ok(Err(finding)) => Ok(Outcome { finding, again: LONGEST }),
            Err(error) => Ok(Outcome { finding: chains::finding(&error), again: LOOK_AGAIN }),
        }
    }

    /// An epoch's path names no network: work of another one must never be paid from this one's pool.
    async fn gateway_serves_another(&self) -> Option<Finding> {
        let info = match self.context.gateway.info().await {
            Ok(info) => info,
            Err(error) => return Some(error.finding()),
        };
        match info.network {
            None => Some(Finding::unknown(Reason::NetworkNotReady, "the gateway was not told of this network yet")),
            Some(served) if Some(&served.network) == identity(self.network).as_ref() => None,
            Some(served) => {
                let message =
                    format!("the gateway serves the network {:?} of contract {}", served.name, served.network.contract);
                Some(Finding::no(Reason::GatewayServesAnotherNetwork, message))
            }
        }
    }

    async fn plan(
        &self,
        epoch: EpochNumber,
        totals: &EpochTotals,
        statement: B256,
        previous: &[RewardLeaf],
        pool: Wei,
    ) -> Result<Result<plan::Planned, Finding>, ChainError> {
        let rewards = &self.network.spec.rewards;
        let impossible = |message: String| Ok(Err(Finding::no(Reason::ReportImpossible, message)));
        let wanted: Wei = match rewards.budget_per_epoch_wei.parse() {
            Ok(wanted) => wanted,
            Err(error) => return impossible(format!("spec.rewards.budgetPerEpochWei: {error}")),
        };
        let split = match plan::split(&rewards.split) {
            Ok(split) => split,
            Err(error) => return impossible(format!("spec.rewards.split: {error}")),
        };
        let registered = dereference::registered(totals, &self.session.chain, self.chain.final_hash).await?;
        // What the gateway counts as paid was settled in a final block before, so that the pool has it.
        let most = pool.min(self.chain.parameters.max_epoch_increase);
        let jobs = match plan::paid_jobs(totals, &registered, most) {
            Ok(jobs) => jobs,
            Err(error) => return impossible(error.to_string()),
        };
        let paid = PaidWork { jobs: &jobs };
        let planned = plan::plan(&plan::Inputs {
            network: &self.network.name_any(),
            epoch,
            domain: self.session.chain.tree_domain(),
            reporter: self.session.key.address(),
            totals,
            statement,
            registered: &registered,
            block: self.chain.final_block,
            previous,
            paid,
            budget: budget(wanted, pool, self.chain.parameters.max_epoch_increase, paid.net()),
            split,
            dry_run: self.sending == Sending::DryRun,
        });
        planned.map_or_else(|error| impossible(error.to_string()), |planned| Ok(Ok(planned)))
    }

    /// First the leaves, then the report: its name is the lock, and whoever made it made it with leaves that are there.
    async fn write_down(&self, planned: plan::Planned) -> Result<Outcome, Error> {
        leaves::write(&planned.spec.leaves.config_map, planned.leaves, self.network, self.context).await?;
        let mut report = ContributionReport::new(&planned.name, planned.spec);
        report.metadata.labels = Some([("app.kubernetes.io/managed-by".to_owned(), "xdc-grid".to_owned())].into());
        report.metadata.owner_references = None;
        let api: Api<ContributionReport> = Api::all(self.context.client.clone());
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match api.create(&parameters, &report).await {
            Ok(_) => tracing::info!(report = planned.name, "planned"),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                tracing::info!(report = planned.name, "somebody planned it before; theirs counts");
            }
            Err(error) => return Err(error.into()),
        }
        let finding = Finding::no(Reason::ReportsBehind, format!("{} is planned", planned.name));
        Ok(Outcome { finding, again: Duration::from_millis(100) })
    }

    // -------------------------------------------------------------------------------------------- housekeeping

    async fn discard(&self, report: Option<&Report>) -> Result<(), Error> {
        let Some(report) = report.filter(|report| report.is_untouched()) else { return Ok(()) };
        tracing::info!(report = report.name(), "was never signed and no longer fits; it is planned anew");
        let note =
            "it was never signed and no longer fits the chain, the network's dryRun or its leaves; it is planned anew";
        write::publish(
            self.context,
            self.network,
            &write::warning("Discard", Reason::ReportsBehind.as_str(), format!("{}: {note}", report.name())),
        )
        .await;
        self.delete(report).await?;
        // A nonce may be set aside for a signature that was never written down; a gap would hold up everything after it.
        for record in [&report.vote, &report.submit, &report.activate].into_iter().flatten() {
            self.session.pool.release(&record.intent.key);
        }
        Ok(())
    }

    /// Keeps the newest reports; what is older and active lives on in the calldata of its transaction.
    async fn prune(&self, reports: &[Report]) -> Result<(), Error> {
        let keep = usize::try_from(self.context.config.keep_reports).unwrap_or(usize::MAX).max(2);
        let old = reports.get(..reports.len().saturating_sub(keep)).unwrap_or_default();
        for report in old {
            if !report.is_active() && !report.is_dry_run() {
                continue;
            }
            self.delete(report).await?;
        }
        Ok(())
    }

    async fn delete(&self, report: &Report) -> Result<(), Error> {
        let api: Api<ContributionReport> = Api::all(self.context.client.clone());
        let preconditions =
            Preconditions { uid: report.object.uid(), resource_version: report.object.resource_version() };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match api.delete(&report.name(), &parameters).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn remember_earnings(&self, reports: &[Report]) -> Result<(), Error> {
        let network = self.network.name_any();
        let cache = &self.context.earnings;
        let live = (self.chain.finalized.live_root, self.chain.finalized.live_total);
        let Some(report) = reports.iter().rev().find(|report| report.sum() == live && !report.is_dry_run()) else {
            if live == (B256::ZERO, Wei(0)) {
                cache.set_earnings(&network, "", &[]);
            }
            return Ok(());
        };
        if !cache.has_earnings_of(&network, &report.name()) {
            match leaves::read(report, reports, self.context).await? {
                Some(leaves) => cache.set_earnings(&network, &report.name(), &leaves),
                None => cache.forget(&network),
            }
        }
        Ok(())
    }
}

fn trouble_of(report: &Report, said: &Said) -> Option<Finding> {
    let finding = match (&said.step, &said.trouble) {
        (Step::Stuck(stuck), _) => status::said_of(stuck),
        (_, Some(trouble)) => trouble.finding.clone(),
        _ => return None,
    };
    Some(of_report(report, finding))
}

/// A finding about a report, as its network says it.
fn of_report(report: &Report, finding: Finding) -> Finding {
    Finding { message: format!("{}: {}", report.name(), finding.message), ..finding }
}
