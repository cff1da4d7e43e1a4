// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICredits} from "./ICredits.sol";
import {IGridMember} from "./IGridMember.sol";

/// @title Payers' money for jobs: the functions, types, events and errors of GridJobEscrow.
/// @notice A payer puts money down for a job. Before the job's deadline a settler may settle it once: what was spent, minus a
/// fee, goes to the reward pool of GridComputingRewards, the rest is the payer's credit. From the deadline on nobody but the
/// payer can touch it. Roles are those of GridComputingRewards. Amounts are wei, times unix seconds.
interface IGridJobEscrow is ICredits, IGridMember {
    enum JobState {
        None,
        Open,
        Settled,
        Cancelled
    }

    /// @param escrow wei put down in all
    /// @param deadline unix seconds from which only the payer can take the money, and no settlement is accepted
    /// @param feeBps the fee that applied when the job was opened, in 1/10 000 of what is spent
    /// @param spent wei that the settlement took out of the escrow, fee included
    struct Job {
        address payer;
        uint96 escrow;
        uint40 deadline;
        uint16 feeBps;
        JobState state;
        uint96 spent;
    }

    /// @param spent wei, at most the escrow
    struct Settlement {
        bytes32 jobId;
        uint96 spent;
    }

    event JobOpened(
        bytes32 indexed jobId, address indexed payer, bytes32 salt, uint256 escrow, uint256 deadline, uint16 feeBps
    );
    /// @param escrow the new sum
    event JobToppedUp(bytes32 indexed jobId, address indexed from, uint256 amount, uint256 escrow);
    /// @param fee part of spent that went to the treasury
    /// @param refund what became the payer's credit
    event JobSettled(bytes32 indexed jobId, address indexed payer, uint256 spent, uint256 fee, uint256 refund);
    /// @notice Not open, past its deadline, or spent above its escrow; the rest of the batch is settled.
    event SettlementSkipped(bytes32 indexed jobId, uint256 spent);
    event JobCancelled(bytes32 indexed jobId, address indexed payer, uint256 refund);
    event FeeChanged(uint16 feeBps);
    event TreasuryWithdrawn(address indexed to, uint256 amount);
    event Paused(address indexed by, uint256 until);
    event Unpaused(address indexed by);
    event ExcessSwept(uint256 amount);
    /// @notice No job is opened here any more; those that are open are settled or cancelled as before.
    event Closed(address indexed successor);

    error ZeroEscrow();
    error JobExists(bytes32 jobId);
    error JobNotOpen(bytes32 jobId, JobState state);
    error DeadlineOutOfBounds(uint256 deadline, uint256 min, uint256 max);
    /// @notice From its deadline on a job takes no more money.
    error JobPastDeadline(bytes32 jobId, uint256 deadline);
    error NotPayer(bytes32 jobId, address caller, address payer);
    /// @notice Until its deadline a job can still be settled, so the payer cannot take the money back.
    error JobBeforeDeadline(bytes32 jobId, uint256 deadline);
    error FeeTooHigh(uint256 feeBps, uint256 max);
    error TreasuryTooSmall(uint256 amount, uint256 treasury);
    error OpeningPaused(uint256 until);
    error PauseResting(uint256 until);
    error NothingToSweep();
    /// @notice The grid is retired; open jobs with the escrow of its successor.
    error EscrowClosed(address successor);
    error GridNotRetired();

    /// @notice Opens a job of the caller with the value as its escrow.
    /// @param salt makes the id; a payer uses each salt once
    /// @param deadline unix seconds, 1 minute to 90 days from now
    /// @return jobId keccak256(abi.encode(payer, salt))
    function openJob(bytes32 salt, uint64 deadline) external payable returns (bytes32 jobId);

    /// @notice Adds to the escrow of an open job. Anyone may; what is left goes to the payer.
    function topUpJob(bytes32 jobId) external payable;

    /// @notice Settler only. Settles jobs once each, before their deadlines, and sends what was spent minus fees to the reward
    /// pool. A settlement that cannot be made is skipped.
    /// @return toPool wei sent to the reward pool
    function settleJobs(Settlement[] calldata settlements) external returns (uint256 toPool);

    /// @notice Payer only, from the deadline on: takes the whole escrow of an unsettled job back. Works while paused.
    function cancelJob(bytes32 jobId) external;

    /// @notice The admin of GridComputingRewards: the fee of jobs opened from now on, at most 2 000 (20 %).
    function setFee(uint16 newFeeBps) external;

    /// @notice The treasurer of GridComputingRewards: spends fees.
    function withdrawTreasury(address to, uint256 amount) external;

    /// @notice Guardian: stops opening and topping up for 14 days; it ends by itself, and a day's rest follows.
    function pause() external;

    /// @notice Guardian or admin: ends a pause early.
    function unpause() external;

    /// @notice Ends opening and topping up for good once GridComputingRewards is retired. Anyone may call it; kept apart from
    /// openJob, which would pay 5 400 gas for asking each time.
    function close() external;

    /// @notice Moves money that was forced into the contract to the treasury. Anyone may call it.
    function sweepExcess() external;

    function jobs(bytes32 jobId) external view returns (Job memory);
    function jobIdOf(address payer, bytes32 salt) external pure returns (bytes32);
    /// @notice Sums: escrow of open jobs, all credits, fees not yet spent.
    function totals() external view returns (uint256 escrowTotal, uint256 creditTotal, uint256 treasury);
    /// @notice Everything the contract owes: its balance never falls below this.
    function owed() external view returns (uint256);
    /// @notice Unix seconds until which opening is paused; 0 when it is not, 2^32 - 1 when it is closed for good.
    function pausedUntil() external view returns (uint256);
    function feeBps() external view returns (uint16);
}
