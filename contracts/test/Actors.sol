// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CommonBase} from "forge-std/Base.sol";
import {StdCheats} from "forge-std/StdCheats.sol";
import {StdUtils} from "forge-std/StdUtils.sol";

import {IGridComputingRewards} from "../src/IGridComputingRewards.sol";
import {IGridJobEscrow} from "../src/IGridJobEscrow.sol";
import {IGridSlashing} from "../src/IGridSlashing.sol";
import {StandardTree} from "./StandardTree.sol";

/// @notice Refuses all money.
contract Refuser {
    receive() external payable {
        revert("no, thank you");
    }
}

/// @notice Drives the three contracts through any order of everything that can happen to them, keeps sums of its own, and
/// notes what must never happen. Where a call must work it is made bare: with fail_on_revert a revert fails the run.
contract Actors is CommonBase, StdCheats, StdUtils {
    struct Roles {
        address admin;
        address reporter;
        address guardian;
        address slasher;
        address arbiter;
        address settler;
    }

    struct Accusation {
        address node;
        bytes32 evidence;
    }

    uint96 private constant APPEAL_BOND = 2 ether;

    IGridComputingRewards private immutable rewards;
    IGridJobEscrow private immutable escrow;
    IGridSlashing private immutable slashing;
    Roles private roles;

    address[] public actors;
    mapping(address node => uint256) private earned;
    mapping(address node => uint256) private earnedLive;
    mapping(address node => uint256) private highestClaimed;
    /// @notice What each case is about: case 1 is the first.
    Accusation[] public accusations;
    bytes32[] private jobIds;
    uint256 private salt;

    uint256 public stakedIn;
    uint256 public stakedOut;
    uint256 public slashed;
    uint256 public revenue;
    uint256 public paid;
    uint256 public forced;
    uint256 public escrowForced;
    uint256 public bondsLost;
    uint64 public epochsAccepted;
    uint64 public epochsDropped;
    bytes32 public liveRoot;
    /// @notice What went wrong first; empty is what invariants want.
    string public wrong;

    constructor(
        IGridComputingRewards rewards_,
        IGridJobEscrow escrow_,
        IGridSlashing slashing_,
        Roles memory roles_,
        uint256 seedMoney
    ) {
        (rewards, escrow, slashing, roles, revenue) = (rewards_, escrow_, slashing_, roles_, seedMoney);
        for (uint256 i = 0; i < 4; i++) {
            actors.push(makeAddr(string(abi.encodePacked("actor", i))));
        }
        actors.push(address(new Refuser()));
    }

    function count() external view returns (uint256) {
        return actors.length;
    }

    function earnedLiveTotal() external view returns (uint256 total) {
        for (uint256 i = 0; i < actors.length; i++) {
            total += earnedLive[actors[i]];
        }
    }

    function actor(uint256 seed) private view returns (address) {
        return actors[seed % actors.length];
    }

    function check(bool right, string memory what) private {
        if (!right && bytes(wrong).length == 0) wrong = what;
    }

    function paused(uint8 bit) private view returns (bool) {
        (uint8 bits,) = rewards.paused();
        return bits & bit != 0;
    }

    // ---------------------------------------------------------------- time, money, rules

    function wait(uint32 time) external {
        vm.warp(block.timestamp + bound(time, 1, 2 hours));
    }

    function waitLong(uint32 time) external {
        vm.warp(block.timestamp + bound(time, 1 hours, 9 days));
    }

    function fund(uint96 amount) external {
        amount = uint96(bound(amount, 0, 50 ether));
        deal(address(this), amount);
        rewards.fund{value: amount}();
        revenue += amount;
    }

    function force(uint96 amount) external {
        amount = uint96(bound(amount, 1, 5 ether));
        vm.deal(address(rewards), address(rewards).balance + amount);
        vm.deal(address(escrow), address(escrow).balance + amount);
        forced += amount;
        escrowForced += amount;
    }

    function sweep() external {
        if (forced != 0) rewards.sweepExcess();
        if (escrowForced != 0) escrow.sweepExcess();
        revenue += forced;
        (forced, escrowForced) = (0, 0);
    }

    function pause(uint8 bits) external {
        vm.prank(roles.guardian);
        try rewards.pause(uint8(bound(bits, 1, 7))) {} catch {}
        vm.prank(roles.guardian);
        try escrow.pause() {} catch {}
    }

    function unpause() external {
        vm.startPrank(roles.admin);
        rewards.unpause();
        escrow.unpause();
        vm.stopPrank();
    }

    function setParameters(uint96 increase, uint72 bond, uint32 window, uint32 unbonding) external {
        (IGridComputingRewards.Parameters memory p,,) = rewards.parameters();
        p.maxEpochIncrease = uint96(bound(increase, 1 ether, 100 ether));
        p.challengeBond = uint72(bound(bond, 0.1 ether, 20 ether));
        p.challengeReward = p.challengeBond / 2;
        p.challengeWindow = uint32(bound(window, 0, 1 hours));
        p.unbonding = uint32(bound(unbonding, p.challengeWindow, 3 days));
        vm.prank(roles.admin);
        rewards.setParameters(p);
    }

    function withdrawCredit(uint256 seed) external {
        address account = actor(seed);
        uint256 due = rewards.credit(account);
        bool refuses = seed % actors.length == actors.length - 1;
        if (due == 0) return;
        uint256 before = account.balance;
        try rewards.withdrawCredit(account) {
            check(account.balance - before == due, "I10: a credit was not paid whole");
        } catch {
            check(refuses, "I10: a credit could not be withdrawn");
        }
    }

    // ---------------------------------------------------------------- nodes

    function register(uint256 seed, uint96 stake, uint32 power) external {
        address node = actor(seed);
        if (rewards.nodes(node).status != IGridComputingRewards.NodeStatus.None || paused(1)) return;
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
        bool exiting = record.status == IGridComputingRewards.NodeStatus.Exiting;
        bool held = record.frozen != 0 && block.timestamp < record.heldUntil;
        if (exiting && (block.timestamp < record.exitAt || held)) {
            check(record.frozen == 0 || record.heldUntil <= record.exitAt + 45 days, "I7: a hold without end");
            return;
        }
        uint256 before = node.balance + rewards.credit(node);
        vm.prank(node);
        try rewards.unregisterNode() {
            uint256 back = node.balance + rewards.credit(node) - before;
            stakedOut += back;
            if (exiting) check(back == record.stake, "I6: another stake came back");
        } catch {
            check(false, "I7: a node could not leave");
        }
    }

    // ---------------------------------------------------------------- epochs

    function report(uint96 increase, uint256 seed) external {
        IGridComputingRewards.EpochState memory s = rewards.epochState();
        if (s.challenged || paused(2)) return;
        // Moves time to where the report is due, or random runs would rarely see one.
        uint256 due = rewards.genesis() + (uint256(s.nextEpoch) + 1) * rewards.epochSeconds();
        if (s.pending && due < s.activeAt) due = s.activeAt;
        if (block.timestamp < due) vm.warp(due);
        if (s.pending) _noteActivation(s.pendingRoot);
        uint256 max = rewards.maxEpochIncrease();
        increase = uint96(bound(increase, 0, s.rewardPool < max ? s.rewardPool : max));
        for (uint256 i = 0; i < actors.length; i++) {
            earned[actors[i]] = earnedLive[actors[i]];
        }
        earned[actor(seed)] += increase;
        bytes32 root = increase == 0 ? liveRoot : _tree(earned)[0];
        vm.prank(roles.reporter);
        rewards.submitEpoch(s.nextEpoch, root, s.pendingTotal + increase, keccak256(""), "");
        epochsAccepted++;
    }

    function drop() external {
        IGridComputingRewards.EpochState memory s = rewards.epochState();
        if (!s.pending || block.timestamp >= s.activeAt) return;
        vm.prank(roles.guardian);
        rewards.disableEpoch(s.nextEpoch - 1);
        epochsDropped++;
    }

    function activate() external {
        IGridComputingRewards.EpochState memory s = rewards.epochState();
        if (!s.pending) return;
        try rewards.distributeRewards() {
            check(block.timestamp >= s.activeAt && !s.challenged, "I5: activated early or while challenged");
            _noteActivation(s.pendingRoot);
        } catch {
            check(block.timestamp < s.activeAt, "a due epoch could not be activated");
        }
    }

    function challenge(uint256 seed) external {
        IGridComputingRewards.EpochState memory s = rewards.epochState();
        if (!s.pending || block.timestamp >= s.activeAt || s.challenged) return;
        (IGridComputingRewards.Parameters memory p,,) = rewards.parameters();
        deal(actor(seed), p.challengeBond);
        vm.prank(actor(seed));
        rewards.challengeEpoch{value: p.challengeBond}(s.nextEpoch - 1, bytes32(seed));
    }

    function resolve(bool upheld) external {
        IGridComputingRewards.EpochState memory s = rewards.epochState();
        if (!s.challenged) return;
        uint64 epoch = s.nextEpoch - 1;
        if (block.timestamp >= s.rulingDueAt) {
            rewards.expireChallenge(epoch);
            epochsDropped++;
            return;
        }
        vm.prank(roles.arbiter);
        rewards.resolveChallenge(epoch, upheld);
        if (upheld) epochsDropped++;
        else bondsLost += s.bond;
    }

    function claim(uint256 seed) external {
        address node = actor(seed);
        uint256 cumulative = earnedLive[node];
        if (cumulative <= rewards.claimed(node) || paused(4)) return;
        bytes32 leaf = StandardTree.leaf(address(rewards), node, cumulative);
        bytes32[] memory proof = StandardTree.proof(_tree(earnedLive), leaf);
        paid += rewards.claim(node, cumulative, proof);
        check(rewards.claimed(node) > highestClaimed[node], "I3: claimed fell or stood");
        highestClaimed[node] = rewards.claimed(node);
        try rewards.claim(node, cumulative, proof) {
            check(false, "I3: a leaf paid twice");
        } catch {}
    }

    function _noteActivation(bytes32 root) private {
        liveRoot = root;
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

    // ---------------------------------------------------------------- slashing

    function proposeSlash(uint256 seed, uint96 amount) external {
        address node = actor(seed);
        IGridComputingRewards.Node memory record = rewards.nodes(node);
        if (record.status == IGridComputingRewards.NodeStatus.None) return;
        amount = uint96(bound(amount, 1, record.stake / 4 + 1));
        // Few, so that histories come back to evidence that was used.
        bytes32 evidence = bytes32(1 + seed / actors.length % 8);
        uint256 earlier = slashing.caseOf(node, evidence);
        vm.prank(roles.slasher);
        try slashing.proposeSlash(node, amount, evidence) returns (uint256 id) {
            check(record.exitAt == 0 || block.timestamp < record.exitAt, "I7: a case after the exit was due");
            check(earlier == 0, "I16: a second case on the same evidence");
            check(slashing.caseOf(node, evidence) == id, "I16: evidence that does not lead to its case");
            accusations.push(Accusation(node, evidence));
        } catch {
            check(slashing.caseOf(node, evidence) == earlier, "I16: a refused proposal used evidence up");
        }
    }

    function appeal(uint256 seed) external {
        (uint256 id, IGridSlashing.SlashCase memory found) = _case(seed);
        if (found.state != IGridSlashing.CaseState.Proposed || block.timestamp >= found.appealUntil) return;
        if (rewards.nodes(found.node).index != found.index) return;
        deal(found.node, APPEAL_BOND);
        vm.prank(found.node);
        slashing.appealSlash{value: APPEAL_BOND}(id);
    }

    function decide(uint256 seed, bool slash) external {
        (uint256 id, IGridSlashing.SlashCase memory found) = _case(seed);
        bool appealed = found.state == IGridSlashing.CaseState.Appealed;
        if (!appealed && found.state != IGridSlashing.CaseState.Proposed) return;
        uint256 before = rewards.epochState().treasury;
        if (appealed && block.timestamp < found.rulingUntil) {
            _nobodyElseEndsTheAppeal(id);
            vm.prank(roles.arbiter);
            if (slash) {
                slashing.executeSlash(id);
                revenue += APPEAL_BOND;
            } else {
                slashing.cancelSlash(id);
            }
        } else if (appealed) {
            slashing.cancelSlash(id);
        } else if (block.timestamp >= found.appealUntil) {
            slashing.executeSlash(id);
        }
        slashed += rewards.epochState().treasury - before;
    }

    function _nobodyElseEndsTheAppeal(uint256 id) private {
        address[4] memory others = [roles.admin, roles.guardian, roles.slasher, roles.reporter];
        for (uint256 i = 0; i < others.length; i++) {
            vm.prank(others[i]);
            try slashing.executeSlash(id) {
                check(false, "I11: not the arbiter ended an appeal");
            } catch {}
            vm.prank(others[i]);
            try slashing.cancelSlash(id) {
                check(false, "I11: not the arbiter ended an appeal");
            } catch {}
        }
    }

    function _case(uint256 seed) private view returns (uint256 id, IGridSlashing.SlashCase memory found) {
        uint256 cases = slashing.caseCount();
        if (cases == 0) return (0, found);
        id = 1 + seed % cases;
        return (id, slashing.slashCases(id));
    }

    // ---------------------------------------------------------------- jobs

    function openJob(uint256 seed, uint96 amount, uint32 time) external {
        if (escrow.pausedUntil() != 0) return;
        amount = uint96(bound(amount, 1, 20 ether));
        address payer = actor(seed);
        deal(payer, amount);
        vm.prank(payer);
        jobIds.push(
            escrow.openJob{value: amount}(bytes32(++salt), uint64(block.timestamp + bound(time, 1 minutes, 2 days)))
        );
    }

    function settleJob(uint256 seed, uint96 spent) external {
        if (jobIds.length == 0) return;
        bytes32 id = jobIds[seed % jobIds.length];
        IGridJobEscrow.Job memory job = escrow.jobs(id);
        bool due = job.state == IGridJobEscrow.JobState.Open && block.timestamp < job.deadline;
        spent = uint96(bound(spent, 0, job.escrow));
        (uint256 toPool, uint256 fee, uint256 refund) = _settle(id, spent, job.payer);
        revenue += toPool;
        if (!due) {
            check(toPool + fee + refund == 0, "I8: a settlement that was not due moved money");
            return;
        }
        check(refund == job.escrow - spent, "I8: another refund than escrow - spent");
        check(toPool + fee == spent, "I15: a wei was lost");
        uint256 scaled = uint256(spent) * job.feeBps;
        check(fee * 10_000 <= scaled && scaled < (fee + 1) * 10_000, "I15: the fee is off by more than a wei");
    }

    /// @dev Twice in one batch: the second must change nothing.
    function _settle(bytes32 id, uint96 spent, address payer)
        private
        returns (uint256 toPool, uint256 fee, uint256 refund)
    {
        IGridJobEscrow.Settlement[] memory batch = new IGridJobEscrow.Settlement[](2);
        (batch[0], batch[1]) = (IGridJobEscrow.Settlement(id, spent), IGridJobEscrow.Settlement(id, spent));
        (uint256 credit, uint256 treasury) = (escrow.credit(payer), _fees());
        vm.prank(roles.settler);
        toPool = escrow.settleJobs(batch);
        return (toPool, _fees() - treasury, escrow.credit(payer) - credit);
    }

    function _fees() private view returns (uint256 treasury) {
        (,, treasury) = escrow.totals();
    }

    function cancelJob(uint256 seed) external {
        if (jobIds.length == 0) return;
        bytes32 id = jobIds[seed % jobIds.length];
        IGridJobEscrow.Job memory job = escrow.jobs(id);
        if (job.state != IGridJobEscrow.JobState.Open || block.timestamp < job.deadline) return;
        uint256 before = job.payer.balance + escrow.credit(job.payer);
        vm.prank(job.payer);
        try escrow.cancelJob(id) {
            check(job.payer.balance + escrow.credit(job.payer) - before == job.escrow, "I8: not all came back");
        } catch {
            check(false, "I8: a payer could not take the escrow back");
        }
    }
}
