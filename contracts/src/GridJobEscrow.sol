// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {GridMember} from "./GridMember.sol";
import {IGridJobEscrow} from "./IGridJobEscrow.sol";
import {Vault} from "./Vault.sol";

/// @title Payers' money for jobs, out of reach of whoever reports epochs.
/// @notice A settler can at worst settle open jobs for more than they used, at most their escrows, and only into the reward
/// pool; it can take nothing for itself. A payer who trusts no settler longer than a day gives the job a deadline of a day.
/// @dev The balance always covers escrowTotal + creditTotal + treasury. No function loops but over its own arguments.
contract GridJobEscrow is IGridJobEscrow, Vault, GridMember {
    using SafeCast for uint256;

    uint256 private constant MIN_JOB_TIME = 1 minutes;
    uint256 private constant MAX_JOB_TIME = 90 days;
    uint256 private constant MAX_FEE_BPS = 2000;
    uint256 private constant BPS = 10_000;
    uint256 private constant PAUSE_TIME = 14 days;
    uint256 private constant PAUSE_REST = 1 days;
    uint32 private constant FOR_GOOD = type(uint32).max;

    bytes32 private constant ADMIN = 0;
    bytes32 private constant SETTLER_ROLE = keccak256("SETTLER_ROLE");
    bytes32 private constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");
    bytes32 private constant TREASURER_ROLE = keccak256("TREASURER_ROLE");

    // One slot with Vault's _creditTotal: all that opening a job reads and writes beside the job. 32 bits of time last until
    // the year 2106.
    uint104 private _escrowTotal;
    uint32 private _pausedUntil;
    uint16 public feeBps;

    uint104 private _treasury;

    mapping(bytes32 jobId => Job) private _jobs;

    /// @param rewards_ the GridComputingRewards that is paid and whose roles count
    /// @param feeBps_ in 1/10 000 of what a job spends; at most 2 000
    constructor(address rewards_, uint16 feeBps_) GridMember(rewards_) {
        _setFee(feeBps_);
    }

    // ---------------------------------------------------------------- payers

    /// @inheritdoc IGridJobEscrow
    function openJob(bytes32 salt, uint64 deadline) external payable returns (bytes32 jobId) {
        _requireOpening();
        if (msg.value == 0) revert ZeroEscrow();
        uint256 earliest = block.timestamp + MIN_JOB_TIME;
        uint256 latest = block.timestamp + MAX_JOB_TIME;
        if (deadline < earliest || deadline > latest) revert DeadlineOutOfBounds(deadline, earliest, latest);
        jobId = jobIdOf(msg.sender, salt);
        if (_jobs[jobId].state != JobState.None) revert JobExists(jobId);
        uint16 fee = feeBps;
        _jobs[jobId] = Job({
            payer: msg.sender,
            escrow: msg.value.toUint96(),
            deadline: uint40(deadline),
            feeBps: fee,
            state: JobState.Open,
            spent: 0
        });
        _escrowTotal += msg.value.toUint104();
        emit JobOpened(jobId, msg.sender, salt, msg.value, deadline, fee);
    }

    /// @inheritdoc IGridJobEscrow
    function topUpJob(bytes32 jobId) external payable {
        _requireOpening();
        if (msg.value == 0) revert ZeroEscrow();
        Job storage job = _openJob(jobId);
        if (block.timestamp >= job.deadline) revert JobPastDeadline(jobId, job.deadline);
        uint256 escrow = job.escrow + msg.value;
        job.escrow = escrow.toUint96();
        _escrowTotal += msg.value.toUint104();
        emit JobToppedUp(jobId, msg.sender, msg.value, escrow);
    }

    /// @inheritdoc IGridJobEscrow
    function cancelJob(bytes32 jobId) external nonReentrant {
        Job storage job = _openJob(jobId);
        address payer = job.payer;
        if (msg.sender != payer) revert NotPayer(jobId, msg.sender, payer);
        if (block.timestamp < job.deadline) revert JobBeforeDeadline(jobId, job.deadline);
        uint256 refund = job.escrow;
        job.state = JobState.Cancelled;
        _escrowTotal -= refund.toUint104();
        emit JobCancelled(jobId, payer, refund);
        _pay(payer, refund);
    }

    // ---------------------------------------------------------------- settlement

    /// @inheritdoc IGridJobEscrow
    function settleJobs(Settlement[] calldata settlements) external nonReentrant returns (uint256 toPool) {
        _requireRole(SETTLER_ROLE);
        uint256 released;
        uint256 fees;
        for (uint256 i = 0; i < settlements.length; i++) {
            (uint256 escrow, uint256 spent, uint256 fee) = _settle(settlements[i].jobId, settlements[i].spent);
            released += escrow;
            fees += fee;
            toPool += spent - fee;
        }
        // The sums of a batch are written once.
        _escrowTotal -= released.toUint104();
        _creditTotal += (released - fees - toPool).toUint104();
        if (fees != 0) _treasury += fees.toUint104();
        if (toPool != 0) _grid.fund{value: toPool}();
    }

    /// @return escrow what the job held; zeros when it is skipped
    /// @return spent of it, as asked
    /// @return fee of that, rounded down: the wei that does not divide goes to the pool
    function _settle(bytes32 jobId, uint256 wanted) private returns (uint256 escrow, uint256 spent, uint256 fee) {
        Job storage job = _jobs[jobId];
        if (job.state != JobState.Open || block.timestamp >= job.deadline || wanted > job.escrow) {
            emit SettlementSkipped(jobId, wanted);
            return (0, 0, 0);
        }
        (escrow, spent, fee) = (job.escrow, wanted, wanted * job.feeBps / BPS);
        job.state = JobState.Settled;
        // forge-lint: disable-next-line(unsafe-typecast)
        job.spent = uint96(spent);
        address payer = job.payer;
        uint256 refund = escrow - spent;
        if (refund != 0) {
            credit[payer] += refund;
            emit Credited(payer, refund);
        }
        emit JobSettled(jobId, payer, spent, fee, refund);
    }

    // ---------------------------------------------------------------- rules

    /// @inheritdoc IGridJobEscrow
    function setFee(uint16 feeBps_) external {
        _requireRole(ADMIN);
        _setFee(feeBps_);
    }

    /// @inheritdoc IGridJobEscrow
    function withdrawTreasury(address to, uint256 amount) external nonReentrant {
        _requireRole(TREASURER_ROLE);
        if (amount > _treasury) revert TreasuryTooSmall(amount, _treasury);
        _treasury -= amount.toUint104();
        emit TreasuryWithdrawn(to, amount);
        _pay(to, amount);
    }

    /// @inheritdoc IGridJobEscrow
    function pause() external {
        _requireRole(GUARDIAN_ROLE);
        uint256 until = _pausedUntil;
        // Covers a running pause (the rest begins with its end) and a closed escrow.
        if (block.timestamp < until + PAUSE_REST) revert PauseResting(until + PAUSE_REST);
        until = block.timestamp + PAUSE_TIME;
        _pausedUntil = until.toUint32();
        emit Paused(msg.sender, until);
    }

    /// @inheritdoc IGridJobEscrow
    function unpause() external {
        if (!_grid.hasRole(ADMIN, msg.sender)) _requireRole(GUARDIAN_ROLE);
        if (block.timestamp >= _pausedUntil || _pausedUntil == FOR_GOOD) return;
        _pausedUntil = block.timestamp.toUint32();
        emit Unpaused(msg.sender);
    }

    /// @inheritdoc IGridJobEscrow
    function close() external {
        (address successor, uint256 retiredAt) = _grid.retirement();
        if (retiredAt == 0) revert GridNotRetired();
        if (_pausedUntil == FOR_GOOD) return;
        _pausedUntil = FOR_GOOD;
        emit Closed(successor);
    }

    /// @inheritdoc IGridJobEscrow
    function sweepExcess() external nonReentrant {
        uint256 excess = address(this).balance - owed();
        if (excess == 0) revert NothingToSweep();
        _treasury += excess.toUint104();
        emit ExcessSwept(excess);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IGridJobEscrow
    function jobs(bytes32 jobId) external view returns (Job memory) {
        return _jobs[jobId];
    }

    /// @inheritdoc IGridJobEscrow
    function jobIdOf(address payer, bytes32 salt) public pure returns (bytes32) {
        return keccak256(abi.encode(payer, salt));
    }

    /// @inheritdoc IGridJobEscrow
    function totals() external view returns (uint256 escrowTotal, uint256 creditTotal, uint256 treasury) {
        return (_escrowTotal, _creditTotal, _treasury);
    }

    /// @inheritdoc IGridJobEscrow
    function owed() public view returns (uint256) {
        return uint256(_escrowTotal) + _creditTotal + _treasury;
    }

    /// @inheritdoc IGridJobEscrow
    function pausedUntil() external view returns (uint256) {
        return block.timestamp < _pausedUntil ? _pausedUntil : 0;
    }

    function _setFee(uint16 feeBps_) private {
        if (feeBps_ > MAX_FEE_BPS) revert FeeTooHigh(feeBps_, MAX_FEE_BPS);
        feeBps = feeBps_;
        emit FeeChanged(feeBps_);
    }

    function _requireOpening() private view {
        uint256 until = _pausedUntil;
        if (block.timestamp >= until) return;
        if (until != FOR_GOOD) revert OpeningPaused(until);
        (address successor,) = _grid.retirement();
        revert EscrowClosed(successor);
    }

    function _openJob(bytes32 jobId) private view returns (Job storage job) {
        job = _jobs[jobId];
        if (job.state != JobState.Open) revert JobNotOpen(jobId, job.state);
    }
}
