// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";

/// @title The re-entrancy guard in storage, for chains without Cancun (profile `shanghai`).
abstract contract Guard is ReentrancyGuard {}
