// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The one function of OpenZeppelin's `MessageHashUtils` that is used here. Its file imports `Strings`, and that `Bytes`, whose
/// `mcopy` a chain without Cancun does not have.
library MessageHashUtils {
    /// @notice The digest of EIP-712 that is signed.
    function toTypedDataHash(bytes32 domain, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
