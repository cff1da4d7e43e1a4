// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// @notice The shape of @openzeppelin/merkle-tree's StandardMerkleTree, for tests: leaves sorted by hash, stored from the
/// end of one array in which node i has the children 2i+1 and 2i+2.
library StandardTree {
    function leaf(address rewards, address node, uint256 cumulative) internal view returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(block.chainid, rewards, node, cumulative))));
    }

    function build(bytes32[] memory leaves) internal pure returns (bytes32[] memory tree) {
        bytes32[] memory sorted = sort(leaves);
        uint256 n = sorted.length;
        if (n == 0) return new bytes32[](0);
        tree = new bytes32[](2 * n - 1);
        for (uint256 i = 0; i < n; i++) {
            tree[tree.length - 1 - i] = sorted[i];
        }
        for (uint256 i = tree.length - n; i > 0; i--) {
            tree[i - 1] = Hashes.commutativeKeccak256(tree[2 * i - 1], tree[2 * i]);
        }
    }

    function proof(bytes32[] memory tree, bytes32 wanted) internal pure returns (bytes32[] memory path) {
        uint256 at = tree.length;
        for (uint256 i = tree.length / 2; i < tree.length; i++) {
            if (tree[i] == wanted) at = i;
        }
        require(at < tree.length, "no such leaf");
        uint256 depth = 0;
        for (uint256 i = at; i > 0; i = (i - 1) / 2) {
            depth++;
        }
        path = new bytes32[](depth);
        for (uint256 step = 0; at > 0; at = (at - 1) / 2) {
            path[step++] = tree[at % 2 == 1 ? at + 1 : at - 1];
        }
    }

    function sort(bytes32[] memory values) private pure returns (bytes32[] memory) {
        for (uint256 i = 1; i < values.length; i++) {
            bytes32 value = values[i];
            uint256 j = i;
            for (; j > 0 && values[j - 1] > value; j--) {
                values[j] = values[j - 1];
            }
            values[j] = value;
        }
        return values;
    }
}
