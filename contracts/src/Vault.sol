// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// Which of guards/ this is, a remapping decides.
import {Guard} from "guard/Guard.sol";

import {ICredits} from "./ICredits.sol";

/// @title Pays people, and keeps for them what they would not take.
abstract contract Vault is ICredits, Guard {
    /// @dev What a payee may spend on receiving: enough for a Safe or another proxy wallet, too little to be a nuisance.
    uint256 private constant PAY_GAS = 50_000;
    /// @dev Below this a caller could starve the payee of PAY_GAS (63/64 rule, 36 600 for value, new and cold account).
    uint256 private constant PAY_GAS_NEEDED = 100_000;

    /// @inheritdoc ICredits
    mapping(address account => uint256) public credit;
    /// @dev Last here, so that it shares its slot with the first variable of the contract that inherits.
    uint104 internal _creditTotal;

    /// @inheritdoc ICredits
    function withdrawCredit(address account) external nonReentrant {
        uint256 amount = credit[account];
        if (amount == 0) revert NoCredit(account);
        credit[account] = 0;
        // forge-lint: disable-next-line(unsafe-typecast)
        _creditTotal -= uint104(amount);
        emit CreditWithdrawn(account, amount);
        if (!_send(account, amount, gasleft())) revert CreditRefused(account, amount);
    }

    /// @dev A payee that refuses, or burns its gas, gets a credit: it can harm nobody but itself. Callers hold the guard and
    /// have written all of their own state.
    function _pay(address payee, uint256 amount) internal {
        if (gasleft() < PAY_GAS_NEEDED) revert GasTooLow(gasleft(), PAY_GAS_NEEDED);
        if (!_send(payee, amount, PAY_GAS)) _giveCredit(payee, amount);
    }

    function _giveCredit(address account, uint256 amount) internal {
        credit[account] += amount;
        // Part of the balance, which all XDC there is (below 2^96 wei) does not bring near 2^104.
        // forge-lint: disable-next-line(unsafe-typecast)
        _creditTotal += uint104(amount);
        emit Credited(account, amount);
    }

    /// @dev Copies no return data, so a payee cannot make its caller pay for a large one.
    function _send(address payee, uint256 amount, uint256 gasLimit) internal returns (bool sent) {
        assembly ("memory-safe") {
            sent := call(gasLimit, payee, amount, 0, 0, 0, 0)
        }
    }
}
