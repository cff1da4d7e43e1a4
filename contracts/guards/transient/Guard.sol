// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title The re-entrancy guard in transient storage, which Cancun has.
abstract contract Guard is ReentrancyGuardTransient {
    /// @dev Nothing else here uses transient storage, so its first slot will do; OpenZeppelin's hashed one is 32 bytes of code at
    /// every use.
    function _reentrancyGuardStorageSlot() internal pure override returns (bytes32) {
        return 0;
    }
}
