// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Money that could not be sent, or is not sent at once, waits as a credit of its owner.
/// @notice Shared by every contract of the grid that pays somebody. A payee that refuses money, or burns its gas, gets a credit:
/// it can harm nobody but itself. No pause and no role stops a withdrawal.
interface ICredits {
    /// @notice `amount` wei were added to what `account` can withdraw.
    event Credited(address indexed account, uint256 amount);
    /// @notice `account` received its whole credit.
    event CreditWithdrawn(address indexed account, uint256 amount);

    /// @notice The account has nothing to withdraw.
    error NoCredit(address account);
    /// @notice The account does not accept money; its credit stays. Withdraw again once it does.
    error CreditRefused(address account, uint256 amount);
    /// @notice Too little gas to pay somebody fairly; send the call again with at least `needed` at this point.
    error GasTooLow(uint256 left, uint256 needed);

    /// @notice Sends an account all of its credit. Anyone may call it; the money goes to the account.
    function withdrawCredit(address account) external;

    /// @notice Wei that an account can take with withdrawCredit.
    function credit(address account) external view returns (uint256);
}
