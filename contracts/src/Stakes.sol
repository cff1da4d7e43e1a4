// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IGridComputingRewards} from "./IGridComputingRewards.sol";
import {Rules} from "./Rules.sol";

/// @title Nodes and their stakes.
abstract contract Stakes is Rules {
    using SafeCast for uint256;

    bytes32 private constant NODE_BINDING_TYPEHASH =
        keccak256("NodeBinding(address node,address payout,address owner,uint256 nonce,uint256 deadline)");
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256("GridComputingRewards");
    bytes32 private constant VERSION_HASH = keccak256("1");

    uint256 private constant PAYOUT_DELAY = 2 days;
    /// @dev How long a freeze can hold an exit, whatever GridSlashing asks for.
    uint256 private constant MAX_HOLD = 45 days;

    struct NodeRecord {
        address owner;
        uint96 stake;
        uint64 computingPower;
        uint64 storageCapacity;
        uint40 registeredAt;
        uint40 exitAt;
        NodeStatus status;
        uint32 index;
    }

    /// @dev Apart from NodeRecord, so that a registration does not pay for a slot that honest nodes never use.
    struct Freeze {
        uint96 amount;
        uint40 heldUntil;
    }

    /// @param index of the registration whose owner asked: what a former owner asked for applies no more
    struct PayoutRequest {
        address payout;
        uint40 applicableAt;
        uint32 index;
    }

    uint112 private _totalPower;
    uint112 private _totalStorage;
    uint32 private _registrations;

    /// @dev What was frozen in the epoch _freezeEpoch.
    uint104 private _frozenInEpoch;
    uint40 private _freezeEpoch;

    mapping(address node => NodeRecord) private _nodes;
    mapping(address node => Freeze) private _freezes;
    mapping(address node => address) private _payouts;
    mapping(address node => PayoutRequest) private _payoutRequests;
    /// @inheritdoc IGridComputingRewards
    mapping(address node => uint256) public bindingNonce;

    // ---------------------------------------------------------------- registration

    /// @inheritdoc IGridComputingRewards
    function registerNode(uint256 computingPower, uint256 storageCapacity) external payable {
        _register(msg.sender, msg.sender, computingPower, storageCapacity);
    }

    /// @inheritdoc IGridComputingRewards
    function registerNodeFor(
        address node,
        address payout,
        uint256 computingPower,
        uint256 storageCapacity,
        uint256 deadline,
        bytes calldata signature
    ) external payable {
        if (block.timestamp > deadline) revert ConsentExpired(deadline, block.timestamp);
        bytes32 digest = bindingDigest(node, payout, msg.sender, bindingNonce[node]++, deadline);
        (address recovered, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (failure != ECDSA.RecoverError.NoError || recovered != node) revert ConsentInvalid(node, recovered);
        if (payout == address(0)) revert ZeroPayout(node);
        _register(node, payout, computingPower, storageCapacity);
    }

    /// @inheritdoc IGridComputingRewards
    function addStake(address node) external payable {
        _requireNotPaused(PAUSE_REGISTER);
        NodeRecord storage record = _registered(node);
        if (record.status == NodeStatus.Exiting) revert NodeExiting(node, record.exitAt);
        record.stake += msg.value.toUint96();
        _stakeTotal += msg.value.toUint104();
        emit StakeAdded(node, msg.sender, msg.value);
    }

    function _register(address node, address payout, uint256 computingPower, uint256 storageCapacity) private {
        _requireNotPaused(PAUSE_REGISTER);
        _requireNotRetiredBefore(block.timestamp);
        if (msg.value < minStake) revert StakeTooSmall(msg.value, minStake);
        if (computingPower == 0 && storageCapacity == 0) revert NoCapability(node);
        if (_nodes[node].status != NodeStatus.None) revert AlreadyRegistered(node);
        uint32 index = ++_registrations;
        _nodes[node] = NodeRecord({
            owner: msg.sender,
            stake: msg.value.toUint96(),
            computingPower: computingPower.toUint64(),
            storageCapacity: storageCapacity.toUint64(),
            registeredAt: uint40(block.timestamp),
            exitAt: 0,
            status: NodeStatus.Registered,
            index: index
        });
        // An unset payout means the node itself, which spares the common case a slot.
        if (payoutOf(node) != payout) _payouts[node] = payout;
        _stakeTotal += msg.value.toUint104();
        _totalPower += uint112(computingPower);
        _totalStorage += uint112(storageCapacity);
        emit NodeRegistered(node, msg.sender, payout, msg.value, computingPower, storageCapacity, index);
    }

    // ---------------------------------------------------------------- exit

    /// @inheritdoc IGridComputingRewards
    function unregisterNode() external {
        unregisterNodeFor(msg.sender);
    }

    /// @inheritdoc IGridComputingRewards
    function unregisterNodeFor(address node) public nonReentrant {
        NodeRecord storage record = _owned(node);
        bool first = record.status == NodeStatus.Registered;
        if (first) _startExit(node, record);
        Freeze storage freeze = _freezes[node];
        uint256 leavesAt = record.exitAt;
        if (freeze.amount != 0 && freeze.heldUntil > leavesAt) leavesAt = freeze.heldUntil;
        if (block.timestamp < leavesAt) {
            if (first) return;
            revert StillUnbonding(node, leavesAt);
        }
        uint96 stake = record.stake;
        delete _nodes[node];
        delete _freezes[node];
        _stakeTotal -= stake;
        emit StakeWithdrawn(node, msg.sender, stake);
        _pay(msg.sender, stake);
    }

    function _startExit(address node, NodeRecord storage record) private {
        uint256 exitAt = block.timestamp + _rules().unbonding;
        record.status = NodeStatus.Exiting;
        record.exitAt = uint40(exitAt);
        _totalPower -= record.computingPower;
        _totalStorage -= record.storageCapacity;
        emit ExitRequested(node, msg.sender, exitAt);
    }

    // ---------------------------------------------------------------- payout

    /// @inheritdoc IGridComputingRewards
    function requestPayout(address node, address payout) external {
        NodeRecord storage record = _owned(node);
        if (payout == address(0)) revert ZeroPayout(node);
        uint256 applicableAt = block.timestamp + PAYOUT_DELAY;
        _payoutRequests[node] = PayoutRequest(payout, uint40(applicableAt), record.index);
        emit PayoutRequested(node, payout, applicableAt);
    }

    /// @inheritdoc IGridComputingRewards
    function applyPayout(address node) external {
        (address payout, uint256 applicableAt) = payoutRequest(node);
        if (applicableAt == 0) revert NoPayoutChange(node);
        if (block.timestamp < applicableAt) revert PayoutChangeTooEarly(node, applicableAt);
        delete _payoutRequests[node];
        _payouts[node] = payout;
        emit PayoutChanged(node, payout);
    }

    /// @inheritdoc IGridComputingRewards
    function payoutRequest(address node) public view returns (address payout, uint256 applicableAt) {
        PayoutRequest storage request = _payoutRequests[node];
        if (request.index != _nodes[node].index) return (address(0), 0);
        return (request.payout, request.applicableAt);
    }

    /// @inheritdoc IGridComputingRewards
    function payoutOf(address node) public view returns (address) {
        address payout = _payouts[node];
        return payout == address(0) ? node : payout;
    }

    // ---------------------------------------------------------------- slashing

    /// @inheritdoc IGridComputingRewards
    function freezeStake(address node, uint256 amount, uint40 until) external returns (uint32 index) {
        _requireSlashing();
        NodeRecord storage record = _registered(node);
        if (record.exitAt != 0 && block.timestamp >= record.exitAt) revert NodeExiting(node, record.exitAt);
        if (until > block.timestamp + MAX_HOLD) revert HoldTooLong(until, block.timestamp + MAX_HOLD);
        Freeze storage freeze = _freezes[node];
        Parameters storage rules = _rules();
        uint256 max = uint256(record.stake) * rules.maxSlashBps / BPS;
        if (max > record.stake - freeze.amount) max = record.stake - freeze.amount;
        if (amount == 0 || amount > max) revert FreezeTooLarge(amount, max);
        _countFreeze(amount, uint256(_stakeTotal) * rules.epochSlashBps / BPS);
        // forge-lint: disable-next-line(unsafe-typecast)
        freeze.amount += uint96(amount);
        if (until > freeze.heldUntil) freeze.heldUntil = until;
        emit StakeFrozen(node, record.index, amount, freeze.heldUntil);
        return record.index;
    }

    /// @inheritdoc IGridComputingRewards
    function thawStake(address node, uint32 index, uint256 amount) external returns (uint256 thawed) {
        thawed = _unfreeze(node, index, amount);
        emit StakeThawed(node, index, thawed);
    }

    /// @inheritdoc IGridComputingRewards
    function slashStake(address node, uint32 index, uint256 amount) external returns (uint256 slashed) {
        uint96 taken = _unfreeze(node, index, amount);
        // _unfreeze frees nothing of a registration that has ended, so the record is the one that was frozen.
        _nodes[node].stake -= taken;
        _stakeTotal -= taken;
        _treasury += taken;
        emit StakeSlashed(node, index, taken);
        return taken;
    }

    function _countFreeze(uint256 amount, uint256 cap) private {
        uint256 epoch = _currentEpoch();
        uint256 before = _freezeEpoch == epoch ? _frozenInEpoch : 0;
        uint256 left = cap > before ? cap - before : 0;
        if (amount > left) revert EpochFreezeTooLarge(amount, left);
        // At most half of all stakes.
        // forge-lint: disable-next-line(unsafe-typecast)
        (_frozenInEpoch, _freezeEpoch) = (uint104(before + amount), uint40(epoch));
    }

    function _unfreeze(address node, uint32 index, uint256 amount) private returns (uint96 freed) {
        _requireSlashing();
        if (_nodes[node].index != index) return 0;
        Freeze storage freeze = _freezes[node];
        freed = freeze.amount;
        if (amount >= freed) {
            delete _freezes[node];
            return freed;
        }
        // forge-lint: disable-next-line(unsafe-typecast)
        freeze.amount = freed - uint96(amount);
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint96(amount);
    }

    function _requireSlashing() private view {
        if (msg.sender != slashingContract) revert NotSlashing(msg.sender, slashingContract);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IGridComputingRewards
    function nodes(address node) external view returns (Node memory) {
        NodeRecord storage record = _nodes[node];
        Freeze storage freeze = _freezes[node];
        return Node({
            owner: record.owner,
            stake: record.stake,
            payout: payoutOf(node),
            computingPower: record.computingPower,
            storageCapacity: record.storageCapacity,
            registeredAt: record.registeredAt,
            exitAt: record.exitAt,
            status: record.status,
            index: record.index,
            frozen: freeze.amount,
            heldUntil: freeze.heldUntil
        });
    }

    /// @inheritdoc IGridComputingRewards
    function totalComputingPower() external view returns (uint256) {
        return _totalPower;
    }

    /// @inheritdoc IGridComputingRewards
    function totalStorage() external view returns (uint256) {
        return _totalStorage;
    }

    /// @inheritdoc IGridComputingRewards
    function bindingDigest(address node, address payout, address owner, uint256 nonce, uint256 deadline)
        public
        view
        returns (bytes32)
    {
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
        bytes32 binding = keccak256(abi.encode(NODE_BINDING_TYPEHASH, node, payout, owner, nonce, deadline));
        return keccak256(abi.encodePacked(hex"1901", domain, binding));
    }

    function _registered(address node) private view returns (NodeRecord storage record) {
        record = _nodes[node];
        if (record.status == NodeStatus.None) revert NotRegistered(node);
    }

    function _owned(address node) private view returns (NodeRecord storage record) {
        record = _registered(node);
        if (record.owner != msg.sender) revert NotOwner(node, msg.sender, record.owner);
    }
}
