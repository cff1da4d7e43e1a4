// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {Fixture} from "./Fixture.sol";

/// @notice The contract against trees that OpenZeppelin's own library built (tools/trees.cjs; `npm run trees`): every root can be
/// reported, and every proof is paid, for its amount and no other.
contract TreesTest is Fixture {
    string private constant FILE = "cache/trees.txt";
    /// @dev Leaves name the contract, so it has to be where the trees were made for.
    address payable private constant PLACE = payable(0x00000000000000000000000000000000000c0dE5);

    function setUp() public override {
        super.setUp();
        deployCodeTo(
            "GridComputingRewards.sol:GridComputingRewards",
            abi.encode(admin, EPOCH, WINDOW, unbonding, MAX_INCREASE),
            PLACE
        );
        rewards = IGridComputingRewards(PLACE);
        bytes32 role = rewards.REPORTER_ROLE();
        vm.prank(admin);
        rewards.grantRole(role, reporter);
        rewards.fund{value: 500 ether}();
        warpPastEpoch(0);
    }

    function test_trees_of_openzeppelin_are_paid() public {
        assertTrue(vm.exists(FILE), "no trees: npm run trees makes them");
        uint256 start = vm.snapshotState();
        uint256 count;
        for (string memory line = vm.readLine(FILE); bytes(line).length != 0; line = vm.readLine(FILE)) {
            (bytes32 root, address node, uint256 cumulative, uint256 total, bytes32[] memory proof) =
                abi.decode(vm.parseBytes(line), (bytes32, address, uint256, uint256, bytes32[]));
            submit(0, root, uint128(total));
            warpPastWindow();
            rewards.distributeRewards();
            bytes memory wrong =
                abi.encodeWithSelector(IGridComputingRewards.InvalidProof.selector, node, cumulative + 1);
            vm.expectRevert(wrong);
            rewards.claim(node, cumulative + 1, proof);
            assertEq(rewards.claim(node, cumulative, proof), cumulative);
            count++;
            vm.revertToState(start);
        }
        assertGe(count, 100);
    }
}
