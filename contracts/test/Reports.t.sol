// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICredits} from "../src/ICredits.sol";
import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {IGridRoles} from "../src/IGridRoles.sol";
import {Fixture} from "./Fixture.sol";

/// @notice Quorums of reporters, and challenges.
contract ReportsTest is Fixture {
    bytes32 private constant ROOT = keccak256("root");
    bytes32 private constant NO_DATA = keccak256("");
    bytes32 private constant REASON = keccak256("the leaf of node 7 is 2 XDC too much");
    address private second = makeAddr("second reporter");
    address private third = makeAddr("third reporter");

    function threeReporters(uint8 quorum) private {
        vm.startPrank(admin);
        rewards.grantRole(rewards.REPORTER_ROLE(), second);
        rewards.grantRole(rewards.REPORTER_ROLE(), third);
        vm.stopPrank();
        IGridComputingRewards.Parameters memory next = rules();
        next.quorum = quorum;
        change(next);
    }

    function vote(address by, bytes32 root, uint128 total) private {
        vm.prank(by);
        rewards.voteEpoch(0, root, total, NO_DATA);
    }

    function expectQuorumMissing(uint256 votes, uint256 needed) private {
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.QuorumMissing.selector, votes, needed));
    }

    // ---------------------------------------------------------------- quorum

    function test_with_a_quorum_of_two_one_reporter_alone_reports_nothing() public {
        threeReporters(2);
        expectQuorumMissing(1, 2);
        submit(0, ROOT, 1 ether);
        vote(second, ROOT, 1 ether);
        submit(0, ROOT, 1 ether);
        assertEq(state().pendingRoot, ROOT);
    }

    function test_votes_for_something_else_do_not_count_and_a_later_vote_replaces_the_first() public {
        threeReporters(3);
        vote(second, ROOT, 1 ether);
        vote(third, ROOT, 2 ether);
        expectQuorumMissing(2, 3);
        submit(0, ROOT, 1 ether);
        vm.expectEmit();
        emit IGridComputingRewards.EpochVoted(0, third, rewards.reportHash(0, ROOT, 1 ether, NO_DATA));
        vote(third, ROOT, 1 ether);
        submit(0, ROOT, 1 ether);
        assertEq(rewards.voteOf(third), rewards.reportHash(0, ROOT, 1 ether, NO_DATA));
    }

    function test_the_submitters_own_vote_counts_once() public {
        threeReporters(2);
        vote(reporter, ROOT, 1 ether);
        expectQuorumMissing(1, 2);
        submit(0, ROOT, 1 ether);
    }

    function test_the_vote_of_a_former_reporter_does_not_count() public {
        threeReporters(2);
        vote(second, ROOT, 1 ether);
        bytes32 role = rewards.REPORTER_ROLE();
        vm.prank(admin);
        rewards.revokeRole(role, second);
        expectQuorumMissing(1, 2);
        submit(0, ROOT, 1 ether);
    }

    function test_votes_for_a_dropped_report_are_void() public {
        threeReporters(2);
        vote(second, ROOT, 1 ether);
        submit(0, ROOT, 1 ether);
        vm.prank(guardian);
        rewards.disableEpoch(0);
        assertEq(state().round, 1);
        expectQuorumMissing(1, 2);
        submit(0, ROOT, 1 ether);
    }

    function test_only_reporters_vote_and_only_on_the_next_epoch() public {
        bytes32 role = rewards.REPORTER_ROLE();
        vm.expectRevert(abi.encodeWithSelector(IGridRoles.AccessControlUnauthorizedAccount.selector, stranger, role));
        vote(stranger, ROOT, 1);
        vm.prank(reporter);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.WrongEpoch.selector, 0, 1));
        rewards.voteEpoch(1, ROOT, 1, NO_DATA);
    }

    // ---------------------------------------------------------------- challenges

    function report() private {
        warpPastEpoch(state().nextEpoch);
        submit(state().nextEpoch, ROOT, 100 ether);
    }

    function challenge() private {
        vm.prank(stranger);
        rewards.challengeEpoch{value: BOND}(0, REASON);
    }

    function rule(bool upheld) private {
        vm.prank(arbiter);
        rewards.resolveChallenge(0, upheld);
    }

    function test_a_challenge_stops_the_epoch_and_holds_the_bond() public {
        report();
        challenge();
        IGridComputingRewards.EpochState memory s = state();
        assertTrue(s.pending && s.challenged);
        assertEq(s.activeAt, type(uint64).max);
        assertEq(s.rulingDueAt, block.timestamp + 7 days);
        assertEq(s.bond, BOND);
        assertEq(rewards.owed(), address(rewards).balance);
        vm.warp(block.timestamp + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.ChallengeOpen.selector, 0, s.rulingDueAt));
        rewards.distributeRewards();
        warpPastEpoch(1);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.ChallengeOpen.selector, 0, s.rulingDueAt));
        submit(1, keccak256("next"), 101 ether);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.ChallengeOpen.selector, 0, s.rulingDueAt));
        challenge();
    }

    function test_a_challenge_needs_the_exact_bond_and_an_open_window() public {
        vm.expectRevert(IGridComputingRewards.NothingPending.selector);
        challenge();
        report();
        vm.startPrank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.WrongBond.selector, BOND + 1, BOND));
        rewards.challengeEpoch{value: BOND + 1}(0, REASON);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.WrongEpoch.selector, 0, 1));
        rewards.challengeEpoch{value: BOND}(1, REASON);
        vm.stopPrank();
        warpPastWindow();
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.WindowOver.selector, 0, state().activeAt));
        challenge();
    }

    function test_an_upheld_challenge_drops_the_epoch_and_pays_bond_and_reward() public {
        report();
        challenge();
        rule(true);
        assertEq(rewards.credit(stranger), BOND + 5 ether);
        assertEq(state().rewardPool, 495 ether);
        assertEq(state().nextEpoch, 0);
        assertFalse(state().pending);
        assertEq(rewards.owed(), address(rewards).balance);
        rewards.withdrawCredit(stranger);
        assertEq(stranger.balance, 105 ether);
        submit(0, keccak256("corrected"), 90 ether);
    }

    function test_the_reward_for_a_challenge_is_no_more_than_the_pool_holds() public {
        IGridComputingRewards.Parameters memory next = rules();
        next.maxEpochIncrease = 1000 ether;
        next.challengeReward = uint72(BOND);
        change(next);
        rewards.fund{value: 400 ether}();
        warpPastEpoch(0);
        submit(0, ROOT, 897 ether);
        warpPastWindow();
        rewards.distributeRewards();
        warpPastEpoch(1);
        submit(1, keccak256("more"), 899 ether);
        vm.prank(stranger);
        rewards.challengeEpoch{value: BOND}(1, REASON);
        vm.prank(arbiter);
        rewards.resolveChallenge(1, true);
        assertEq(rewards.credit(stranger), BOND + 3 ether);
        assertEq(state().rewardPool, 0);
    }

    function test_a_rejected_challenge_costs_the_bond_and_restarts_the_window() public {
        report();
        challenge();
        vm.warp(block.timestamp + 2 days);
        rule(false);
        assertEq(state().treasury, BOND);
        assertEq(state().activeAt, block.timestamp + WINDOW);
        assertFalse(state().challenged);
        assertEq(rewards.credit(stranger), 0);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.PendingEpoch.selector, 0, state().activeAt));
        rewards.distributeRewards();
        challenge();
        rule(false);
        warpPastWindow();
        rewards.distributeRewards();
        assertEq(state().liveRoot, ROOT);
        assertEq(state().treasury, 2 * BOND);
    }

    function test_no_ruling_in_time_drops_the_epoch_and_returns_the_bond() public {
        report();
        challenge();
        uint256 due = state().rulingDueAt;
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.ChallengeOpen.selector, 0, due));
        rewards.expireChallenge(0);
        vm.warp(due);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.RulingOver.selector, 0, due));
        rule(false);
        rewards.expireChallenge(0);
        assertEq(rewards.credit(stranger), BOND);
        assertEq(state().rewardPool, 500 ether);
        assertFalse(state().pending);
        assertEq(state().nextEpoch, 0);
    }

    function test_the_guardian_can_drop_a_challenged_epoch_and_the_bond_returns() public {
        report();
        challenge();
        vm.warp(block.timestamp + 3 days);
        vm.prank(guardian);
        rewards.disableEpoch(0);
        assertEq(rewards.credit(stranger), BOND);
        assertEq(state().rewardPool, 500 ether);
    }

    function test_only_the_arbiter_rules_and_only_on_a_challenge() public {
        report();
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NotChallenged.selector, 0));
        rule(true);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NotChallenged.selector, 0));
        rewards.expireChallenge(0);
        challenge();
        bytes32 role = rewards.ARBITER_ROLE();
        address[4] memory others = [admin, reporter, guardian, slasher];
        for (uint256 i = 0; i < others.length; i++) {
            vm.prank(others[i]);
            vm.expectRevert(
                abi.encodeWithSelector(IGridRoles.AccessControlUnauthorizedAccount.selector, others[i], role)
            );
            rewards.resolveChallenge(0, true);
        }
    }

    function test_claims_on_the_live_root_go_on_during_a_challenge() public {
        payEverythingTo(owner, 3 ether);
        warpPastEpoch(1);
        submit(1, ROOT, 5 ether);
        vm.prank(stranger);
        rewards.challengeEpoch{value: BOND}(1, REASON);
        rewards.claim(owner, 3 ether, noProof());
        assertEq(owner.balance, 103 ether);
    }

    function test_a_challenger_that_refuses_money_cannot_stop_the_ruling() public {
        report();
        Stubborn stubborn = new Stubborn();
        deal(address(stubborn), BOND);
        vm.prank(address(stubborn));
        rewards.challengeEpoch{value: BOND}(0, REASON);
        rule(true);
        assertEq(rewards.credit(address(stubborn)), BOND + 5 ether);
        vm.expectRevert(abi.encodeWithSelector(ICredits.CreditRefused.selector, address(stubborn), BOND + 5 ether));
        rewards.withdrawCredit(address(stubborn));
    }

    function testFuzz_money_adds_up_whatever_the_ruling(uint96 increase, bool upheld, bool expired) public {
        increase = uint96(bound(increase, 1, 500 ether));
        warpPastEpoch(0);
        submit(0, ROOT, increase);
        challenge();
        if (expired) {
            vm.warp(state().rulingDueAt);
            rewards.expireChallenge(0);
        } else {
            rule(upheld);
        }
        assertEq(rewards.owed(), address(rewards).balance);
        assertEq(state().pending, !expired && !upheld);
        uint256 back = rewards.credit(stranger);
        assertEq(back, expired ? BOND : upheld ? BOND + 5 ether : 0);
    }
}

contract Stubborn {
    receive() external payable {
        revert("no");
    }
}
