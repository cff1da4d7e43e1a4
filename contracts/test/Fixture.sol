// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";

import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {IGridJobEscrow} from "../src/IGridJobEscrow.sol";
import {IGridSlashing} from "../src/IGridSlashing.sol";
import {StandardTree} from "./StandardTree.sol";

/// @notice The three contracts, deployed and bound, an account for every role, money in the pool, and short words for what
/// tests do often. The contracts come as artefacts (see foundry.toml), so tests import interfaces only.
abstract contract Fixture is Test {
    uint64 internal constant EPOCH = 1 hours;
    uint64 internal constant WINDOW = 20 minutes;
    uint64 internal unbonding = 7 days;
    uint128 internal constant MAX_INCREASE = 1000 ether;
    uint256 internal constant BOND = 10 ether;
    uint40 internal constant APPEAL_TIME = 3 days;
    uint40 internal constant RULING_TIME = 7 days;
    uint96 internal constant APPEAL_BOND = 2 ether;
    uint16 internal constant FEE_BPS = 500;

    IGridComputingRewards internal rewards;
    IGridJobEscrow internal escrow;
    IGridSlashing internal slashing;
    address internal admin = makeAddr("admin");
    address internal reporter = makeAddr("reporter");
    address internal guardian = makeAddr("guardian");
    address internal slasher = makeAddr("slasher");
    address internal arbiter = makeAddr("arbiter");
    address internal treasurer = makeAddr("treasurer");
    address internal settler = makeAddr("settler");
    address internal owner = makeAddr("owner");
    address internal payout = makeAddr("payout");
    address internal payer = makeAddr("payer");
    address internal stranger = makeAddr("stranger");

    function setUp() public virtual {
        vm.warp(1_790_000_000);
        rewards = deployRewards(admin, EPOCH, WINDOW, unbonding, MAX_INCREASE);
        escrow = deployEscrow(address(rewards), FEE_BPS);
        slashing = deploySlashing(address(rewards), APPEAL_TIME, RULING_TIME, APPEAL_BOND);
        vm.startPrank(admin);
        rewards.grantRole(rewards.REPORTER_ROLE(), reporter);
        rewards.grantRole(rewards.GUARDIAN_ROLE(), guardian);
        rewards.grantRole(rewards.SLASHER_ROLE(), slasher);
        rewards.grantRole(rewards.ARBITER_ROLE(), arbiter);
        rewards.grantRole(rewards.TREASURER_ROLE(), treasurer);
        rewards.grantRole(rewards.SETTLER_ROLE(), settler);
        rewards.bindSlashing(address(slashing));
        vm.stopPrank();
        deal(address(this), 10_000 ether);
        rewards.fund{value: 500 ether}();
        deal(owner, 100 ether);
        deal(payer, 100 ether);
        deal(stranger, 100 ether);
    }

    // ---------------------------------------------------------------- deployment

    function deployRewards(address admin_, uint64 epoch, uint64 window, uint64 unbonding_, uint128 increase)
        internal
        returns (IGridComputingRewards)
    {
        return IGridComputingRewards(
            this.create("GridComputingRewards", abi.encode(admin_, epoch, window, unbonding_, increase))
        );
    }

    function deployEscrow(address rewards_, uint16 feeBps) internal returns (IGridJobEscrow) {
        return IGridJobEscrow(this.create("GridJobEscrow", abi.encode(rewards_, feeBps)));
    }

    function deploySlashing(address rewards_, uint40 appealTime, uint40 rulingTime, uint96 bond)
        internal
        returns (IGridSlashing)
    {
        return IGridSlashing(this.create("GridSlashing", abi.encode(rewards_, appealTime, rulingTime, bond)));
    }

    /// @dev External, so that a test can expect a constructor to revert.
    function create(string memory name, bytes memory arguments) external returns (address created) {
        bytes memory code = abi.encodePacked(vm.getCode(string.concat(name, ".sol:", name)), arguments);
        assembly {
            created := create(0, add(code, 0x20), mload(code))
            if iszero(created) {
                returndatacopy(0, 0, returndatasize())
                revert(0, returndatasize())
            }
        }
    }

    // ---------------------------------------------------------------- reading

    function state() internal view returns (IGridComputingRewards.EpochState memory) {
        return rewards.epochState();
    }

    function rules() internal view returns (IGridComputingRewards.Parameters memory inForce) {
        (inForce,,) = rewards.parameters();
    }

    function noProof() internal pure returns (bytes32[] memory) {
        return new bytes32[](0);
    }

    // ---------------------------------------------------------------- nodes

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

    function registerOwner(uint256 stake) internal {
        vm.prank(owner);
        rewards.registerNode{value: stake}(1000, 50);
    }

    function leave(address node) internal {
        vm.prank(node);
        rewards.unregisterNode();
    }

    // ---------------------------------------------------------------- epochs

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

    // ---------------------------------------------------------------- parameters

    function change(IGridComputingRewards.Parameters memory next) internal {
        vm.prank(admin);
        rewards.setParameters(next);
        (,, uint256 from) = rewards.parameters();
        vm.warp(from);
    }
}
