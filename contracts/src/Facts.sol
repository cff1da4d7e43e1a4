// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @dev What a registration says of its node, in one slot: computingPower 64 bits, storageCapacity 64, registeredAt 32, exitAt 40,
/// index 32, status 8, ownsItself 8, hasPayout 8. Packed by hand, because a struct is read and written field by field: a
/// registration and an exit would cost 1,500 gas more each, and the code 300 bytes.
type Facts is uint256;

using {
    computingPower,
    storageCapacity,
    registeredAt,
    exitAt,
    index,
    status,
    ownsItself,
    hasPayout,
    exitingAt,
    paidElsewhere,
    gone
} for Facts global;

uint256 constant REGISTERED = 1;
uint256 constant EXITING = 2;

/// @param power below 2^64, as is gib
/// @param self whether the owner is the node, so that such a node leaves without a look at its owner's slot
/// @param elsewhere whether a payout address is kept for the node; outlives the registration, as the address does
function newFacts(uint256 power, uint256 gib, uint256 number, bool self, bool elsewhere) view returns (Facts facts) {
    uint256 word = power | gib << 64 | uint256(uint32(block.timestamp)) << 128 | number << 200 | REGISTERED << 232;
    assembly ("memory-safe") {
        facts := or(word, or(shl(240, self), shl(248, elsewhere)))
    }
}

function computingPower(Facts facts) pure returns (uint64) {
    return uint64(Facts.unwrap(facts));
}

function storageCapacity(Facts facts) pure returns (uint64) {
    return uint64(Facts.unwrap(facts) >> 64);
}

function registeredAt(Facts facts) pure returns (uint32) {
    return uint32(Facts.unwrap(facts) >> 128);
}

function exitAt(Facts facts) pure returns (uint40) {
    return uint40(Facts.unwrap(facts) >> 160);
}

function index(Facts facts) pure returns (uint32) {
    return uint32(Facts.unwrap(facts) >> 200);
}

function status(Facts facts) pure returns (uint256) {
    return uint8(Facts.unwrap(facts) >> 232);
}

function ownsItself(Facts facts) pure returns (bool) {
    return Facts.unwrap(facts) & 1 << 240 != 0;
}

function hasPayout(Facts facts) pure returns (bool) {
    return Facts.unwrap(facts) >> 248 != 0;
}

/// @dev For facts of a registered node that is not exiting yet: its exitAt is 0.
function exitingAt(Facts facts, uint256 time) pure returns (Facts) {
    return Facts.wrap((Facts.unwrap(facts) ^ (REGISTERED ^ EXITING) << 232) | uint256(uint40(time)) << 160);
}

function paidElsewhere(Facts facts) pure returns (Facts) {
    return Facts.wrap(Facts.unwrap(facts) | 1 << 248);
}

/// @dev What stays when a registration ends.
function gone(Facts facts) pure returns (Facts) {
    return Facts.wrap(Facts.unwrap(facts) >> 248 << 248);
}
