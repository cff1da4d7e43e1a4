// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";

import {GridComputingRewards} from "../src/GridComputingRewards.sol";
import {GridJobEscrow} from "../src/GridJobEscrow.sol";
import {IGridJobEscrow} from "../src/IGridJobEscrow.sol";

/// @notice What halmos proves for every input (`npm run symbolic`): linear properties of money, times and roles. Properties
/// with a division over wide numbers (fees) are left to the fuzz tests.
contract GridSymbolic is Test {
    GridComputingRewards private rewards;
    GridJobEscrow private escrow;
    address private constant ADMIN = address(0xAD);
    address private constant PAYER = address(0xBA1E4);

    function setUp() public {
        vm.warp(1_790_000_000);
        rewards = new GridComputingRewards(ADMIN, 3600, 1200, 7 days, 1000 ether);
        escrow = new GridJobEscrow(address(rewards), 0);
    }

    function open(uint96 amount, uint32 time) private returns (bytes32 id, uint256 deadline) {
        vm.assume(amount != 0);
        vm.assume(time >= 1 minutes && time <= 90 days);
        vm.deal(PAYER, amount);
        deadline = block.timestamp + time;
        vm.prank(PAYER);
        id = escrow.openJob{value: amount}(bytes32("salt"), uint64(deadline));
    }

    /// @notice Whatever is put down is owed, and nothing else changes.
    function check_an_escrow_is_owed_whole(uint96 amount, uint32 time) public {
        open(amount, time);
        assertEq(escrow.owed(), amount);
        assertEq(address(escrow).balance, amount);
    }

    /// @notice From the deadline on, and not before, the payer gets all of it back; nobody else can.
    function check_the_payer_alone_cancels_and_only_from_the_deadline_on(
        uint96 amount,
        uint32 time,
        uint64 at,
        address caller
    ) public {
        (bytes32 id, uint256 deadline) = open(amount, time);
        vm.assume(at >= block.timestamp && at < 2 ** 40);
        vm.warp(at);
        vm.prank(caller);
        (bool done,) = address(escrow).call(abi.encodeCall(IGridJobEscrow.cancelJob, (id)));
        if (done) {
            assertTrue(caller == PAYER && at >= deadline);
            assertEq(escrow.owed() + PAYER.balance - escrow.credit(PAYER), amount);
        }
        assertEq(address(escrow).balance, escrow.owed());
    }

    /// @notice Without the settler's role nobody settles.
    function check_nobody_but_a_settler_settles(uint96 amount, uint96 spent, address caller) public {
        (bytes32 id,) = open(amount, 1 days);
        IGridJobEscrow.Settlement[] memory batch = new IGridJobEscrow.Settlement[](1);
        batch[0] = IGridJobEscrow.Settlement(id, spent);
        vm.prank(caller);
        (bool done,) = address(escrow).call(abi.encodeCall(IGridJobEscrow.settleJobs, (batch)));
        assertFalse(done);
    }

    /// @notice No account ever holds two of the roles that report, accuse and judge.
    function check_exclusive_roles_stay_exclusive(bytes32 first, bytes32 second, address account) public {
        vm.startPrank(ADMIN);
        (bool one,) = address(rewards).call(abi.encodeCall(rewards.grantRole, (first, account)));
        (bool two,) = address(rewards).call(abi.encodeCall(rewards.grantRole, (second, account)));
        (one, two);
        uint256 held;
        if (rewards.hasRole(rewards.REPORTER_ROLE(), account)) held++;
        if (rewards.hasRole(rewards.SLASHER_ROLE(), account)) held++;
        if (rewards.hasRole(rewards.ARBITER_ROLE(), account)) held++;
        assertLe(held, 1);
    }

    /// @notice Only the admin grants.
    function check_nobody_but_the_admin_grants(bytes32 role, address account, address caller) public {
        vm.assume(caller != ADMIN);
        vm.prank(caller);
        (bool done,) = address(rewards).call(abi.encodeCall(rewards.grantRole, (role, account)));
        assertFalse(done);
    }

    /// @notice The stake of a node is owed whole, and the pool gets exactly what is paid in.
    function check_stakes_and_revenue_are_owed_whole(uint96 stake, uint96 revenue) public {
        vm.assume(stake >= 1 ether);
        vm.deal(PAYER, uint256(stake) + revenue);
        vm.startPrank(PAYER);
        rewards.registerNode{value: stake}(1, 1);
        rewards.fund{value: revenue}();
        assertEq(rewards.owed(), uint256(stake) + revenue);
        assertEq(rewards.epochState().stakeTotal, stake);
    }

    /// @notice Nobody but the owner starts an exit, and before unbonding is over nobody gets the stake.
    function check_a_stake_waits_for_its_owner_and_for_unbonding(uint96 stake, address caller, uint32 wait) public {
        vm.assume(stake >= 1 ether);
        vm.deal(PAYER, stake);
        vm.prank(PAYER);
        rewards.registerNode{value: stake}(1, 1);
        vm.prank(caller);
        (bool started,) = address(rewards).call(abi.encodeCall(rewards.unregisterNodeFor, (PAYER)));
        assertTrue(!started || caller == PAYER);
        vm.assume(started);
        vm.warp(block.timestamp + wait);
        vm.prank(PAYER);
        (bool left,) = address(rewards).call(abi.encodeCall(rewards.unregisterNode, ()));
        assertTrue(!left || wait >= 7 days);
        assertEq(rewards.owed(), address(rewards).balance);
    }
}
