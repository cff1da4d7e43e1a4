// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";

import {GridComputingRewards} from "../src/GridComputingRewards.sol";
import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {StandardTree} from "./StandardTree.sol";

/// @notice A deployed contract with a reporter, a guardian and money in the pool, and short words for what tests do often.
abstract contract Fixture is Test {
    uint64 internal constant EPOCH = 1 hours;
    uint64 internal constant WINDOW = 20 minutes;
    uint64 internal unbonding = 7 days;
    uint128 internal constant MAX_INCREASE = 1000 ether;

    GridComputingRewards internal rewards;
    address internal admin = makeAddr("admin");
    address internal reporter = makeAddr("reporter");
    address internal guardian = makeAddr("guardian");
    address internal owner = makeAddr("owner");
    address internal payout = makeAddr("payout");

    function setUp() public virtual {
        rewards = new GridComputingRewards(admin, EPOCH, WINDOW, unbonding, MAX_INCREASE);
        vm.startPrank(admin);
        rewards.grantRole(rewards.REPORTER_ROLE(), reporter);
        rewards.grantRole(rewards.GUARDIAN_ROLE(), guardian);
        vm.stopPrank();
        deal(address(this), 10_000 ether);
        rewards.fund{value: 500 ether}();
        deal(owner, 100 ether);
    }

    function state() internal view returns (IGridComputingRewards.EpochState memory) {
        return rewards.epochState();
    }

    function consent(uint256 key, address payTo, address owner_, uint256 deadline)
        internal
        view
        returns (bytes memory)
    {
        address node = vm.addr(key);
        bytes32 digest = rewards.bindingDigest(node, payTo, owner_, rewards.bindingNonce(node), deadline);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function warpPastEpoch(uint64 epoch) internal {
        uint256 end = rewards.genesis() + (uint256(epoch) + 1) * EPOCH;
        if (block.timestamp < end) vm.warp(end);
    }

    function warpPastWindow() internal {
        vm.warp(state().activeAt);
    }

    function submit(uint64 epoch, bytes32 root, uint128 total) internal {
        vm.prank(reporter);
        rewards.submitEpoch(epoch, root, total, keccak256(""), "");
    }

    /// @dev Reports and activates an epoch that gives one node everything allocated so far.
    function payEverythingTo(address node, uint128 total) internal {
        uint64 epoch = state().nextEpoch;
        warpPastEpoch(epoch);
        submit(epoch, StandardTree.leaf(address(rewards), node, total), total);
        warpPastWindow();
        rewards.distributeRewards();
    }

    function noProof() internal pure returns (bytes32[] memory) {
        return new bytes32[](0);
    }
}
