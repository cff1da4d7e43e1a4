// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @dev Unix seconds, `duration` seconds from now. Unchecked: every duration here is a constant or a parameter below 2^32, and
/// each checked sum would be 25 bytes of code.
function fromNow(uint256 duration) view returns (uint256) {
    unchecked {
        return block.timestamp + duration;
    }
}
