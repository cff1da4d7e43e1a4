// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {IGridRoles} from "../src/IGridRoles.sol";
import {Fixture} from "./Fixture.sol";

/// @notice Roles, parameters, pause, treasury, retirement.
contract RulesTest is Fixture {
    bytes32 private constant ROOT = keccak256("root");

    function expectUnauthorized(address caller, bytes32 role) private {
        vm.expectRevert(abi.encodeWithSelector(IGridRoles.AccessControlUnauthorizedAccount.selector, caller, role));
    }

    // ---------------------------------------------------------------- roles

    function test_the_admin_grants_and_revokes_and_nobody_else() public {
        bytes32 role = rewards.GUARDIAN_ROLE();
        expectUnauthorized(stranger, 0);
        vm.prank(stranger);
        rewards.grantRole(role, stranger);
        expectUnauthorized(stranger, 0);
        vm.prank(stranger);
        rewards.revokeRole(role, guardian);
        vm.startPrank(admin);
        vm.expectEmit();
        emit IGridRoles.RoleGranted(role, stranger, admin);
        rewards.grantRole(role, stranger);
        rewards.grantRole(role, stranger);
        assertTrue(rewards.hasRole(role, stranger));
        rewards.revokeRole(role, stranger);
        rewards.revokeRole(role, stranger);
        assertFalse(rewards.hasRole(role, stranger));
        vm.stopPrank();
        vm.prank(guardian);
        rewards.renounceRole(role);
        assertFalse(rewards.hasRole(role, guardian));
    }

    function test_roles_that_do_not_exist_are_refused() public {
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(IGridRoles.UnknownRole.selector, keccak256("REPORTER")));
        rewards.grantRole(keccak256("REPORTER"), stranger);
        vm.expectRevert(abi.encodeWithSelector(IGridRoles.UnknownRole.selector, bytes32(0)));
        rewards.grantRole(0, stranger);
        vm.stopPrank();
        assertFalse(rewards.hasRole(keccak256("REPORTER"), admin));
        assertTrue(rewards.hasRole(0, admin));
        assertEq(rewards.DEFAULT_ADMIN_ROLE(), 0);
    }

    function test_who_reports_who_accuses_and_who_judges_are_three() public {
        bytes32[3] memory exclusive = [rewards.REPORTER_ROLE(), rewards.SLASHER_ROLE(), rewards.ARBITER_ROLE()];
        address[3] memory holders = [reporter, slasher, arbiter];
        vm.startPrank(admin);
        for (uint256 i = 0; i < 3; i++) {
            for (uint256 j = 0; j < 3; j++) {
                if (i == j) continue;
                vm.expectRevert(abi.encodeWithSelector(IGridRoles.RolesConflict.selector, holders[i], exclusive[j]));
                rewards.grantRole(exclusive[j], holders[i]);
            }
        }
        rewards.grantRole(rewards.GUARDIAN_ROLE(), reporter);
        vm.stopPrank();
    }

    function test_there_are_at_most_16_reporters_and_the_list_follows() public {
        bytes32 role = rewards.REPORTER_ROLE();
        vm.startPrank(admin);
        for (uint160 i = 1; i < 16; i++) {
            rewards.grantRole(role, address(i));
        }
        vm.expectRevert(abi.encodeWithSelector(IGridRoles.TooManyReporters.selector, 16));
        rewards.grantRole(role, address(16));
        rewards.revokeRole(role, address(3));
        rewards.grantRole(role, address(16));
        rewards.revokeRole(role, address(16));
        rewards.revokeRole(role, reporter);
        vm.stopPrank();
        address[] memory list = rewards.reporters();
        assertEq(list.length, 14);
        for (uint256 i = 0; i < list.length; i++) {
            assertTrue(rewards.hasRole(role, list[i]));
        }
    }

    function test_the_admin_changes_in_two_steps_and_a_day() public {
        vm.prank(admin);
        rewards.proposeAdmin(owner);
        uint256 at = block.timestamp + 1 days;
        (address proposed, uint256 acceptableAt) = rewards.proposedAdmin();
        assertEq(proposed, owner);
        assertEq(acceptableAt, at);
        vm.expectRevert(abi.encodeWithSelector(IGridRoles.NotProposedAdmin.selector, stranger, owner));
        vm.prank(stranger);
        rewards.acceptAdmin();
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IGridRoles.AdminChangeTooEarly.selector, at));
        rewards.acceptAdmin();
        vm.warp(at);
        vm.prank(owner);
        rewards.acceptAdmin();
        assertEq(rewards.admin(), owner);
        assertFalse(rewards.hasRole(0, admin));
        expectUnauthorized(admin, 0);
        vm.prank(admin);
        rewards.proposeAdmin(admin);
        vm.startPrank(owner);
        rewards.proposeAdmin(stranger);
        rewards.proposeAdmin(address(0));
        vm.stopPrank();
        vm.warp(at + 2 days);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IGridRoles.NotProposedAdmin.selector, stranger, address(0)));
        rewards.acceptAdmin();
    }

    // ---------------------------------------------------------------- parameters

    function test_parameters_apply_from_the_next_epoch_on() public {
        IGridComputingRewards.Parameters memory next = rules();
        next.maxEpochIncrease = 5 ether;
        next.unbonding = 30 days;
        vm.warp(block.timestamp + EPOCH / 2);
        vm.prank(admin);
        rewards.setParameters(next);
        assertEq(rewards.maxEpochIncrease(), MAX_INCREASE);
        (
            IGridComputingRewards.Parameters memory inForce,
            IGridComputingRewards.Parameters memory announced,
            uint256 at
        ) = rewards.parameters();
        assertEq(inForce.maxEpochIncrease, MAX_INCREASE);
        assertEq(announced.maxEpochIncrease, 5 ether);
        assertEq(at, rewards.genesis() + EPOCH);
        next.maxEpochIncrease = 7 ether;
        vm.prank(admin);
        rewards.setParameters(next);
        assertEq(rewards.maxEpochIncrease(), MAX_INCREASE, "a second announcement brings nothing forward");
        vm.warp(at);
        assertEq(rewards.maxEpochIncrease(), 7 ether);
        assertEq(rewards.unbonding(), 30 days);
        assertEq(rewards.challengeWindow(), WINDOW);
        next.maxEpochIncrease = 8 ether;
        vm.prank(admin);
        rewards.setParameters(next);
        assertEq(rewards.maxEpochIncrease(), 7 ether);
    }

    function test_every_parameter_has_hard_bounds() public {
        IGridComputingRewards.Parameters memory p = rules();
        p.maxEpochIncrease = 0;
        refuse(p, "maxEpochIncrease");
        p = rules();
        p.challengeBond = 0.1 ether - 1;
        refuse(p, "challengeBond");
        p.challengeBond = 1000 ether + 1;
        refuse(p, "challengeBond");
        p = rules();
        p.challengeReward = p.challengeBond + 1;
        refuse(p, "challengeReward");
        p = rules();
        p.challengeWindow = uint32(EPOCH + 1);
        refuse(p, "challengeWindow");
        p = rules();
        p.rulingTime = 0;
        refuse(p, "rulingTime");
        p.rulingTime = 30 days + 1;
        refuse(p, "rulingTime");
        p = rules();
        p.unbonding = uint32(WINDOW - 1);
        refuse(p, "unbonding");
        p.unbonding = 90 days + 1;
        refuse(p, "unbonding");
        p = rules();
        p.quorum = 0;
        refuse(p, "quorum");
        p.quorum = 17;
        refuse(p, "quorum");
        p = rules();
        p.maxSlashBps = 5001;
        refuse(p, "maxSlashBps");
        p = rules();
        p.epochSlashBps = 5001;
        refuse(p, "epochSlashBps");
        p = rules();
        expectUnauthorized(stranger, 0);
        vm.prank(stranger);
        rewards.setParameters(p);
    }

    function refuse(IGridComputingRewards.Parameters memory p, string memory name) private {
        vm.prank(admin);
        try rewards.setParameters(p) {
            assertTrue(false, name);
        } catch (bytes memory reason) {
            assertEq(bytes4(reason), IGridComputingRewards.ParameterOutOfBounds.selector);
            bytes memory arguments = new bytes(reason.length - 4);
            for (uint256 i = 0; i < arguments.length; i++) {
                arguments[i] = reason[i + 4];
            }
            (string memory found,,,) = abi.decode(arguments, (string, uint256, uint256, uint256));
            assertEq(found, name);
        }
    }

    // ---------------------------------------------------------------- pause

    function pause(uint8 bits) private {
        vm.prank(guardian);
        rewards.pause(bits);
    }

    function expectPaused(uint8 bit, uint256 until) private {
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.OperationPaused.selector, bit, until));
    }

    function test_each_bit_stops_its_part_and_nothing_else() public {
        payEverythingTo(owner, 1 ether);
        warpPastEpoch(1);
        uint256 until = block.timestamp + 14 days;
        pause(1);
        expectPaused(1, until);
        registerOwner(1 ether);
        submit(1, ROOT, 2 ether);
        warpPastWindow();
        pause(2);
        (uint8 bits, uint256 end) = rewards.paused();
        assertEq(bits, 3);
        assertEq(end, until, "more bits, the same end");
        expectPaused(2, until);
        submit(2, ROOT, 2 ether);
        rewards.claim(owner, 1 ether, noProof());
        rewards.distributeRewards();
        pause(4);
        expectPaused(4, until);
        rewards.claim(owner, 1 ether, noProof());
        expectPaused(4, until);
        rewards.claimMany(new IGridComputingRewards.ClaimRequest[](0));
    }

    function test_a_pause_never_stops_an_exit_a_credit_or_a_challenge() public {
        registerOwner(10 ether);
        warpPastEpoch(0);
        submit(0, ROOT, 1 ether);
        pause(7);
        expectPaused(1, block.timestamp + 14 days);
        rewards.addStake{value: 1}(owner);
        leave(owner);
        vm.prank(stranger);
        rewards.challengeEpoch{value: BOND}(0, ROOT);
        vm.prank(arbiter);
        rewards.resolveChallenge(0, true);
        rewards.withdrawCredit(stranger);
        vm.warp(block.timestamp + 7 days);
        leave(owner);
        assertEq(owner.balance, 100 ether);
        assertEq(stranger.balance, 105 ether);
    }

    function test_a_pause_ends_by_itself_and_a_day_of_rest_follows() public {
        pause(7);
        uint256 until = block.timestamp + 14 days;
        vm.warp(until);
        (uint8 bits,) = rewards.paused();
        assertEq(bits, 0);
        registerOwner(1 ether);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.PauseResting.selector, until + 1 days));
        pause(1);
        vm.warp(until + 1 days);
        pause(2);
        (bits,) = rewards.paused();
        assertEq(bits, 2, "the bits of the pause before are forgotten");
    }

    function test_guardian_and_admin_end_a_pause_and_only_the_guardian_begins_one() public {
        bytes32 role = rewards.GUARDIAN_ROLE();
        expectUnauthorized(admin, role);
        vm.prank(admin);
        rewards.pause(1);
        vm.expectPartialRevert(IGridComputingRewards.ParameterOutOfBounds.selector);
        pause(0);
        vm.expectPartialRevert(IGridComputingRewards.ParameterOutOfBounds.selector);
        pause(128);
        pause(1);
        expectUnauthorized(stranger, role);
        vm.prank(stranger);
        rewards.unpause();
        vm.prank(admin);
        rewards.unpause();
        registerOwner(1 ether);
        vm.expectPartialRevert(IGridComputingRewards.PauseResting.selector);
        pause(1);
        vm.warp(block.timestamp + 1 days);
        pause(1);
        vm.prank(guardian);
        rewards.unpause();
        vm.prank(guardian);
        rewards.unpause();
        (uint8 bits, uint256 until) = rewards.paused();
        assertEq(bits + until, 0);
    }

    // ---------------------------------------------------------------- money

    function test_the_treasury_is_spent_by_the_treasurer_and_no_further_than_it_goes() public {
        warpPastEpoch(0);
        submit(0, ROOT, 1 ether);
        vm.prank(stranger);
        rewards.challengeEpoch{value: BOND}(0, ROOT);
        vm.prank(arbiter);
        rewards.resolveChallenge(0, false);
        bytes32 role = rewards.TREASURER_ROLE();
        expectUnauthorized(admin, role);
        vm.prank(admin);
        rewards.withdrawTreasury(admin, 1);
        vm.startPrank(treasurer);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.TreasuryTooSmall.selector, BOND + 1, BOND));
        rewards.withdrawTreasury(payout, BOND + 1);
        vm.expectRevert(IGridComputingRewards.ZeroAddress.selector);
        rewards.withdrawTreasury(address(0), 1);
        rewards.withdrawTreasury(payout, BOND);
        assertEq(payout.balance, BOND);
        assertEq(rewards.owed(), address(rewards).balance);
    }

    function test_plain_transfers_are_revenue_and_forced_money_can_be_swept() public {
        (bool sent,) = payable(address(rewards)).call{value: 2 ether}("");
        assertTrue(sent);
        assertEq(state().rewardPool, 502 ether);
        vm.expectRevert(IGridComputingRewards.NothingToSweep.selector);
        rewards.sweepExcess();
        deal(address(rewards), address(rewards).balance + 3 ether);
        rewards.sweepExcess();
        assertEq(state().rewardPool, 505 ether);
        assertEq(rewards.owed(), address(rewards).balance);
    }

    // ---------------------------------------------------------------- retirement

    function test_a_retired_contract_takes_nothing_new_and_pays_what_was_earned() public {
        registerOwner(10 ether);
        warpPastEpoch(0);
        vm.expectRevert(IGridComputingRewards.NotRetired.selector);
        rewards.forwardPool();
        vm.startPrank(admin);
        vm.expectRevert(IGridComputingRewards.ZeroAddress.selector);
        rewards.retire(address(0));
        rewards.retire(payout);
        uint256 at = block.timestamp;
        bytes memory retired = abi.encodeWithSelector(IGridComputingRewards.ContractRetired.selector, payout, at);
        vm.expectRevert(retired);
        rewards.retire(stranger);
        vm.stopPrank();
        vm.prank(stranger);
        vm.expectRevert(retired);
        rewards.registerNode{value: 1 ether}(1, 1);

        payEverythingTo(owner, 3 ether);
        warpPastEpoch(1);
        vm.expectRevert(retired);
        submit(1, ROOT, 4 ether);
        rewards.claim(owner, 3 ether, noProof());
        pause(1);
        vm.warp(block.timestamp + 20 days);
        pause(1);
        vm.expectRevert(retired);
        submit(1, ROOT, 4 ether);

        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.PoolHeld.selector, at + 30 days));
        rewards.forwardPool();
        vm.warp(at + 30 days);
        rewards.forwardPool();
        assertEq(payout.balance, 497 ether);
        vm.expectRevert(IGridComputingRewards.NothingToSweep.selector);
        rewards.forwardPool();
        leave(owner);
        vm.warp(block.timestamp + 7 days);
        leave(owner);
        assertEq(owner.balance, 103 ether);
        assertEq(address(rewards).balance, 0);
        (address successor, uint256 retiredAt) = rewards.retirement();
        assertEq(successor, payout);
        assertEq(retiredAt, at);
    }

    function test_a_retired_contract_registers_nobody_during_a_pause_or_after_it() public {
        vm.prank(admin);
        rewards.retire(payout);
        uint256 at = block.timestamp;
        pause(1);
        expectPaused(1, at + 14 days);
        registerOwner(1 ether);
        vm.prank(guardian);
        rewards.unpause();
        vm.warp(at + 60 days);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.ContractRetired.selector, payout, at));
        registerOwner(1 ether);
    }

    function test_a_pause_of_reports_stops_no_registration() public {
        pause(2);
        registerOwner(1 ether);
        vm.prank(guardian);
        rewards.unpause();
        vm.prank(stranger);
        rewards.registerNode{value: 1 ether}(1, 1);
        assertEq(state().stakeTotal, 2 ether);
    }

    function test_a_successor_that_refuses_money_leaves_the_pool_where_it_is() public {
        vm.prank(admin);
        rewards.retire(address(slashing));
        vm.warp(block.timestamp + 30 days);
        vm.expectRevert(
            abi.encodeWithSelector(IGridComputingRewards.ForwardRefused.selector, address(slashing), 500 ether)
        );
        rewards.forwardPool();
        assertEq(state().rewardPool, 500 ether);
    }
}
