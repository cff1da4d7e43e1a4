// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";

/// @title The guard in storage, under the name of the transient one, for chains without Cancun (profile `shanghai`).
abstract contract ReentrancyGuardTransient is ReentrancyGuard {}
