// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title A contract that belongs to one GridComputingRewards and asks it who may do what.
interface IGridMember {
    /// @notice The caller lacks the role; GridComputingRewards' admin grants it there.
    error NotAllowed(address caller, bytes32 neededRole);
    /// @notice There is no contract at the address given for GridComputingRewards.
    error NoRewardsContract(address given);

    /// @notice The GridComputingRewards whose roles count; fixed at deployment.
    function rewards() external view returns (address);
}
