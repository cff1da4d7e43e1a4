// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "./IGridComputingRewards.sol";
import {Rules} from "./Rules.sol";
import {fromNow} from "./Time.sol";

/// @title Reports of epochs: votes, the one pending report, challenges, activation.
abstract contract Epochs is Rules {
    /// @dev The live one is at _live, the pending one at the other place: an activation writes neither.
    mapping(uint256 place => bytes32) private _roots;

    // ---------------------------------------------------------------- reports

    /// @inheritdoc IGridComputingRewards
    function voteEpoch(uint64 epoch, bytes32 root, uint128 cumulativeTotal, bytes32 dataHash) external {
        _requireReporterOf(epoch);
        bytes32 hash = reportHash(epoch, root, cumulativeTotal, dataHash);
        _votes[msg.sender] = hash;
        emit EpochVoted(epoch, msg.sender, hash);
    }

    /// @inheritdoc IGridComputingRewards
    function submitEpoch(uint64 epoch, bytes32 root, uint128 cumulativeTotal, bytes32 dataHash, bytes calldata leaves)
        external
    {
        _requireReporterOf(epoch);
        _requireNotPaused(PAUSE_REPORT);
        uint256 endsAt = _endOf(epoch);
        if (block.timestamp < endsAt) revert EpochNotOver(epoch, endsAt);
        _requireNotRetiredBefore(endsAt);
        if (_phase != SETTLED) _activate();
        bytes32 hash = _hash(leaves);
        if (hash != dataHash) revert WrongDataHash(hash, dataHash);
        Rulebook storage rules = _rules();
        if (rules.quorum > 1) _requireQuorum(reportHash(epoch, root, cumulativeTotal, dataHash), rules.quorum);

        uint256 previous = _allocatedTotal;
        if (cumulativeTotal < previous) revert TotalDecreased(previous, cumulativeTotal);
        uint256 increase = cumulativeTotal - previous;
        // Ends before now, so it fits as the time does.
        // forge-lint: disable-next-line(unsafe-typecast)
        unchecked {
            _nextEpoch = uint40(epoch + 1);
        }
        uint256 activeAt = block.timestamp;
        if (increase == 0) {
            if (root != _liveRoot()) revert EmptyEpochChangesRoot(_liveRoot(), root);
        } else {
            _reserve(epoch, root, cumulativeTotal, increase, rules);
            activeAt = _openWindow(rules);
        }
        emit EpochSubmitted(epoch, root, cumulativeTotal, dataHash, activeAt);
        if (increase == 0) _tellActivated(epoch, cumulativeTotal);
    }

    /// @dev keccak256(leaves) with less code around it.
    function _hash(bytes calldata leaves) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, leaves.offset, leaves.length)
            hash := keccak256(free, leaves.length)
        }
    }

    function _reserve(uint64 epoch, bytes32 root, uint256 total, uint256 increase, Rulebook storage rules) private {
        if (root == bytes32(0)) revert EmptyRoot(epoch);
        if (increase > rules.maxEpochIncrease) revert IncreaseTooLarge(increase, rules.maxEpochIncrease);
        if (increase > _rewardPool) revert PoolTooSmall(increase, _rewardPool);
        // No more than the pool and all that came out of it.
        // forge-lint: disable-next-line(unsafe-typecast)
        (_rewardPool, _pendingTotal) = (_rewardPool - uint104(increase), uint104(total));
        _roots[_live ^ 1] = root;
    }

    /// @inheritdoc IGridComputingRewards
    function distributeRewards() external {
        if (_phase == SETTLED) revert NothingPending();
        _activate();
    }

    /// @inheritdoc IGridComputingRewards
    function reportHash(uint64 epoch, bytes32 root, uint128 cumulativeTotal, bytes32 dataHash)
        public
        view
        returns (bytes32)
    {
        return keccak256(abi.encode(epoch, _round, root, cumulativeTotal, dataHash));
    }

    function _requireReporterOf(uint64 epoch) private view {
        _requireRole(REPORTER);
        if (epoch != _nextEpoch) revert WrongEpoch(_nextEpoch, epoch);
    }

    /// @dev The caller's own report counts as its vote. Votes of former reporters do not count.
    function _requireQuorum(bytes32 hash, uint256 quorum) private view {
        uint256 votes = 1;
        uint256 count = _reporterCount;
        for (uint256 i = 0; i < count; i++) {
            address reporter = _reporterAt[i];
            if (reporter != msg.sender && _votes[reporter] == hash) votes++;
        }
        if (votes < quorum) revert QuorumMissing(votes, quorum);
    }

    function _openWindow(Rulebook storage rules) private returns (uint256 activeAt) {
        activeAt = fromNow(rules.challengeWindow);
        _activeAt = uint40(activeAt);
        _phase = PENDING;
    }

    function _activate() private {
        uint64 epoch = _lastEpoch();
        if (_phase == CHALLENGED) revert ChallengeOpen(epoch, _activeAt);
        if (block.timestamp < _activeAt) revert PendingEpoch(epoch, _activeAt);
        uint104 total = _pendingTotal;
        _phase = SETTLED;
        _live ^= 1;
        _allocatedTotal = total;
        _tellActivated(epoch, total);
    }

    function _tellActivated(uint64 epoch, uint256 total) private {
        emit EpochActivated(epoch, _liveRoot(), total);
    }

    // ---------------------------------------------------------------- objections

    /// @inheritdoc IGridComputingRewards
    function challengeEpoch(uint64 epoch, bytes32 reasonHash) external payable {
        _requireLast(epoch);
        _requireInWindow(epoch);
        Rulebook storage rules = _rules();
        if (msg.value != rules.challengeBond) revert WrongBond(msg.value, rules.challengeBond);
        uint256 rulingDueAt = fromNow(rules.rulingTime);
        (_challenger, _bond) = (msg.sender, uint96(msg.value));
        _activeAt = uint40(rulingDueAt);
        _phase = CHALLENGED;
        emit EpochChallenged(epoch, msg.sender, reasonHash, msg.value, rulingDueAt);
    }

    /// @inheritdoc IGridComputingRewards
    function resolveChallenge(uint64 epoch, bool upheld) external {
        _requireRole(ARBITER);
        _requireChallenged(epoch);
        if (block.timestamp >= _activeAt) revert RulingOver(epoch, _activeAt);
        Rulebook storage rules = _rules();
        if (upheld) {
            _uphold(epoch, rules.challengeReward);
        } else {
            _treasury += _bond;
            emit ChallengeRejected(epoch, _challenger, _bond, _openWindow(rules));
        }
    }

    /// @inheritdoc IGridComputingRewards
    function expireChallenge(uint64 epoch) external {
        _requireChallenged(epoch);
        if (block.timestamp < _activeAt) revert ChallengeOpen(epoch, _activeAt);
        _uphold(epoch, 0);
    }

    /// @inheritdoc IGridComputingRewards
    function disableEpoch(uint64 epoch) external {
        _requireRole(GUARDIAN);
        _requireLast(epoch);
        if (_phase == CHALLENGED) {
            _uphold(epoch, 0);
        } else {
            _requireInWindow(epoch);
            _drop(epoch);
        }
    }

    /// @dev The reward comes out of the pool, as far as it goes.
    function _uphold(uint64 epoch, uint256 reward) private {
        _drop(epoch);
        if (reward > _rewardPool) reward = _rewardPool;
        // forge-lint: disable-next-line(unsafe-typecast)
        _rewardPool -= uint104(reward);
        emit ChallengeUpheld(epoch, _challenger, _bond, reward);
        _giveCredit(_challenger, _bond + reward);
    }

    function _drop(uint64 epoch) private {
        uint104 released = _pendingTotal - _allocatedTotal;
        _phase = SETTLED;
        // forge-lint: disable-next-line(unsafe-typecast)
        _nextEpoch = uint40(epoch);
        // Votes name the round: none for the dropped report counts for its number again.
        _round++;
        _rewardPool += released;
        emit EpochDropped(epoch, _pendingRoot(), released);
    }

    function _liveRoot() internal view returns (bytes32) {
        return _roots[_live];
    }

    function _pendingRoot() private view returns (bytes32) {
        return _roots[_live ^ 1];
    }

    /// @dev Only while one is pending, so there is one.
    function _lastEpoch() private view returns (uint64) {
        unchecked {
            return _nextEpoch - 1;
        }
    }

    function _requireLast(uint64 epoch) private view {
        if (_phase == SETTLED) revert NothingPending();
        if (epoch != _lastEpoch()) revert WrongEpoch(_lastEpoch(), epoch);
    }

    function _requireInWindow(uint64 epoch) private view {
        if (_phase == CHALLENGED) revert ChallengeOpen(epoch, _activeAt);
        if (block.timestamp >= _activeAt) revert WindowOver(epoch, _activeAt);
    }

    function _requireChallenged(uint64 epoch) private view {
        _requireLast(epoch);
        if (_phase != CHALLENGED) revert NotChallenged(epoch);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IGridComputingRewards
    function voteOf(address reporter) external view returns (bytes32) {
        return _votes[reporter];
    }

    /// @inheritdoc IGridComputingRewards
    function epochState() external view returns (EpochState memory state) {
        state.nextEpoch = _nextEpoch;
        state.pendingTotal = _allocatedTotal;
        if (_phase != SETTLED) {
            state.pending = true;
            state.pendingRoot = _pendingRoot();
            state.pendingTotal = _pendingTotal;
            state.activeAt = _activeAt;
        }
        if (_phase == CHALLENGED) {
            state.challenged = true;
            state.activeAt = type(uint64).max;
            state.rulingDueAt = _activeAt;
            state.bond = _bond;
        }
        state.liveRoot = _liveRoot();
        state.liveTotal = _allocatedTotal;
        state.claimedTotal = _claimedTotal;
        state.rewardPool = _rewardPool;
        state.stakeTotal = _stakeTotal;
        state.creditTotal = _creditTotal;
        state.round = _round;
        state.treasury = _treasury;
        // As in nodes(): already what the ABI wants.
        assembly ("memory-safe") {
            return(state, 0x200)
        }
    }
}
