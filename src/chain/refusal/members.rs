//! Reverts of GridJobEscrow and GridSlashing.

use alloy::sol_types::SolInterface;

use super::{Refusal, address, role_name, shortened, xdc};
use crate::chain::bindings::{
    GridJobEscrow::GridJobEscrowErrors as Escrow, GridSlashing::GridSlashingErrors as Slashing,
};

/// `None` for data that is no error of theirs.
pub(super) fn decode(data: &[u8]) -> Option<Refusal> {
    match Escrow::abi_decode(data) {
        Ok(error) => Some(of_escrow(&error)),
        Err(_) => Slashing::abi_decode(data).ok().map(|error| of_slashing(&error)),
    }
}

fn of_escrow(error: &Escrow) -> Refusal {
    match error {
        Escrow::NotAllowed(e) => missing_role(e.caller, e.neededRole),
        Escrow::JobExists(e) => {
            Refusal::new("JobExists", format!("job {} was opened before: use another salt", e.jobId))
        }
        Escrow::JobNotOpen(e) => Refusal::new("JobNotOpen", format!("job {} is not open", e.jobId)),
        Escrow::NotPayer(e) => Refusal::new(
            "NotPayer",
            format!("job {} is paid by {}, not by {}", e.jobId, address(e.payer), address(e.caller)),
        ),
        Escrow::JobBeforeDeadline(e) => Refusal::later(
            "JobBeforeDeadline",
            format!(
                "job {} can be settled until {} (unix seconds); after that its payer takes the rest",
                e.jobId, e.deadline
            ),
        ),
        Escrow::JobPastDeadline(e) => Refusal::new(
            "JobPastDeadline",
            format!("the deadline of job {} was {} (unix seconds)", e.jobId, e.deadline),
        ),
        Escrow::DeadlineOutOfBounds(e) => Refusal::new(
            "DeadlineOutOfBounds",
            format!("the deadline {} must be between {} and {} (unix seconds)", e.deadline, e.min, e.max),
        ),
        Escrow::OpeningPaused(e) => Refusal::later(
            "OpeningPaused",
            format!("the guardian has paused new jobs until {} (unix seconds)", e.until),
        ),
        Escrow::EscrowClosed(e) => Refusal::new(
            "EscrowClosed",
            format!("this escrow is closed; open jobs with the one of {}", address(e.successor)),
        ),
        other => unexplained(&format!("{other:?}")),
    }
}

fn of_slashing(error: &Slashing) -> Refusal {
    match error {
        Slashing::NotAllowed(e) => missing_role(e.caller, e.neededRole),
        Slashing::EvidenceUsed(e) => Refusal::new(
            "EvidenceUsed",
            format!("slash case {} was opened on the same evidence; there is no second one", e.caseId),
        ),
        Slashing::NoEvidence(e) => Refusal::new(
            "NoEvidence",
            format!("a slash case against node {} needs evidence, and a hash of zero is none", address(e.node)),
        ),
        Slashing::UnknownCase(e) => Refusal::new("UnknownCase", format!("there is no slash case {}", e.caseId)),
        Slashing::CaseClosed(e) => Refusal::new("CaseClosed", format!("slash case {} is decided", e.caseId)),
        Slashing::NotOwner(e) => Refusal::new(
            "NotOwner",
            format!("node {} belongs to {}, not to {}", address(e.node), address(e.owner), address(e.caller)),
        ),
        Slashing::AppealOver(e) => Refusal::new(
            "AppealOver",
            format!("appeals against case {} were taken until {} (unix seconds)", e.caseId, e.appealUntil),
        ),
        Slashing::AppealNotOver(e) => Refusal::later(
            "AppealNotOver",
            format!("case {} can be appealed until {} (unix seconds)", e.caseId, e.appealUntil),
        ),
        Slashing::WrongBond(e) => Refusal::new(
            "WrongBond",
            format!("a bond of {} XDC was sent, it must be {} XDC exactly", xdc(e.sent), xdc(e.required)),
        ),
        other => unexplained(&format!("{other:?}")),
    }
}

fn missing_role(caller: alloy::primitives::Address, role: alloy::primitives::B256) -> Refusal {
    Refusal::new(
        "MissingRole",
        format!(
            "account {} lacks the role {}: the admin of GridComputingRewards must grant it there",
            address(caller),
            role_name(role)
        ),
    )
}

fn unexplained(error: &str) -> Refusal {
    Refusal::new("Reverted", shortened(error))
}
