//! A revert as a sentence.

use alloy::{
    primitives::{B256, Bytes, U256, keccak256},
    sol_types::{SolInterface, decode_revert_reason},
};
use serde::{Deserialize, Serialize};

mod members;

use super::bindings::GridComputingRewards::GridComputingRewardsErrors as Error;
use crate::api::ids::{NodeAddress, Wei};

/// Why the contract refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message} ({name})")]
pub struct Refusal {
    /// The name of the Solidity error; `Reverted` when there is none.
    pub name: String,
    /// For a person.
    pub message: String,
    /// Whether the same call can work later without anybody doing anything.
    pub passes_with_time: bool,
}

impl Refusal {
    pub fn new(name: &str, message: impl Into<String>) -> Self {
        Refusal { name: name.to_owned(), message: message.into(), passes_with_time: false }
    }

    pub(super) fn later(name: &str, message: impl Into<String>) -> Self {
        Refusal { passes_with_time: true, ..Refusal::new(name, message) }
    }

    /// Reads the data of a revert.
    pub fn decode(data: &[u8]) -> Self {
        match Error::abi_decode(data) {
            Ok(error) => of_contract(&error),
            Err(_) => members::decode(data).unwrap_or_else(|| Refusal::new("Reverted", undeclared(data))),
        }
    }

    /// A revert that carried no data.
    pub fn without_reason(detail: &str) -> Self {
        Refusal::new("Reverted", format!("the call reverted without a reason ({})", shortened(detail)))
    }
}

fn undeclared(data: &[u8]) -> String {
    if data.is_empty() {
        return "the call reverted without a reason".to_owned();
    }
    match decode_revert_reason(data) {
        Some(reason) => shortened(&reason),
        None => format!("the call reverted with {}", shortened(&Bytes::copy_from_slice(data).to_string())),
    }
}

/// Messages end in conditions and logs; what a node answers must not fill them.
fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

fn of_contract(error: &Error) -> Refusal {
    of_nodes(error)
        .or_else(|| of_epochs(error))
        .or_else(|| of_rules(error))
        .or_else(|| of_claims(error))
        .unwrap_or_else(|| of_roles(error))
}

fn of_nodes(error: &Error) -> Option<Refusal> {
    Some(match error {
        Error::StakeTooSmall(e) => Refusal::new(
            "StakeTooSmall",
            format!("a stake of {} XDC was sent, the least is {} XDC", xdc(e.sent), xdc(e.required)),
        ),
        Error::AlreadyRegistered(e) => {
            Refusal::new("AlreadyRegistered", format!("node {} is registered already", address(e.node)))
        }
        Error::NotRegistered(e) => Refusal::new("NotRegistered", format!("node {} is not registered", address(e.node))),
        Error::NotOwner(e) => Refusal::new(
            "NotOwner",
            format!("node {} belongs to {}, not to {}", address(e.node), address(e.owner), address(e.caller)),
        ),
        Error::ZeroPayout(e) => {
            Refusal::new("ZeroPayout", format!("the payout address of node {} is zero", address(e.node)))
        }
        Error::NoCapability(e) => Refusal::new(
            "NoCapability",
            format!("node {} has neither measured compute nor proven storage", address(e.node)),
        ),
        Error::ConsentExpired(e) => Refusal::new(
            "ConsentExpired",
            format!(
                "the node's consent ended at {} and the block's time is {} (unix seconds): sign a new one",
                e.deadline, e.timestamp
            ),
        ),
        Error::ConsentInvalid(e) => Refusal::new(
            "ConsentInvalid",
            format!(
                "the consent is not signed by the key of node {} for this owner, payout and nonce",
                address(e.node)
            ),
        ),
        Error::StillUnbonding(e) => Refusal::later(
            "StillUnbonding",
            format!("the stake of node {} is free from {} on (unix seconds)", address(e.node), e.exitAt),
        ),
        _ => return None,
    })
}

fn of_epochs(error: &Error) -> Option<Refusal> {
    Some(match error {
        Error::WrongEpoch(e) => {
            Refusal::new("WrongEpoch", format!("epoch {} was sent, the contract expects epoch {}", e.given, e.expected))
        }
        Error::EpochNotOver(e) => Refusal::later(
            "EpochNotOver",
            format!("epoch {} ends at {} (unix seconds), later than the block's time", e.epoch, e.endsAt),
        ),
        Error::PendingEpoch(e) => Refusal::later(
            "PendingEpoch",
            format!("epoch {} is in its window until {} (unix seconds)", e.epoch, e.activeAt),
        ),
        Error::NothingPending(_) => Refusal::new("NothingPending", "no reported epoch waits for its activation"),
        Error::WindowOver(e) => Refusal::new(
            "WindowOver",
            format!(
                "the window of epoch {} ended at {} (unix seconds), it can no longer be dropped",
                e.epoch, e.activeAt
            ),
        ),
        Error::WrongDataHash(e) => {
            Refusal::new("WrongDataHash", format!("the leaves hash to {}, the report says {}", e.expected, e.given))
        }
        Error::TotalDecreased(e) => Refusal::new(
            "TotalDecreased",
            format!("the cumulative total {} wei is below the {} wei already allocated", e.given, e.previous),
        ),
        Error::PoolTooSmall(e) => Refusal::new(
            "PoolTooSmall",
            format!(
                "the epoch allocates {} XDC but the pool holds {} XDC: fund it",
                xdc(e.increase),
                xdc(e.rewardPool)
            ),
        ),
        Error::IncreaseTooLarge(e) => Refusal::new(
            "IncreaseTooLarge",
            format!("the epoch allocates {} XDC, the contract allows {} XDC an epoch", xdc(e.increase), xdc(e.max)),
        ),
        Error::EmptyRoot(e) => {
            Refusal::new("EmptyRoot", format!("epoch {} allocates money under an empty root", e.epoch))
        }
        Error::EmptyEpochChangesRoot(e) => Refusal::new(
            "EmptyEpochChangesRoot",
            format!("an epoch that allocates nothing must keep the root {}, not name {}", e.liveRoot, e.given),
        ),
        _ => return None,
    })
}

fn of_rules(error: &Error) -> Option<Refusal> {
    Some(match error {
        Error::QuorumMissing(e) => Refusal::later(
            "QuorumMissing",
            format!(
                "{} reporters agree on this report, {} are needed: the others vote for it first",
                e.votes, e.needed
            ),
        ),
        Error::ChallengeOpen(e) => Refusal::later(
            "ChallengeOpen",
            format!("epoch {} is challenged; the arbiter rules until {} (unix seconds)", e.epoch, e.rulingDueAt),
        ),
        Error::OperationPaused(e) => Refusal::later(
            "OperationPaused",
            format!("the contract's guardian has paused this until {} (unix seconds); then it ends by itself", e.until),
        ),
        Error::ContractRetired(e) => Refusal::new(
            "ContractRetired",
            format!(
                "the contract is retired, its successor is {}: make a GridNetwork for that one",
                address(e.successor)
            ),
        ),
        Error::NodeExiting(e) => Refusal::new(
            "NodeExiting",
            format!("node {} is leaving; its stake is free from {} on (unix seconds)", address(e.node), e.exitAt),
        ),
        Error::FreezeTooLarge(e) => Refusal::new(
            "FreezeTooLarge",
            format!("{} XDC are more than the {} XDC that one case may freeze", xdc(e.amount), xdc(e.max)),
        ),
        Error::EpochFreezeTooLarge(e) => Refusal::later(
            "EpochFreezeTooLarge",
            format!(
                "{} XDC are more than the {} XDC that may still be frozen in this epoch",
                xdc(e.amount),
                xdc(e.left)
            ),
        ),
        Error::WrongBond(e) => Refusal::new(
            "WrongBond",
            format!("a bond of {} XDC was sent, it must be {} XDC exactly", xdc(e.sent), xdc(e.required)),
        ),
        _ => return None,
    })
}

fn of_claims(error: &Error) -> Option<Refusal> {
    Some(match error {
        Error::InvalidProof(e) => Refusal::new(
            "InvalidProof",
            format!("the live root does not grant node {} a total of {} wei", address(e.node), e.cumulative),
        ),
        Error::NothingToClaim(e) => Refusal::new(
            "NothingToClaim",
            format!("node {} has been paid {} wei, which is all it earned so far", address(e.node), e.claimed),
        ),
        Error::AllocationExceeded(e) => Refusal::new(
            "AllocationExceeded",
            format!("claims would reach {} wei, more than the {} wei allocated", e.claimedTotal, e.allocatedTotal),
        ),
        Error::NoCredit(e) => Refusal::new("NoCredit", format!("account {} has no credit", address(e.account))),
        Error::CreditRefused(e) => {
            Refusal::new("CreditRefused", format!("account {} refuses to receive XDC", address(e.account)))
        }
        Error::GasTooLow(e) => Refusal::new(
            "GasTooLow",
            format!("{} gas was left where {} is needed: raise the gas limit", e.left, e.needed),
        ),
        _ => return None,
    })
}

fn of_roles(error: &Error) -> Refusal {
    match error {
        Error::AccessControlUnauthorizedAccount(e) => Refusal::new(
            "MissingRole",
            format!(
                "account {} lacks the role {}: the contract's admin must grant it",
                address(e.account),
                role_name(e.neededRole)
            ),
        ),
        Error::RolesConflict(e) => Refusal::new(
            "RolesConflict",
            format!(
                "account {} holds a role that excludes {}: reporter, slasher and arbiter must be three accounts",
                address(e.account),
                role_name(e.role)
            ),
        ),
        Error::ParameterOutOfBounds(e) => Refusal::new(
            "ParameterOutOfBounds",
            format!("{} is {}, it must be between {} and {}", shortened(&e.name), e.value, e.min, e.max),
        ),
        other => Refusal::new("Reverted", shortened(&format!("{other:?}"))),
    }
}

fn role_name(role: B256) -> String {
    ["REPORTER_ROLE", "SLASHER_ROLE", "ARBITER_ROLE", "GUARDIAN_ROLE", "TREASURER_ROLE", "SETTLER_ROLE"]
        .into_iter()
        .find(|name| keccak256(name) == role)
        .map_or_else(|| role.to_string(), str::to_owned)
}

fn address(address: alloy::primitives::Address) -> NodeAddress {
    address.into()
}

fn xdc(wei: U256) -> String {
    Wei(wei.saturating_to()).to_xdc()
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::{Revert, SolError};

    use super::*;
    use crate::chain::bindings::GridComputingRewards as contract;

    #[test]
    fn a_missing_role_names_the_account_and_the_role() {
        let error = contract::AccessControlUnauthorizedAccount {
            account: [7; 20].into(),
            neededRole: keccak256("REPORTER_ROLE"),
        };
        let refusal = Refusal::decode(&error.abi_encode());
        assert_eq!(refusal.name, "MissingRole");
        assert!(refusal.message.contains("0x0707") && refusal.message.contains("REPORTER_ROLE"), "{refusal}");
        assert!(!refusal.passes_with_time);
    }

    #[test]
    fn a_small_stake_is_told_in_xdc() {
        let error = contract::StakeTooSmall { sent: U256::from(5 * Wei::XDC.0 / 10), required: U256::from(Wei::XDC.0) };
        let refusal = Refusal::decode(&error.abi_encode());
        assert_eq!(refusal.message, "a stake of 0.5000 XDC was sent, the least is 1.0000 XDC");
    }

    #[test]
    fn waiting_is_told_from_failing() {
        assert!(
            Refusal::decode(&contract::PendingEpoch { epoch: 3, activeAt: U256::from(9) }.abi_encode())
                .passes_with_time
        );
        assert!(!Refusal::decode(&contract::WrongEpoch { expected: 3, given: 2 }.abi_encode()).passes_with_time);
    }

    #[test]
    fn foreign_reverts_are_bounded_text() {
        assert!(Refusal::decode(&Revert::from("no, thank you").abi_encode()).message.contains("no, thank you"));
        assert_eq!(Refusal::decode(&[]).message, "the call reverted without a reason");
        assert!(Refusal::decode(&[0xab; 4096]).message.len() < 400);
    }
}
