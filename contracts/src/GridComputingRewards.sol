// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IGridComputingRewards} from "./IGridComputingRewards.sol";

/// @title Stakes of grid nodes and the rewards for what they verifiably contributed.
/// @notice Nodes register with a stake. Users' payments form a pool. Once an epoch a reporter publishes the Merkle root of
/// every node's cumulative earnings; after a public window the root becomes live and anyone may have a node's earnings paid
/// to the payout address the node agreed to.
/// @dev Money lives in separate totals, and the balance always covers their sum:
/// stakeTotal + rewardPool + reservation of the pending epoch + (allocated - claimed) + creditTotal.
/// A stolen reporter key can at worst allocate maxEpochIncrease per epoch out of rewardPool, in public, and the guardian has
/// the window to drop it; stakes are out of its reach. There is no proxy, no loop over nodes, and no role that can stop an exit.
contract GridComputingRewards is IGridComputingRewards, AccessControlDefaultAdminRules, ReentrancyGuard, EIP712 {
    using SafeCast for uint256;

    /// @notice May submit epochs.
    bytes32 public constant REPORTER_ROLE = keccak256("REPORTER_ROLE");
    /// @notice May drop a pending epoch inside its window, and nothing else.
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");

    uint256 public constant minStake = 1 ether;
    /// @notice How long a change of admin waits before it can be accepted.
    uint48 public constant ADMIN_DELAY = 1 days;
    uint256 public constant MAX_EPOCH_SECONDS = 30 days;
    uint256 public constant MAX_UNBONDING = 90 days;

    bytes32 public constant NODE_BINDING_TYPEHASH =
        keccak256("NodeBinding(address node,address payout,address owner,uint256 nonce,uint256 deadline)");

    /// @dev What a payee may spend on receiving: enough for a Safe or another proxy wallet, too little to be a nuisance.
    uint256 private constant PAY_GAS = 50_000;
    /// @dev Below this a caller could starve the payee of PAY_GAS (63/64 rule, 36 600 for value, new and cold account).
    uint256 private constant PAY_GAS_NEEDED = 100_000;

    /// @notice Unix seconds at which epoch 0 began: the block that deployed this contract.
    uint64 public immutable genesis;
    uint64 public immutable epochSeconds;
    /// @notice Seconds between the report of an epoch and the moment its root can become live.
    uint64 public immutable challengeWindow;
    /// @notice Seconds between the wish to exit and the return of the stake.
    uint64 public immutable unbonding;
    /// @notice The most wei that one epoch can allocate.
    uint128 public immutable maxEpochIncrease;

    struct NodeRecord {
        address owner;
        uint96 stake;
        uint64 computingPower;
        uint64 storageCapacity;
        uint40 registeredAt;
        uint40 exitAt;
        NodeStatus status;
    }

    // One slot each; values of the last pending epoch stay behind after activation, because writing over a non-zero slot
    // costs a quarter of filling an empty one.
    uint128 private _pendingTotal;
    uint64 private _nextEpoch;
    uint40 private _activeAt;
    bool private _pending;

    uint128 private _allocatedTotal;
    uint128 private _claimedTotal;

    uint128 private _rewardPool;
    uint128 private _stakeTotal;

    bytes32 private _pendingRoot;
    bytes32 private _liveRoot;
    uint256 private _creditTotal;

    uint256 public totalComputingPower;
    uint256 public totalStorage;

    mapping(address node => NodeRecord) private _nodes;
    mapping(address node => address) private _payouts;
    /// @notice Wei paid out (or credited) for a node so far.
    mapping(address node => uint256) public claimed;
    /// @notice Wei that an account can take with withdrawCredit, because sending it failed before.
    mapping(address account => uint256) public credit;
    /// @notice The nonce that a node's next consent must name.
    mapping(address node => uint256) public bindingNonce;

    /// @param admin_ grants and revokes roles; give it to a multisig
    /// @param window_ at most epochSeconds_, or reports could never keep up with time
    /// @param unbonding_ at least window_, so that a stake outlives the reports it stood for
    constructor(address admin_, uint64 epochSeconds_, uint64 window_, uint64 unbonding_, uint128 maxEpochIncrease_)
        AccessControlDefaultAdminRules(ADMIN_DELAY, admin_)
        EIP712("GridComputingRewards", "1")
    {
        _requireWithin("epochSeconds", epochSeconds_, 1, MAX_EPOCH_SECONDS);
        _requireWithin("challengeWindow", window_, 0, epochSeconds_);
        _requireWithin("unbonding", unbonding_, window_, MAX_UNBONDING);
        _requireWithin("maxEpochIncrease", maxEpochIncrease_, 1, type(uint128).max);
        genesis = uint64(block.timestamp);
        epochSeconds = epochSeconds_;
        challengeWindow = window_;
        unbonding = unbonding_;
        maxEpochIncrease = maxEpochIncrease_;
    }

    // ---------------------------------------------------------------- nodes

    /// @notice Registers the caller as a node that owns itself and is paid itself.
    function registerNode(uint256 computingPower, uint256 storageCapacity) external payable {
        _register(msg.sender, msg.sender, computingPower, storageCapacity);
    }

    /// @notice Registers `node` with the caller as its owner. The node's key must have signed
    /// NodeBinding(node, payout, owner = caller, bindingNonce(node), deadline), so that nobody can register somebody else's
    /// node or send its earnings elsewhere.
    function registerNodeFor(
        address node,
        address payout,
        uint256 computingPower,
        uint256 storageCapacity,
        uint256 deadline,
        bytes calldata signature
    ) external payable {
        if (block.timestamp > deadline) revert ConsentExpired(deadline, block.timestamp);
        bytes32 digest = _hashTypedDataV4(
            keccak256(abi.encode(NODE_BINDING_TYPEHASH, node, payout, msg.sender, bindingNonce[node]++, deadline))
        );
        (address recovered, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (failure != ECDSA.RecoverError.NoError || recovered != node) revert ConsentInvalid(node, recovered);
        if (payout == address(0)) revert ZeroPayout(node);
        _register(node, payout, computingPower, storageCapacity);
    }

    /// @notice Leaves the grid: the first call starts the exit, a call after the unbonding time pays the stake back.
    function unregisterNode() external {
        unregisterNodeFor(msg.sender);
    }

    /// @notice The same for a node that the caller registered with registerNodeFor.
    function unregisterNodeFor(address node) public nonReentrant {
        NodeRecord storage record = _nodes[node];
        if (record.status == NodeStatus.None) revert NotRegistered(node);
        if (record.owner != msg.sender) revert NotOwner(node, msg.sender, record.owner);
        if (record.status == NodeStatus.Registered) {
            _startExit(node, record);
            if (unbonding != 0) return;
        }
        if (block.timestamp < record.exitAt) revert StillUnbonding(node, record.exitAt);
        uint256 stake = record.stake;
        delete _nodes[node];
        // forge-lint: disable-next-line(unsafe-typecast)
        _stakeTotal -= uint128(stake);
        emit StakeWithdrawn(node, msg.sender, stake);
        _pay(msg.sender, stake);
    }

    function _register(address node, address payout, uint256 computingPower, uint256 storageCapacity) private {
        if (msg.value < minStake) revert StakeTooSmall(msg.value, minStake);
        if (computingPower == 0 && storageCapacity == 0) revert NoCapability(node);
        if (_nodes[node].status != NodeStatus.None) revert AlreadyRegistered(node);
        _nodes[node] = NodeRecord({
            owner: msg.sender,
            stake: msg.value.toUint96(),
            computingPower: computingPower.toUint64(),
            storageCapacity: storageCapacity.toUint64(),
            registeredAt: uint40(block.timestamp),
            exitAt: 0,
            status: NodeStatus.Registered
        });
        // An unset payout means the node itself, which spares the common case a slot.
        if (payoutOf(node) != payout) _payouts[node] = payout;
        _stakeTotal += msg.value.toUint128();
        totalComputingPower += computingPower;
        totalStorage += storageCapacity;
        emit NodeRegistered(node, msg.sender, payout, msg.value, computingPower, storageCapacity);
    }

    function _startExit(address node, NodeRecord storage record) private {
        record.status = NodeStatus.Exiting;
        record.exitAt = uint40(block.timestamp + unbonding);
        totalComputingPower -= record.computingPower;
        totalStorage -= record.storageCapacity;
        emit ExitRequested(node, msg.sender, record.exitAt);
    }

    // ---------------------------------------------------------------- money in

    /// @notice Adds to the pool that epochs allocate from.
    function fund() external payable {
        _fund();
    }

    /// @notice Plain transfers are revenue for the pool.
    receive() external payable {
        _fund();
    }

    function _fund() private {
        _rewardPool += msg.value.toUint128();
        emit Funded(msg.sender, msg.value);
    }

    // ---------------------------------------------------------------- epochs

    /// @notice Reports an epoch: the root over every node's cumulative earnings and their sum. Reserves the increase at once.
    /// An epoch without increase (same root, same total) has nothing to dispute and needs no window.
    /// @param leaves packed (20-byte node, 16-byte cumulative) by ascending node, so that anyone can rebuild the tree from
    /// calldata; an epoch without increase needs none
    /// @param dataHash keccak256(leaves)
    function submitEpoch(uint64 epoch, bytes32 root, uint128 cumulativeTotal, bytes32 dataHash, bytes calldata leaves)
        external
        onlyRole(REPORTER_ROLE)
    {
        if (epoch != _nextEpoch) revert WrongEpoch(_nextEpoch, epoch);
        uint256 endsAt = uint256(genesis) + (uint256(epoch) + 1) * epochSeconds;
        if (block.timestamp < endsAt) revert EpochNotOver(epoch, endsAt);
        if (_pending) _activate();
        bytes32 hash = keccak256(leaves);
        if (hash != dataHash) revert WrongDataHash(hash, dataHash);

        uint128 previous = _allocatedTotal;
        if (cumulativeTotal < previous) revert TotalDecreased(previous, cumulativeTotal);
        uint128 increase = cumulativeTotal - previous;
        _nextEpoch = epoch + 1;
        if (increase == 0) {
            if (root != _liveRoot) revert EmptyEpochChangesRoot(_liveRoot, root);
            emit EpochSubmitted(epoch, root, cumulativeTotal, dataHash, block.timestamp);
            emit EpochActivated(epoch, root, cumulativeTotal);
            return;
        }
        if (root == bytes32(0)) revert EmptyRoot(epoch);
        if (increase > maxEpochIncrease) revert IncreaseTooLarge(increase, maxEpochIncrease);
        if (increase > _rewardPool) revert PoolTooSmall(increase, _rewardPool);
        _rewardPool -= increase;
        _pendingRoot = root;
        _pendingTotal = cumulativeTotal;
        _activeAt = uint40(block.timestamp + challengeWindow);
        _pending = true;
        emit EpochSubmitted(epoch, root, cumulativeTotal, dataHash, _activeAt);
    }

    /// @notice Makes the pending epoch live once its window is over. Pure progress, so anyone may call it.
    function distributeRewards() external {
        if (!_pending) revert NothingPending();
        _activate();
    }

    /// @notice Drops the pending epoch inside its window. Its reservation returns to the pool, its number is reported again.
    function disableEpoch(uint64 epoch) external onlyRole(GUARDIAN_ROLE) {
        if (!_pending) revert NothingPending();
        if (epoch != _nextEpoch - 1) revert WrongEpoch(_nextEpoch - 1, epoch);
        if (block.timestamp >= _activeAt) revert WindowOver(epoch, _activeAt);
        uint128 released = _pendingTotal - _allocatedTotal;
        _pending = false;
        _nextEpoch = epoch;
        _rewardPool += released;
        emit EpochDropped(epoch, _pendingRoot, released);
    }

    function _activate() private {
        uint64 epoch = _nextEpoch - 1;
        if (block.timestamp < _activeAt) revert PendingEpoch(epoch, _activeAt);
        _pending = false;
        _liveRoot = _pendingRoot;
        _allocatedTotal = _pendingTotal;
        emit EpochActivated(epoch, _liveRoot, _allocatedTotal);
    }

    // ---------------------------------------------------------------- claims

    /// @notice Pays what `node` has earned and not yet received to its payout address. Anyone may call it.
    /// @param cumulative the amount in the node's leaf of the live root
    /// @return amount wei paid
    function claim(address node, uint256 cumulative, bytes32[] calldata proof)
        external
        nonReentrant
        returns (uint256 amount)
    {
        if (!_proven(node, cumulative, proof)) revert InvalidProof(node, cumulative);
        if (cumulative <= claimed[node]) revert NothingToClaim(node, claimed[node]);
        return _claim(node, cumulative);
    }

    /// @notice Claims for several nodes. A request that cannot be paid is skipped, so one stale leaf does not spoil the rest.
    /// @return amount wei paid in total
    function claimMany(ClaimRequest[] calldata requests) external nonReentrant returns (uint256 amount) {
        for (uint256 i = 0; i < requests.length; i++) {
            ClaimRequest calldata request = requests[i];
            if (request.cumulative > claimed[request.node] && _proven(request.node, request.cumulative, request.proof))
            {
                amount += _claim(request.node, request.cumulative);
            } else {
                emit ClaimSkipped(request.node, request.cumulative);
            }
        }
    }

    /// @notice Sends an account what could not be sent to it before. Anyone may call it; the money goes to the account.
    function withdrawCredit(address account) external nonReentrant {
        uint256 amount = credit[account];
        if (amount == 0) revert NoCredit(account);
        credit[account] = 0;
        _creditTotal -= amount;
        emit CreditWithdrawn(account, amount);
        if (!_send(account, amount, gasleft())) revert CreditRefused(account, amount);
    }

    function _proven(address node, uint256 cumulative, bytes32[] calldata proof) private view returns (bool) {
        // Hashed twice, so that no inner node of a tree can pass for a leaf; bound to chain and contract, so that no leaf
        // can be used anywhere else.
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(block.chainid, address(this), node, cumulative))));
        return MerkleProof.verifyCalldata(proof, _liveRoot, leaf);
    }

    function _claim(address node, uint256 cumulative) private returns (uint256 amount) {
        amount = cumulative - claimed[node];
        claimed[node] = cumulative;
        uint256 total = uint256(_claimedTotal) + amount;
        if (total > _allocatedTotal) revert AllocationExceeded(total, _allocatedTotal);
        // forge-lint: disable-next-line(unsafe-typecast)
        _claimedTotal = uint128(total);
        address payout = payoutOf(node);
        emit Claimed(node, payout, amount, cumulative);
        _pay(payout, amount);
    }

    /// @dev A payee that refuses, or burns its gas, gets a credit: it can harm nobody but itself.
    function _pay(address payee, uint256 amount) private {
        if (gasleft() < PAY_GAS_NEEDED) revert GasTooLow(gasleft(), PAY_GAS_NEEDED);
        if (_send(payee, amount, PAY_GAS)) return;
        credit[payee] += amount;
        _creditTotal += amount;
        emit Credited(payee, amount);
    }

    /// @dev Copies no return data, so a payee cannot make its caller pay for a large one.
    function _send(address payee, uint256 amount, uint256 gasLimit) private returns (bool sent) {
        assembly ("memory-safe") {
            sent := call(gasLimit, payee, amount, 0, 0, 0, 0)
        }
    }

    // ---------------------------------------------------------------- views

    /// @notice The admin of the roles (the name that the first version of this contract used).
    function admin() external view returns (address) {
        return defaultAdmin();
    }

    function nodes(address node) external view returns (Node memory) {
        NodeRecord storage record = _nodes[node];
        return Node({
            owner: record.owner,
            stake: record.stake,
            payout: payoutOf(node),
            computingPower: record.computingPower,
            storageCapacity: record.storageCapacity,
            registeredAt: record.registeredAt,
            exitAt: record.exitAt,
            status: record.status
        });
    }

    /// @notice Where claims for `node` are paid. Outlives the registration, so that late claims still find their way.
    function payoutOf(address node) public view returns (address) {
        address payout = _payouts[node];
        return payout == address(0) ? node : payout;
    }

    function epochState() external view returns (EpochState memory) {
        return EpochState({
            nextEpoch: _nextEpoch,
            pending: _pending,
            activeAt: _pending ? _activeAt : 0,
            pendingRoot: _pending ? _pendingRoot : bytes32(0),
            pendingTotal: _pending ? _pendingTotal : _allocatedTotal,
            liveRoot: _liveRoot,
            liveTotal: _allocatedTotal,
            claimedTotal: _claimedTotal,
            rewardPool: _rewardPool,
            stakeTotal: _stakeTotal,
            creditTotal: _creditTotal
        });
    }

    /// @notice The digest a node key signs to consent to registerNodeFor.
    function bindingDigest(address node, address payout, address owner_, uint256 nonce, uint256 deadline)
        external
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(keccak256(abi.encode(NODE_BINDING_TYPEHASH, node, payout, owner_, nonce, deadline)));
    }

    function _requireWithin(string memory name, uint256 value, uint256 min, uint256 max) private pure {
        if (value < min || value > max) revert ParameterOutOfBounds(name, value, min, max);
    }
}
