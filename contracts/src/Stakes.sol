// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "guard/MessageHashUtils.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {EXITING, Facts, newFacts, REGISTERED} from "./Facts.sol";
import {IGridComputingRewards} from "./IGridComputingRewards.sol";
import {Rules} from "./Rules.sol";
import {fromNow} from "./Time.sol";

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
        Facts facts;
    }

    /// @dev Apart from NodeRecord, so that a registration does not pay for a slot that honest nodes never use.
    struct Freeze {
        uint96 amount;
        uint40 heldUntil;
    }

    /// @param index of the registration whose owner asked: what a former owner asked for applies no more
    struct PayoutRequest {
        address payout;
        uint32 index;
        uint40 applicableAt;
    }

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
        // Zero when nobody signed this.
        (address recovered,,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (recovered == address(0) || recovered != node) revert ConsentInvalid(node, recovered);
        if (payout == address(0)) revert ZeroPayout(node);
        _register(node, payout, computingPower, storageCapacity);
    }

    /// @inheritdoc IGridComputingRewards
    function addStake(address node) external payable {
        _requireNotPaused(PAUSE_REGISTER);
        NodeRecord storage record = _registered(node);
        Facts facts = record.facts;
        if (facts.status() == EXITING) revert NodeExiting(node, facts.exitAt());
        uint96 more = msg.value.toUint96();
        record.stake += more;
        _stakeTotal += more;
        emit StakeAdded(node, msg.sender, msg.value);
    }

    function _register(address node, address payout, uint256 computingPower, uint256 storageCapacity) private {
        if (block.timestamp < _watchUntil) {
            _requireNotPaused(PAUSE_REGISTER);
            _requireNotRetiredBefore(fromNow(1));
        }
        if (msg.value < minStake) revert StakeTooSmall(msg.value, minStake);
        // Both have 64 bits if their union has.
        if ((computingPower | storageCapacity).toUint64() == 0) revert NoCapability(node);
        NodeRecord storage record = _nodes[node];
        Facts facts = record.facts;
        if (facts.status() != 0) revert AlreadyRegistered(node);
        uint96 stake = msg.value.toUint96();
        uint32 index = uint32(_totals >> 192) + 1;
        // All XDC is below 2^96 wei.
        unchecked {
            _stakeTotal += stake;
            _totals += computingPower | storageCapacity << 96 | 1 << 192;
        }
        // No entry means the node itself, which spares the common case a slot.
        bool elsewhere = facts.hasPayout() || payout != node;
        if (elsewhere) _payouts[node] = payout;
        assembly ("memory-safe") {
            sstore(record.slot, or(caller(), shl(160, stake)))
        }
        record.facts = newFacts(computingPower, storageCapacity, index, node == msg.sender, elsewhere);
        emit NodeRegistered(node, msg.sender, payout, msg.value, computingPower, storageCapacity, index);
    }

    // ---------------------------------------------------------------- exit

    /// @inheritdoc IGridComputingRewards
    function unregisterNode() external {
        unregisterNodeFor(msg.sender);
    }

    /// @inheritdoc IGridComputingRewards
    function unregisterNodeFor(address node) public nonReentrantView {
        (NodeRecord storage record, Facts facts) = _owned(node);
        bool first = facts.status() == REGISTERED;
        if (first) {
            facts = facts.exitingAt(fromNow(_unbonding()));
            record.facts = facts;
            unchecked {
                _totals -= facts.computingPower() | uint256(facts.storageCapacity()) << 96;
            }
            emit ExitRequested(node, msg.sender, facts.exitAt());
            // A freeze cannot make it earlier.
            if (block.timestamp < facts.exitAt()) return;
        }
        _withdraw(node, record, facts, first);
    }

    /// @dev Apart from the request, which calls nobody and need not pay for the guard.
    function _withdraw(address node, NodeRecord storage record, Facts facts, bool first) private nonReentrant {
        Freeze storage freeze = _freezes[node];
        uint256 leavesAt = facts.exitAt();
        if (freeze.amount != 0 && freeze.heldUntil > leavesAt) leavesAt = freeze.heldUntil;
        if (block.timestamp < leavesAt) {
            if (first) return;
            revert StillUnbonding(node, leavesAt);
        }
        uint96 stake = record.stake;
        (record.owner, record.stake) = (address(0), 0);
        record.facts = facts.gone();
        delete _freezes[node];
        _stakeTotal -= stake;
        emit StakeWithdrawn(node, msg.sender, stake);
        _pay(msg.sender, stake);
    }

    // ---------------------------------------------------------------- payout

    /// @inheritdoc IGridComputingRewards
    function requestPayout(address node, address payout) external {
        (, Facts facts) = _owned(node);
        if (payout == address(0)) revert ZeroPayout(node);
        uint256 applicableAt = fromNow(PAYOUT_DELAY);
        PayoutRequest storage request = _payoutRequests[node];
        (request.payout, request.index, request.applicableAt) = (payout, facts.index(), uint40(applicableAt));
        emit PayoutRequested(node, payout, applicableAt);
    }

    /// @inheritdoc IGridComputingRewards
    function applyPayout(address node) external {
        (address payout, uint256 applicableAt) = payoutRequest(node);
        if (applicableAt == 0) revert NoPayoutChange(node);
        if (block.timestamp < applicableAt) revert PayoutChangeTooEarly(node, applicableAt);
        delete _payoutRequests[node];
        _payouts[node] = payout;
        _nodes[node].facts = _nodes[node].facts.paidElsewhere();
        emit PayoutChanged(node, payout);
    }

    /// @inheritdoc IGridComputingRewards
    function payoutRequest(address node) public view returns (address payout, uint256 applicableAt) {
        PayoutRequest storage request = _payoutRequests[node];
        if (request.index != _nodes[node].facts.index()) return (address(0), 0);
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
        Facts facts = record.facts;
        if (facts.status() == EXITING && block.timestamp >= facts.exitAt()) revert NodeExiting(node, facts.exitAt());
        if (until > fromNow(MAX_HOLD)) revert HoldTooLong(until, fromNow(MAX_HOLD));
        Freeze storage freeze = _freezes[node];
        Rulebook storage rules = _rules();
        uint256 frozen = freeze.amount;
        uint256 free = record.stake - frozen;
        uint256 max = uint256(record.stake) * rules.maxSlashBps / BPS;
        if (max > free) max = free;
        if (amount == 0 || amount > max) revert FreezeTooLarge(amount, max);
        _countFreeze(amount, uint256(_stakeTotal) * rules.epochSlashBps / BPS);
        if (until < freeze.heldUntil) until = freeze.heldUntil;
        // No more than the stake.
        // forge-lint: disable-next-line(unsafe-typecast)
        (freeze.amount, freeze.heldUntil) = (uint96(frozen + amount), until);
        index = facts.index();
        emit StakeFrozen(node, index, amount, until);
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
        (_stakeTotal, _treasury) = (_stakeTotal - taken, _treasury + taken);
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
        if (_nodes[node].facts.index() != index) return 0;
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
    function nodes(address node) external view returns (Node memory found) {
        NodeRecord storage record = _nodes[node];
        Freeze storage freeze = _freezes[node];
        found.owner = record.owner;
        found.stake = record.stake;
        found.payout = payoutOf(node);
        Facts facts = record.facts;
        found.computingPower = facts.computingPower();
        found.storageCapacity = facts.storageCapacity();
        found.registeredAt = facts.registeredAt();
        found.exitAt = facts.exitAt();
        found.status = NodeStatus(facts.status());
        found.index = facts.index();
        found.frozen = freeze.amount;
        found.heldUntil = freeze.heldUntil;
        // A struct of plain values lies in memory as the ABI wants it. The compiler's copy of it is 260 bytes of code.
        assembly ("memory-safe") {
            return(found, 0x160)
        }
    }

    /// @inheritdoc IGridComputingRewards
    function totalComputingPower() external view returns (uint256) {
        return uint96(_totals);
    }

    /// @inheritdoc IGridComputingRewards
    function totalStorage() external view returns (uint256) {
        return uint96(_totals >> 96);
    }

    /// @inheritdoc IGridComputingRewards
    function bindingDigest(address node, address payout, address owner, uint256 nonce, uint256 deadline)
        public
        view
        returns (bytes32)
    {
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
        bytes32 binding = keccak256(abi.encode(NODE_BINDING_TYPEHASH, node, payout, owner, nonce, deadline));
        return MessageHashUtils.toTypedDataHash(domain, binding);
    }

    function _registered(address node) private view returns (NodeRecord storage record) {
        record = _nodes[node];
        if (record.facts.status() == 0) revert NotRegistered(node);
    }

    function _owned(address node) private view returns (NodeRecord storage record, Facts facts) {
        record = _registered(node);
        facts = record.facts;
        if (facts.ownsItself() && node == msg.sender) return (record, facts);
        if (record.owner != msg.sender) revert NotOwner(node, msg.sender, record.owner);
    }
}
