// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {GridRoles} from "./GridRoles.sol";
import {IGridComputingRewards} from "./IGridComputingRewards.sol";
import {IGridMember} from "./IGridMember.sol";
import {Vault} from "./Vault.sol";
import {fromNow} from "./Time.sol";

/// @title What all parts of GridComputingRewards share: the money totals, parameters, pause and retirement.
abstract contract Rules is IGridComputingRewards, GridRoles, Vault {
    using SafeCast for uint256;

    uint256 public constant minStake = 1 ether;

    uint8 internal constant PAUSE_REGISTER = 1;
    uint8 internal constant PAUSE_REPORT = 2;
    uint8 internal constant PAUSE_CLAIM = 4;
    uint8 private constant PAUSE_ALL = 7;
    /// @dev Kept among the pause bits, which registrations and reports read anyway.
    uint8 internal constant RETIRED = 128;

    // Phases of the last reported epoch. No enum: each look at one checks its range, 170 bytes in all.
    uint8 internal constant SETTLED = 0;
    uint8 internal constant PENDING = 1;
    uint8 internal constant CHALLENGED = 2;

    uint256 internal constant BPS = 10_000;
    uint256 internal constant PAUSE_TIME = 14 days;
    uint256 internal constant PAUSE_REST = 1 days;
    uint256 internal constant FORWARD_DELAY = 30 days;

    // 64 bits in truth; wide, because narrow ones are masked wherever they are used.
    uint256 private immutable _genesis;
    uint256 private immutable _epochSeconds;

    /// @dev Parameters as they are stored: what a report needs fills one slot, bonds the next.
    struct Rulebook {
        uint96 maxEpochIncrease;
        uint32 challengeWindow;
        uint32 rulingTime;
        uint32 unbonding;
        uint8 quorum;
        uint16 maxSlashBps;
        uint16 epochSlashBps;
        uint72 challengeBond;
        uint72 challengeReward;
    }

    // Slot shared with Vault's _creditTotal.
    uint104 internal _rewardPool;

    // One slot: of the money totals the one that registrations and exits write.
    uint104 internal _stakeTotal;
    uint104 internal _treasury;
    /// @dev Before this time registrations look at pause and retirement; after it, none of the two can stop them.
    uint32 internal _watchUntil;

    /// @dev totalComputingPower 96 bits, totalStorage 96, registrations so far 32, and in the last 32 the unbonding time in force,
    /// if an exit has looked it up since the last setParameters (else 0), which spares exits two slots. 2^32 registrations of 64
    /// bits each stay below 96 bits, so no sum runs into the next.
    uint256 internal _totals;

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
    uint8 internal _phase;
    uint32 private _announcedFrom;
    /// @dev Which of the two rulebooks was announced last; the other one is in force until _announcedFrom.
    uint8 private _announced;

    address internal _challenger;
    uint96 internal _bond;

    // Two places, like those of the roots: 0 and 1. A mapping, because an array would check its index wherever it is used.
    mapping(uint256 place => Rulebook) private _rulebooks;

    address private _successor;
    uint40 private _retiredAt;

    /// @inheritdoc IGridComputingRewards
    address public slashingContract;

    constructor(uint64 epochSeconds_, Parameters memory initial) {
        _requireWithin("epochSeconds", epochSeconds_, 1, 30 days);
        _genesis = block.timestamp;
        _epochSeconds = epochSeconds_;
        _announce(initial, block.timestamp);
    }

    // ---------------------------------------------------------------- money in and out

    /// @inheritdoc IGridComputingRewards
    function fund() external payable {
        _addRevenue(msg.sender, msg.value);
    }

    /// @notice Plain transfers are revenue for the pool.
    receive() external payable {
        _addRevenue(msg.sender, msg.value);
    }

    /// @inheritdoc IGridComputingRewards
    function sweepExcess() external nonReentrant {
        uint256 excess = address(this).balance - owed();
        if (excess == 0) revert NothingToSweep();
        _addRevenue(address(0), excess);
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
        uint256 allocated = _phase == SETTLED ? _allocatedTotal : _pendingTotal;
        uint256 bond = _phase == CHALLENGED ? _bond : 0;
        uint256 held;
        // Seven numbers below 2^104.
        unchecked {
            held = uint256(_stakeTotal) + _treasury + _rewardPool + _creditTotal + bond + allocated;
        }
        return held - _claimedTotal;
    }

    function _addRevenue(address from, uint256 amount) private {
        _rewardPool += amount.toUint96();
        emit Funded(from, amount);
    }

    // ---------------------------------------------------------------- parameters

    /// @inheritdoc IGridComputingRewards
    function setParameters(Parameters calldata next) external {
        _requireAdmin();
        // An announcement that does not apply yet is replaced; one that does stays in force until the new one applies.
        if (block.timestamp >= _announcedFrom) _announced ^= 1;
        _totals = uint224(_totals);
        _announce(next, _endOf(_currentEpoch()));
    }

    /// @inheritdoc IGridComputingRewards
    function parameters()
        external
        view
        returns (Parameters memory inForce, Parameters memory announced, uint256 announcedFrom)
    {
        return (_parameters(_rules()), _parameters(_rulebooks[_announced]), _announcedFrom);
    }

    /// @inheritdoc IGridComputingRewards
    function genesis() external view returns (uint64) {
        return uint64(_genesis);
    }

    /// @inheritdoc IGridComputingRewards
    function epochSeconds() external view returns (uint64) {
        return uint64(_epochSeconds);
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

    function _rules() internal view returns (Rulebook storage) {
        return _rulebooks[block.timestamp >= _announcedFrom ? _announced : _announced ^ 1];
    }

    /// @dev Remembers the unbonding time when nothing that is announced can change it any more.
    function _unbonding() internal returns (uint256 time) {
        time = _totals >> 224;
        if (time == 0) {
            time = _rules().unbonding;
            if (block.timestamp >= _announcedFrom) _totals |= time << 224;
        }
    }

    function _parameters(Rulebook storage rules) private view returns (Parameters memory) {
        return Parameters({
            maxEpochIncrease: rules.maxEpochIncrease,
            challengeBond: rules.challengeBond,
            challengeReward: rules.challengeReward,
            challengeWindow: rules.challengeWindow,
            rulingTime: rules.rulingTime,
            unbonding: rules.unbonding,
            quorum: rules.quorum,
            maxSlashBps: rules.maxSlashBps,
            epochSlashBps: rules.epochSlashBps
        });
    }

    function _endOf(uint256 epoch) internal view returns (uint256) {
        return _genesis + (epoch + 1) * _epochSeconds;
    }

    function _currentEpoch() internal view returns (uint256) {
        return (block.timestamp - _genesis) / _epochSeconds;
    }

    function _announce(Parameters memory p, uint256 from) private {
        _requireWithin("maxEpochIncrease", p.maxEpochIncrease, 1, type(uint96).max);
        _requireWithin("challengeBond", p.challengeBond, 0.1 ether, 1000 ether);
        _requireWithin("challengeReward", p.challengeReward, 0, p.challengeBond);
        _requireWithin("challengeWindow", p.challengeWindow, 0, _epochSeconds);
        _requireWithin("rulingTime", p.rulingTime, 1, 30 days);
        _requireWithin("unbonding", p.unbonding, p.challengeWindow, 90 days);
        _requireWithin("quorum", p.quorum, 1, MAX_REPORTERS);
        _requireWithin("maxSlashBps", p.maxSlashBps, 0, BPS / 2);
        _requireWithin("epochSlashBps", p.epochSlashBps, 0, BPS / 2);
        _write(_rulebooks[_announced], p);
        _announcedFrom = uint32(from);
        emit ParametersChanged(p, from);
    }

    /// @dev Packed by hand as Rulebook lays its fields out; assigned one by one they are 200 bytes more of code.
    function _write(Rulebook storage book, Parameters memory p) private {
        uint256 rules = uint256(p.maxEpochIncrease) | uint256(p.challengeWindow) << 96 | uint256(p.rulingTime) << 128
            | uint256(p.unbonding) << 160 | uint256(p.quorum) << 192 | uint256(p.maxSlashBps) << 200
            | uint256(p.epochSlashBps) << 216;
        uint256 bonds = uint256(p.challengeBond) | uint256(p.challengeReward) << 72;
        assembly ("memory-safe") {
            sstore(book.slot, rules)
            sstore(add(book.slot, 1), bonds)
        }
    }

    function _requireWithin(bytes32 name, uint256 value, uint256 min, uint256 max) internal pure {
        if (value < min || value > max) {
            // A literal in a bytes32 takes half the code of a string.
            uint256 length = 0;
            while (name << (8 * length) != 0) length++;
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
        (uint256 until, uint8 before) = (_pauseUntil, _pauseBits);
        if (block.timestamp >= until) {
            if (block.timestamp < until + PAUSE_REST) revert PauseResting(until + PAUSE_REST);
            until = fromNow(PAUSE_TIME);
            before &= RETIRED;
            if (until > _watchUntil) _watchUntil = uint32(until);
        }
        bits |= before;
        (_pauseUntil, _pauseBits) = (uint32(until), bits);
        emit Paused(msg.sender, bits & PAUSE_ALL, until);
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
        _requireNotRetiredBefore(fromNow(1));
        (_successor, _retiredAt) = (successor, uint40(block.timestamp));
        _pauseBits |= RETIRED;
        _watchUntil = type(uint32).max;
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

    /// @dev Refuses what ends after the retirement.
    function _requireNotRetiredBefore(uint256 end) internal view {
        if (_pauseBits & RETIRED != 0 && end > _retiredAt) revert ContractRetired(_successor, _retiredAt);
    }
}
