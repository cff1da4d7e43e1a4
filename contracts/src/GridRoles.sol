// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridRoles} from "./IGridRoles.sol";

/// @title The admin and the roles.
/// @dev OpenZeppelin's AccessControlDefaultAdminRules would be 2.1 kB more, could grant roles that do not exist, and keeps
/// neither the list of reporters that a quorum needs nor roles that exclude each other.
abstract contract GridRoles is IGridRoles {
    bytes32 public constant DEFAULT_ADMIN_ROLE = 0;
    bytes32 public constant REPORTER_ROLE = keccak256("REPORTER_ROLE");
    bytes32 public constant SLASHER_ROLE = keccak256("SLASHER_ROLE");
    bytes32 public constant ARBITER_ROLE = keccak256("ARBITER_ROLE");
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");
    bytes32 public constant TREASURER_ROLE = keccak256("TREASURER_ROLE");
    bytes32 public constant SETTLER_ROLE = keccak256("SETTLER_ROLE");
    uint256 public constant ADMIN_DELAY = 1 days;

    /// @dev A vote is counted over all reporters, so their number has a bound.
    uint256 internal constant MAX_REPORTERS = 16;

    uint256 private constant REPORTER = 1;
    /// @dev Reporter, slasher and arbiter: an account holds at most one of them.
    uint256 private constant EXCLUSIVE = 7;

    mapping(address account => uint256) private _roleBits;
    address[] internal _reporters;
    address private _admin;
    address private _proposedAdmin;
    uint40 private _acceptableAt;

    constructor(address admin_) {
        _setAdmin(admin_);
    }

    /// @inheritdoc IGridRoles
    function grantRole(bytes32 role, address account) external {
        _requireRole(DEFAULT_ADMIN_ROLE);
        uint256 bit = _knownBit(role);
        uint256 held = _roleBits[account];
        if (held & bit != 0) return;
        if (bit & EXCLUSIVE != 0 && held & EXCLUSIVE != 0) revert RolesConflict(account, role);
        if (bit == REPORTER) {
            if (_reporters.length == MAX_REPORTERS) revert TooManyReporters(MAX_REPORTERS);
            _reporters.push(account);
        }
        _roleBits[account] = held | bit;
        emit RoleGranted(role, account, msg.sender);
    }

    /// @inheritdoc IGridRoles
    function revokeRole(bytes32 role, address account) external {
        _requireRole(DEFAULT_ADMIN_ROLE);
        _revoke(role, account);
    }

    /// @inheritdoc IGridRoles
    function renounceRole(bytes32 role) external {
        _revoke(role, msg.sender);
    }

    /// @inheritdoc IGridRoles
    function proposeAdmin(address newAdmin) external {
        _requireRole(DEFAULT_ADMIN_ROLE);
        uint256 acceptableAt = newAdmin == address(0) ? 0 : block.timestamp + ADMIN_DELAY;
        (_proposedAdmin, _acceptableAt) = (newAdmin, uint40(acceptableAt));
        emit AdminProposed(newAdmin, acceptableAt);
    }

    /// @inheritdoc IGridRoles
    function acceptAdmin() external {
        if (msg.sender != _proposedAdmin) revert NotProposedAdmin(msg.sender, _proposedAdmin);
        if (block.timestamp < _acceptableAt) revert AdminChangeTooEarly(_acceptableAt);
        (_proposedAdmin, _acceptableAt) = (address(0), 0);
        _setAdmin(msg.sender);
    }

    /// @inheritdoc IGridRoles
    function admin() external view returns (address) {
        return _admin;
    }

    /// @inheritdoc IGridRoles
    function proposedAdmin() external view returns (address newAdmin, uint256 acceptableAt) {
        return (_proposedAdmin, _acceptableAt);
    }

    /// @inheritdoc IGridRoles
    function hasRole(bytes32 role, address account) public view returns (bool) {
        return role == DEFAULT_ADMIN_ROLE ? account == _admin : _roleBits[account] & _bit(role) != 0;
    }

    /// @inheritdoc IGridRoles
    function reporters() external view returns (address[] memory) {
        return _reporters;
    }

    function _requireRole(bytes32 role) internal view {
        if (!hasRole(role, msg.sender)) revert AccessControlUnauthorizedAccount(msg.sender, role);
    }

    function _setAdmin(address admin_) private {
        emit AdminChanged(_admin, admin_);
        _admin = admin_;
    }

    function _revoke(bytes32 role, address account) private {
        uint256 bit = _knownBit(role);
        uint256 held = _roleBits[account];
        if (held & bit == 0) return;
        _roleBits[account] = held & ~bit;
        if (bit == REPORTER) _removeReporter(account);
        emit RoleRevoked(role, account, msg.sender);
    }

    function _removeReporter(address account) private {
        uint256 last = _reporters.length - 1;
        for (uint256 i = 0; i < last; i++) {
            if (_reporters[i] == account) {
                _reporters[i] = _reporters[last];
                break;
            }
        }
        _reporters.pop();
    }

    function _knownBit(bytes32 role) private pure returns (uint256 bit) {
        bit = _bit(role);
        if (bit == 0) revert UnknownRole(role);
    }

    function _bit(bytes32 role) private pure returns (uint256) {
        if (role == REPORTER_ROLE) return REPORTER;
        if (role == SLASHER_ROLE) return 2;
        if (role == ARBITER_ROLE) return 4;
        if (role == GUARDIAN_ROLE) return 8;
        if (role == TREASURER_ROLE) return 16;
        if (role == SETTLER_ROLE) return 32;
        return 0;
    }
}
