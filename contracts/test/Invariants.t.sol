// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {StdInvariant} from "forge-std/StdInvariant.sol";
import {CommonBase} from "forge-std/Base.sol";
import {StdCheats} from "forge-std/StdCheats.sol";
import {StdUtils} from "forge-std/StdUtils.sol";

import {GridComputingRewards} from "../src/GridComputingRewards.sol";
import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {Fixture} from "./Fixture.sol";
import {StandardTree} from "./StandardTree.sol";

/// @notice Drives the contract through any order of registrations, exits, funding, reports, drops, activations and claims.
contract Actors is CommonBase, StdCheats, StdUtils {
    GridComputingRewards private immutable rewards;
    address private immutable reporter;
    address private immutable guardian;

    address[] public actors;
    mapping(address node => uint256) private earned;
    mapping(address node => uint256) private earnedLive;
    uint256 public stakedIn;
    uint256 public stakedOut;
    uint256 public funded;
    uint256 public paid;
    uint64 public epochsAccepted;
    uint64 public epochsDropped;
    mapping(address node => uint256) public highestClaimed;
    bool public claimedFell;
    bool public activatedEarly;
    bool public exitFailed;

    constructor(GridComputingRewards rewards_, address reporter_, address guardian_) {
        rewards = rewards_;
        reporter = reporter_;
        guardian = guardian_;
        for (uint256 i = 0; i < 5; i++) {
            actors.push(makeAddr(string(abi.encodePacked("actor", i))));
        }
    }

    function actor(uint256 seed) private view returns (address) {
        return actors[seed % actors.length];
    }

    function register(uint256 seed, uint96 stake, uint32 power) external {
        address node = actor(seed);
        if (rewards.nodes(node).status != IGridComputingRewards.NodeStatus.None) return;
        stake = uint96(bound(stake, 1 ether, 100 ether));
        deal(node, stake);
        vm.prank(node);
        rewards.registerNode{value: stake}(uint256(power) + 1, power);
        stakedIn += stake;
    }

    function exit(uint256 seed) external {
        address node = actor(seed);
        IGridComputingRewards.Node memory record = rewards.nodes(node);
        if (record.status == IGridComputingRewards.NodeStatus.None) return;
        if (record.status == IGridComputingRewards.NodeStatus.Exiting && block.timestamp < record.exitAt) return;
        uint256 before = node.balance;
        vm.prank(node);
        try rewards.unregisterNode() {
            stakedOut += node.balance - before;
        } catch {
            exitFailed = true;
        }
    }

    function fund(uint96 amount) external {
        amount = uint96(bound(amount, 0, 50 ether));
        deal(address(this), amount);
        rewards.fund{value: amount}();
        funded += amount;
    }

    function wait(uint32 time) external {
        vm.warp(block.timestamp + bound(time, 1, 2 hours));
    }

    function report(uint96 increase, uint256 seed) external {
        IGridComputingRewards.EpochState memory state = rewards.epochState();
        // Moves time to where the report is due, or random runs would rarely see one.
        uint256 due = rewards.genesis() + (uint256(state.nextEpoch) + 1) * rewards.epochSeconds();
        if (state.pending && due < state.activeAt) due = state.activeAt;
        if (block.timestamp < due) vm.warp(due);
        if (state.pending) _noteActivation();
        increase = uint96(bound(increase, 0, state.rewardPool));
        for (uint256 i = 0; i < actors.length; i++) {
            earned[actors[i]] = earnedLive[actors[i]];
        }
        earned[actor(seed)] += increase;
        uint128 total = state.pendingTotal + increase;
        bytes32 root = increase == 0 ? (state.pending ? state.pendingRoot : state.liveRoot) : _tree(earned)[0];
        vm.prank(reporter);
        rewards.submitEpoch(state.nextEpoch, root, total, keccak256(""), "");
        epochsAccepted++;
    }

    function drop() external {
        IGridComputingRewards.EpochState memory state = rewards.epochState();
        if (!state.pending || block.timestamp >= state.activeAt) return;
        vm.prank(guardian);
        rewards.disableEpoch(state.nextEpoch - 1);
        epochsDropped++;
    }

    function activate() external {
        IGridComputingRewards.EpochState memory state = rewards.epochState();
        if (!state.pending) return;
        try rewards.distributeRewards() {
            if (block.timestamp < state.activeAt) activatedEarly = true;
            _noteActivation();
        } catch {}
    }

    function claim(uint256 seed) external {
        address node = actor(seed);
        uint256 cumulative = earnedLive[node];
        if (cumulative <= rewards.claimed(node)) return;
        bytes32 leaf = StandardTree.leaf(address(rewards), node, cumulative);
        bytes32[] memory proof = StandardTree.proof(_tree(earnedLive), leaf);
        paid += rewards.claim(node, cumulative, proof);
        if (rewards.claimed(node) < highestClaimed[node]) claimedFell = true;
        highestClaimed[node] = rewards.claimed(node);
    }

    function _noteActivation() private {
        for (uint256 i = 0; i < actors.length; i++) {
            earnedLive[actors[i]] = earned[actors[i]];
        }
    }

    function _tree(mapping(address node => uint256) storage amounts) private view returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](actors.length);
        for (uint256 i = 0; i < actors.length; i++) {
            leaves[i] = StandardTree.leaf(address(rewards), actors[i], amounts[actors[i]]);
        }
        return StandardTree.build(leaves);
    }
}

contract InvariantsTest is Fixture {
    Actors private actors;
    uint256 private constant SEED_MONEY = 500 ether;

    function setUp() public override {
        // Short, so that a run of a few hours sees exits complete.
        unbonding = 3 hours;
        super.setUp();
        actors = new Actors(rewards, reporter, guardian);
        targetContract(address(actors));
    }

    /// @dev The driver returns early where a call could not succeed; this shows that it still reaches every kind of step.
    function test_the_driver_reaches_every_step() public {
        actors.register(0, 2 ether, 1);
        actors.fund(5 ether);
        actors.report(3 ether, 1);
        actors.drop();
        actors.report(3 ether, 1);
        actors.wait(uint32(WINDOW));
        actors.activate();
        actors.claim(1);
        actors.exit(0);
        for (uint256 i = 0; i < 4; i++) {
            actors.wait(2 hours);
        }
        actors.exit(0);
        assertEq(actors.epochsAccepted(), 2);
        assertEq(actors.epochsDropped(), 1);
        assertGt(actors.paid(), 0);
        assertGt(actors.stakedOut(), 0);
        invariant_the_balance_covers_every_total();
    }

    function invariant_the_balance_covers_every_total() public view {
        IGridComputingRewards.EpochState memory s = state();
        uint256 owed = uint256(s.stakeTotal) + s.rewardPool + (s.pendingTotal - s.liveTotal)
            + (s.liveTotal - s.claimedTotal) + s.creditTotal;
        assertGe(address(rewards).balance, owed);
        assertEq(address(rewards).balance, owed, "nothing was forced in, so nothing may be left over");
    }

    function invariant_claims_never_pass_allocations_and_allocations_never_pass_revenue() public view {
        IGridComputingRewards.EpochState memory s = state();
        assertLe(s.claimedTotal, s.liveTotal);
        assertLe(s.pendingTotal, SEED_MONEY + actors.funded());
        assertEq(s.claimedTotal, actors.paid());
    }

    function invariant_claimed_never_falls() public view {
        assertFalse(actors.claimedFell());
    }

    function invariant_epochs_go_up_one_by_one() public view {
        assertEq(state().nextEpoch, actors.epochsAccepted() - actors.epochsDropped());
    }

    function invariant_nothing_activates_before_its_window() public view {
        assertFalse(actors.activatedEarly());
    }

    function invariant_stakes_are_kept_apart_and_exits_always_work() public view {
        assertEq(state().stakeTotal, actors.stakedIn() - actors.stakedOut());
        assertFalse(actors.exitFailed());
    }
}
