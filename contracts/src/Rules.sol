// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {GridRoles} from "./GridRoles.sol";
import {IGridComputingRewards} from "./IGridComputingRewards.sol";
import {IGridMember} from "./IGridMember.sol";
import {Vault} from "./Vault.sol";

/// @title What all parts of GridComputingRewards share: the money totals, parameters, pause and retirement.
abstract contract Rules is IGridComputingRewards, GridRoles, Vault {
    using SafeCast for uint256;

    enum Phase {
        None,
        Pending,
        Challenged
    }

    uint256 public constant minStake = 1 ether;

    uint8 internal constant PAUSE_REGISTER = 1;
    uint8 internal constant PAUSE_REPORT = 2;
    uint8 internal constant PAUSE_CLAIM = 4;
    uint8 private constant PAUSE_ALL = 7;
    /// @dev Kept among the pause bits, which registrations and reports read anyway.
    uint8 internal constant RETIRED = 128;

    uint256 internal constant BPS = 10_000;
    uint256 internal constant PAUSE_TIME = 14 days;
    uint256 internal constant PAUSE_REST = 1 days;
    uint256 internal constant FORWARD_DELAY = 30 days;

    uint64 public immutable genesis;
    uint64 public immutable epochSeconds;

    // Slot shared with Vault's _creditTotal.
    uint104 internal _rewardPool;

    uint104 internal _stakeTotal;
    uint104 internal _treasury;

    uint104 internal _allocatedTotal;
    uint104 internal _claimedTotal;
    /// @dev 32 bits of time last until the year 2106.
    uint32 internal _pauseUntil;
    uint8 internal _pauseBits;
    /// @dev Which of Epochs' two roots is live.
    uint8 internal _live;

    // The last pending epoch; its values stay behind after activation, because writing over a non-zero slot costs a quarter of
    // filling an empty one. _activeAt is when a challenged epoch's ruling is due.
    uint104 internal _pendingTotal;
    uint40 internal _nextEpoch;
    uint40 internal _activeAt;
    uint24 internal _round;
    Phase internal _phase;
    uint40 private _announcedFrom;

    address internal _challenger;
    uint96 internal _bond;

    Parameters private _inForce;
    Parameters private _announced;

    address private _successor;
    uint40 private _retiredAt;

    /// @inheritdoc IGridComputingRewards
    address public slashingContract;

    constructor(uint64 epochSeconds_, Parameters memory initial) {
        _requireWithin("epochSeconds", epochSeconds_, 1, 30 days);
        genesis = uint64(block.timestamp);
        epochSeconds = epochSeconds_;
        _announce(initial, block.timestamp);
    }

    // ---------------------------------------------------------------- money in and out

    /// @inheritdoc IGridComputingRewards
    function fund() external payable {
        _fund();
    }

    /// @notice Plain transfers are revenue for the pool.
    receive() external payable {
        _fund();
    }

    /// @inheritdoc IGridComputingRewards
    function sweepExcess() external nonReentrant {
        uint256 excess = address(this).balance - owed();
        if (excess == 0) revert NothingToSweep();
        _rewardPool += excess.toUint104();
        emit Funded(address(0), excess);
    }

    /// @inheritdoc IGridComputingRewards
    function withdrawTreasury(address to, uint256 amount) external nonReentrant {
        _requireRole(TREASURER);
        if (to == address(0)) revert ZeroAddress();
        if (amount > _treasury) revert TreasuryTooSmall(amount, _treasury);
        // forge-lint: disable-next-line(unsafe-typecast)
        _treasury -= uint104(amount);
        emit TreasuryWithdrawn(to, amount);
        _pay(to, amount);
    }

    /// @inheritdoc IGridComputingRewards
    function owed() public view returns (uint256) {
        uint256 allocated = _phase == Phase.None ? _allocatedTotal : _pendingTotal;
        uint256 bond = _phase == Phase.Challenged ? _bond : 0;
        return uint256(_stakeTotal) + _treasury + _rewardPool + _creditTotal + bond + allocated - _claimedTotal;
    }

    function _fund() private {
        _rewardPool += msg.value.toUint104();
        emit Funded(msg.sender, msg.value);
    }

    // ---------------------------------------------------------------- parameters

    /// @inheritdoc IGridComputingRewards
    function setParameters(Parameters calldata next) external {
        _requireAdmin();
        // An announcement that does not apply yet is replaced; one that does becomes what is in force until the new one applies.
        if (block.timestamp >= _announcedFrom) _inForce = _announced;
        _announce(next, genesis + (_currentEpoch() + 1) * epochSeconds);
    }

    /// @inheritdoc IGridComputingRewards
    function parameters()
        external
        view
        returns (Parameters memory inForce, Parameters memory announced, uint256 announcedFrom)
    {
        return (_rules(), _announced, _announcedFrom);
    }

    /// @inheritdoc IGridComputingRewards
    function challengeWindow() external view returns (uint64) {
        return _rules().challengeWindow;
    }

    /// @inheritdoc IGridComputingRewards
    function unbonding() external view returns (uint64) {
        return _rules().unbonding;
    }

    /// @inheritdoc IGridComputingRewards
    function maxEpochIncrease() external view returns (uint128) {
        return _rules().maxEpochIncrease;
    }

    function _rules() internal view returns (Parameters storage) {
        return block.timestamp >= _announcedFrom ? _announced : _inForce;
    }

    function _currentEpoch() internal view returns (uint256) {
        return (block.timestamp - genesis) / epochSeconds;
    }

    function _announce(Parameters memory p, uint256 from) private {
        _requireWithin("maxEpochIncrease", p.maxEpochIncrease, 1, type(uint96).max);
        _requireWithin("challengeBond", p.challengeBond, 0.1 ether, 1000 ether);
        _requireWithin("challengeReward", p.challengeReward, 0, p.challengeBond);
        _requireWithin("challengeWindow", p.challengeWindow, 0, epochSeconds);
        _requireWithin("rulingTime", p.rulingTime, 1, 30 days);
        _requireWithin("unbonding", p.unbonding, p.challengeWindow, 90 days);
        _requireWithin("quorum", p.quorum, 1, MAX_REPORTERS);
        _requireWithin("maxSlashBps", p.maxSlashBps, 0, BPS / 2);
        _requireWithin("epochSlashBps", p.epochSlashBps, 0, BPS / 2);
        _announced = p;
        _announcedFrom = uint40(from);
        emit ParametersChanged(p, from);
    }

    function _requireWithin(bytes32 name, uint256 value, uint256 min, uint256 max) internal pure {
        if (value < min || value > max) {
            // A literal in a bytes32 takes half the code of a string.
            uint256 length = 0;
            while (name[length] != 0) length++;
            string memory text = string(abi.encodePacked(name));
            assembly ("memory-safe") {
                mstore(text, length)
            }
            revert ParameterOutOfBounds(text, value, min, max);
        }
    }

    /// @inheritdoc IGridComputingRewards
    function bindSlashing(address slashing) external {
        _requireAdmin();
        if (slashingContract != address(0)) revert SlashingAlreadyBound(slashingContract);
        if (IGridMember(slashing).rewards() != address(this)) revert SlashingNotForThis(slashing);
        slashingContract = slashing;
        emit SlashingBound(slashing);
    }

    // ---------------------------------------------------------------- pause and retirement

    /// @inheritdoc IGridComputingRewards
    function pause(uint8 bits) external {
        _requireRole(GUARDIAN);
        _requireWithin("bits", bits, 1, PAUSE_ALL);
        uint256 until = _pauseUntil;
        if (block.timestamp >= until) {
            if (block.timestamp < until + PAUSE_REST) revert PauseResting(until + PAUSE_REST);
            until = block.timestamp + PAUSE_TIME;
            _pauseUntil = uint32(until);
            _pauseBits &= RETIRED;
        }
        _pauseBits |= bits;
        emit Paused(msg.sender, _pauseBits & PAUSE_ALL, until);
    }

    /// @inheritdoc IGridComputingRewards
    function unpause() external {
        if (!_isAdmin()) _requireRole(GUARDIAN);
        if (block.timestamp >= _pauseUntil) return;
        _pauseUntil = uint32(block.timestamp);
        emit Unpaused(msg.sender);
    }

    /// @inheritdoc IGridComputingRewards
    function paused() external view returns (uint8 bits, uint256 until) {
        return block.timestamp < _pauseUntil ? (_pauseBits & PAUSE_ALL, _pauseUntil) : (0, 0);
    }

    function _requireNotPaused(uint8 bit) internal view {
        if (_pauseBits & bit != 0 && block.timestamp < _pauseUntil) revert OperationPaused(bit, _pauseUntil);
    }

    /// @inheritdoc IGridComputingRewards
    function retire(address successor) external {
        _requireAdmin();
        if (successor == address(0)) revert ZeroAddress();
        _requireNotRetiredBefore(block.timestamp);
        (_successor, _retiredAt) = (successor, uint40(block.timestamp));
        _pauseBits |= RETIRED;
        emit Retired(successor);
    }

    /// @inheritdoc IGridComputingRewards
    function forwardPool() external nonReentrant {
        if (_retiredAt == 0) revert NotRetired();
        uint256 until = _retiredAt + FORWARD_DELAY;
        if (block.timestamp < until) revert PoolHeld(until);
        uint256 amount = _rewardPool;
        if (amount == 0) revert NothingToSweep();
        _rewardPool = 0;
        emit PoolForwarded(_successor, amount);
        if (!_send(_successor, amount, gasleft())) revert ForwardRefused(_successor, amount);
    }

    /// @inheritdoc IGridComputingRewards
    function retirement() external view returns (address successor, uint256 retiredAt) {
        return (_successor, _retiredAt);
    }

    /// @dev Refuses what belongs to a time after the retirement.
    function _requireNotRetiredBefore(uint256 time) internal view {
        if (_pauseBits & RETIRED != 0 && time >= _retiredAt) revert ContractRetired(_successor, _retiredAt);
    }
}
