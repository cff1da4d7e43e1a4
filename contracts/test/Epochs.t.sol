// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {IGridRoles} from "../src/IGridRoles.sol";
import {Fixture} from "./Fixture.sol";

contract EpochsTest is Fixture {
    bytes32 private constant ROOT = keccak256("root");

    function test_a_report_reserves_its_increase_and_waits() public {
        warpPastEpoch(0);
        submit(0, ROOT, 100 ether);
        IGridComputingRewards.EpochState memory now_ = state();
        assertTrue(now_.pending);
        assertEq(now_.nextEpoch, 1);
        assertEq(now_.pendingRoot, ROOT);
        assertEq(now_.pendingTotal, 100 ether);
        assertEq(now_.rewardPool, 400 ether);
        assertEq(now_.liveTotal, 0);
        assertEq(now_.activeAt, block.timestamp + WINDOW);

        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.PendingEpoch.selector, 0, now_.activeAt));
        rewards.distributeRewards();

        vm.warp(now_.activeAt);
        rewards.distributeRewards();
        now_ = state();
        assertFalse(now_.pending);
        assertEq(now_.liveRoot, ROOT);
        assertEq(now_.liveTotal, 100 ether);
        vm.expectRevert(IGridComputingRewards.NothingPending.selector);
        rewards.distributeRewards();
    }

    function test_a_report_activates_the_one_before_it() public {
        warpPastEpoch(0);
        submit(0, ROOT, 1 ether);
        warpPastEpoch(1);
        submit(1, keccak256("second"), 3 ether);
        assertEq(state().liveRoot, ROOT);
        assertEq(state().liveTotal, 1 ether);
        assertEq(state().pendingTotal, 3 ether);
        assertEq(state().rewardPool, 497 ether);
    }

    function test_the_next_report_waits_for_the_window_of_the_one_before() public {
        warpPastEpoch(1);
        submit(0, ROOT, 1 ether);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.PendingEpoch.selector, 0, state().activeAt));
        submit(1, ROOT, 2 ether);
    }

    function test_epochs_come_one_by_one_and_only_when_they_are_over() public {
        vm.expectRevert(
            abi.encodeWithSelector(IGridComputingRewards.EpochNotOver.selector, 0, rewards.genesis() + EPOCH)
        );
        submit(0, ROOT, 1 ether);
        warpPastEpoch(5);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.WrongEpoch.selector, 0, 1));
        submit(1, ROOT, 1 ether);
        submit(0, ROOT, 1 ether);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.WrongEpoch.selector, 1, 0));
        submit(0, ROOT, 1 ether);
    }

    function test_empty_epochs_need_no_window_so_a_backlog_can_be_cleared() public {
        warpPastEpoch(9);
        for (uint64 epoch = 0; epoch < 9; epoch++) {
            submit(epoch, bytes32(0), 0);
        }
        submit(9, ROOT, 1 ether);
        warpPastWindow();
        rewards.distributeRewards();
        warpPastEpoch(10);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.EmptyEpochChangesRoot.selector, ROOT, bytes32(0)));
        submit(10, bytes32(0), 1 ether);
        submit(10, ROOT, 1 ether);
        assertEq(state().nextEpoch, 11);
        assertFalse(state().pending);
    }

    function test_a_report_is_bounded_by_the_pool_and_by_the_limit() public {
        warpPastEpoch(0);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.PoolTooSmall.selector, 501 ether, 500 ether));
        submit(0, ROOT, 501 ether);
        rewards.fund{value: 1000 ether}();
        vm.expectRevert(
            abi.encodeWithSelector(IGridComputingRewards.IncreaseTooLarge.selector, 1001 ether, MAX_INCREASE)
        );
        submit(0, ROOT, 1001 ether);
        submit(0, ROOT, 1000 ether);
    }

    function test_totals_never_fall_and_roots_are_never_empty() public {
        warpPastEpoch(0);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.EmptyRoot.selector, 0));
        submit(0, bytes32(0), 1);
        submit(0, ROOT, 2 ether);
        warpPastEpoch(1);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.TotalDecreased.selector, 2 ether, 1 ether));
        submit(1, ROOT, 1 ether);
    }

    function test_the_leaves_in_calldata_are_the_ones_that_were_hashed() public {
        warpPastEpoch(0);
        vm.prank(reporter);
        vm.expectRevert(
            abi.encodeWithSelector(
                IGridComputingRewards.WrongDataHash.selector, keccak256("other"), keccak256("leaves")
            )
        );
        rewards.submitEpoch(0, ROOT, 1 ether, keccak256("leaves"), "other");
    }

    function test_only_the_reporter_reports_and_only_the_guardian_drops() public {
        warpPastEpoch(0);
        bytes32 reporterRole = rewards.REPORTER_ROLE();
        bytes32 guardianRole = rewards.GUARDIAN_ROLE();
        vm.prank(guardian);
        vm.expectRevert(
            abi.encodeWithSelector(IGridRoles.AccessControlUnauthorizedAccount.selector, guardian, reporterRole)
        );
        rewards.submitEpoch(0, ROOT, 1 ether, keccak256(""), "");
        submit(0, ROOT, 1 ether);
        vm.prank(reporter);
        vm.expectRevert(
            abi.encodeWithSelector(IGridRoles.AccessControlUnauthorizedAccount.selector, reporter, guardianRole)
        );
        rewards.disableEpoch(0);
        assertEq(rewards.admin(), admin);
    }

    function test_a_dropped_epoch_returns_its_money_and_its_number() public {
        warpPastEpoch(0);
        submit(0, ROOT, 100 ether);
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.WrongEpoch.selector, 0, 1));
        rewards.disableEpoch(1);
        vm.prank(guardian);
        rewards.disableEpoch(0);
        assertEq(state().rewardPool, 500 ether);
        assertEq(state().nextEpoch, 0);
        assertFalse(state().pending);
        submit(0, keccak256("corrected"), 50 ether);
        assertEq(state().pendingTotal, 50 ether);
    }

    function test_an_epoch_cannot_be_dropped_after_its_window() public {
        warpPastEpoch(0);
        submit(0, ROOT, 100 ether);
        warpPastWindow();
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.WindowOver.selector, 0, state().activeAt));
        vm.prank(guardian);
        rewards.disableEpoch(0);
        rewards.distributeRewards();
        vm.prank(guardian);
        vm.expectRevert(IGridComputingRewards.NothingPending.selector);
        rewards.disableEpoch(0);
    }

    function testFuzz_reserved_and_pooled_money_add_up(uint96 first, uint96 second) public {
        first = uint96(bound(first, 1, 200 ether));
        second = uint96(bound(second, 0, 200 ether));
        warpPastEpoch(0);
        submit(0, ROOT, first);
        warpPastEpoch(1);
        bytes32 root = second == 0 ? ROOT : keccak256("second");
        submit(1, root, uint128(first) + second);
        assertEq(uint256(state().rewardPool) + state().pendingTotal, 500 ether);
    }
}
