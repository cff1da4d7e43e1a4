// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {GridMember} from "./GridMember.sol";
import {IGridComputingRewards} from "./IGridComputingRewards.sol";
import {IGridSlashing} from "./IGridSlashing.sol";
import {Vault} from "./Vault.sol";

/// @title Slash cases: proposed, appealed, ruled, or timed out.
/// @notice Holds no money but bonds of appeals. What it can do to a stake is bounded by GridComputingRewards: half of a stake
/// for a case, half of all stakes for an epoch, 45 days for a hold, nothing once an exit is through.
contract GridSlashing is IGridSlashing, Vault, GridMember {
    using SafeCast for uint256;

    bytes32 private constant SLASHER_ROLE = keccak256("SLASHER_ROLE");
    bytes32 private constant ARBITER_ROLE = keccak256("ARBITER_ROLE");
    /// @dev Two of these are below the 45 days for which GridComputingRewards lets a freeze hold an exit.
    uint256 private constant MAX_TIME = 21 days;

    /// @dev rulingUntil follows from appealUntil, and the bond is the same for all, so that a case has two slots.
    struct Record {
        address node;
        uint96 amount;
        address appellant;
        uint32 index;
        uint40 appealUntil;
        CaseState state;
    }

    /// @inheritdoc IGridSlashing
    uint40 public immutable appealTime;
    /// @inheritdoc IGridSlashing
    uint40 public immutable rulingTime;
    /// @inheritdoc IGridSlashing
    uint96 public immutable appealBond;

    // One slot with Vault's _creditTotal.
    uint104 private _bondTotal;
    uint48 private _caseCount;

    mapping(uint256 caseId => Record) private _cases;
    /// @inheritdoc IGridSlashing
    mapping(address node => mapping(bytes32 evidenceHash => uint256 caseId)) public caseOf;

    /// @param rewards_ the GridComputingRewards whose stakes and roles count; its admin binds this contract there
    /// @param appealTime_ seconds, 1 to 21 days
    /// @param rulingTime_ seconds, 1 to 21 days
    /// @param appealBond_ wei, at most 1 000 XDC
    constructor(address rewards_, uint40 appealTime_, uint40 rulingTime_, uint96 appealBond_) GridMember(rewards_) {
        _requireWithin("appealTime", appealTime_, 1, MAX_TIME);
        _requireWithin("rulingTime", rulingTime_, 1, MAX_TIME);
        _requireWithin("appealBond", appealBond_, 1, 1000 ether);
        appealTime = appealTime_;
        rulingTime = rulingTime_;
        appealBond = appealBond_;
    }

    /// @inheritdoc IGridSlashing
    function proposeSlash(address node, uint96 amount, bytes32 evidenceHash) external returns (uint256 caseId) {
        _requireRole(SLASHER_ROLE);
        if (evidenceHash == 0) revert NoEvidence(node);
        if (caseOf[node][evidenceHash] != 0) revert EvidenceUsed(caseOf[node][evidenceHash]);
        uint40 appealUntil = uint40(block.timestamp) + appealTime;
        uint40 rulingUntil = appealUntil + rulingTime;
        caseId = ++_caseCount;
        caseOf[node][evidenceHash] = caseId;
        uint32 index = _grid.freezeStake(node, amount, rulingUntil);
        _cases[caseId] = Record({
            node: node,
            amount: amount,
            appellant: address(0),
            index: index,
            appealUntil: appealUntil,
            state: CaseState.Proposed
        });
        emit SlashProposed(caseId, node, msg.sender, index, amount, evidenceHash, appealUntil, rulingUntil);
    }

    /// @inheritdoc IGridSlashing
    function appealSlash(uint256 caseId) external payable {
        Record storage record = _openCase(caseId);
        if (record.state == CaseState.Appealed) revert AlreadyAppealed(caseId);
        if (block.timestamp >= record.appealUntil) revert AppealOver(caseId, record.appealUntil);
        if (msg.value != appealBond) revert WrongBond(msg.value, appealBond);
        IGridComputingRewards.Node memory node = _grid.nodes(record.node);
        if (node.index != record.index) revert RegistrationEnded(record.node, record.index);
        if (msg.sender != node.owner) revert NotOwner(record.node, msg.sender, node.owner);
        (record.state, record.appellant) = (CaseState.Appealed, msg.sender);
        _bondTotal += appealBond;
        emit SlashAppealed(caseId, msg.sender, msg.value);
    }

    /// @inheritdoc IGridSlashing
    function executeSlash(uint256 caseId) external {
        Record storage record = _openCase(caseId);
        bool appealed = record.state == CaseState.Appealed;
        if (appealed) {
            _requireRole(ARBITER_ROLE);
            if (block.timestamp >= _rulingUntil(record)) revert RulingOver(caseId, _rulingUntil(record));
        } else if (block.timestamp < record.appealUntil) {
            revert AppealNotOver(caseId, record.appealUntil);
        }
        record.state = CaseState.Executed;
        uint256 slashed = _grid.slashStake(record.node, record.index, record.amount);
        emit SlashExecuted(caseId, record.node, slashed);
        if (appealed) {
            _bondTotal -= appealBond;
            _grid.fund{value: appealBond}();
        }
    }

    /// @inheritdoc IGridSlashing
    function cancelSlash(uint256 caseId) external {
        Record storage record = _openCase(caseId);
        bool appealed = record.state == CaseState.Appealed;
        if (block.timestamp < _rulingUntil(record)) {
            _requireRole(ARBITER_ROLE);
        } else if (!appealed) {
            revert RulingOver(caseId, _rulingUntil(record));
        }
        record.state = CaseState.Cancelled;
        emit SlashCancelled(caseId, record.node, msg.sender);
        if (appealed) {
            _bondTotal -= appealBond;
            _giveCredit(record.appellant, appealBond);
        }
        _grid.thawStake(record.node, record.index, record.amount);
    }

    /// @inheritdoc IGridSlashing
    function slashCases(uint256 caseId) external view returns (SlashCase memory) {
        Record storage record = _cases[caseId];
        return SlashCase({
            node: record.node,
            amount: record.amount,
            index: record.index,
            appealUntil: record.appealUntil,
            rulingUntil: record.state == CaseState.None ? 0 : _rulingUntil(record),
            state: record.state
        });
    }

    /// @inheritdoc IGridSlashing
    function caseCount() external view returns (uint256) {
        return _caseCount;
    }

    /// @inheritdoc IGridSlashing
    function bondTotal() external view returns (uint256) {
        return _bondTotal;
    }

    function _rulingUntil(Record storage record) private view returns (uint40) {
        return record.appealUntil + rulingTime;
    }

    function _openCase(uint256 caseId) private view returns (Record storage record) {
        record = _cases[caseId];
        CaseState state = record.state;
        if (state == CaseState.None) revert UnknownCase(caseId);
        if (state != CaseState.Proposed && state != CaseState.Appealed) revert CaseClosed(caseId, state);
    }

    function _requireWithin(string memory name, uint256 value, uint256 min, uint256 max) private pure {
        if (value < min || value > max) revert ParameterOutOfBounds(name, value, min, max);
    }
}
