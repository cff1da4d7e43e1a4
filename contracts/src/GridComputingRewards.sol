// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {Epochs} from "./Epochs.sol";
import {GridRoles} from "./GridRoles.sol";
import {IGridComputingRewards} from "./IGridComputingRewards.sol";
import {Rules} from "./Rules.sol";
import {Stakes} from "./Stakes.sol";

/// @title Stakes of grid nodes and the rewards for what they verifiably contributed.
/// @notice Nodes register with a stake. Users' payments form a pool. Once an epoch reporters publish the Merkle root of every
/// node's cumulative earnings; after a public window in which anyone can challenge it the root becomes live, and anyone may
/// have a node's earnings paid to its payout address.
/// @dev Money lives in separate totals, and the balance always covers their sum: stakeTotal + treasury + rewardPool +
/// creditTotal + the bond of an open challenge + reservation of the pending epoch + (allocated - claimed).
/// A stolen reporter key can at worst give itself maxEpochIncrease per epoch and what others have not claimed yet, in public;
/// stakes are out of its reach, and payers' escrows lie in another contract. There is no proxy, no delegatecall, no loop over nodes, and no role
/// that can stop an exit: unbonding, and 45 days for an open slash case, are the most that anybody waits.
contract GridComputingRewards is Stakes, Epochs {
    using SafeCast for uint256;

    /// @inheritdoc IGridComputingRewards
    mapping(address node => uint256) public claimed;

    /// @notice The parameters that are not arguments start at: quorum 1, challenge bond 10 XDC, reward 5 XDC, 7 days for a
    /// ruling, a slash case at most half of a stake, a quarter of all stakes in an epoch. The admin can change them.
    /// @param admin_ grants and revokes roles; give it to a multisig
    /// @param window_ at most epochSeconds_, or reports could never keep up with time
    /// @param unbonding_ at least window_, so that a stake outlives the reports it stood for
    constructor(address admin_, uint64 epochSeconds_, uint64 window_, uint64 unbonding_, uint128 maxEpochIncrease_)
        GridRoles(admin_)
        Rules(
            epochSeconds_,
            Parameters({
                maxEpochIncrease: uint256(maxEpochIncrease_).toUint96(),
                challengeBond: 10 ether,
                challengeReward: 5 ether,
                challengeWindow: uint256(window_).toUint32(),
                rulingTime: 7 days,
                unbonding: uint256(unbonding_).toUint32(),
                quorum: 1,
                maxSlashBps: 5000,
                epochSlashBps: 2500
            })
        )
    {
        if (admin_ == address(0)) revert ZeroAddress();
    }

    /// @inheritdoc IGridComputingRewards
    function claim(address node, uint256 cumulative, bytes32[] calldata proof)
        external
        nonReentrant
        returns (uint256 amount)
    {
        _requireNotPaused(PAUSE_CLAIM);
        if (!_proven(node, cumulative, proof)) revert InvalidProof(node, cumulative);
        uint256 before = claimed[node];
        if (cumulative <= before) revert NothingToClaim(node, before);
        return _claim(node, cumulative, before);
    }

    /// @inheritdoc IGridComputingRewards
    function claimMany(ClaimRequest[] calldata requests) external nonReentrant returns (uint256 amount) {
        _requireNotPaused(PAUSE_CLAIM);
        for (uint256 i = 0; i < requests.length; i++) {
            ClaimRequest calldata request = requests[i];
            (address node, uint256 cumulative) = (request.node, request.cumulative);
            uint256 before = claimed[node];
            if (cumulative > before && _proven(node, cumulative, request.proof)) {
                amount += _claim(node, cumulative, before);
            } else {
                emit ClaimSkipped(node, cumulative);
            }
        }
    }

    function _proven(address node, uint256 cumulative, bytes32[] calldata proof) private view returns (bool) {
        // Hashed twice, so that no inner node of a tree can pass for a leaf; bound to chain and contract, so that no leaf
        // can be used anywhere else.
        bytes32 leaf = keccak256(abi.encode(block.chainid, address(this), node, cumulative));
        assembly ("memory-safe") {
            mstore(0, leaf)
            leaf := keccak256(0, 0x20)
        }
        return MerkleProof.verifyCalldata(proof, _liveRoot(), leaf);
    }

    function _claim(address node, uint256 cumulative, uint256 before) private returns (uint256 amount) {
        amount = cumulative - before;
        claimed[node] = cumulative;
        uint256 total = _claimedTotal + amount;
        if (total > _allocatedTotal) revert AllocationExceeded(total, _allocatedTotal);
        // forge-lint: disable-next-line(unsafe-typecast)
        _claimedTotal = uint104(total);
        address payout = payoutOf(node);
        emit Claimed(node, payout, amount, cumulative);
        _pay(payout, amount);
    }
}
