// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title The re-entrancy guard in transient storage, which Cancun has.
abstract contract Guard is ReentrancyGuardTransient {}
