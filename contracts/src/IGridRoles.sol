// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Who may do what in a grid. GridComputingRewards keeps the one list; GridJobEscrow and GridSlashing read it there.
/// @notice The admin grants and revokes the roles; give it to a multisig that holds none of them. A change of admin takes two
/// steps and ADMIN_DELAY. A role is named by the keccak256 of its name, as in OpenZeppelin's AccessControl, whose functions,
/// events and errors these are; the admin itself is DEFAULT_ADMIN_ROLE (zero).
/// REPORTER, SLASHER and ARBITER exclude each other: who accuses, who reports and who judges are three.
interface IGridRoles {
    event RoleGranted(bytes32 indexed role, address indexed account, address indexed sender);
    event RoleRevoked(bytes32 indexed role, address indexed account, address indexed sender);
    /// @param acceptableAt unix seconds from which `newAdmin` can accept; 0 when the proposal was taken back
    event AdminProposed(address indexed newAdmin, uint256 acceptableAt);
    event AdminChanged(address indexed previousAdmin, address indexed newAdmin);

    /// @notice The caller lacks the role. The name is OpenZeppelin's.
    error AccessControlUnauthorizedAccount(address account, bytes32 neededRole);
    /// @notice There is no such role; a role is the keccak256 of one of the names below.
    error UnknownRole(bytes32 role);
    /// @notice The account holds a role that excludes this one; revoke that first, or use another account.
    error RolesConflict(address account, bytes32 role);
    /// @notice Revoke a reporter before granting another.
    error TooManyReporters(uint256 max);
    /// @notice Only the account that the admin proposed can accept.
    error NotProposedAdmin(address caller, address proposed);
    /// @notice The delay of the admin change is not over.
    error AdminChangeTooEarly(uint256 acceptableAt);

    /// @notice Admin only. Granting what is held changes nothing.
    function grantRole(bytes32 role, address account) external;

    /// @notice Admin only. Revoking what is not held changes nothing.
    function revokeRole(bytes32 role, address account) external;

    /// @notice Gives up a role of one's own.
    function renounceRole(bytes32 role) external;

    /// @notice Admin only. Names the next admin; zero takes a proposal back.
    function proposeAdmin(address newAdmin) external;

    /// @notice The proposed admin takes over, at least ADMIN_DELAY after the proposal.
    function acceptAdmin() external;

    /// @notice The one account that manages roles and parameters.
    function admin() external view returns (address);

    /// @notice The account that may accept the admin role, and the unix seconds from which it may; zeros for none.
    function proposedAdmin() external view returns (address newAdmin, uint256 acceptableAt);

    function hasRole(bytes32 role, address account) external view returns (bool);

    /// @notice Everyone who may vote on reports, at most 16.
    function reporters() external view returns (address[] memory);

    /// @notice Zero, the admin.
    function DEFAULT_ADMIN_ROLE() external view returns (bytes32);
    /// @notice Reports epochs.
    function REPORTER_ROLE() external view returns (bytes32);
    /// @notice Proposes slashes (GridSlashing).
    function SLASHER_ROLE() external view returns (bytes32);
    /// @notice Rules on challenges and on appeals.
    function ARBITER_ROLE() external view returns (bytes32);
    /// @notice Drops a pending epoch, pauses; nothing else.
    function GUARDIAN_ROLE() external view returns (bytes32);
    /// @notice Spends the treasuries: slashed stakes, lost bonds, fees.
    function TREASURER_ROLE() external view returns (bytes32);
    /// @notice Settles jobs (GridJobEscrow). Apart from REPORTER, so that a stolen reporter key reaches no escrow.
    function SETTLER_ROLE() external view returns (bytes32);
    /// @notice Seconds between the proposal of an admin and its acceptance, at least.
    function ADMIN_DELAY() external view returns (uint256);
}
