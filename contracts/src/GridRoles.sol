// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridRoles} from "./IGridRoles.sol";
import {fromNow} from "./Time.sol";

/// @title The admin and the roles.
/// @dev OpenZeppelin's AccessControlDefaultAdminRules would be 2.1 kB more, could grant roles that do not exist, and keeps
/// neither the list of reporters that a quorum needs nor roles that exclude each other.
abstract contract GridRoles is IGridRoles {
    uint256 public constant ADMIN_DELAY = 1 days;

    /// @dev A vote is counted over all reporters, so their number has a bound.
    uint256 internal constant MAX_REPORTERS = 16;

    // Numbers of roles: the bit of a role in _roleBits. Their hashes stand in _roleOf alone, because each is 32 bytes of code.
    uint256 internal constant REPORTER = 0;
    uint256 internal constant SLASHER = 1;
    uint256 internal constant ARBITER = 2;
    uint256 internal constant GUARDIAN = 3;
    uint256 internal constant TREASURER = 4;
    uint256 internal constant SETTLER = 5;
    uint256 private constant ROLES = 6;
    /// @dev Bits of reporter, slasher and arbiter: an account holds at most one of them.
    uint256 private constant EXCLUSIVE = 7;

    mapping(address account => uint256) private _roleBits;
    /// @dev Numbered from 0. An array of addresses would be 250 bytes more of code.
    mapping(uint256 number => address) internal _reporterAt;
    uint256 internal _reporterCount;
    /// @dev The hash that a reporter voted for last; set to something that is no hash when the role is granted, so that a vote
    /// of former times does not count and the first vote costs no more than the next.
    mapping(address reporter => bytes32) internal _votes;
    address private _admin;
    address private _proposedAdmin;
    uint40 private _acceptableAt;

    constructor(address admin_) {
        _setAdmin(admin_);
    }

    /// @inheritdoc IGridRoles
    function grantRole(bytes32 role, address account) external {
        _requireAdmin();
        uint256 bit = _knownBit(role);
        uint256 held = _roleBits[account];
        if (held & bit != 0) return;
        if (bit & EXCLUSIVE != 0 && held & EXCLUSIVE != 0) revert RolesConflict(account, role);
        if (bit == 1 << REPORTER) {
            uint256 count = _reporterCount;
            if (count == MAX_REPORTERS) revert TooManyReporters(MAX_REPORTERS);
            _reporterAt[count] = account;
            _reporterCount = count + 1;
            _votes[account] = bytes32(uint256(1));
        }
        _roleBits[account] = held | bit;
        emit RoleGranted(role, account, msg.sender);
    }

    /// @inheritdoc IGridRoles
    function revokeRole(bytes32 role, address account) external {
        _requireAdmin();
        _revoke(role, account);
    }

    /// @inheritdoc IGridRoles
    function renounceRole(bytes32 role) external {
        _revoke(role, msg.sender);
    }

    /// @inheritdoc IGridRoles
    function proposeAdmin(address newAdmin) external {
        _requireAdmin();
        uint256 acceptableAt = newAdmin == address(0) ? 0 : fromNow(ADMIN_DELAY);
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
    function hasRole(bytes32 role, address account) external view returns (bool) {
        return role == 0 ? account == _admin : _roleBits[account] & _bit(role) != 0;
    }

    /// @inheritdoc IGridRoles
    function reporters() external view returns (address[] memory list) {
        list = new address[](_reporterCount);
        for (uint256 i = 0; i < list.length; i++) {
            list[i] = _reporterAt[i];
        }
    }

    /// @inheritdoc IGridRoles
    function DEFAULT_ADMIN_ROLE() external pure returns (bytes32) {
        return 0;
    }

    /// @inheritdoc IGridRoles
    function REPORTER_ROLE() external pure returns (bytes32) {
        return _roleOf(REPORTER);
    }

    /// @inheritdoc IGridRoles
    function SLASHER_ROLE() external pure returns (bytes32) {
        return _roleOf(SLASHER);
    }

    /// @inheritdoc IGridRoles
    function ARBITER_ROLE() external pure returns (bytes32) {
        return _roleOf(ARBITER);
    }

    /// @inheritdoc IGridRoles
    function GUARDIAN_ROLE() external pure returns (bytes32) {
        return _roleOf(GUARDIAN);
    }

    /// @inheritdoc IGridRoles
    function TREASURER_ROLE() external pure returns (bytes32) {
        return _roleOf(TREASURER);
    }

    /// @inheritdoc IGridRoles
    function SETTLER_ROLE() external pure returns (bytes32) {
        return _roleOf(SETTLER);
    }

    function _requireRole(uint256 number) internal view {
        if (_roleBits[msg.sender] >> number & 1 == 0) {
            revert AccessControlUnauthorizedAccount(msg.sender, _roleOf(number));
        }
    }

    function _requireAdmin() internal view {
        if (msg.sender != _admin) revert AccessControlUnauthorizedAccount(msg.sender, 0);
    }

    function _isAdmin() internal view returns (bool) {
        return msg.sender == _admin;
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
        if (bit == 1 << REPORTER) _removeReporter(account);
        emit RoleRevoked(role, account, msg.sender);
    }

    function _removeReporter(address account) private {
        uint256 last = _reporterCount - 1;
        for (uint256 i = 0; i < last; i++) {
            if (_reporterAt[i] == account) _reporterAt[i] = _reporterAt[last];
        }
        delete _reporterAt[last];
        _reporterCount = last;
    }

    function _knownBit(bytes32 role) private pure returns (uint256 bit) {
        bit = _bit(role);
        if (bit == 0) revert UnknownRole(role);
    }

    /// @return 0 for a role that does not exist
    function _bit(bytes32 role) private pure returns (uint256) {
        for (uint256 number = 0; number < ROLES; number++) {
            if (_roleOf(number) == role) return 1 << number;
        }
        return 0;
    }

    function _roleOf(uint256 number) private pure returns (bytes32) {
        if (number == REPORTER) return keccak256("REPORTER_ROLE");
        if (number == SLASHER) return keccak256("SLASHER_ROLE");
        if (number == ARBITER) return keccak256("ARBITER_ROLE");
        if (number == GUARDIAN) return keccak256("GUARDIAN_ROLE");
        if (number == TREASURER) return keccak256("TREASURER_ROLE");
        return keccak256("SETTLER_ROLE");
    }
}
