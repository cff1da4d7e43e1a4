// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {Fixture} from "./Fixture.sol";
import {StandardTree} from "./StandardTree.sol";

contract ClaimsTest is Fixture {
    address private alice = makeAddr("alice");
    address private bob = makeAddr("bob");
    uint256 private constant NODE_KEY = 0xB0B;

    function leaf(address node, uint256 cumulative) private view returns (bytes32) {
        return StandardTree.leaf(address(rewards), node, cumulative);
    }

    /// @dev Reports a tree of all given leaves and makes it live.
    function publish(address[] memory nodes, uint256[] memory amounts) private returns (bytes32[] memory tree) {
        bytes32[] memory leaves = new bytes32[](nodes.length);
        uint256 total;
        for (uint256 i = 0; i < nodes.length; i++) {
            leaves[i] = leaf(nodes[i], amounts[i]);
            total += amounts[i];
        }
        tree = StandardTree.build(leaves);
        uint64 epoch = state().nextEpoch;
        warpPastEpoch(epoch);
        submit(epoch, tree[0], uint128(total));
        warpPastWindow();
        rewards.distributeRewards();
    }

    function two(uint256 forAlice, uint256 forBob) private returns (bytes32[] memory) {
        address[] memory nodes = new address[](2);
        (nodes[0], nodes[1]) = (alice, bob);
        uint256[] memory amounts = new uint256[](2);
        (amounts[0], amounts[1]) = (forAlice, forBob);
        return publish(nodes, amounts);
    }

    function test_a_claim_pays_the_node_what_it_earned_since_the_last_one() public {
        bytes32[] memory tree = two(3 ether, 5 ether);
        assertEq(rewards.claim(alice, 3 ether, StandardTree.proof(tree, leaf(alice, 3 ether))), 3 ether);
        assertEq(alice.balance, 3 ether);
        bytes32[] memory again = StandardTree.proof(tree, leaf(alice, 3 ether));
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.NothingToClaim.selector, alice, 3 ether));
        rewards.claim(alice, 3 ether, again);

        tree = two(4 ether, 9 ether);
        assertEq(rewards.claim(alice, 4 ether, StandardTree.proof(tree, leaf(alice, 4 ether))), 1 ether);
        assertEq(rewards.claim(bob, 9 ether, StandardTree.proof(tree, leaf(bob, 9 ether))), 9 ether, "missed epochs");
        assertEq(alice.balance, 4 ether);
        assertEq(rewards.claimed(alice), 4 ether);
        assertEq(state().claimedTotal, 13 ether);
    }

    function test_a_claim_pays_the_payout_address_the_node_agreed_to() public {
        address node = vm.addr(NODE_KEY);
        bytes memory signature = consent(NODE_KEY, payout, owner, block.timestamp);
        vm.prank(owner);
        rewards.registerNodeFor{value: 1 ether}(node, payout, 1, 1, block.timestamp, signature);
        payEverythingTo(node, 7 ether);
        vm.prank(bob);
        rewards.claim(node, 7 ether, noProof());
        assertEq(payout.balance, 7 ether);
        assertEq(node.balance, 0);
    }

    function test_a_wrong_amount_a_wrong_proof_and_a_pending_root_pay_nothing() public {
        bytes32[] memory tree = two(3 ether, 5 ether);
        bytes32[] memory proof = StandardTree.proof(tree, leaf(alice, 3 ether));
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.InvalidProof.selector, alice, 4 ether));
        rewards.claim(alice, 4 ether, proof);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.InvalidProof.selector, bob, 3 ether));
        rewards.claim(bob, 3 ether, proof);

        uint64 epoch = state().nextEpoch;
        warpPastEpoch(epoch);
        submit(epoch, leaf(bob, 10 ether), 10 ether);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.InvalidProof.selector, bob, 10 ether));
        rewards.claim(bob, 10 ether, noProof());
    }

    function test_before_the_first_root_nothing_can_be_claimed() public {
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.InvalidProof.selector, alice, 1));
        rewards.claim(alice, 1, noProof());
    }

    function test_a_leaf_of_another_contract_or_chain_pays_nothing() public {
        IGridComputingRewards other = deployRewards(admin, EPOCH, WINDOW, unbonding, MAX_INCREASE);
        uint64 epoch = state().nextEpoch;
        warpPastEpoch(epoch);
        submit(epoch, StandardTree.leaf(address(other), alice, 1 ether), 1 ether);
        warpPastWindow();
        rewards.distributeRewards();
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.InvalidProof.selector, alice, 1 ether));
        rewards.claim(alice, 1 ether, noProof());

        payEverythingTo(alice, 2 ether);
        uint256 here = block.chainid;
        vm.chainId(here + 1);
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.InvalidProof.selector, alice, 2 ether));
        rewards.claim(alice, 2 ether, noProof());
        vm.chainId(here);
        rewards.claim(alice, 2 ether, noProof());
    }

    function test_a_root_that_promises_more_than_its_total_cannot_be_overdrawn() public {
        uint64 epoch = state().nextEpoch;
        warpPastEpoch(epoch);
        submit(epoch, leaf(alice, 400 ether), 1 ether);
        warpPastWindow();
        rewards.distributeRewards();
        vm.expectRevert(abi.encodeWithSelector(IGridComputingRewards.AllocationExceeded.selector, 400 ether, 1 ether));
        rewards.claim(alice, 400 ether, noProof());
    }

    function test_claim_many_skips_what_cannot_be_paid() public {
        bytes32[] memory tree = two(3 ether, 5 ether);
        IGridComputingRewards.ClaimRequest[] memory requests = new IGridComputingRewards.ClaimRequest[](4);
        requests[0] = IGridComputingRewards.ClaimRequest(alice, 3 ether, StandardTree.proof(tree, leaf(alice, 3 ether)));
        requests[1] = requests[0];
        requests[2] = IGridComputingRewards.ClaimRequest(bob, 6 ether, requests[0].proof);
        requests[3] = IGridComputingRewards.ClaimRequest(bob, 5 ether, StandardTree.proof(tree, leaf(bob, 5 ether)));
        vm.expectEmit();
        emit IGridComputingRewards.ClaimSkipped(alice, 3 ether);
        assertEq(rewards.claimMany(requests), 8 ether);
        assertEq(alice.balance, 3 ether);
        assertEq(bob.balance, 5 ether);
    }

    function test_a_payee_that_burns_its_gas_harms_only_itself() public {
        Burner burner = new Burner();
        address[] memory nodes = new address[](2);
        (nodes[0], nodes[1]) = (address(burner), bob);
        uint256[] memory amounts = new uint256[](2);
        (amounts[0], amounts[1]) = (2 ether, 3 ether);
        bytes32[] memory tree = publish(nodes, amounts);
        IGridComputingRewards.ClaimRequest[] memory requests = new IGridComputingRewards.ClaimRequest[](2);
        for (uint256 i = 0; i < 2; i++) {
            requests[i] = IGridComputingRewards.ClaimRequest(
                nodes[i], amounts[i], StandardTree.proof(tree, leaf(nodes[i], amounts[i]))
            );
        }
        rewards.claimMany{gas: 600_000}(requests);
        assertEq(bob.balance, 3 ether);
        assertEq(rewards.credit(address(burner)), 2 ether);
        assertEq(state().creditTotal, 2 ether);
    }

    function test_a_caller_cannot_starve_the_payee_of_gas() public {
        payEverythingTo(alice, 1 ether);
        bytes32[] memory none = noProof();
        for (uint256 gas = 30_000; gas < 260_000; gas += 2000) {
            uint256 snapshot = vm.snapshotState();
            try rewards.claim{gas: gas}(alice, 1 ether, none) {
                assertEq(rewards.credit(alice), 0, "paid or reverted, never pushed into a credit");
                assertEq(alice.balance, 1 ether);
            } catch {
                assertEq(rewards.claimed(alice), 0);
            }
            vm.revertToState(snapshot);
        }
    }

    function test_a_payee_cannot_claim_twice_by_calling_back() public {
        Reentrant thief = new Reentrant(rewards);
        address[] memory nodes = new address[](2);
        (nodes[0], nodes[1]) = (address(thief), bob);
        uint256[] memory amounts = new uint256[](2);
        (amounts[0], amounts[1]) = (1 ether, 5 ether);
        bytes32[] memory tree = publish(nodes, amounts);
        thief.prepare(1 ether, StandardTree.proof(tree, leaf(address(thief), 1 ether)));
        bytes32[] memory proof = StandardTree.proof(tree, leaf(address(thief), 1 ether));
        rewards.claim(address(thief), 1 ether, proof);
        assertEq(address(thief).balance + rewards.credit(address(thief)), 1 ether);
        assertEq(state().claimedTotal, 1 ether);
    }

    function test_money_forced_into_the_contract_breaks_nothing() public {
        payEverythingTo(alice, 1 ether);
        deal(address(rewards), address(rewards).balance + 77 ether);
        rewards.claim(alice, 1 ether, noProof());
        assertEq(state().rewardPool, 499 ether);
    }

    function testFuzz_every_leaf_of_a_tree_is_paid_exactly(uint8 count, uint256 seed) public {
        uint256 n = bound(count, 1, 33);
        address[] memory nodes = new address[](n);
        uint256[] memory amounts = new uint256[](n);
        uint256 total;
        for (uint256 i = 0; i < n; i++) {
            nodes[i] = vm.addr(uint256(keccak256(abi.encode("node", i))));
            amounts[i] = bound(uint256(keccak256(abi.encode(seed, i))), 1, 10 ether);
            total += amounts[i];
        }
        bytes32[] memory tree = publish(nodes, amounts);
        for (uint256 i = 0; i < n; i++) {
            rewards.claim(nodes[i], amounts[i], StandardTree.proof(tree, leaf(nodes[i], amounts[i])));
            assertEq(nodes[i].balance, amounts[i]);
        }
        assertEq(state().claimedTotal, total);
        assertEq(state().liveTotal, total);
    }
}

contract Burner {
    receive() external payable {
        while (true) {}
    }
}

contract Reentrant {
    IGridComputingRewards private immutable rewards;
    uint256 private cumulative;
    bytes32[] private proof;

    constructor(IGridComputingRewards rewards_) {
        rewards = rewards_;
    }

    function prepare(uint256 cumulative_, bytes32[] calldata proof_) external {
        cumulative = cumulative_;
        proof = proof_;
    }

    receive() external payable {
        rewards.claim(address(this), cumulative, proof);
    }
}
