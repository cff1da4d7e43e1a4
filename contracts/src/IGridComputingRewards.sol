// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICredits} from "./ICredits.sol";
import {IGridRoles} from "./IGridRoles.sol";

/// @title What the grid's clients may rely on: the functions, types, events and errors of GridComputingRewards.
/// @notice Stakes of nodes, the reward pool, epoch reports, challenges, claims. Amounts are wei, times unix seconds, durations
/// seconds. Every error carries the values a person needs to act on it; the Rust client turns them into sentences. All state
/// can be rebuilt from the events.
interface IGridComputingRewards is IGridRoles, ICredits {
    enum NodeStatus {
        None,
        Registered,
        Exiting
    }

    /// @param owner who paid the stake and gets it back
    /// @param stake in wei, slashes already taken off
    /// @param payout where claims go
    /// @param computingPower measured compute units, as registered
    /// @param storageCapacity proven storage in GiB, as registered
    /// @param registeredAt unix seconds
    /// @param exitAt unix seconds from which the stake can be withdrawn, if no freeze holds it; 0 unless exiting
    /// @param index number of the registration, from 1; another one after an exit and a return
    /// @param frozen part of the stake under an open slash case
    /// @param heldUntil unix seconds until which a freeze can hold an exit; means nothing while frozen is 0
    struct Node {
        address owner;
        uint96 stake;
        address payout;
        uint64 computingPower;
        uint64 storageCapacity;
        uint40 registeredAt;
        uint40 exitAt;
        NodeStatus status;
        uint32 index;
        uint96 frozen;
        uint40 heldUntil;
    }

    /// @notice One consistent reading of everything a reporter decides on.
    /// @param nextEpoch the only epoch that submitEpoch accepts next; the last reported one is nextEpoch - 1
    /// @param pending whether epoch nextEpoch - 1 still waits for its window (or for its activation, or for a ruling)
    /// @param activeAt unix seconds from which the pending epoch can be activated; 2^64 - 1 while it is challenged
    /// @param pendingTotal cumulative total of the pending epoch; its reservation is pendingTotal - liveTotal
    /// @param liveTotal cumulative total that the live root allocates
    /// @param creditTotal sum of all credits
    /// @param challenged whether the pending epoch waits for a ruling
    /// @param round how many reports were dropped so far; part of every vote
    /// @param rulingDueAt unix seconds after which a challenged epoch can be dropped by anyone; 0 unless challenged
    /// @param bond what the challenger put down; 0 unless challenged
    /// @param treasury slashed stakes and lost bonds, not yet spent
    struct EpochState {
        uint64 nextEpoch;
        bool pending;
        uint64 activeAt;
        bytes32 pendingRoot;
        uint128 pendingTotal;
        bytes32 liveRoot;
        uint128 liveTotal;
        uint128 claimedTotal;
        uint128 rewardPool;
        uint128 stakeTotal;
        uint256 creditTotal;
        bool challenged;
        uint32 round;
        uint64 rulingDueAt;
        uint128 bond;
        uint128 treasury;
    }

    /// @notice What the admin can change, within hard bounds; a change applies from the next epoch on.
    /// @param maxEpochIncrease the most wei that one epoch can allocate; at least 1
    /// @param challengeBond wei a challenger puts down; 0.1 to 1 000 XDC
    /// @param challengeReward wei from the pool for a challenger who was right; at most challengeBond
    /// @param challengeWindow seconds between a report and its activation; at most epochSeconds
    /// @param rulingTime seconds that an arbiter has for a challenge; 1 to 30 days
    /// @param unbonding seconds between the wish to exit and the return of the stake; challengeWindow to 90 days
    /// @param quorum reporters that must agree on a report; 1 to 16
    /// @param maxSlashBps the most of a stake that one case can freeze, in 1/10 000; at most 5 000
    /// @param epochSlashBps the most of all stakes that can be frozen in one epoch, in 1/10 000; at most 5 000
    struct Parameters {
        uint96 maxEpochIncrease;
        uint72 challengeBond;
        uint72 challengeReward;
        uint32 challengeWindow;
        uint32 rulingTime;
        uint32 unbonding;
        uint8 quorum;
        uint16 maxSlashBps;
        uint16 epochSlashBps;
    }

    /// @param cumulative everything the node ever earned, in wei, as in its leaf
    struct ClaimRequest {
        address node;
        uint256 cumulative;
        bytes32[] proof;
    }

    // ---------------------------------------------------------------- events

    event NodeRegistered(
        address indexed node,
        address indexed owner,
        address payout,
        uint256 stake,
        uint256 computingPower,
        uint256 storageCapacity,
        uint32 index
    );
    event StakeAdded(address indexed node, address indexed from, uint256 amount);
    event PayoutRequested(address indexed node, address payout, uint256 applicableAt);
    event PayoutChanged(address indexed node, address payout);
    event ExitRequested(address indexed node, address indexed owner, uint256 exitAt);
    event StakeWithdrawn(address indexed node, address indexed owner, uint256 amount);
    event StakeFrozen(address indexed node, uint32 index, uint256 amount, uint256 heldUntil);
    event StakeThawed(address indexed node, uint32 index, uint256 amount);
    event StakeSlashed(address indexed node, uint32 index, uint256 amount);

    event Funded(address indexed from, uint256 amount);
    event TreasuryWithdrawn(address indexed to, uint256 amount);

    /// @param hash reportHash of what was voted for
    event EpochVoted(uint64 indexed epoch, address indexed reporter, bytes32 hash);
    event EpochSubmitted(
        uint64 indexed epoch, bytes32 root, uint256 cumulativeTotal, bytes32 dataHash, uint256 activeAt
    );
    event EpochChallenged(
        uint64 indexed epoch, address indexed challenger, bytes32 reasonHash, uint256 bond, uint256 rulingDueAt
    );
    /// @notice The arbiter found the report sound: the bond went to the treasury, the window starts again.
    event ChallengeRejected(uint64 indexed epoch, address indexed challenger, uint256 bond, uint256 activeAt);
    /// @notice The report was dropped (EpochDropped follows): the bond went back, with the reward if an arbiter ruled so.
    event ChallengeUpheld(uint64 indexed epoch, address indexed challenger, uint256 bond, uint256 reward);
    event EpochActivated(uint64 indexed epoch, bytes32 root, uint256 cumulativeTotal);
    event EpochDropped(uint64 indexed epoch, bytes32 root, uint256 released);

    event Claimed(address indexed node, address indexed payout, uint256 amount, uint256 cumulative);
    event ClaimSkipped(address indexed node, uint256 cumulative);

    event ParametersChanged(Parameters parameters, uint256 effectiveAt);
    /// @param bits what is paused now, all of it
    event Paused(address indexed by, uint8 bits, uint256 until);
    event Unpaused(address indexed by);
    event SlashingBound(address indexed slashing);
    event Retired(address indexed successor);
    event PoolForwarded(address indexed successor, uint256 amount);

    // ---------------------------------------------------------------- errors

    error ParameterOutOfBounds(string name, uint256 value, uint256 min, uint256 max);
    error StakeTooSmall(uint256 sent, uint256 required);
    error AlreadyRegistered(address node);
    error NotRegistered(address node);
    error NotOwner(address node, address caller, address owner);
    error ZeroPayout(address node);
    error NoCapability(address node);
    error ConsentExpired(uint256 deadline, uint256 timestamp);
    error ConsentInvalid(address node, address recovered);
    /// @param exitAt unix seconds from which the stake can be withdrawn, holds of a freeze included
    error StillUnbonding(address node, uint256 exitAt);
    error NodeExiting(address node, uint256 exitAt);
    error NoPayoutChange(address node);
    error PayoutChangeTooEarly(address node, uint256 applicableAt);
    error WrongEpoch(uint64 expected, uint64 given);
    error EpochNotOver(uint64 epoch, uint256 endsAt);
    error PendingEpoch(uint64 epoch, uint256 activeAt);
    error NothingPending();
    error WindowOver(uint64 epoch, uint256 activeAt);
    error WrongDataHash(bytes32 expected, bytes32 given);
    error TotalDecreased(uint256 previous, uint256 given);
    error PoolTooSmall(uint256 increase, uint256 rewardPool);
    error IncreaseTooLarge(uint256 increase, uint256 max);
    error EmptyRoot(uint64 epoch);
    error EmptyEpochChangesRoot(bytes32 liveRoot, bytes32 given);
    /// @notice `votes` reporters, the caller among them, are for this report; `needed` must be.
    error QuorumMissing(uint256 votes, uint256 needed);
    /// @notice The pending epoch waits for a ruling until `rulingDueAt`; then anyone may drop it with expireChallenge.
    error ChallengeOpen(uint64 epoch, uint256 rulingDueAt);
    error NotChallenged(uint64 epoch);
    error RulingOver(uint64 epoch, uint256 rulingDueAt);
    error WrongBond(uint256 sent, uint256 required);
    error InvalidProof(address node, uint256 cumulative);
    error NothingToClaim(address node, uint256 claimed);
    error AllocationExceeded(uint256 claimedTotal, uint256 allocatedTotal);
    error TreasuryTooSmall(uint256 amount, uint256 treasury);
    error NothingToSweep();
    error ZeroAddress();
    /// @param bit the paused part: 1 registrations, 2 reports, 4 claims
    error OperationPaused(uint8 bit, uint256 until);
    /// @notice After a pause the contract runs for a day before it can be paused again.
    error PauseResting(uint256 until);
    error ContractRetired(address successor, uint256 at);
    error NotRetired();
    error PoolHeld(uint256 until);
    error ForwardRefused(address successor, uint256 amount);
    error SlashingAlreadyBound(address slashing);
    error SlashingNotForThis(address slashing);
    error NotSlashing(address caller, address slashing);
    error FreezeTooLarge(uint256 amount, uint256 max);
    error EpochFreezeTooLarge(uint256 amount, uint256 left);
    error HoldTooLong(uint256 until, uint256 max);

    // ---------------------------------------------------------------- nodes

    /// @notice Registers the caller as a node that owns itself and is paid itself. The value is the stake.
    /// @param computingPower measured compute units
    /// @param storageCapacity proven GiB
    function registerNode(uint256 computingPower, uint256 storageCapacity) external payable;

    /// @notice Registers `node` with the caller as its owner; the value is the stake. The node's key must have signed
    /// NodeBinding(node, payout, owner = caller, bindingNonce(node), deadline), so that nobody can register somebody else's
    /// node or send its earnings elsewhere.
    function registerNodeFor(
        address node,
        address payout,
        uint256 computingPower,
        uint256 storageCapacity,
        uint256 deadline,
        bytes calldata signature
    ) external payable;

    /// @notice Adds to the stake of a registered node, for example after a slash. Anyone may; it belongs to the owner then.
    function addStake(address node) external payable;

    /// @notice Leaves the grid: the first call starts the exit, a call after the unbonding time pays the stake back. Nothing
    /// but an open slash case delays it, and that at most 45 days after exitAt.
    function unregisterNode() external;

    /// @notice The same for a node that the caller registered with registerNodeFor.
    function unregisterNodeFor(address node) external;

    /// @notice Owner only: asks for another payout address, which applies two days later with applyPayout. Asking again
    /// replaces the request; asking for the current address takes it back in effect.
    function requestPayout(address node, address payout) external;

    /// @notice Makes a requested payout address the node's, once its delay is over. Anyone may call it.
    function applyPayout(address node) external;

    // ---------------------------------------------------------------- money in and out

    /// @notice Adds to the pool that epochs allocate from. A plain transfer does the same.
    function fund() external payable;

    /// @notice Moves money that was forced into the contract to the pool. Anyone may call it.
    function sweepExcess() external;

    /// @notice Treasurer only: spends slashed stakes and lost bonds.
    function withdrawTreasury(address to, uint256 amount) external;

    // ---------------------------------------------------------------- epochs

    /// @notice Reporter only: agrees to a report that another reporter will submit. A later vote replaces it. Needed from
    /// quorum - 1 reporters; the last one submits and needs no vote of its own.
    function voteEpoch(uint64 epoch, bytes32 root, uint128 cumulativeTotal, bytes32 dataHash) external;

    /// @notice Reports an epoch: the root over every node's cumulative earnings and their sum. Reserves the increase at once.
    /// An epoch without increase (same root, same total) has nothing to dispute and needs no window.
    /// @param epoch counted from genesis in epochSeconds; it must be over
    /// @param leaves every leaf in a packed form that the clients agree on, so that anyone can rebuild the tree from calldata;
    /// an epoch without increase needs none
    /// @param dataHash keccak256(leaves)
    function submitEpoch(uint64 epoch, bytes32 root, uint128 cumulativeTotal, bytes32 dataHash, bytes calldata leaves)
        external;

    /// @notice Makes the pending epoch live once its window is over. Pure progress, so anyone may call it.
    function distributeRewards() external;

    /// @notice Stops the pending epoch inside its window until an arbiter ruled. Claims on the live root go on. The value is
    /// the bond, exactly.
    /// @param reasonHash of a published statement of what is wrong
    function challengeEpoch(uint64 epoch, bytes32 reasonHash) external payable;

    /// @notice Arbiter only, until rulingDueAt. Upheld: the epoch is dropped, the challenger gets bond and reward as a credit.
    /// Rejected: the bond goes to the treasury and the window starts again.
    function resolveChallenge(uint64 epoch, bool upheld) external;

    /// @notice No ruling in time: drops the epoch and gives the bond back. Anyone may call it.
    function expireChallenge(uint64 epoch) external;

    /// @notice Guardian only: drops the pending epoch inside its window, or while it is challenged (the bond goes back). Its
    /// reservation returns to the pool, its number is reported again.
    function disableEpoch(uint64 epoch) external;

    // ---------------------------------------------------------------- claims

    /// @notice Pays what `node` has earned and not yet received to its payout address. Anyone may call it.
    /// @param cumulative the amount in the node's leaf of the live root
    /// @return amount wei paid
    function claim(address node, uint256 cumulative, bytes32[] calldata proof) external returns (uint256 amount);

    /// @notice Claims for several nodes. A request that cannot be paid is skipped, so one stale leaf does not spoil the rest.
    /// @return amount wei paid in total
    function claimMany(ClaimRequest[] calldata requests) external returns (uint256 amount);

    // ---------------------------------------------------------------- slashing (GridSlashing only)

    /// @notice Freezes part of a stake. Not after the node's exitAt; within maxSlashBps and epochSlashBps.
    /// @param until unix seconds up to which the freeze can hold an exit; at most 45 days from now
    /// @return index the registration that the freeze is about
    function freezeStake(address node, uint256 amount, uint40 until) external returns (uint32 index);

    /// @notice Frees a frozen part. Does nothing when that registration has ended.
    /// @return thawed wei freed
    function thawStake(address node, uint32 index, uint256 amount) external returns (uint256 thawed);

    /// @notice Moves a frozen part to the treasury. Does nothing when that registration has ended.
    /// @return slashed wei taken
    function slashStake(address node, uint32 index, uint256 amount) external returns (uint256 slashed);

    // ---------------------------------------------------------------- rules

    /// @notice Admin only. Applies from the next epoch; a second call before then replaces the first.
    function setParameters(Parameters calldata next) external;

    /// @notice Admin only, once: names the GridSlashing that may freeze and slash. Before that nothing can be slashed.
    function bindSlashing(address slashing) external;

    /// @notice Guardian only: stops parts for 14 days from the first bit on; more bits can be added, the end stays. Never
    /// stops exits, activation, challenges or credits.
    /// @param bits sum of 1 (registrations and added stakes), 2 (reports), 4 (claims)
    function pause(uint8 bits) external;

    /// @notice Guardian or admin: ends a pause early.
    function unpause() external;

    /// @notice Admin only, for good: no new registrations, and no reports of epochs that end later. What was earned is still
    /// paid, stakes can leave.
    function retire(address successor) external;

    /// @notice Sends the rest of the pool to the successor, 30 days after retire. Anyone may call it.
    function forwardPool() external;

    // ---------------------------------------------------------------- views

    function nodes(address node) external view returns (Node memory);

    /// @notice Where claims for `node` are paid. Outlives the registration, so that late claims still find their way.
    function payoutOf(address node) external view returns (address);

    /// @notice A payout address that was asked for and not yet applied; zeros for none.
    function payoutRequest(address node) external view returns (address payout, uint256 applicableAt);

    function epochState() external view returns (EpochState memory);

    /// @notice What a reporter votes for: keccak256(abi.encode(epoch, round, root, cumulativeTotal, dataHash)).
    function reportHash(uint64 epoch, bytes32 root, uint128 cumulativeTotal, bytes32 dataHash)
        external
        view
        returns (bytes32);

    /// @notice The hash that a reporter voted for last.
    function voteOf(address reporter) external view returns (bytes32);

    /// @notice The parameters in force, the ones announced last, and from when (unix seconds) those apply.
    function parameters()
        external
        view
        returns (Parameters memory inForce, Parameters memory announced, uint256 announcedFrom);

    /// @notice Paused parts and the unix seconds at which the pause ends by itself; zeros when nothing is paused.
    function paused() external view returns (uint8 bits, uint256 until);

    /// @notice The contract that follows this one, and since when (unix seconds) this one is retired; zeros if it is not.
    function retirement() external view returns (address successor, uint256 retiredAt);

    /// @notice The one GridSlashing; zero while slashing is off.
    function slashingContract() external view returns (address);

    /// @notice Everything the contract owes: its balance never falls below this.
    function owed() external view returns (uint256);

    /// @notice The digest a node key signs to consent to registerNodeFor (EIP-712).
    function bindingDigest(address node, address payout, address owner, uint256 nonce, uint256 deadline)
        external
        view
        returns (bytes32);

    /// @notice The nonce that a node's next consent must name.
    function bindingNonce(address node) external view returns (uint256);

    /// @notice Wei paid out (or credited) for a node so far.
    function claimed(address node) external view returns (uint256);

    /// @notice Sum of the compute units of all registered nodes that are not exiting.
    function totalComputingPower() external view returns (uint256);

    /// @notice Sum of the GiB of all registered nodes that are not exiting.
    function totalStorage() external view returns (uint256);

    /// @notice Unix seconds at which epoch 0 began: the block that deployed this contract.
    function genesis() external view returns (uint64);
    function epochSeconds() external view returns (uint64);
    /// @notice Of the parameters in force.
    function challengeWindow() external view returns (uint64);
    /// @notice Of the parameters in force.
    function unbonding() external view returns (uint64);
    /// @notice Of the parameters in force.
    function maxEpochIncrease() external view returns (uint128);
    function minStake() external view returns (uint256);
}
