//! Types of the contracts, from the committed output of the Solidity compiler (`contracts/abi`; `npm run abi:check` in
//! `contracts/` fails when it is stale). Includes the creation code, so that the project can deploy itself.

// Events have as many fields as the contracts give them.
#![allow(clippy::too_many_arguments)]

alloy::sol! {
    #[derive(Debug, PartialEq, Eq)]
    GridComputingRewards,
    "contracts/abi/GridComputingRewards.json"
}

alloy::sol! {
    #[derive(Debug, PartialEq, Eq)]
    GridJobEscrow,
    "contracts/abi/GridJobEscrow.json"
}

alloy::sol! {
    #[derive(Debug, PartialEq, Eq)]
    GridSlashing,
    "contracts/abi/GridSlashing.json"
}

alloy::sol! {
    /// What a node key signs to let `owner` register it: EIP-712, domain `GridComputingRewards` version `1`.
    #[derive(Debug, PartialEq, Eq)]
    struct NodeBinding {
        address node;
        address payout;
        address owner;
        uint256 nonce;
        uint256 deadline;
    }
}
