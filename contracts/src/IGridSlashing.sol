// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICredits} from "./ICredits.sol";
import {IGridMember} from "./IGridMember.sol";

/// @title How a stake is slashed: the functions, types, events and errors of GridSlashing.
/// @notice A slasher proposes a case, which freezes the amount in GridComputingRewards at once. The same evidence opens no second
/// case against a node, whatever became of the first and whoever stakes for the node later. The owner may appeal until
/// appealUntil with a bond. Unappealed: anyone executes the case after that. Appealed: an arbiter rules until rulingUntil; no
/// ruling by then means that anyone can cancel the case. Slashed stake goes to the treasury, never to the slasher. Caps
/// and the end of every hold are GridComputingRewards' own. Amounts are wei, times unix seconds.
interface IGridSlashing is ICredits, IGridMember {
    enum CaseState {
        None,
        Proposed,
        Appealed,
        Executed,
        Cancelled
    }

    /// @param index the registration of the node that the case is about
    /// @param amount wei frozen for the case
    /// @param appealUntil unix seconds; an appeal is taken before, an unappealed case can be executed from then on
    /// @param rulingUntil unix seconds; an arbiter rules before, an unruled appeal can be cancelled from then on
    struct SlashCase {
        address node;
        uint96 amount;
        uint32 index;
        uint40 appealUntil;
        uint40 rulingUntil;
        CaseState state;
    }

    event SlashProposed(
        uint256 indexed caseId,
        address indexed node,
        address indexed slasher,
        uint32 index,
        uint256 amount,
        bytes32 evidenceHash,
        uint256 appealUntil,
        uint256 rulingUntil
    );
    event SlashAppealed(uint256 indexed caseId, address indexed owner, uint256 bond);
    /// @param slashed wei that went to the treasury; less than the amount only when the node's registration ended before
    event SlashExecuted(uint256 indexed caseId, address indexed node, uint256 slashed);
    event SlashCancelled(uint256 indexed caseId, address indexed node, address by);

    error ParameterOutOfBounds(string name, uint256 value, uint256 min, uint256 max);
    error NoEvidence(address node);
    /// @notice That case was opened against the node on this evidence; it may be decided, or dropped.
    error EvidenceUsed(uint256 caseId);
    error UnknownCase(uint256 caseId);
    error CaseClosed(uint256 caseId, CaseState state);
    error NotOwner(address node, address caller, address owner);
    /// @notice The registration that the case is about has ended; there is nothing left to defend.
    error RegistrationEnded(address node, uint32 index);
    error AlreadyAppealed(uint256 caseId);
    error AppealOver(uint256 caseId, uint256 appealUntil);
    error AppealNotOver(uint256 caseId, uint256 appealUntil);
    error RulingOver(uint256 caseId, uint256 rulingUntil);
    error WrongBond(uint256 sent, uint256 required);

    /// @notice Slasher only. Freezes `amount` of the node's stake.
    /// @param evidenceHash of what is published as evidence; not zero, and never used against this node before
    function proposeSlash(address node, uint96 amount, bytes32 evidenceHash) external returns (uint256 caseId);

    /// @notice The node's owner, before appealUntil; the value is the bond, exactly. The bond comes back as a credit unless an
    /// arbiter rules for the slash; then it goes to the reward pool.
    function appealSlash(uint256 caseId) external payable;

    /// @notice Slashes. Unappealed and past appealUntil: anyone. Appealed: the arbiter, before rulingUntil.
    function executeSlash(uint256 caseId) external;

    /// @notice Frees the stake. The arbiter at any time before rulingUntil; anyone from rulingUntil on, if it was appealed (an
    /// unappealed case is then only executed, by anyone).
    function cancelSlash(uint256 caseId) external;

    function slashCases(uint256 caseId) external view returns (SlashCase memory);
    /// @notice The case that was opened against the node on this evidence; zero while there was none.
    function caseOf(address node, bytes32 evidenceHash) external view returns (uint256 caseId);
    /// @notice How many cases there were; ids count from 1.
    function caseCount() external view returns (uint256);
    /// @notice Wei of appeals' bonds that are not decided.
    function bondTotal() external view returns (uint256);
    /// @notice Seconds from a proposal to appealUntil; fixed at deployment.
    function appealTime() external view returns (uint40);
    /// @notice Seconds from appealUntil to rulingUntil; fixed at deployment.
    function rulingTime() external view returns (uint40);
    /// @notice Wei an appeal needs; fixed at deployment.
    function appealBond() external view returns (uint96);
}
