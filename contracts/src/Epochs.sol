// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "./IGridComputingRewards.sol";
import {Rules} from "./Rules.sol";

/// @title Reports of epochs: votes, the one pending report, challenges, activation.
abstract contract Epochs is Rules {
    /// @dev The live one is at _live, the pending one at the other place: an activation writes neither.
    bytes32[2] private _roots;

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
        uint256 endsAt = genesis + (uint256(epoch) + 1) * epochSeconds;
        if (block.timestamp < endsAt) revert EpochNotOver(epoch, endsAt);
        _requireNotRetiredBefore(endsAt - 1);
        if (_phase != Phase.None) _activate();
        bytes32 hash = keccak256(leaves);
        if (hash != dataHash) revert WrongDataHash(hash, dataHash);
        Parameters storage rules = _rules();
        if (rules.quorum > 1) _requireQuorum(reportHash(epoch, root, cumulativeTotal, dataHash), rules.quorum);

        uint256 previous = _allocatedTotal;
        if (cumulativeTotal < previous) revert TotalDecreased(previous, cumulativeTotal);
        uint256 increase = cumulativeTotal - previous;
        // Ends before now, so it fits as the time does.
        // forge-lint: disable-next-line(unsafe-typecast)
        _nextEpoch = uint40(epoch + 1);
        if (increase == 0) {
            if (root != _liveRoot()) revert EmptyEpochChangesRoot(_liveRoot(), root);
            emit EpochSubmitted(epoch, root, cumulativeTotal, dataHash, block.timestamp);
            emit EpochActivated(epoch, root, cumulativeTotal);
            return;
        }
        if (root == bytes32(0)) revert EmptyRoot(epoch);
        if (increase > rules.maxEpochIncrease) revert IncreaseTooLarge(increase, rules.maxEpochIncrease);
        if (increase > _rewardPool) revert PoolTooSmall(increase, _rewardPool);
        // No more than the pool and all that came out of it.
        // forge-lint: disable-next-line(unsafe-typecast)
        (_rewardPool, _pendingTotal) = (_rewardPool - uint104(increase), uint104(cumulativeTotal));
        _roots[_live ^ 1] = root;
        emit EpochSubmitted(epoch, root, cumulativeTotal, dataHash, _openWindow(rules));
    }

    /// @inheritdoc IGridComputingRewards
    function distributeRewards() external {
        if (_phase == Phase.None) revert NothingPending();
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
        uint256 count = _reporters.length;
        for (uint256 i = 0; i < count; i++) {
            address reporter = _reporters[i];
            if (reporter != msg.sender && _votes[reporter] == hash) votes++;
        }
        if (votes < quorum) revert QuorumMissing(votes, quorum);
    }

    function _openWindow(Parameters storage rules) private returns (uint256 activeAt) {
        activeAt = block.timestamp + rules.challengeWindow;
        _activeAt = uint40(activeAt);
        _phase = Phase.Pending;
    }

    function _activate() private {
        uint64 epoch = _nextEpoch - 1;
        if (_phase == Phase.Challenged) revert ChallengeOpen(epoch, _activeAt);
        if (block.timestamp < _activeAt) revert PendingEpoch(epoch, _activeAt);
        uint104 total = _pendingTotal;
        _phase = Phase.None;
        _live ^= 1;
        _allocatedTotal = total;
        emit EpochActivated(epoch, _liveRoot(), total);
    }

    // ---------------------------------------------------------------- objections

    /// @inheritdoc IGridComputingRewards
    function challengeEpoch(uint64 epoch, bytes32 reasonHash) external payable {
        _requireLast(epoch);
        if (_phase == Phase.Challenged) revert ChallengeOpen(epoch, _activeAt);
        if (block.timestamp >= _activeAt) revert WindowOver(epoch, _activeAt);
        Parameters storage rules = _rules();
        if (msg.value != rules.challengeBond) revert WrongBond(msg.value, rules.challengeBond);
        uint256 rulingDueAt = block.timestamp + rules.rulingTime;
        (_challenger, _bond) = (msg.sender, uint96(msg.value));
        _activeAt = uint40(rulingDueAt);
        _phase = Phase.Challenged;
        emit EpochChallenged(epoch, msg.sender, reasonHash, msg.value, rulingDueAt);
    }

    /// @inheritdoc IGridComputingRewards
    function resolveChallenge(uint64 epoch, bool upheld) external {
        _requireRole(ARBITER);
        _requireChallenged(epoch);
        if (block.timestamp >= _activeAt) revert RulingOver(epoch, _activeAt);
        Parameters storage rules = _rules();
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
        if (_phase == Phase.Challenged) {
            _uphold(epoch, 0);
        } else {
            if (block.timestamp >= _activeAt) revert WindowOver(epoch, _activeAt);
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
        _phase = Phase.None;
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

    function _requireLast(uint64 epoch) private view {
        if (_phase == Phase.None) revert NothingPending();
        if (epoch != _nextEpoch - 1) revert WrongEpoch(_nextEpoch - 1, epoch);
    }

    function _requireChallenged(uint64 epoch) private view {
        _requireLast(epoch);
        if (_phase != Phase.Challenged) revert NotChallenged(epoch);
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
        if (_phase != Phase.None) {
            state.pending = true;
            state.pendingRoot = _pendingRoot();
            state.pendingTotal = _pendingTotal;
            state.activeAt = _activeAt;
        }
        if (_phase == Phase.Challenged) {
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
    }
}
