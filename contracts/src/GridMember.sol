// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "./IGridComputingRewards.sol";
import {IGridMember} from "./IGridMember.sol";

/// @title Reads the roles of the GridComputingRewards that this contract belongs to.
abstract contract GridMember is IGridMember {
    IGridComputingRewards internal immutable _grid;

    constructor(address rewards_) {
        if (rewards_.code.length == 0) revert NoRewardsContract(rewards_);
        _grid = IGridComputingRewards(rewards_);
    }

    /// @inheritdoc IGridMember
    function rewards() external view returns (address) {
        return address(_grid);
    }

    /// @dev `role` is the keccak256 of its name, zero for the admin.
    function _requireRole(bytes32 role) internal view {
        if (!_grid.hasRole(role, msg.sender)) revert NotAllowed(msg.sender, role);
    }
}
