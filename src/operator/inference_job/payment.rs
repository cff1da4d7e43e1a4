//! The escrow of a paid job: read in a final block before the grid gets the job, and judged. An escrow names no job; its salt
//! does, so that nobody spends what a payer put down for another job.

use alloy::primitives::{B256, keccak256};
use jiff::Timestamp;
use kube::{Api, ResourceExt, api::ListParams};

use super::validate::{Refusal, hopeless, invalid, refuse};
use crate::{
    api::{
        conditions::Finding,
        grid_model::{GridModel, ModelPrice},
        grid_network::GridNetwork,
        ids::{EscrowId, NodeAddress, Wei},
        inference_job::{InferenceJob, SpendStatus, Target, condition},
        reasons::Reason,
    },
    chain::{
        At, ChainError,
        escrow::{EscrowedJob, JobEscrow, JobState},
    },
    operator::{
        chains::{ChainProblem, escrow_of, finding},
        context::Context,
        error::Error,
    },
    protocol::internal::{JobPayment, JobReport, Spend, TokenPrice},
};

/// Seconds before an escrow's deadline at which its job ends: time to audit, settle and reach a final block.
pub const SETTLE_MARGIN: u64 = 900;
/// Seconds that an escrow must have left when its job is taken.
const LEAST_TIME: u64 = 2 * SETTLE_MARGIN;

/// What a final block says about the escrow that a job names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EscrowFacts {
    /// Address of the GridJobEscrow.
    pub contract: NodeAddress,
    pub escrow: Option<EscrowedJob>,
    /// What one epoch may pay out: no job can cost more.
    pub max_spend: Wei,
}

/// The facts, or why there are none.
pub type Found = Result<EscrowFacts, Finding>;

/// `None` for a job that names no escrow.
pub async fn look(job: &InferenceJob, context: &Context) -> Result<Option<Found>, Error> {
    let Some(payment) = &job.spec.payment else { return Ok(None) };
    let Ok(id) = payment.escrow_id.parse::<EscrowId>() else { return Ok(None) };
    let networks: Api<GridNetwork> = Api::all(context.client.clone());
    let networks = networks.list(&ListParams::default()).await?.items;
    let served = |network: &&GridNetwork| network.status.as_ref().is_some_and(|status| !status.gateways.is_empty());
    let Some(network) = networks.iter().find(served) else {
        return Ok(Some(Err(Finding::unknown(Reason::NetworkNotReady, "no GridNetwork has a gateway yet"))));
    };
    Ok(Some(facts(network, id, context).await.map_err(|problem| problem.finding)))
}

async fn facts(network: &GridNetwork, id: EscrowId, context: &Context) -> Result<EscrowFacts, ChainProblem> {
    let Some(contract) = escrow_of(network)? else {
        let message = format!("spec.chain.escrow of GridNetwork {:?} names no contract", network.name_any());
        return Err(ChainProblem { finding: Finding::no(Reason::EscrowContractMissing, message) });
    };
    let chain = context.chains.client(network).await?;
    let read = async {
        let escrow = JobEscrow::of(&chain, contract).await?.job(id.0.into(), At::Finalized).await?;
        Ok::<_, ChainError>(EscrowFacts { contract, escrow, max_spend: chain.parameters().await?.max_epoch_increase })
    };
    read.await.map_err(|error| match error {
        ChainError::OfAnotherGrid { .. } => {
            ChainProblem { finding: Finding::no(Reason::EscrowContractMissing, error.to_string()) }
        }
        error => ChainProblem { finding: finding(&error) },
    })
}

/// The salt with which a payer opens the escrow of a job.
pub fn salt(namespace: &str, name: &str) -> B256 {
    keccak256(format!("{namespace}/{name}"))
}

/// From what a new job is paid; `None` for one that costs nothing.
pub fn validate(
    job: &InferenceJob,
    model: Option<&GridModel>,
    found: Option<&Found>,
    now: Timestamp,
) -> Result<Option<JobPayment>, Refusal> {
    let price = model.and_then(|model| model.spec.price.as_ref());
    let model = &job.spec.workload.model_ref.name;
    let (payment, price) = match (&job.spec.payment, price) {
        (None, Some(_)) if job.spec.placement.target == Target::Grid => {
            let message = format!("GridModel {model:?} has a price: a new job with spec.payment is needed");
            return Err(refuse(condition::ACCEPTED, Reason::PaymentRequired, message));
        }
        (None, _) => return Ok(None),
        (Some(_), None) => {
            let message = format!("GridModel {model:?} has no price, it is free: make a new job without spec.payment");
            return Err(refuse(condition::ACCEPTED, Reason::ModelWithoutPrice, message));
        }
        (Some(payment), Some(price)) => (payment, token_price(model, price)?),
    };
    let max_spend: Wei =
        payment.max_spend_wei.parse().map_err(|error| invalid(format!("payment.maxSpendWei: {error}")))?;
    let id: EscrowId = payment.escrow_id.parse().map_err(|error| invalid(format!("payment.escrowID: {error}")))?;
    let facts = match found {
        Some(Ok(facts)) => facts,
        Some(Err(finding)) => {
            return Err(Refusal { condition: condition::ADMITTED, finding: finding.clone(), ending: None });
        }
        None => return Err(refuse(condition::ADMITTED, Reason::EscrowNotFound, "the escrow was not looked at yet")),
    };
    let deadline = judge(job, id, max_spend, facts, now)?;
    Ok(Some(JobPayment { escrow: id, max_spend, deadline, price }))
}

fn token_price(model: &str, price: &ModelPrice) -> Result<TokenPrice, Refusal> {
    let wei = |text: &str| {
        let broken =
            |error| refuse(condition::ACCEPTED, Reason::ModelWithoutPrice, format!("GridModel {model:?}: {error}"));
        text.parse::<Wei>().map_err(broken)
    };
    let (prompt, output) = (&price.prompt_wei_per_million_tokens, &price.output_wei_per_million_tokens);
    Ok(TokenPrice { prompt: wei(prompt)?, output: wei(output)? })
}

/// The deadline of an escrow that can pay the job.
fn judge(
    job: &InferenceJob,
    id: EscrowId,
    max_spend: Wei,
    facts: &EscrowFacts,
    now: Timestamp,
) -> Result<u64, Refusal> {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let salt = salt(&namespace, &name);
    let contract = facts.contract;
    let Some(escrow) = facts.escrow else {
        let message = format!(
            "no final block has an escrow {id} in {contract}; its payer opens it there with openJob({salt}, deadline)"
        );
        return Err(refuse(condition::ADMITTED, Reason::EscrowNotFound, message));
    };
    if JobEscrow::job_id(escrow.payer, salt).0 != id.0 {
        let message = format!(
            "escrow {id} of {} was not opened for {namespace}/{name}; the salt of this job is {salt}",
            escrow.payer
        );
        return Err(hopeless(Reason::EscrowOfAnotherJob, message));
    }
    if escrow.state != JobState::Open {
        return Err(hopeless(
            Reason::EscrowClosed,
            format!("escrow {id} is {:?}; a payer uses each salt once", escrow.state),
        ));
    }
    let left = escrow.deadline.saturating_sub(u64::try_from(now.as_second()).unwrap_or(0));
    if left < LEAST_TIME {
        let message = format!("escrow {id} ends in {left} s; a job is taken with at least {LEAST_TIME} s left");
        return Err(hopeless(Reason::EscrowExpiring, message));
    }
    if max_spend > facts.max_spend {
        let message = format!(
            "spec.payment.maxSpendWei is {max_spend}, and the contract pays at most {} for an epoch; split the job",
            facts.max_spend
        );
        return Err(hopeless(Reason::SpendTooLarge, message));
    }
    if escrow.escrow < max_spend {
        let message = format!(
            "escrow {id} holds {} wei and spec.payment.maxSpendWei is {max_spend}; anybody adds to it with topUpJob in {contract}",
            escrow.escrow
        );
        return Err(refuse(condition::ADMITTED, Reason::EscrowTooSmall, message));
    }
    Ok(escrow.deadline)
}

/// Why a job is to be stopped: it has spent all that it may, and there is more to do.
pub fn used_up(report: &JobReport) -> Option<(Reason, String)> {
    let spend = report.spend.filter(|spend| spend.used_up)?;
    let done = report.completed.saturating_add(report.failed) >= report.total;
    let max_spend = spend.payment.max_spend.to_xdc();
    let message = format!("it has spent {max_spend} XDC, all that spec.payment.maxSpendWei allows");
    (!done).then_some((Reason::SpendLimitReached, message))
}

/// What a job has cost so far.
pub fn shown(spend: &Spend) -> SpendStatus {
    SpendStatus {
        spent_wei: spend.spent.to_string(),
        spent: spend.spent.to_xdc(),
        settled_wei: spend.settled.map(|settled| settled.spent.to_string()),
    }
}

/// How far the pay of a job that is over is.
pub fn settled(spend: &Spend) -> Finding {
    let escrow = spend.payment.escrow;
    match spend.settled {
        None => {
            let message = format!("escrow {escrow} is settled once the epoch in which the job ended is over");
            Finding::no(Reason::SettlementPending, message)
        }
        Some(settled) => {
            let message = format!(
                "{} XDC were taken from escrow {escrow}; what it held beyond that is its payer's credit there",
                settled.spent.to_xdc()
            );
            Finding::yes(Reason::EscrowSettled, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_000_000;
    const PAYER: NodeAddress = NodeAddress([7; 20]);

    fn id() -> EscrowId {
        EscrowId(JobEscrow::job_id(PAYER, salt("team-a", "hello")).0)
    }

    fn job(payment: Value) -> InferenceJob {
        let mut spec = json!({"workload": {
            "modelRef": {"name": "m"}, "input": {"inline": "a"}, "output": {"store": {}},
        }});
        if !payment.is_null() {
            spec["payment"] = payment;
        }
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob",
            "metadata": {"name": "hello", "namespace": "team-a"}, "spec": spec,
        }))
        .unwrap()
    }

    fn paid() -> InferenceJob {
        job(json!({"maxSpendWei": "500", "escrowID": id().to_string()}))
    }

    fn model(price: Value) -> GridModel {
        let mut spec = json!({"source": {"url": "http://a"}, "sha256": "0".repeat(64)});
        if !price.is_null() {
            spec["price"] = price;
        }
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridModel", "metadata": {"name": "m"}, "spec": spec,
        }))
        .unwrap()
    }

    fn priced() -> GridModel {
        model(json!({"promptWeiPerMillionTokens": "50", "outputWeiPerMillionTokens": "400"}))
    }

    fn open() -> EscrowedJob {
        EscrowedJob {
            payer: PAYER,
            escrow: Wei(500),
            deadline: NOW + LEAST_TIME,
            fee_bps: 500,
            state: JobState::Open,
            spent: Wei(0),
        }
    }

    fn found(escrow: Option<EscrowedJob>) -> Found {
        Ok(EscrowFacts { contract: NodeAddress([9; 20]), escrow, max_spend: Wei(1_000) })
    }

    fn now() -> Timestamp {
        Timestamp::from_second(NOW as i64).unwrap()
    }

    fn refused(job: &InferenceJob, escrow: Option<EscrowedJob>) -> (String, bool) {
        let refusal = validate(job, Some(&priced()), Some(&found(escrow)), now()).unwrap_err();
        (refusal.finding.reason, refusal.ending.is_some())
    }

    #[test]
    fn an_open_escrow_of_this_job_that_holds_enough_pays_at_the_price_of_the_model() {
        let payment = validate(&paid(), Some(&priced()), Some(&found(Some(open()))), now()).unwrap().unwrap();
        assert_eq!((payment.escrow, payment.max_spend, payment.deadline), (id(), Wei(500), NOW + LEAST_TIME));
        assert_eq!(payment.price, TokenPrice { prompt: Wei(50), output: Wei(400) });
    }

    #[test]
    fn what_can_still_come_is_waited_for_and_what_cannot_ends_the_job() {
        assert_eq!(refused(&paid(), None), ("EscrowNotFound".into(), false));
        assert_eq!(
            refused(&paid(), Some(EscrowedJob { escrow: Wei(499), ..open() })),
            ("EscrowTooSmall".into(), false)
        );
        let closed = [JobState::Settled, JobState::Cancelled].map(|state| EscrowedJob { state, ..open() });
        for closed in closed {
            assert_eq!(refused(&paid(), Some(closed)), ("EscrowClosed".into(), true));
        }
        let late = EscrowedJob { deadline: NOW + LEAST_TIME - 1, ..open() };
        assert_eq!(refused(&paid(), Some(late)), ("EscrowExpiring".into(), true));
        let large = job(json!({"maxSpendWei": "1001", "escrowID": id().to_string()}));
        assert_eq!(refused(&large, Some(EscrowedJob { escrow: Wei(2_000), ..open() })), ("SpendTooLarge".into(), true));
    }

    #[test]
    fn an_escrow_that_its_payer_opened_for_another_job_pays_nothing() {
        let other = JobEscrow::job_id(PAYER, salt("team-b", "hello"));
        let thief = job(json!({"maxSpendWei": "500", "escrowID": other.to_string()}));
        assert_eq!(refused(&thief, Some(open())), ("EscrowOfAnotherJob".into(), true));
        let another_payer = EscrowedJob { payer: NodeAddress([8; 20]), ..open() };
        assert_eq!(refused(&paid(), Some(another_payer)), ("EscrowOfAnotherJob".into(), true));
    }

    #[test]
    fn a_price_needs_a_payment_and_a_payment_a_price() {
        let free = validate(&job(Value::Null), Some(&model(Value::Null)), None, now());
        assert_eq!(free.unwrap(), None);
        let reason = |job: &InferenceJob, model: &GridModel| {
            validate(job, Some(model), Some(&found(Some(open()))), now()).unwrap_err().finding.reason
        };
        assert_eq!(reason(&job(Value::Null), &priced()), "PaymentRequired");
        assert_eq!(reason(&paid(), &model(Value::Null)), "ModelWithoutPrice");
    }

    #[test]
    fn a_chain_that_is_away_refuses_nothing_for_good() {
        let away = Err(Finding::unknown(Reason::RpcUnreachable, "no endpoint answers"));
        let refusal = validate(&paid(), Some(&priced()), Some(&away), now()).unwrap_err();
        assert_eq!((refusal.condition, refusal.ending), (condition::ADMITTED, None));
    }

    #[test]
    fn the_salt_is_what_cast_keccak_gives() {
        let expected = "0x27aefc7a4223147de6c037305995702e753e3440682bd3f87afc53c1ac7a7bb4";
        assert_eq!(salt("team-a", "hello").to_string(), expected);
    }
}
