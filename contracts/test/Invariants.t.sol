// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {Actors} from "./Actors.sol";
import {Fixture} from "./Fixture.sol";

/// @notice I1 to I16 of the design. I12 (no loop over nodes) is a gas test (Gas.t.sol); I3 across chains and contracts is in
/// Claims.t.sol. What has to hold for a single call is noted by the driver (`wrong`).
contract InvariantsTest is Fixture {
    Actors private actors;

    function setUp() public override {
        // Short, so that a run of a few days sees exits complete.
        unbonding = 3 hours;
        super.setUp();
        Actors.Roles memory roles = Actors.Roles(admin, reporter, guardian, slasher, arbiter, settler);
        actors = new Actors(rewards, escrow, slashing, roles, 500 ether);
        targetContract(address(actors));
    }

    /// @dev The driver returns early where a call could not succeed; this shows that it still reaches every kind of step.
    function test_the_driver_reaches_every_step() public {
        actors.register(0, 20 ether, 1);
        actors.register(4, 20 ether, 1);
        actors.fund(5 ether);
        actors.report(3 ether, 1);
        actors.drop();
        actors.report(3 ether, 1);
        actors.challenge(2);
        actors.resolve(false);
        actors.challenge(2);
        actors.resolve(true);
        actors.report(3 ether, 4);
        actors.wait(uint32(WINDOW));
        actors.activate();
        actors.claim(4);
        assertEq(rewards.credit(actors.actors(4)), 3 ether, "I13: the refuser harms only itself");
        actors.withdrawCredit(4);
        actors.proposeSlash(0, 2 ether);
        actors.appeal(0);
        actors.decide(0, true);
        actors.waitLong(1 hours);
        actors.proposeSlash(0, 2 ether);
        assertEq(slashing.caseCount(), 1, "I16: the same evidence once more");
        actors.proposeSlash(actors.count(), 2 ether);
        actors.waitLong(4 days);
        actors.decide(1, true);
        actors.exit(0);
        actors.waitLong(9 days);
        actors.exit(0);
        actors.openJob(1, 5 ether, 1 days);
        actors.settleJob(0, 2 ether);
        actors.openJob(1, 5 ether, 1 hours);
        actors.waitLong(1 days);
        actors.cancelJob(1);
        actors.force(1 ether);
        actors.sweep();
        actors.pause(7);
        actors.unpause();
        actors.setParameters(1, 1, 1, 1);
        assertEq(actors.epochsAccepted(), 3);
        assertEq(actors.epochsDropped(), 2);
        assertEq(actors.paid(), 3 ether);
        assertEq(actors.slashed(), 4 ether);
        assertEq(actors.stakedOut(), 16 ether);
        assertEq(actors.bondsLost(), BOND);
        (uint256 inEscrow, uint256 credits, uint256 fees) = escrow.totals();
        assertEq(inEscrow, 0);
        assertEq(credits, 3 ether);
        assertEq(fees, 0.1 ether + 1 ether);
        invariant_I1_the_balances_cover_what_is_owed();
        invariant_I6_stakes_are_kept_apart();
        invariant_I16_evidence_leads_to_its_only_case();
        invariant_nothing_went_wrong();
    }

    function invariant_I1_the_balances_cover_what_is_owed() public view {
        assertEq(address(rewards).balance, rewards.owed() + actors.forced());
        assertEq(address(escrow).balance, escrow.owed() + actors.escrowForced());
        uint256 credits;
        for (uint256 i = 0; i < actors.count(); i++) {
            credits += slashing.credit(actors.actors(i));
        }
        assertEq(address(slashing).balance, slashing.bondTotal() + credits);
    }

    function invariant_I1_credits_are_the_sum_of_every_accounts() public view {
        uint256 credits;
        uint256 escrowCredits;
        for (uint256 i = 0; i < actors.count(); i++) {
            credits += rewards.credit(actors.actors(i));
            escrowCredits += escrow.credit(actors.actors(i));
        }
        assertEq(state().creditTotal, credits);
        (, uint256 total,) = escrow.totals();
        assertEq(total, escrowCredits);
    }

    function invariant_I2_claims_allocations_revenue() public view {
        IGridComputingRewards.EpochState memory s = state();
        assertLe(s.claimedTotal, s.liveTotal);
        assertLe(s.liveTotal, s.pendingTotal);
        assertLe(uint256(s.pendingTotal) + s.rewardPool, actors.revenue());
        assertEq(s.claimedTotal, actors.paid());
    }

    function invariant_I4_epochs_go_up_one_by_one_and_dropped_ones_never_live() public view {
        assertEq(state().nextEpoch, actors.epochsAccepted() - actors.epochsDropped());
        if (!state().pending) assertEq(state().liveRoot, actors.liveRoot());
    }

    function invariant_I6_stakes_are_kept_apart() public view {
        assertEq(state().stakeTotal + actors.stakedOut() + actors.slashed(), actors.stakedIn());
        assertEq(state().treasury, actors.slashed() + actors.bondsLost());
        for (uint256 i = 0; i < actors.count(); i++) {
            IGridComputingRewards.Node memory node = rewards.nodes(actors.actors(i));
            assertLe(node.frozen, node.stake);
        }
    }

    function invariant_I9_the_leaves_add_up_to_the_live_total() public view {
        assertEq(state().liveTotal, actors.earnedLiveTotal());
    }

    /// @dev Two cases on the same evidence would need two answers.
    function invariant_I16_evidence_leads_to_its_only_case() public view {
        uint256 cases = slashing.caseCount();
        for (uint256 id = 1; id <= cases; id++) {
            (address node, bytes32 evidence) = actors.accusations(id - 1);
            assertEq(slashing.slashCases(id).node, node);
            assertEq(slashing.caseOf(node, evidence), id);
        }
    }

    /// @dev I3, I5, I7, I8, I10, I11, I13, I15, I16.
    function invariant_nothing_went_wrong() public view {
        assertEq(actors.wrong(), "");
    }
}
