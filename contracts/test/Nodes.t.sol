// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICredits} from "../src/ICredits.sol";
import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {Fixture} from "./Fixture.sol";

contract NodesTest is Fixture {
    uint256 private constant NODE_KEY = 0xA11CE;
    address private node = vm.addr(NODE_KEY);

    function registerFor(uint256 deadline, bytes memory signature) private {
        vm.prank(owner);
        rewards.registerNodeFor{value: 1 ether}(node, payout, 1000, 50, deadline, signature);
    }

    function register() private {
        registerFor(block.timestamp, consent(NODE_KEY, payout, owner, block.timestamp));
    }

    function test_a_node_that_registers_itself_owns_itself_and_is_paid_itself() public {
        vm.prank(owner);
        rewards.registerNode{value: 2 ether}(1000, 50);
        IGridComputingRewards.Node memory record = rewards.nodes(owner);
        assertEq(record.owner, owner);
        assertEq(record.payout, owner);
        assertEq(record.stake, 2 ether);
        assertEq(record.computingPower, 1000);
        assertEq(record.storageCapacity, 50);
        assertEq(uint8(record.status), uint8(IGridComputingRewards.NodeStatus.Registered));
        assertEq(rewards.totalComputingPower(), 1000);
        assertEq(rewards.totalStorage(), 50);
        assertEq(state().stakeTotal, 2 ether);
    }

    function test_a_stake_below_the_minimum_is_refused() public {
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.StakeTooSmall.selector, 1 ether - 1, 1 ether));
        rewards.registerNode{value: 1 ether - 1}(1, 1);
    }

    function test_a_node_registers_once() public {
        register();
        bytes memory again = consent(NODE_KEY, payout, owner, block.timestamp);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.AlreadyRegistered.selector, node));
        registerFor(block.timestamp, again);
    }

    function test_a_node_without_any_capability_is_refused() public {
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NoCapability.selector, owner));
        rewards.registerNode{value: 1 ether}(0, 0);
    }

    function test_capabilities_beyond_64_bits_are_refused() public {
        vm.prank(owner);
        vm.expectRevert();
        rewards.registerNode{value: 1 ether}(uint256(type(uint64).max) + 1, 0);
    }

    function test_consent_names_owner_and_payout() public {
        register();
        IGridComputingRewards.Node memory record = rewards.nodes(node);
        assertEq(record.owner, owner);
        assertEq(record.payout, payout);
        assertEq(rewards.payoutOf(node), payout);
        assertEq(rewards.bindingNonce(node), 1);
    }

    function test_nobody_registers_a_node_with_another_payout_or_owner() public {
        bytes memory signature = consent(NODE_KEY, owner, owner, block.timestamp);
        vm.expectPartialRevert(IGridComputingRewards.ConsentInvalid.selector);
        registerFor(block.timestamp, signature);

        signature = consent(NODE_KEY, payout, payout, block.timestamp);
        vm.expectPartialRevert(IGridComputingRewards.ConsentInvalid.selector);
        registerFor(block.timestamp, signature);

        vm.expectPartialRevert(IGridComputingRewards.ConsentInvalid.selector);
        registerFor(block.timestamp, hex"1234");
    }

    function test_a_consent_expires_and_is_used_once() public {
        bytes memory signature = consent(NODE_KEY, payout, owner, block.timestamp);
        registerFor(block.timestamp, signature);
        vm.prank(owner);
        rewards.unregisterNodeFor(node);
        uint256 signedAt = block.timestamp;
        vm.warp(signedAt + unbonding);
        vm.expectRevert(
            abi.encodeWithSelector(IGridComputingRewards.ConsentExpired.selector, signedAt, block.timestamp)
        );
        registerFor(signedAt, signature);
        vm.prank(owner);
        rewards.unregisterNodeFor(node);
        vm.warp(signedAt);
        vm.expectPartialRevert(IGridComputingRewards.ConsentInvalid.selector);
        registerFor(signedAt, signature);
    }

    function test_a_consent_without_a_payout_is_refused() public {
        bytes memory signature = consent(NODE_KEY, address(0), owner, block.timestamp);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.ZeroPayout.selector, node));
        rewards.registerNodeFor{value: 1 ether}(node, address(0), 1, 1, block.timestamp, signature);
    }

    function test_an_exit_waits_for_unbonding_and_pays_the_owner() public {
        register();
        vm.prank(owner);
        rewards.unregisterNodeFor(node);
        assertEq(rewards.totalComputingPower(), 0);
        assertEq(rewards.totalStorage(), 0);
        uint256 exitAt = block.timestamp + unbonding;
        assertEq(rewards.nodes(node).exitAt, exitAt);

        vm.warp(exitAt - 1);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.StillUnbonding.selector, node, exitAt));
        rewards.unregisterNodeFor(node);

        vm.warp(exitAt);
        uint256 before = owner.balance;
        vm.prank(owner);
        rewards.unregisterNodeFor(node);
        assertEq(owner.balance - before, 1 ether);
        assertEq(state().stakeTotal, 0);
        assertEq(uint8(rewards.nodes(node).status), uint8(IGridComputingRewards.NodeStatus.None));
        assertEq(rewards.payoutOf(node), payout, "earnings not yet claimed still go where the node said");
    }

    function test_only_the_owner_unregisters() public {
        register();
        vm.prank(node);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NotOwner.selector, node, node, owner));
        rewards.unregisterNode();
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NotRegistered.selector, payout));
        rewards.unregisterNodeFor(payout);
    }

    function test_an_exit_takes_the_unbonding_time_in_force_whatever_exits_before_it_took() public {
        address[4] memory leavers = [makeAddr("first"), makeAddr("second"), makeAddr("third"), makeAddr("fourth")];
        for (uint256 i = 0; i < 4; i++) {
            deal(leavers[i], 1 ether);
            vm.prank(leavers[i]);
            rewards.registerNode{value: 1 ether}(1, 1);
        }
        expectExitIn(leavers[0], unbonding);
        IGridComputingRewards.Parameters memory next = rules();
        next.unbonding = 30 days;
        vm.prank(admin);
        rewards.setParameters(next);
        expectExitIn(leavers[1], unbonding);
        (,, uint256 from) = rewards.parameters();
        vm.warp(from);
        expectExitIn(leavers[2], 30 days);
        expectExitIn(leavers[3], 30 days);
    }

    function expectExitIn(address leaver, uint256 time) private {
        leave(leaver);
        assertEq(rewards.nodes(leaver).exitAt, block.timestamp + time);
    }

    function test_nobody_unregisters_a_node_that_owns_itself() public {
        registerOwner(1 ether);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NotOwner.selector, owner, stranger, owner));
        vm.prank(stranger);
        rewards.unregisterNodeFor(owner);
    }

    function test_a_node_that_comes_back_on_its_own_belongs_to_itself_and_is_paid_itself() public {
        register();
        vm.prank(owner);
        rewards.unregisterNodeFor(node);
        vm.warp(block.timestamp + unbonding);
        vm.prank(owner);
        rewards.unregisterNodeFor(node);
        deal(node, 1 ether);
        vm.prank(node);
        rewards.registerNode{value: 1 ether}(1, 1);
        assertEq(rewards.payoutOf(node), node);
        assertEq(rewards.nodes(node).owner, node);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NotOwner.selector, node, owner, node));
        vm.prank(owner);
        rewards.unregisterNodeFor(node);
    }

    function test_a_payout_that_was_changed_ends_with_the_next_registration() public {
        registerOwner(1 ether);
        vm.prank(owner);
        rewards.requestPayout(owner, payout);
        vm.warp(block.timestamp + 2 days);
        rewards.applyPayout(owner);
        leave(owner);
        vm.warp(block.timestamp + unbonding);
        leave(owner);
        assertEq(rewards.payoutOf(owner), payout);
        registerOwner(1 ether);
        assertEq(rewards.payoutOf(owner), owner);
    }

    function test_without_an_unbonding_time_an_exit_is_one_call() public {
        rewards = deployRewards(admin, EPOCH, 0, 0, MAX_INCREASE);
        vm.startPrank(owner);
        rewards.registerNode{value: 1 ether}(1, 1);
        uint256 before = owner.balance;
        rewards.unregisterNode();
        vm.stopPrank();
        assertEq(owner.balance - before, 1 ether);
    }

    function test_an_owner_that_refuses_money_still_leaves_and_keeps_a_credit() public {
        Refuser refuser = new Refuser();
        deal(address(refuser), 1 ether);
        refuser.register(rewards);
        refuser.quit(rewards);
        vm.warp(block.timestamp + unbonding);
        refuser.quit(rewards);
        assertEq(rewards.credit(address(refuser)), 1 ether);
        vm.expectRevert(abi.encodeWithSelector(ICredits.CreditRefused.selector, address(refuser), 1 ether));
        rewards.withdrawCredit(address(refuser));
        refuser.accept();
        rewards.withdrawCredit(address(refuser));
        assertEq(address(refuser).balance, 1 ether);
        assertEq(state().creditTotal, 0);
        vm.expectRevert(abi.encodeWithSelector(ICredits.NoCredit.selector, address(refuser)));
        rewards.withdrawCredit(address(refuser));
    }

    function test_parameters_are_bounded() public {
        vm.expectPartialRevert(IGridComputingRewards.ParameterOutOfBounds.selector);
        deployRewards(admin, 0, 0, 0, 1);
        vm.expectPartialRevert(IGridComputingRewards.ParameterOutOfBounds.selector);
        deployRewards(admin, 60, 61, 100, 1);
        vm.expectPartialRevert(IGridComputingRewards.ParameterOutOfBounds.selector);
        deployRewards(admin, 60, 60, 59, 1);
        vm.expectPartialRevert(IGridComputingRewards.ParameterOutOfBounds.selector);
        deployRewards(admin, 60, 60, 60, 0);
        vm.expectRevert(IGridComputingRewards.ZeroAddress.selector);
        deployRewards(address(0), 60, 60, 60, 1);
        vm.expectPartialRevert(IGridComputingRewards.ParameterOutOfBounds.selector);
        deployRewards(admin, 30 days + 1, 60, 60, 1);
    }

    function test_stake_is_added_to_registered_nodes_only() public {
        register();
        deal(stranger, 5 ether);
        vm.startPrank(stranger);
        rewards.addStake{value: 2 ether}(node);
        assertEq(rewards.nodes(node).stake, 3 ether);
        assertEq(state().stakeTotal, 3 ether);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NotRegistered.selector, payout));
        rewards.addStake{value: 1 ether}(payout);
        vm.stopPrank();
        vm.prank(owner);
        rewards.unregisterNodeFor(node);
        uint256 exitAt = rewards.nodes(node).exitAt;
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NodeExiting.selector, node, exitAt));
        rewards.addStake{value: 1 ether}(node);
    }

    function test_each_registration_has_an_index_of_its_own() public {
        register();
        assertEq(rewards.nodes(node).index, 1);
        vm.prank(owner);
        rewards.registerNode{value: 1 ether}(1, 1);
        assertEq(rewards.nodes(owner).index, 2);
    }

    // ---------------------------------------------------------------- payout

    function test_the_owner_changes_the_payout_after_two_days() public {
        register();
        address next = makeAddr("next payout");
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NotOwner.selector, node, node, owner));
        vm.prank(node);
        rewards.requestPayout(node, next);
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.ZeroPayout.selector, node));
        rewards.requestPayout(node, address(0));
        rewards.requestPayout(node, next);
        vm.stopPrank();
        uint256 at = block.timestamp + 2 days;
        (address requested, uint256 applicableAt) = rewards.payoutRequest(node);
        assertEq(requested, next);
        assertEq(applicableAt, at);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.PayoutChangeTooEarly.selector, node, at));
        rewards.applyPayout(node);
        assertEq(rewards.payoutOf(node), payout);
        vm.warp(at);
        rewards.applyPayout(node);
        assertEq(rewards.payoutOf(node), next);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NoPayoutChange.selector, node));
        rewards.applyPayout(node);
    }

    function test_what_a_former_owner_asked_for_applies_no_more() public {
        register();
        vm.startPrank(owner);
        rewards.unregisterNodeFor(node);
        vm.warp(rewards.nodes(node).exitAt);
        rewards.requestPayout(node, stranger);
        rewards.unregisterNodeFor(node);
        vm.stopPrank();
        vm.warp(block.timestamp + 2 days);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NoPayoutChange.selector, node));
        rewards.applyPayout(node);
        register();
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NoPayoutChange.selector, node));
        rewards.applyPayout(node);
    }

    function testFuzz_stakes_come_back_whole(uint96 stake, uint64 power, uint64 gib) public {
        stake = uint96(bound(stake, 1 ether, type(uint96).max));
        power = uint64(bound(power, 1, type(uint64).max));
        deal(owner, stake);
        vm.startPrank(owner);
        rewards.registerNode{value: stake}(power, gib);
        rewards.unregisterNode();
        vm.warp(block.timestamp + unbonding);
        rewards.unregisterNode();
        vm.stopPrank();
        assertEq(owner.balance, stake);
        assertEq(rewards.totalComputingPower(), 0);
    }
}

contract Refuser {
    bool private willing;

    function register(IGridComputingRewards rewards) external {
        rewards.registerNode{value: 1 ether}(1, 0);
    }

    function quit(IGridComputingRewards rewards) external {
        rewards.unregisterNode();
    }

    function accept() external {
        willing = true;
    }

    receive() external payable {
        require(willing, "no, thank you");
    }
}
