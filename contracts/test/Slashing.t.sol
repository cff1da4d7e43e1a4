// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {IGridMember} from "../src/IGridMember.sol";
import {IGridSlashing} from "../src/IGridSlashing.sol";
import {Fixture} from "./Fixture.sol";

contract SlashingTest is Fixture {
    bytes32 private constant EVIDENCE = keccak256("answers that no replay gives");
    bytes32 private constant MORE = keccak256("another answer that no replay gives");
    address private other = makeAddr("other node");
    uint256 private accusations;

    /// @dev The owner's stake of 10 XDC and 90 XDC of others, so that the epoch's cap (a quarter) is not what binds.
    function setUp() public override {
        super.setUp();
        registerOwner(10 ether);
        deal(other, 90 ether);
        vm.prank(other);
        rewards.registerNode{value: 90 ether}(1, 1);
    }

    /// @dev On evidence of its own.
    function propose(uint96 amount) private returns (uint256) {
        return propose(amount, keccak256(abi.encode(++accusations)));
    }

    function propose(uint96 amount, bytes32 evidence) private returns (uint256) {
        vm.prank(slasher);
        return slashing.proposeSlash(owner, amount, evidence);
    }

    function appeal(uint256 id) private {
        vm.prank(owner);
        slashing.appealSlash{value: APPEAL_BOND}(id);
    }

    function frozen() private view returns (uint96) {
        return rewards.nodes(owner).frozen;
    }

    function expectUsed(uint256 id) private {
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.EvidenceUsed.selector, id));
    }

    function expectClosed(uint256 id, IGridSlashing.CaseState closed) private {
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.CaseClosed.selector, id, closed));
    }

    // ---------------------------------------------------------------- the ways of a case

    function test_a_proposal_freezes_at_once() public {
        vm.expectEmit();
        emit IGridSlashing.SlashProposed(
            1,
            owner,
            slasher,
            1,
            3 ether,
            EVIDENCE,
            block.timestamp + APPEAL_TIME,
            block.timestamp + APPEAL_TIME + RULING_TIME
        );
        uint256 id = propose(3 ether, EVIDENCE);
        assertEq(frozen(), 3 ether);
        assertEq(rewards.nodes(owner).heldUntil, block.timestamp + APPEAL_TIME + RULING_TIME);
        IGridSlashing.SlashCase memory slashCase = slashing.slashCases(id);
        assertEq(slashCase.node, owner);
        assertEq(slashCase.amount, 3 ether);
        assertEq(slashCase.index, 1);
        assertEq(slashCase.rulingUntil, block.timestamp + APPEAL_TIME + RULING_TIME);
        assertEq(slashing.caseCount(), 1);
        assertEq(slashing.slashCases(2).rulingUntil, 0);
    }

    function test_an_unappealed_case_is_executed_by_anyone_and_pays_the_treasury() public {
        uint256 id = propose(3 ether);
        uint256 until = block.timestamp + APPEAL_TIME;
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.AppealNotOver.selector, id, until));
        slashing.executeSlash(id);
        vm.warp(until);
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.AppealOver.selector, id, until));
        appeal(id);
        vm.prank(stranger);
        slashing.executeSlash(id);
        assertEq(rewards.nodes(owner).stake, 7 ether);
        assertEq(frozen(), 0);
        assertEq(state().treasury, 3 ether);
        assertEq(state().stakeTotal, 97 ether);
        assertEq(slasher.balance, 0, "never to the slasher");
        expectClosed(id, IGridSlashing.CaseState.Executed);
        slashing.executeSlash(id);
    }

    function test_a_ruling_against_the_appeal_slashes_and_the_bond_goes_to_the_pool() public {
        uint256 id = propose(3 ether);
        appeal(id);
        assertEq(slashing.bondTotal(), APPEAL_BOND);
        vm.prank(arbiter);
        slashing.executeSlash(id);
        assertEq(rewards.nodes(owner).stake, 7 ether);
        assertEq(state().rewardPool, 500 ether + APPEAL_BOND);
        assertEq(slashing.bondTotal(), 0);
        assertEq(address(slashing).balance, 0);
    }

    function test_a_ruling_for_the_appeal_frees_the_stake_and_returns_the_bond() public {
        uint256 id = propose(3 ether);
        appeal(id);
        vm.prank(arbiter);
        slashing.cancelSlash(id);
        assertEq(frozen(), 0);
        assertEq(rewards.nodes(owner).stake, 10 ether);
        assertEq(slashing.credit(owner), APPEAL_BOND);
        slashing.withdrawCredit(owner);
        assertEq(owner.balance, 90 ether);
        expectClosed(id, IGridSlashing.CaseState.Cancelled);
        slashing.cancelSlash(id);
    }

    function test_only_the_arbiter_ends_an_appeal_before_its_deadline() public {
        uint256 id = propose(3 ether);
        appeal(id);
        vm.warp(block.timestamp + APPEAL_TIME);
        bytes32 role = rewards.ARBITER_ROLE();
        address[6] memory others = [admin, reporter, guardian, slasher, owner, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            vm.startPrank(others[i]);
            vm.expectRevert(abi.encodeWithSelector(IGridMember.NotAllowed.selector, others[i], role));
            slashing.executeSlash(id);
            vm.expectRevert(abi.encodeWithSelector(IGridMember.NotAllowed.selector, others[i], role));
            slashing.cancelSlash(id);
            vm.stopPrank();
        }
    }

    function test_no_ruling_in_time_frees_the_stake() public {
        uint256 id = propose(3 ether);
        appeal(id);
        uint256 until = slashing.slashCases(id).rulingUntil;
        vm.warp(until);
        vm.prank(arbiter);
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.RulingOver.selector, id, until));
        slashing.executeSlash(id);
        slashing.cancelSlash(id);
        assertEq(frozen(), 0);
        assertEq(slashing.credit(owner), APPEAL_BOND);
    }

    function test_an_unappealed_case_is_cancelled_by_the_arbiter_only_and_only_in_time() public {
        uint256 id = propose(3 ether);
        vm.prank(arbiter);
        slashing.cancelSlash(id);
        assertEq(frozen(), 0);
        id = propose(3 ether);
        uint256 until = slashing.slashCases(id).rulingUntil;
        vm.warp(until);
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.RulingOver.selector, id, until));
        slashing.cancelSlash(id);
        slashing.executeSlash(id);
        assertEq(rewards.nodes(owner).stake, 7 ether);
    }

    function test_an_appeal_is_the_owners_once_and_with_the_exact_bond() public {
        uint256 id = propose(3 ether);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.NotOwner.selector, owner, stranger, owner));
        slashing.appealSlash{value: APPEAL_BOND}(id);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.WrongBond.selector, 1, APPEAL_BOND));
        slashing.appealSlash{value: 1}(id);
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.UnknownCase.selector, 9));
        appeal(9);
        appeal(id);
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.AlreadyAppealed.selector, id));
        appeal(id);
    }

    // ---------------------------------------------------------------- bounds

    function test_a_case_is_at_most_half_of_the_stake_and_cases_add_up_to_no_more_than_it() public {
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.FreezeTooLarge.selector, 5 ether + 1, 5 ether));
        propose(5 ether + 1);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.FreezeTooLarge.selector, 0, 5 ether));
        propose(0);
        propose(5 ether);
        propose(4 ether);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.FreezeTooLarge.selector, 2 ether, 1 ether));
        propose(2 ether);
        assertEq(frozen(), 9 ether);
    }

    function test_an_epoch_freezes_at_most_a_quarter_of_all_stakes() public {
        vm.startPrank(slasher);
        slashing.proposeSlash(other, 20 ether, EVIDENCE);
        vm.expectRevert(
            abi.encodeWithSelector(IGridComputingRewards.EpochFreezeTooLarge.selector, 5 ether + 1, 5 ether)
        );
        slashing.proposeSlash(other, 5 ether + 1, MORE);
        slashing.proposeSlash(owner, 5 ether, EVIDENCE);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.EpochFreezeTooLarge.selector, 1, 0));
        slashing.proposeSlash(owner, 1, MORE);
        vm.warp(block.timestamp + EPOCH);
        slashing.proposeSlash(owner, 1, MORE);
        vm.stopPrank();
    }

    function test_only_a_slasher_proposes_and_only_slashing_touches_stakes() public {
        bytes32 role = rewards.SLASHER_ROLE();
        vm.expectRevert(abi.encodeWithSelector(IGridMember.NotAllowed.selector, reporter, role));
        vm.prank(reporter);
        slashing.proposeSlash(owner, 1 ether, EVIDENCE);
        bytes memory refused =
            abi.encodeWithSelector(IGridComputingRewards.NotSlashing.selector, slasher, address(slashing));
        vm.startPrank(slasher);
        vm.expectRevert(refused);
        rewards.freezeStake(owner, 1 ether, uint40(block.timestamp));
        vm.expectRevert(refused);
        rewards.thawStake(owner, 1, 1 ether);
        vm.expectRevert(refused);
        rewards.slashStake(owner, 1, 1 ether);
        vm.stopPrank();
    }

    function test_a_hold_has_an_end_whatever_slashing_asks_for() public {
        uint256 max = block.timestamp + 45 days;
        vm.startPrank(address(slashing));
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.HoldTooLong.selector, max + 1, max));
        rewards.freezeStake(owner, 1 ether, uint40(max + 1));
        rewards.freezeStake(owner, 1 ether, uint40(max));
        rewards.freezeStake(owner, 1 ether, uint40(block.timestamp));
        vm.stopPrank();
        assertEq(rewards.nodes(owner).heldUntil, max, "a later freeze never shortens a hold");
    }

    // ---------------------------------------------------------------- evidence

    function test_the_same_evidence_opens_no_second_case_whatever_becomes_of_the_first() public {
        assertEq(slashing.caseOf(owner, EVIDENCE), 0);
        uint256 id = propose(1 ether, EVIDENCE);
        assertEq(slashing.caseOf(owner, EVIDENCE), id);
        expectUsed(id);
        propose(1 ether, EVIDENCE);
        appeal(id);
        expectUsed(id);
        propose(1 ether, EVIDENCE);
        vm.prank(arbiter);
        slashing.cancelSlash(id);
        expectUsed(id);
        propose(1 ether, EVIDENCE);
        uint256 next = propose(1 ether, MORE);
        vm.warp(block.timestamp + APPEAL_TIME);
        slashing.executeSlash(next);
        expectUsed(next);
        propose(1 ether, MORE);
        assertEq(slashing.caseCount(), 2);
        assertEq(rewards.nodes(owner).stake, 9 ether);
    }

    function test_evidence_is_used_up_for_its_node_alone_and_also_when_another_stake_is_put_down() public {
        uint256 id = propose(1 ether, EVIDENCE);
        vm.prank(slasher);
        uint256 others = slashing.proposeSlash(other, 1 ether, EVIDENCE);
        assertEq(slashing.caseOf(other, EVIDENCE), others);
        vm.prank(arbiter);
        slashing.cancelSlash(id);
        leave(owner);
        vm.warp(rewards.nodes(owner).exitAt);
        leave(owner);
        registerOwner(10 ether);
        expectUsed(id);
        propose(1 ether, EVIDENCE);
        assertEq(frozen(), 0);
    }

    function test_a_proposal_that_is_refused_uses_no_evidence_up() public {
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.FreezeTooLarge.selector, 5 ether + 1, 5 ether));
        propose(5 ether + 1, EVIDENCE);
        assertEq(slashing.caseOf(owner, EVIDENCE), 0);
        propose(5 ether, EVIDENCE);
    }

    function test_a_case_needs_evidence() public {
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.NoEvidence.selector, owner));
        propose(1 ether, bytes32(0));
    }

    /// @dev Of a few proposals with any evidence, each kind opens one case, the first.
    function testFuzz_each_evidence_opens_one_case(uint8[12] memory kinds) public {
        uint256[4] memory first;
        uint256 cases;
        for (uint256 i = 0; i < kinds.length; i++) {
            uint256 kind = kinds[i] % 4;
            bytes32 evidence = keccak256(abi.encode(EVIDENCE, kind));
            if (first[kind] != 0) {
                expectUsed(first[kind]);
                propose(1 ether, evidence);
            } else {
                first[kind] = propose(1 ether, evidence);
                assertEq(first[kind], ++cases);
            }
            assertEq(slashing.caseOf(owner, evidence), first[kind]);
        }
        assertEq(slashing.caseCount(), cases);
    }

    // ---------------------------------------------------------------- exits

    function test_an_exit_waits_for_an_open_case_and_no_longer() public {
        leave(owner);
        uint256 exitAt = rewards.nodes(owner).exitAt;
        vm.warp(exitAt - 1 hours);
        uint256 id = propose(5 ether);
        appeal(id);
        uint256 heldUntil = rewards.nodes(owner).heldUntil;
        vm.warp(exitAt);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.StillUnbonding.selector, owner, heldUntil));
        leave(owner);
        vm.warp(heldUntil);
        leave(owner);
        assertEq(owner.balance, 100 ether - APPEAL_BOND, "the whole stake: nobody ruled");
        slashing.cancelSlash(id);
        assertEq(slashing.credit(owner), APPEAL_BOND);
    }

    function test_without_an_unbonding_time_an_open_case_still_holds_the_exit() public {
        rewards = deployRewards(admin, EPOCH, 0, 0, MAX_INCREASE);
        slashing = deploySlashing(address(rewards), APPEAL_TIME, RULING_TIME, APPEAL_BOND);
        vm.startPrank(admin);
        rewards.grantRole(rewards.SLASHER_ROLE(), slasher);
        rewards.bindSlashing(address(slashing));
        vm.stopPrank();
        registerOwner(10 ether);
        deal(other, 90 ether);
        vm.prank(other);
        rewards.registerNode{value: 90 ether}(1, 1);
        propose(5 ether);
        leave(owner);
        IGridComputingRewards.Node memory held = rewards.nodes(owner);
        assertEq(uint8(held.status), uint8(IGridComputingRewards.NodeStatus.Exiting));
        assertEq(held.stake, 10 ether);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.StillUnbonding.selector, owner, held.heldUntil));
        leave(owner);
        vm.warp(held.heldUntil);
        leave(owner);
        assertEq(uint8(rewards.nodes(owner).status), uint8(IGridComputingRewards.NodeStatus.None));
    }

    function test_a_case_that_is_decided_no_longer_holds_the_exit() public {
        leave(owner);
        uint256 id = propose(5 ether);
        vm.warp(block.timestamp + APPEAL_TIME);
        slashing.executeSlash(id);
        vm.warp(rewards.nodes(owner).exitAt);
        leave(owner);
        assertEq(owner.balance, 95 ether);
        assertEq(state().treasury, 5 ether);
    }

    function test_no_case_is_opened_once_the_exit_is_due() public {
        leave(owner);
        uint256 exitAt = rewards.nodes(owner).exitAt;
        vm.warp(exitAt);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NodeExiting.selector, owner, exitAt));
        propose(1 ether);
        leave(owner);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NotRegistered.selector, owner));
        propose(1 ether);
    }

    function test_a_stale_case_never_touches_the_stake_of_a_new_registration() public {
        leave(owner);
        uint256 stale = propose(5 ether);
        uint256 alsoStale = propose(1 ether);
        vm.warp(rewards.nodes(owner).heldUntil);
        leave(owner);
        registerOwner(10 ether);
        assertEq(rewards.nodes(owner).index, 3);
        propose(4 ether);
        slashing.executeSlash(stale);
        assertEq(rewards.nodes(owner).stake, 10 ether);
        assertEq(frozen(), 4 ether);
        assertEq(state().treasury, 0);
        assertEq(uint8(slashing.slashCases(stale).state), uint8(IGridSlashing.CaseState.Executed));
        assertEq(uint8(slashing.slashCases(alsoStale).state), uint8(IGridSlashing.CaseState.Proposed));
    }

    function test_an_owner_whose_registration_ended_has_nothing_to_appeal() public {
        rewards = deployRewards(admin, EPOCH, 0, 1 hours, MAX_INCREASE);
        IGridSlashing slow = deploySlashing(address(rewards), 21 days, 1, 1);
        vm.startPrank(admin);
        rewards.grantRole(rewards.SLASHER_ROLE(), slasher);
        rewards.bindSlashing(address(slow));
        vm.stopPrank();
        registerOwner(10 ether);
        vm.prank(slasher);
        uint256 id = slow.proposeSlash(owner, 1 ether, EVIDENCE);
        // What no case of GridSlashing does: the stake is free while the case is open.
        vm.prank(address(slow));
        rewards.thawStake(owner, 1, 1 ether);
        leave(owner);
        vm.warp(block.timestamp + 1 hours);
        leave(owner);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IGridSlashing.RegistrationEnded.selector, owner, 1));
        slow.appealSlash{value: 1}(id);
    }

    // ---------------------------------------------------------------- deployment

    function test_slashing_is_off_until_it_is_bound_and_bound_once() public {
        rewards = deployRewards(admin, EPOCH, WINDOW, unbonding, MAX_INCREASE);
        assertEq(rewards.slashingContract(), address(0));
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.SlashingNotForThis.selector, address(slashing)));
        rewards.bindSlashing(address(slashing));
        vm.expectRevert();
        rewards.bindSlashing(stranger);
        address fitting = address(deploySlashing(address(rewards), 1, 1, 1));
        rewards.bindSlashing(fitting);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.SlashingAlreadyBound.selector, fitting));
        rewards.bindSlashing(fitting);
        vm.stopPrank();
    }

    function test_times_and_bond_are_bounded() public {
        vm.expectPartialRevert(IGridSlashing.ParameterOutOfBounds.selector);
        deploySlashing(address(rewards), 0, 1, 1);
        vm.expectPartialRevert(IGridSlashing.ParameterOutOfBounds.selector);
        deploySlashing(address(rewards), 1, 21 days + 1, 1);
        vm.expectPartialRevert(IGridSlashing.ParameterOutOfBounds.selector);
        deploySlashing(address(rewards), 1, 1, 0);
        vm.expectRevert(abi.encodeWithSelector(IGridMember.NoRewardsContract.selector, stranger));
        deploySlashing(stranger, 1, 1, 1);
        assertEq(slashing.rewards(), address(rewards));
        assertEq(slashing.appealTime(), APPEAL_TIME);
        assertEq(slashing.rulingTime(), RULING_TIME);
        assertEq(slashing.appealBond(), APPEAL_BOND);
    }

    function testFuzz_stake_paid_out_and_slashed_are_what_was_paid_in(uint96 stake, uint16 share, bool slashed) public {
        stake = uint96(bound(stake, 1 ether, 20 ether));
        leave(owner);
        vm.warp(rewards.nodes(owner).exitAt);
        leave(owner);
        registerOwner(stake);
        uint96 amount = uint96(uint256(stake) * bound(share, 1, 5000) / 10_000);
        uint256 id = propose(amount);
        vm.warp(block.timestamp + APPEAL_TIME);
        if (slashed) {
            slashing.executeSlash(id);
        } else {
            vm.prank(arbiter);
            slashing.cancelSlash(id);
        }
        leave(owner);
        vm.warp(rewards.nodes(owner).exitAt);
        leave(owner);
        assertEq(owner.balance + state().treasury, 100 ether);
        assertEq(state().treasury, slashed ? amount : 0);
        assertEq(state().stakeTotal, 90 ether);
    }
}
