// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {IGridJobEscrow} from "../src/IGridJobEscrow.sol";
import {Fixture} from "./Fixture.sol";
import {StandardTree} from "./StandardTree.sol";

/// @notice Gas on XDC's schedule: what a receipt says, and 52 more for each non-zero byte of calldata (68 instead of 16).
/// Needs --isolate, which makes every call a transaction of its own (`npm run gas`). The figures are kept in snapshots/ and
/// checked; limits are the goals where those are met (README.md lists both).
contract XdcGasTest is Fixture {
    string private constant GROUP = "xdc";

    function surcharge(bytes memory data) private pure returns (uint256 gas) {
        for (uint256 i = 0; i < data.length; i++) {
            if (data[i] != 0) gas += 52;
        }
    }

    /// @dev One transaction, measured.
    function send(string memory name, address from, address to, uint256 value, bytes memory data, uint256 goal)
        private
        returns (uint256 gas)
    {
        vm.prank(from);
        (bool done,) = to.call{value: value}(data);
        assertTrue(done, name);
        gas = vm.lastCallGas().gasTotalUsed + surcharge(data);
        vm.snapshotValue(GROUP, name, gas);
        assertLe(gas, goal, name);
    }

    function report(string memory name, uint64 epoch, uint128 total, bytes memory leaves, uint256 goal)
        private
        returns (uint256)
    {
        warpPastEpoch(epoch);
        bytes32 root = keccak256(abi.encode(epoch, total));
        return send(
            name,
            reporter,
            address(rewards),
            0,
            abi.encodeCall(rewards.submitEpoch, (epoch, root, total, keccak256(leaves), leaves)),
            goal
        );
    }

    /// @dev The size and shape of what src/reward/changes.rs packs for `count` neighbours that earned up to an XDC each: a
    /// header, and for each node a gap of one zero byte and 8 bytes of increase.
    function packed(uint256 count) private pure returns (bytes memory leaves) {
        leaves = bytes.concat(hex"01", keccak256("statement"), hex"83a4b20f170c0ea6081bc16d674ec80000e80708");
        for (uint256 i = 1; i <= count; i++) {
            leaves = bytes.concat(leaves, bytes1(0), bytes8(uint64(uint256(keccak256(abi.encode(i))) % 1 ether)));
        }
    }

    function test_nodes() public {
        bytes memory register = abi.encodeCall(rewards.registerNode, (1_000, 500));
        send("registerNode, the first ever", owner, address(rewards), 1 ether, register, 125_000);
        send("registerNode", stranger, address(rewards), 1 ether, register, 80_000);
        bytes memory leaving = abi.encodeCall(rewards.unregisterNode, ());
        string memory first = "unregisterNode, request, the first since parameters changed";
        send(first, stranger, address(rewards), 0, leaving, 42_000);
        send("unregisterNode, request", owner, address(rewards), 0, leaving, 35_000);
        vm.warp(block.timestamp + unbonding);
        send("unregisterNode, completion", owner, address(rewards), 0, leaving, 55_000);
    }

    /// @dev An owner that is not the node, as the operator registers one.
    function test_nodes_of_an_owner() public {
        registerOwner(1 ether);
        leave(owner);
        address node = vm.addr(0xA11CE);
        bytes memory signature = consent(0xA11CE, payout, stranger, block.timestamp);
        bytes memory register =
            abi.encodeCall(rewards.registerNodeFor, (node, payout, 1_000, 500, block.timestamp, signature));
        send("registerNodeFor", stranger, address(rewards), 1 ether, register, 151_000);
        bytes memory leaving = abi.encodeCall(rewards.unregisterNodeFor, (node));
        send("unregisterNodeFor, request", stranger, address(rewards), 0, leaving, 40_000);
    }

    function test_epochs() public {
        report("submitEpoch, root only, the first ever", 0, 1 ether, "", 150_000);
        warpPastWindow();
        send(
            "distributeRewards, first",
            stranger,
            address(rewards),
            0,
            abi.encodeCall(rewards.distributeRewards, ()),
            85_000
        );
        report("submitEpoch, root only", 1, 2 ether, "", 95_000);
        warpPastWindow();
        send("distributeRewards", stranger, address(rewards), 0, abi.encodeCall(rewards.distributeRewards, ()), 40_000);
        uint256 gas = report("submitEpoch, 100 nodes", 2, 3 ether, packed(100), 150_000);
        vm.snapshotValue(GROUP, "submitEpoch, 100 nodes, per node", gas / 100);
        warpPastWindow();
        rewards.distributeRewards();
        gas = report("submitEpoch, 1 000 nodes", 3, 4 ether, packed(1000), 750_000);
        vm.snapshotValue(GROUP, "submitEpoch, 1 000 nodes, per node", gas / 1000);
    }

    function test_votes_and_challenges() public {
        bytes memory vote = abi.encodeCall(rewards.voteEpoch, (0, keccak256("root"), 1 ether, keccak256("data")));
        send("voteEpoch, first", reporter, address(rewards), 0, vote, 55_000);
        vote = abi.encodeCall(rewards.voteEpoch, (0, keccak256("other root"), 1 ether, keccak256("data")));
        send("voteEpoch", reporter, address(rewards), 0, vote, 55_000);
        report("submitEpoch, root only, over a vote", 0, 1 ether, "", 150_000);
        bytes memory objection = abi.encodeCall(rewards.challengeEpoch, (0, keccak256("reason")));
        send("challengeEpoch", stranger, address(rewards), BOND, objection, 70_000);
        send(
            "resolveChallenge, upheld",
            arbiter,
            address(rewards),
            0,
            abi.encodeCall(rewards.resolveChallenge, (0, true)),
            75_000
        );
        send(
            "withdrawCredit", stranger, address(rewards), 0, abi.encodeCall(rewards.withdrawCredit, (stranger)), 40_000
        );
    }

    /// @dev A tree of `size` leaves in which the payee has one; returns its claim.
    function claimOf(uint256 size, uint128 amount) private returns (bytes memory) {
        bytes32[] memory leaves = new bytes32[](size);
        for (uint256 i = 1; i < size; i++) {
            leaves[i] = keccak256(abi.encode(i, amount));
        }
        leaves[0] = StandardTree.leaf(address(rewards), stranger, amount);
        bytes32 leaf = leaves[0];
        bytes32[] memory tree = StandardTree.build(leaves);
        uint64 epoch = state().nextEpoch;
        warpPastEpoch(epoch);
        submit(epoch, tree[0], amount);
        warpPastWindow();
        rewards.distributeRewards();
        return abi.encodeCall(rewards.claim, (stranger, amount, StandardTree.proof(tree, leaf)));
    }

    function test_claims() public {
        send("claim, first, 128 leaves", owner, address(rewards), 0, claimOf(128, 1 ether), 95_000);
        send("claim, 1 024 leaves", owner, address(rewards), 0, claimOf(1024, 2 ether), 80_000);
    }

    function test_jobs() public {
        uint64 deadline = uint64(block.timestamp + 1 hours);
        bytes memory open = abi.encodeCall(escrow.openJob, (keccak256("first"), deadline));
        send("openJob, the first ever", payer, address(escrow), 1 ether, open, 100_000);
        open = abi.encodeCall(escrow.openJob, (keccak256("second"), deadline));
        send("openJob", payer, address(escrow), 1 ether, open, 80_000);
        // The payer has a credit already and the treasury has seen fees: what an ordinary batch meets.
        IGridJobEscrow.Settlement[] memory batch = new IGridJobEscrow.Settlement[](1);
        batch[0] = IGridJobEscrow.Settlement(escrow.jobIdOf(payer, keccak256("second")), 0.4 ether);
        send(
            "settleJobs, 1 job, the first ever",
            settler,
            address(escrow),
            0,
            abi.encodeCall(escrow.settleJobs, (batch)),
            150_000
        );
        batch = new IGridJobEscrow.Settlement[](50);
        for (uint256 i = 0; i < 50; i++) {
            vm.prank(payer);
            bytes32 id = escrow.openJob{value: 1 ether}(keccak256(abi.encode(i)), deadline);
            batch[i] = IGridJobEscrow.Settlement(id, 0.876543210987654321 ether);
        }
        uint256 gas = send(
            "settleJobs, 50 jobs of one payer",
            settler,
            address(escrow),
            0,
            abi.encodeCall(escrow.settleJobs, (batch)),
            900_000
        );
        vm.snapshotValue(GROUP, "settleJobs, per job of 50", gas / 50);
        vm.warp(deadline);
        bytes32 first = escrow.jobIdOf(payer, keccak256("first"));
        send("cancelJob", payer, address(escrow), 0, abi.encodeCall(escrow.cancelJob, (first)), 70_000);
    }

    function test_slashing() public {
        address other = makeAddr("other node");
        deal(other, 40 ether);
        registerOwner(40 ether);
        vm.prank(other);
        rewards.registerNode{value: 40 ether}(1, 1);
        bytes memory proposal = abi.encodeCall(slashing.proposeSlash, (owner, 2 ether, keccak256("evidence")));
        send("proposeSlash, the first ever", slasher, address(slashing), 0, proposal, 190_000);
        proposal = abi.encodeCall(slashing.proposeSlash, (other, 2 ether, keccak256("evidence")));
        // Above the goal of 135 000 by what it takes to remember the evidence.
        send("proposeSlash", slasher, address(slashing), 0, proposal, 155_000);
        bytes memory appeal = abi.encodeCall(slashing.appealSlash, (1));
        send("appealSlash", owner, address(slashing), APPEAL_BOND, appeal, 65_000);
        vm.prank(arbiter);
        slashing.executeSlash(1);
        vm.warp(block.timestamp + APPEAL_TIME);
        send("executeSlash", stranger, address(slashing), 0, abi.encodeCall(slashing.executeSlash, (2)), 55_000);
    }

    /// @dev I12: with 300 nodes no call costs more than with one.
    function test_nothing_costs_more_with_more_nodes() public {
        registerOwner(1 ether);
        uint256 alone = costs();
        for (uint160 i = 1; i <= 300; i++) {
            address node = address(i << 100);
            deal(node, 1 ether);
            vm.prank(node);
            rewards.registerNode{value: 1 ether}(1, 1);
        }
        assertLe(costs(), alone + 1000);
    }

    function costs() private returns (uint256 gas) {
        uint256 snapshot = vm.snapshotState();
        IGridComputingRewards.EpochState memory s = state();
        warpPastEpoch(s.nextEpoch);
        submit(s.nextEpoch, StandardTree.leaf(address(rewards), stranger, 1 ether), 1 ether);
        gas += vm.lastCallGas().gasTotalUsed;
        warpPastWindow();
        rewards.distributeRewards();
        gas += vm.lastCallGas().gasTotalUsed;
        rewards.claim(stranger, 1 ether, noProof());
        gas += vm.lastCallGas().gasTotalUsed;
        leave(owner);
        gas += vm.lastCallGas().gasTotalUsed;
        vm.revertToState(snapshot);
    }
}

/// @notice What a deployment costs. Without --isolate: what CREATE takes, and what the transaction around it adds.
contract DeploymentGasTest is Fixture {
    string private constant GROUP = "deployment";

    function calldataGas(bytes memory data) private pure returns (uint256 gas) {
        for (uint256 i = 0; i < data.length; i++) {
            gas += data[i] == 0 ? 4 : 68;
        }
    }

    function deployment(string memory name, bytes memory arguments, uint256 goal) private {
        bytes memory code = abi.encodePacked(vm.getCode(string.concat(name, ".sol:", name)), arguments);
        address created;
        uint256 before = gasleft();
        assembly {
            created := create(0, add(code, 0x20), mload(code))
        }
        uint256 used = before - gasleft();
        uint256 gas = used + 21_000 + calldataGas(code);
        vm.snapshotValue(GROUP, name, gas);
        vm.snapshotValue(GROUP, string.concat(name, ", runtime bytes"), created.code.length);
        assertLe(gas, goal, name);
        assertGt(created.code.length, 0, name);
        assertLe(created.code.length, 20_000, name);
    }

    function test_deployment() public {
        deployment("GridComputingRewards", abi.encode(admin, EPOCH, WINDOW, unbonding, MAX_INCREASE), 5_000_000);
        deployment("GridJobEscrow", abi.encode(rewards, FEE_BPS), 5_000_000);
        deployment("GridSlashing", abi.encode(rewards, APPEAL_TIME, RULING_TIME, APPEAL_BOND), 5_000_000);
    }
}
