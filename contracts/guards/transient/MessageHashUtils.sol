// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// OpenZeppelin's, whose file needs Cancun.
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
