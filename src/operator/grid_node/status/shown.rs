//! Pure: what a status shows of a node besides its conditions: contract, hardware, models, evidence, columns.

use crate::{
    api::{
        grid_node::{
            CapabilityStatus, ContributionStatus, EvidenceStatus, GridNodeStatus, HardwareStatus, NodeColumns,
            NodeModelStatus, StakeStatus,
        },
        ids::Wei,
    },
    operator::{
        grid_node::dereference::Refs,
        units::{from_milli, human_bytes},
    },
    protocol::internal::NodeReport,
};

pub(super) fn chain(status: &mut GridNodeStatus, refs: &Refs) {
    if let Some(earned) = refs.earned {
        status.earned_wei = Some(earned.to_string());
    }
    let Ok(facts) = &refs.chain else { return };
    status.claimed_wei = Some(facts.claimed.to_string());
    status.stake = facts.registration.map(|registration| StakeStatus {
        owner: registration.owner.to_string(),
        payout_address: registration.payout.to_string(),
        stake_wei: registration.stake.to_string(),
        computing_power: signed(registration.computing_power),
        storage_gib: signed(registration.storage_gib),
    });
}

pub(super) fn reported(status: &mut GridNodeStatus, report: &NodeReport) {
    if report.connected {
        status.hardware = Some(HardwareStatus {
            processor: clipped(&report.processor, 128),
            threads: report.threads.into(),
            memory_bytes: signed(report.memory_bytes),
            accelerators: report.accelerators.iter().take(16).map(|name| clipped(name, 128)).collect(),
            software: clipped(&report.software, 64),
        });
    }
    status.models = report
        .models
        .iter()
        .take(64)
        .map(|model| NodeModelStatus {
            digest: model.digest.to_string(),
            state: clipped(&model.state, 64),
            message: Some(clipped(&model.message, 300)).filter(|message| !message.is_empty()),
            prefill_tokens_per_second: rate(model.prefill_rate_milli),
            decode_tokens_per_second: rate(model.decode_rate_milli),
        })
        .collect();
    status.capability = Some(CapabilityStatus {
        gemm_units: signed(report.capability.gemm_units),
        proven_bytes: signed(report.capability.proven_bytes),
    });
    status.evidence = Some(EvidenceStatus {
        passed: signed(report.evidence.audits_passed),
        failed: signed(report.evidence.audits_failed),
        inconclusive: signed(report.evidence.audits_inconclusive),
        log10_e: format!("{:.1}", report.evidence.log10_e),
    });
    status.last_epoch = Some(ContributionStatus {
        epoch: signed(report.last_epoch.epoch),
        requests: signed(report.last_epoch.requests),
        prompt_tokens: signed(report.last_epoch.prompt_tokens),
        output_tokens: signed(report.last_epoch.output_tokens),
        units: clipped(&report.last_epoch.units, 40),
    });
}

pub(super) fn columns(status: &GridNodeStatus) -> NodeColumns {
    let fastest = |model: &NodeModelStatus| model.decode_tokens_per_second.as_ref()?.parse::<f64>().ok();
    let speed = status
        .models
        .iter()
        .filter_map(fastest)
        .fold(None, |best: Option<f64>, rate| Some(best.map_or(rate, |best| best.max(rate))));
    NodeColumns {
        gpu: status
            .hardware
            .as_ref()
            .map(|hardware| hardware.accelerators.first().map_or_else(|| "cpu".into(), |name| clipped(name, 64))),
        tokens_per_second: speed.map(|speed| format!("{speed:.1}")),
        storage: status.capability.as_ref().map(|capability| human_bytes(capability.proven_bytes.unsigned_abs())),
        score: status
            .evidence
            .as_ref()
            .map(|evidence| format!("{}/{}", evidence.passed, evidence.passed + evidence.failed)),
        earned: status.earned_wei.as_ref().and_then(|wei| wei.parse().ok()).map(Wei::to_xdc),
    }
}

fn rate(milli: u64) -> Option<String> {
    (milli > 0).then(|| from_milli(milli))
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What comes from outside is cut to what the schema takes.
fn clipped(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}
