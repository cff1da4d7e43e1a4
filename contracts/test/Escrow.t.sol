// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridJobEscrow} from "../src/IGridJobEscrow.sol";
import {IGridMember} from "../src/IGridMember.sol";
import {Fixture} from "./Fixture.sol";

contract EscrowTest is Fixture {
    bytes32 private constant SALT = keccak256("job 1");
    uint64 private deadline;

    function setUp() public override {
        super.setUp();
        deadline = uint64(block.timestamp + 1 days);
    }

    function open(bytes32 salt, uint256 amount) private returns (bytes32) {
        vm.prank(payer);
        return escrow.openJob{value: amount}(salt, deadline);
    }

    function settle(bytes32 id, uint96 spent) private returns (uint256) {
        IGridJobEscrow.Settlement[] memory batch = new IGridJobEscrow.Settlement[](1);
        batch[0] = IGridJobEscrow.Settlement(id, spent);
        vm.prank(settler);
        return escrow.settleJobs(batch);
    }

    function balanced() private view {
        assertEq(escrow.owed(), address(escrow).balance);
    }

    function expectNotOpen(bytes32 id, IGridJobEscrow.JobState found) private {
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.JobNotOpen.selector, id, found));
    }

    function test_a_job_is_opened_and_topped_up() public {
        bytes32 id = escrow.jobIdOf(payer, SALT);
        vm.expectEmit();
        emit IGridJobEscrow.JobOpened(id, payer, SALT, 3 ether, deadline, FEE_BPS);
        assertEq(open(SALT, 3 ether), id);
        vm.prank(stranger);
        escrow.topUpJob{value: 1 ether}(id);
        IGridJobEscrow.Job memory job = escrow.jobs(id);
        assertEq(job.payer, payer);
        assertEq(job.escrow, 4 ether);
        assertEq(job.deadline, deadline);
        assertEq(job.feeBps, FEE_BPS);
        assertEq(uint8(job.state), uint8(IGridJobEscrow.JobState.Open));
        (uint256 inEscrow,,) = escrow.totals();
        assertEq(inEscrow, 4 ether);
        balanced();
    }

    function test_a_settlement_pays_the_pool_the_treasury_and_the_payer() public {
        bytes32 id = open(SALT, 3 ether);
        vm.expectEmit();
        emit IGridJobEscrow.JobSettled(id, payer, 2 ether, 0.1 ether, 1 ether);
        assertEq(settle(id, 2 ether), 1.9 ether);
        assertEq(state().rewardPool, 501.9 ether);
        (uint256 inEscrow, uint256 credits, uint256 treasury) = escrow.totals();
        assertEq(inEscrow, 0);
        assertEq(credits, 1 ether);
        assertEq(treasury, 0.1 ether);
        balanced();
        escrow.withdrawCredit(payer);
        assertEq(payer.balance, 98 ether);
        vm.prank(treasurer);
        escrow.withdrawTreasury(stranger, 0.1 ether);
        assertEq(stranger.balance, 100.1 ether);
        balanced();
    }

    function test_a_settlement_that_cannot_be_made_is_skipped() public {
        bytes32 good = open(SALT, 3 ether);
        bytes32 dear = open("dear", 1 ether);
        vm.prank(payer);
        bytes32 late = escrow.openJob{value: 1 ether}("late", uint64(block.timestamp + 1 hours));
        vm.warp(block.timestamp + 1 hours);
        IGridJobEscrow.Settlement[] memory batch = new IGridJobEscrow.Settlement[](5);
        batch[0] = IGridJobEscrow.Settlement("unknown", 0);
        batch[1] = IGridJobEscrow.Settlement(dear, 1 ether + 1);
        batch[2] = IGridJobEscrow.Settlement(late, 1);
        batch[3] = IGridJobEscrow.Settlement(good, 3 ether);
        batch[4] = IGridJobEscrow.Settlement(good, 3 ether);
        vm.expectEmit();
        emit IGridJobEscrow.SettlementSkipped("unknown", 0);
        vm.expectEmit();
        emit IGridJobEscrow.SettlementSkipped(dear, 1 ether + 1);
        vm.expectEmit();
        emit IGridJobEscrow.SettlementSkipped(late, 1);
        vm.prank(settler);
        assertEq(escrow.settleJobs(batch), 2.85 ether);
        (uint256 inEscrow,,) = escrow.totals();
        assertEq(inEscrow, 2 ether);
        balanced();
    }

    function test_a_job_that_spent_nothing_pays_nothing() public {
        bytes32 id = open(SALT, 3 ether);
        assertEq(settle(id, 0), 0);
        assertEq(escrow.credit(payer), 3 ether);
        assertEq(state().rewardPool, 500 ether);
    }

    function test_from_the_deadline_on_only_the_payer_takes_the_money_even_while_paused() public {
        bytes32 id = open(SALT, 3 ether);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.JobBeforeDeadline.selector, id, deadline));
        escrow.cancelJob(id);
        vm.prank(guardian);
        escrow.pause();
        vm.warp(deadline);
        assertEq(settle(id, 1), 0);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.NotPayer.selector, id, stranger, payer));
        escrow.cancelJob(id);
        vm.prank(payer);
        escrow.cancelJob(id);
        assertEq(payer.balance, 100 ether);
        vm.prank(payer);
        expectNotOpen(id, IGridJobEscrow.JobState.Cancelled);
        escrow.cancelJob(id);
        balanced();
    }

    function test_a_settled_job_is_neither_cancelled_nor_settled_nor_opened_again() public {
        bytes32 id = open(SALT, 3 ether);
        settle(id, 1 ether);
        assertEq(settle(id, 1 ether), 0);
        vm.warp(deadline);
        vm.prank(payer);
        expectNotOpen(id, IGridJobEscrow.JobState.Settled);
        escrow.cancelJob(id);
        expectNotOpen(id, IGridJobEscrow.JobState.Settled);
        escrow.topUpJob{value: 1}(id);
        deadline += 1 days;
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.JobExists.selector, id));
        open(SALT, 1 ether);
    }

    function test_jobs_are_bounded() public {
        vm.expectRevert(IGridJobEscrow.ZeroEscrow.selector);
        open(SALT, 0);
        deadline = uint64(block.timestamp + 1 minutes - 1);
        vm.expectPartialRevert(IGridJobEscrow.DeadlineOutOfBounds.selector);
        open(SALT, 1);
        deadline = uint64(block.timestamp + 90 days + 1);
        vm.expectPartialRevert(IGridJobEscrow.DeadlineOutOfBounds.selector);
        open(SALT, 1);
        deadline = uint64(block.timestamp + 1 minutes);
        bytes32 id = open(SALT, 1);
        vm.expectRevert(IGridJobEscrow.ZeroEscrow.selector);
        escrow.topUpJob{value: 0}(id);
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.JobPastDeadline.selector, id, deadline));
        escrow.topUpJob{value: 1}(id);
    }

    function test_two_payers_may_use_the_same_salt() public {
        bytes32 first = open(SALT, 1 ether);
        vm.prank(stranger);
        bytes32 second = escrow.openJob{value: 1 ether}(SALT, deadline);
        assertNotEq(first, second);
    }

    function test_only_the_roles_of_the_grid_count() public {
        bytes32 id = open(SALT, 3 ether);
        IGridJobEscrow.Settlement[] memory batch = new IGridJobEscrow.Settlement[](1);
        batch[0] = IGridJobEscrow.Settlement(id, 3 ether);
        bytes32 role = rewards.SETTLER_ROLE();
        vm.prank(reporter);
        vm.expectRevert(abi.encodeWithSelector(IGridMember.NotAllowed.selector, reporter, role));
        escrow.settleJobs(batch);
        role = rewards.TREASURER_ROLE();
        vm.expectRevert(abi.encodeWithSelector(IGridMember.NotAllowed.selector, settler, role));
        vm.prank(settler);
        escrow.withdrawTreasury(settler, 1);
        role = rewards.GUARDIAN_ROLE();
        vm.expectRevert(abi.encodeWithSelector(IGridMember.NotAllowed.selector, settler, role));
        vm.prank(settler);
        escrow.pause();
        vm.expectRevert(abi.encodeWithSelector(IGridMember.NotAllowed.selector, settler, role));
        vm.prank(settler);
        escrow.unpause();
        vm.expectRevert(abi.encodeWithSelector(IGridMember.NotAllowed.selector, guardian, bytes32(0)));
        vm.prank(guardian);
        escrow.setFee(1);
        assertEq(escrow.rewards(), address(rewards));
        vm.expectRevert(abi.encodeWithSelector(IGridMember.NoRewardsContract.selector, stranger));
        deployEscrow(stranger, 1);
    }

    function test_a_new_fee_counts_for_jobs_opened_after_it_and_is_bounded() public {
        bytes32 id = open(SALT, 1 ether);
        vm.startPrank(admin);
        escrow.setFee(2000);
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.FeeTooHigh.selector, 2001, 2000));
        escrow.setFee(2001);
        vm.stopPrank();
        assertEq(settle(id, 1 ether), 0.95 ether);
        assertEq(settle(open("later", 1 ether), 1 ether), 0.8 ether);
    }

    function test_the_treasury_is_spent_no_further_than_it_goes() public {
        settle(open(SALT, 1 ether), 1 ether);
        vm.prank(treasurer);
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.TreasuryTooSmall.selector, 0.05 ether + 1, 0.05 ether));
        escrow.withdrawTreasury(treasurer, 0.05 ether + 1);
    }

    function test_a_pause_stops_new_money_ends_by_itself_and_rests() public {
        bytes32 id = open(SALT, 1 ether);
        vm.startPrank(guardian);
        escrow.pause();
        uint256 until = block.timestamp + 14 days;
        assertEq(escrow.pausedUntil(), until);
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.PauseResting.selector, until + 1 days));
        escrow.pause();
        vm.stopPrank();
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.OpeningPaused.selector, until));
        escrow.topUpJob{value: 1}(id);
        assertEq(settle(id, 1 ether), 0.95 ether, "settlement goes on");
        vm.warp(until);
        assertEq(escrow.pausedUntil(), 0);
        deadline = uint64(until + 1 days);
        open("after", 1);
        vm.warp(until + 1 days);
        vm.prank(guardian);
        escrow.pause();
        vm.prank(admin);
        escrow.unpause();
        assertEq(escrow.pausedUntil(), 0);
        vm.prank(guardian);
        escrow.unpause();
    }

    function test_a_retired_grid_takes_no_new_jobs_and_still_settles() public {
        bytes32 id = open(SALT, 1 ether);
        vm.expectRevert(IGridJobEscrow.GridNotRetired.selector);
        escrow.close();
        vm.prank(admin);
        rewards.retire(stranger);
        escrow.close();
        escrow.close();
        vm.expectRevert(abi.encodeWithSelector(IGridJobEscrow.EscrowClosed.selector, stranger));
        open("later", 1);
        vm.prank(guardian);
        escrow.unpause();
        assertEq(escrow.pausedUntil(), type(uint32).max, "for good");
        vm.prank(guardian);
        vm.expectPartialRevert(IGridJobEscrow.PauseResting.selector);
        escrow.pause();
        assertEq(settle(id, 1 ether), 0.95 ether);
    }

    function test_money_forced_in_goes_to_the_treasury() public {
        open(SALT, 1 ether);
        vm.expectRevert(IGridJobEscrow.NothingToSweep.selector);
        escrow.sweepExcess();
        deal(address(escrow), 8 ether);
        escrow.sweepExcess();
        (,, uint256 treasury) = escrow.totals();
        assertEq(treasury, 7 ether);
        balanced();
    }

    function testFuzz_a_payer_gets_back_what_was_not_spent_and_rounding_favours_the_pool(
        uint96 amount,
        uint96 spent,
        uint16 feeBps
    ) public {
        amount = uint96(bound(amount, 1, 1e27));
        spent = uint96(bound(spent, 0, amount));
        feeBps = uint16(bound(feeBps, 0, 2000));
        vm.prank(admin);
        escrow.setFee(feeBps);
        deal(payer, amount);
        bytes32 id = open(SALT, amount);
        uint256 toPool = settle(id, spent);
        (, uint256 credits, uint256 treasury) = escrow.totals();
        assertEq(credits, amount - spent);
        assertEq(toPool + treasury, spent);
        assertLe(treasury * 10_000, uint256(spent) * feeBps);
        assertLt(uint256(spent) * feeBps, (treasury + 1) * 10_000);
        balanced();
    }

    function testFuzz_after_the_deadline_everything_comes_back(uint96 amount, uint32 later) public {
        amount = uint96(bound(amount, 1, type(uint96).max));
        deal(payer, amount);
        bytes32 id = open(SALT, amount);
        vm.warp(uint256(deadline) + later);
        vm.prank(payer);
        escrow.cancelJob(id);
        assertEq(payer.balance, amount);
        assertEq(escrow.owed(), 0);
    }
}
