// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridJobEscrow} from "../src/IGridJobEscrow.sol";
import {Fixture} from "./Fixture.sol";
import {StandardTree} from "./StandardTree.sol";

/// @notice Whoever is paid may revert, burn all gas, return a bomb, or call back: on every way out of the contracts it harms
/// itself only, and the books still agree with the balance.
contract HostileTest is Fixture {
    Hostile private hostile;
    uint64 private deadline;

    function setUp() public override {
        super.setUp();
        hostile = new Hostile();
        deal(address(hostile), 20 ether);
        deadline = uint64(block.timestamp + 1 hours);
    }

    function balanced() private view {
        assertEq(rewards.owed(), address(rewards).balance);
        assertEq(escrow.owed(), address(escrow).balance);
    }

    function run(bytes memory data, address target, uint256 value, uint256 gas) private {
        vm.prank(address(hostile));
        (bool done, bytes memory answer) = target.call{value: value, gas: gas}(data);
        if (!done) {
            assembly {
                revert(add(answer, 0x20), mload(answer))
            }
        }
    }

    /// @dev Each way in which the contracts pay somebody; every call gets what a wallet would give it.
    function everyWayOut(Hostile.Mode mode) private {
        uint256 pocket = address(hostile).balance;
        hostile.set(mode, address(rewards), abi.encodeCall(rewards.unregisterNode, ()));
        run(abi.encodeCall(rewards.registerNode, (1, 1)), address(rewards), 5 ether, 400_000);
        run(abi.encodeCall(rewards.unregisterNode, ()), address(rewards), 0, 400_000);
        run(abi.encodeCall(escrow.openJob, (bytes32("a"), deadline)), address(escrow), 3 ether, 400_000);
        bytes32 settled = escrow.jobIdOf(address(hostile), "b");
        run(abi.encodeCall(escrow.openJob, (bytes32("b"), deadline)), address(escrow), 4 ether, 400_000);
        IGridJobEscrow.Settlement[] memory batch = new IGridJobEscrow.Settlement[](1);
        batch[0] = IGridJobEscrow.Settlement(settled, 1 ether);
        vm.prank(settler);
        escrow.settleJobs(batch);

        vm.warp(block.timestamp + unbonding);
        run(abi.encodeCall(rewards.unregisterNode, ()), address(rewards), 0, 400_000);
        assertEq(rewards.credit(address(hostile)), 5 ether);
        hostile.set(mode, address(escrow), abi.encodeCall(escrow.withdrawCredit, (address(hostile))));
        run(abi.encodeCall(escrow.cancelJob, (escrow.jobIdOf(address(hostile), "a"))), address(escrow), 0, 400_000);
        assertEq(escrow.credit(address(hostile)), 3 ether + 3 ether);
        payEverythingTo(address(hostile), 7 ether);
        hostile.set(mode, address(rewards), abi.encodeCall(rewards.claim, (address(hostile), 7 ether, noProof())));
        rewards.claim{gas: 400_000}(address(hostile), 7 ether, noProof());
        assertEq(rewards.credit(address(hostile)), 12 ether);
        balanced();

        try rewards.withdrawCredit{gas: 400_000}(address(hostile)) {
            assertTrue(false, "a refuser was paid");
        } catch {}
        hostile.set(Hostile.Mode.Accept, address(0), "");
        rewards.withdrawCredit(address(hostile));
        escrow.withdrawCredit(address(hostile));
        // 1 XDC was spent on the job, 7 were earned.
        assertEq(address(hostile).balance, pocket - 1 ether + 7 ether);
        balanced();
    }

    function test_a_payee_that_reverts() public {
        everyWayOut(Hostile.Mode.Revert);
    }

    function test_a_payee_that_burns_all_gas() public {
        everyWayOut(Hostile.Mode.Burn);
    }

    function test_a_payee_that_returns_a_bomb() public {
        everyWayOut(Hostile.Mode.Bomb);
    }

    function test_a_payee_that_calls_back() public {
        everyWayOut(Hostile.Mode.CallBack);
    }

    function test_the_guard_covers_every_function_that_pays() public {
        registerOwner(10 ether);
        payEverythingTo(address(hostile), 1 ether);
        bytes[6] memory calls = [
            abi.encodeCall(rewards.claim, (address(hostile), 1 ether, noProof())),
            abi.encodeCall(rewards.unregisterNode, ()),
            abi.encodeCall(rewards.withdrawCredit, (owner)),
            abi.encodeCall(rewards.sweepExcess, ()),
            abi.encodeCall(rewards.forwardPool, ()),
            abi.encodeCall(rewards.withdrawTreasury, (owner, 0))
        ];
        for (uint256 i = 0; i < calls.length; i++) {
            uint256 snapshot = vm.snapshotState();
            hostile.set(Hostile.Mode.Probe, address(rewards), calls[i]);
            rewards.claim(address(hostile), 1 ether, noProof());
            assertEq(hostile.answer(), bytes4(keccak256("ReentrancyGuardReentrantCall()")));
            vm.revertToState(snapshot);
        }
    }

    function test_a_refuser_in_a_batch_stops_nobody_else() public {
        address[2] memory nodes = [address(hostile), stranger];
        bytes32[] memory leaves = new bytes32[](2);
        leaves[0] = StandardTree.leaf(address(rewards), nodes[0], 1 ether);
        leaves[1] = StandardTree.leaf(address(rewards), nodes[1], 2 ether);
        bytes32[] memory tree = StandardTree.build(leaves);
        warpPastEpoch(0);
        submit(0, tree[0], 3 ether);
        warpPastWindow();
        rewards.distributeRewards();
        hostile.set(Hostile.Mode.Burn, address(0), "");
        leaves[0] = StandardTree.leaf(address(rewards), nodes[0], 1 ether);
        rewards.claim(nodes[0], 1 ether, StandardTree.proof(tree, leaves[0]));
        rewards.claim(
            nodes[1], 2 ether, StandardTree.proof(tree, StandardTree.leaf(address(rewards), stranger, 2 ether))
        );
        assertEq(stranger.balance, 102 ether);
    }
}

contract Hostile {
    enum Mode {
        Accept,
        Revert,
        Burn,
        Bomb,
        CallBack,
        Probe
    }

    Mode private mode;
    address private target;
    bytes private data;
    bytes4 public answer;

    function set(Mode mode_, address target_, bytes calldata data_) external {
        (mode, target, data) = (mode_, target_, data_);
    }

    receive() external payable {
        if (mode == Mode.Revert) revert("no");
        if (mode == Mode.Burn) while (true) {}
        if (mode == Mode.Bomb) {
            assembly {
                revert(0, 100000)
            }
        }
        if (mode == Mode.CallBack) {
            (bool done, bytes memory reason) = target.call(data);
            if (!done) {
                assembly {
                    revert(add(reason, 0x20), mload(reason))
                }
            }
        }
        if (mode == Mode.Probe) {
            (bool done, bytes memory reason) = target.call(data);
            if (!done) answer = bytes4(reason);
        }
    }
}
