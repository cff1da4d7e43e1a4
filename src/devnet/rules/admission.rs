//! Whether XDC's pool takes a transaction. Checks and their order as in XDPoSChain's `SubmitTransaction` and `core/txpool`, messages
//! included: clients tell refusals apart by text only.

use alloy::primitives::{Address, U256, address};

use super::{
    BASE_FEE, BLOCK_GAS_LIMIT,
    account::{Account, Pooled},
    jsonrpc::RpcError,
    non_zero,
    transaction::Offered,
};
use crate::api::ids::Wei;

/// How far a nonce may be ahead of the first one that is free.
pub const MAX_NONCE_GAP: u64 = 10;
/// What could cost more in fees is refused over RPC.
pub const MAX_FEE: Wei = Wei::XDC;
/// Length of an encoded transaction.
pub const MAX_BYTES: usize = 64 * 1024;
/// Length of the code that creates a contract.
pub const MAX_INITCODE: usize = 49_152;
/// A replacement offers that much more, in percent, on the cap and on the tip.
pub const PRICE_BUMP: u128 = 10;

const TRANSACTION_GAS: u64 = 21_000;
const CREATION_GAS: u64 = 53_000;
const INITCODE_WORD_GAS: u64 = 2;
const NON_ZERO_BYTE_GAS: u64 = 68;
const ZERO_BYTE_GAS: u64 = 4;
const LISTED_ADDRESS_GAS: u64 = 2_400;
const LISTED_KEY_GAS: u64 = 1_900;

/// Contracts that only consensus calls: block signers and randomness.
const CONSENSUS_CONTRACTS: [Address; 2] =
    [address!("0x0000000000000000000000000000000000000089"), address!("0x0000000000000000000000000000000000000090")];

/// All checks in XDC's order; `account` is the sender's.
pub fn admit(offered: &Offered, account: &Account, chain_id: u64) -> Result<(), RpcError> {
    check_submission(offered)?;
    if account.pooled.values().any(|pooled| pooled.hash == offered.hash) {
        return refuse("already known");
    }
    check_form(offered, chain_id)?;
    check_gas(offered)?;
    check_nonce(offered, account)?;
    check_funds(offered, account)?;
    if offered.fee_cap < BASE_FEE {
        return refuse("under min gas price");
    }
    match account.pooled.get(&offered.nonce) {
        Some(old) if !replaces(offered, old) => refuse("replacement transaction underpriced"),
        _ => Ok(()),
    }
}

fn refuse(message: impl Into<String>) -> Result<(), RpcError> {
    Err(RpcError::refused(message))
}

/// What the RPC asks before the pool is.
fn check_submission(offered: &Offered) -> Result<(), RpcError> {
    if offered.to.is_some_and(|to| CONSENSUS_CONTRACTS.contains(&to)) {
        return refuse("Dont allow transaction sent to BlockSigners & RandomizeSMC smart contract via API");
    }
    let fee = Wei(u128::from(offered.gas_limit).saturating_mul(offered.fee_cap.0));
    if fee > MAX_FEE {
        return refuse(format!("tx fee ({} ether) exceeds the configured cap (1.00 ether)", fee.to_xdc()));
    }
    if offered.chain_id.is_none() {
        return refuse("only replay-protected (EIP-155) transactions allowed over RPC");
    }
    Ok(())
}

fn check_form(offered: &Offered, chain_id: u64) -> Result<(), RpcError> {
    if offered.bytes > MAX_BYTES {
        return refuse(format!("oversized data: transaction size {}, limit {MAX_BYTES}", offered.bytes));
    }
    if offered.to.is_none() && offered.input.len() > MAX_INITCODE {
        return refuse(format!("max initcode size exceeded: code size {}, limit {MAX_INITCODE}", offered.input.len()));
    }
    if offered.gas_limit > BLOCK_GAS_LIMIT {
        return refuse("exceeds block gas limit");
    }
    if offered.tip_cap > offered.fee_cap {
        return refuse("max priority fee per gas higher than max fee per gas");
    }
    // A signature over another chain's id recovers to nobody we know.
    if offered.chain_id != Some(chain_id) {
        return refuse("invalid sender");
    }
    Ok(())
}

fn check_gas(offered: &Offered) -> Result<(), RpcError> {
    if offered.fee_cap.0 == 0 {
        return refuse("zero gas price");
    }
    let needed = intrinsic_gas(offered);
    if offered.gas_limit < needed {
        return refuse(format!("intrinsic gas too low: needed {needed}, allowed {}", offered.gas_limit));
    }
    if offered.tip_cap.0 == 0 {
        return refuse("transaction underpriced: tip needed 1, tip permitted 0");
    }
    Ok(())
}

/// The gas that XDC takes before the first instruction.
pub fn intrinsic_gas(offered: &Offered) -> u64 {
    let length = offered.input.len() as u64;
    let non_zero = non_zero(&offered.input);
    let base = match offered.to {
        Some(_) => TRANSACTION_GAS,
        None => CREATION_GAS + INITCODE_WORD_GAS * length.div_ceil(32),
    };
    let (addresses, keys) = offered.listed;
    base + NON_ZERO_BYTE_GAS * non_zero
        + ZERO_BYTE_GAS * length.saturating_sub(non_zero)
        + LISTED_ADDRESS_GAS.saturating_mul(addresses)
        + LISTED_KEY_GAS.saturating_mul(keys)
}

fn check_nonce(offered: &Offered, account: &Account) -> Result<(), RpcError> {
    if offered.nonce < account.nonce {
        return refuse(format!("nonce too low: next nonce {}, tx nonce {}", account.nonce, offered.nonce));
    }
    if offered.nonce > account.pending_nonce().saturating_add(MAX_NONCE_GAP) {
        return refuse("nonce too high");
    }
    Ok(())
}

/// Everything that waits must be payable together.
fn check_funds(offered: &Offered, account: &Account) -> Result<(), RpcError> {
    let others = account.pooled.iter().filter(|(nonce, _)| **nonce != offered.nonce);
    let waiting = others.fold(U256::ZERO, |sum, (_, pooled)| sum.saturating_add(pooled.cost));
    let (balance, cost) = (account.balance, offered.cost());
    if waiting.saturating_add(cost) > balance {
        return refuse(format!(
            "insufficient funds for gas * price + value: balance {balance}, queued cost {waiting}, tx cost {cost}"
        ));
    }
    Ok(())
}

fn replaces(offered: &Offered, old: &Pooled) -> bool {
    let enough = |new: Wei, old: Wei| new > old && new.0 >= old.0.saturating_mul(100 + PRICE_BUMP) / 100;
    enough(offered.fee_cap, old.fee_cap) && enough(offered.tip_cap, old.tip_cap)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, TxKind};
    use proptest::prelude::*;

    use super::{
        super::transaction::testing::{dynamic, legacy},
        *,
    };

    const GWEI: u128 = 1_000_000_000;

    fn account() -> Account {
        Account { nonce: 5, balance: U256::from(10 * Wei::XDC.0), pooled: Default::default() }
    }

    fn pooled(fee_cap: u128, tip_cap: u128) -> Pooled {
        Pooled { hash: B256::ZERO, fee_cap: Wei(fee_cap), tip_cap: Wei(tip_cap), cost: U256::from(1) }
    }

    fn verdict(raw: &[u8], account: &Account) -> String {
        admit(&Offered::decode(raw).unwrap(), account, 51).err().map(|error| error.message).unwrap_or_default()
    }

    #[track_caller]
    fn refused(raw: &[u8], account: &Account, message: &str) {
        let found = verdict(raw, account);
        assert!(!message.is_empty() && found.starts_with(message), "{found:?} is not {message:?}");
    }

    #[test]
    fn a_plain_transfer_at_the_base_fee_is_taken() {
        assert_eq!(verdict(&legacy(|_| ()), &account()), "");
        assert_eq!(verdict(&dynamic(|_| ()), &account()), "");
    }

    #[test]
    fn the_price_has_a_floor() {
        refused(&legacy(|tx| tx.gas_price -= 1), &account(), "under min gas price");
        refused(&legacy(|tx| tx.gas_price = 0), &account(), "zero gas price");
        refused(&dynamic(|tx| tx.max_fee_per_gas = 12_499_999_999), &account(), "under min gas price");
        refused(&dynamic(|tx| tx.max_priority_fee_per_gas = 0), &account(), "transaction underpriced");
        refused(&dynamic(|tx| tx.max_priority_fee_per_gas = 26 * GWEI), &account(), "max priority fee per gas higher");
    }

    #[test]
    fn a_nonce_is_at_most_ten_ahead_of_the_first_free_one() {
        refused(&legacy(|tx| tx.nonce = 4), &account(), "nonce too low: next nonce 5, tx nonce 4");
        assert_eq!(verdict(&legacy(|tx| tx.nonce = 15), &account()), "");
        refused(&legacy(|tx| tx.nonce = 16), &account(), "nonce too high");
        let mut busy = account();
        busy.pooled.extend([(5, pooled(1, 1)), (6, pooled(1, 1)), (8, pooled(1, 1))]);
        assert_eq!(verdict(&legacy(|tx| tx.nonce = 17), &busy), "");
        refused(&legacy(|tx| tx.nonce = 18), &busy, "nonce too high");
        refused(&legacy(|tx| tx.nonce = u64::MAX), &busy, "nonce too high");
    }

    #[test]
    fn a_replacement_offers_a_tenth_more_on_cap_and_on_tip() {
        let mut busy = account();
        busy.pooled.insert(5, pooled(20 * GWEI, 20 * GWEI));
        let refusal = "replacement transaction underpriced";
        refused(&legacy(|tx| tx.gas_price = 20 * GWEI), &busy, refusal);
        refused(&legacy(|tx| tx.gas_price = 22 * GWEI - 1), &busy, refusal);
        assert_eq!(verdict(&legacy(|tx| tx.gas_price = 22 * GWEI), &busy), "");

        busy.pooled.insert(5, pooled(20 * GWEI, 2));
        let offer = |cap: u128, tip: u128| dynamic(|tx| (tx.max_fee_per_gas, tx.max_priority_fee_per_gas) = (cap, tip));
        refused(&offer(40 * GWEI, 2), &busy, refusal);
        assert_eq!(verdict(&offer(22 * GWEI, 3), &busy), "", "a tenth of 2 rounds to nothing, but more it must be");
        refused(&offer(21 * GWEI, 3), &busy, refusal);
    }

    #[test]
    fn calldata_is_charged_at_68_a_byte() {
        let data = |gas: u64| legacy(|tx| (tx.input, tx.gas_limit) = (vec![1, 0, 2].into(), gas));
        refused(&data(21_139), &account(), "intrinsic gas too low: needed 21140, allowed 21139");
        assert_eq!(verdict(&data(21_140), &account()), "");
        let create =
            |gas: u64| legacy(|tx| (tx.to, tx.input, tx.gas_limit) = (TxKind::Create, vec![1; 33].into(), gas));
        refused(&create(53_000 + 4 + 33 * 68 - 1), &account(), "intrinsic gas too low");
        assert_eq!(verdict(&create(53_000 + 4 + 33 * 68), &account()), "");
    }

    #[test]
    fn sizes_and_fees_have_an_end() {
        let big = |length: usize| legacy(|tx| (tx.input, tx.gas_limit) = (vec![0; length].into(), 400_000));
        refused(&big(65_536), &account(), "oversized data");
        assert_eq!(verdict(&big(65_000), &account()), "");
        let code = |length: usize| {
            legacy(|tx| (tx.to, tx.input, tx.gas_limit) = (TxKind::Create, vec![0; length].into(), 400_000))
        };
        refused(&code(49_153), &account(), "max initcode size exceeded");
        assert_eq!(verdict(&code(49_152), &account()), "");
        assert_eq!(verdict(&legacy(|tx| tx.gas_limit = 80_000_000), &account()), "", "exactly 1 XDC");
        refused(
            &legacy(|tx| tx.gas_limit = 80_000_001),
            &account(),
            "tx fee (1.0000 ether) exceeds the configured cap",
        );
        let dear = |gas: u64| legacy(|tx| (tx.gas_limit, tx.gas_price) = (gas, 1));
        refused(&dear(420_000_001), &account(), "exceeds block gas limit");
    }

    #[test]
    fn what_waits_must_be_payable_together() {
        let mut poor = Account { balance: U256::from(21_000u64 * 12_500_000_000 + 1), ..account() };
        assert_eq!(verdict(&legacy(|_| ()), &poor), "");
        poor.pooled.insert(6, pooled(20 * GWEI, 20 * GWEI));
        refused(&legacy(|_| ()), &poor, "insufficient funds for gas * price + value");
    }

    #[test]
    fn a_transaction_is_for_this_chain_and_for_nobody_in_consensus() {
        refused(&legacy(|tx| tx.chain_id = Some(50)), &account(), "invalid sender");
        refused(&legacy(|tx| tx.chain_id = None), &account(), "only replay-protected");
        let [signers, _] = CONSENSUS_CONTRACTS;
        refused(&legacy(|tx| tx.to = TxKind::Call(signers)), &account(), "Dont allow transaction sent to BlockSigners");
    }

    #[test]
    fn the_same_bytes_again_are_known() {
        let raw = legacy(|_| ());
        let mut busy = account();
        busy.pooled.insert(5, Pooled { hash: Offered::decode(&raw).unwrap().hash, ..pooled(1, 1) });
        refused(&raw, &busy, "already known");
    }

    proptest! {
        #[test]
        fn whatever_replaces_is_dearer_on_both_fields(old_cap in 1u128..1 << 90, old_tip in 1u128..1 << 90, cap in 1u128..1 << 90, tip in 1u128..1 << 90) {
            let offered = Offered { fee_cap: Wei(cap), tip_cap: Wei(tip), ..Offered::decode(&legacy(|_| ())).unwrap() };
            if replaces(&offered, &pooled(old_cap, old_tip)) {
                // Go's integers round the threshold down.
                prop_assert!(cap > old_cap && tip > old_tip);
                prop_assert!((cap + 1) * 100 > old_cap * 110 && (tip + 1) * 100 > old_tip * 110);
            }
        }

        #[test]
        fn bytes_of_strangers_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(offered) = Offered::decode(&raw) {
                let _ = admit(&offered, &account(), 51);
            }
        }
    }
}
