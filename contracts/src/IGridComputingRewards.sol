// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What the grid's clients may rely on: the types, events and errors of GridComputingRewards.
/// @notice Every error carries the values a person needs to act on it; the Rust client turns them into sentences.
interface IGridComputingRewards {
    enum NodeStatus {
        None,
        Registered,
        Exiting
    }

    /// @param owner who paid the stake and gets it back
    /// @param stake in wei
    /// @param payout where claims go
    /// @param computingPower measured compute units, as registered
    /// @param storageCapacity proven storage in GiB, as registered
    /// @param registeredAt unix seconds
    /// @param exitAt unix seconds from which the stake can be withdrawn; 0 unless exiting
    struct Node {
        address owner;
        uint96 stake;
        address payout;
        uint64 computingPower;
        uint64 storageCapacity;
        uint40 registeredAt;
        uint40 exitAt;
        NodeStatus status;
    }

    /// @notice One consistent reading of everything a reporter decides on.
    /// @param nextEpoch the only epoch that submitEpoch accepts next; the last reported one is nextEpoch - 1
    /// @param pending whether epoch nextEpoch - 1 still waits for its window (or for its activation)
    /// @param activeAt unix seconds from which the pending epoch can be activated
    /// @param pendingTotal cumulative total of the pending epoch; its reservation is pendingTotal - liveTotal
    /// @param liveTotal cumulative total that the live root allocates
    struct EpochState {
        uint64 nextEpoch;
        bool pending;
        uint64 activeAt;
        bytes32 pendingRoot;
        uint128 pendingTotal;
        bytes32 liveRoot;
        uint128 liveTotal;
        uint128 claimedTotal;
        uint128 rewardPool;
        uint128 stakeTotal;
        uint256 creditTotal;
    }

    /// @param cumulative everything the node ever earned, in wei, as in its leaf
    struct ClaimRequest {
        address node;
        uint256 cumulative;
        bytes32[] proof;
    }

    event NodeRegistered(
        address indexed node,
        address indexed owner,
        address payout,
        uint256 stake,
        uint256 computingPower,
        uint256 storageCapacity
    );
    event ExitRequested(address indexed node, address indexed owner, uint256 exitAt);
    event StakeWithdrawn(address indexed node, address indexed owner, uint256 amount);
    event Funded(address indexed from, uint256 amount);
    event EpochSubmitted(
        uint64 indexed epoch, bytes32 root, uint256 cumulativeTotal, bytes32 dataHash, uint256 activeAt
    );
    event EpochActivated(uint64 indexed epoch, bytes32 root, uint256 cumulativeTotal);
    event EpochDropped(uint64 indexed epoch, bytes32 root, uint256 released);
    event Claimed(address indexed node, address indexed payout, uint256 amount, uint256 cumulative);
    event ClaimSkipped(address indexed node, uint256 cumulative);
    event Credited(address indexed account, uint256 amount);
    event CreditWithdrawn(address indexed account, uint256 amount);

    error ParameterOutOfBounds(string name, uint256 value, uint256 min, uint256 max);
    error StakeTooSmall(uint256 sent, uint256 required);
    error AlreadyRegistered(address node);
    error NotRegistered(address node);
    error NotOwner(address node, address caller, address owner);
    error ZeroPayout(address node);
    error NoCapability(address node);
    error ConsentExpired(uint256 deadline, uint256 timestamp);
    error ConsentInvalid(address node, address recovered);
    error StillUnbonding(address node, uint256 exitAt);
    error WrongEpoch(uint64 expected, uint64 given);
    error EpochNotOver(uint64 epoch, uint256 endsAt);
    error PendingEpoch(uint64 epoch, uint256 activeAt);
    error NothingPending();
    error WindowOver(uint64 epoch, uint256 activeAt);
    error WrongDataHash(bytes32 expected, bytes32 given);
    error TotalDecreased(uint256 previous, uint256 given);
    error PoolTooSmall(uint256 increase, uint256 rewardPool);
    error IncreaseTooLarge(uint256 increase, uint256 max);
    error EmptyRoot(uint64 epoch);
    error EmptyEpochChangesRoot(bytes32 liveRoot, bytes32 given);
    error InvalidProof(address node, uint256 cumulative);
    error NothingToClaim(address node, uint256 claimed);
    error AllocationExceeded(uint256 claimedTotal, uint256 allocatedTotal);
    error NoCredit(address account);
    error CreditRefused(address account, uint256 amount);
    error GasTooLow(uint256 left, uint256 needed);
}
