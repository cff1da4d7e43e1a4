//! One step of a record.

use alloy::{
    consensus::{SignableTransaction, TxEnvelope, TxLegacy},
    eips::eip2718::Encodable2718,
    primitives::{Address, Bytes, TxKind, U256},
};

use super::record::{Attempt, Inclusion, MAX_ATTEMPTS, OutboxRecord, OutboxState};
use crate::{
    api::ids::Wei,
    chain::{
        error::ChainError,
        fees::{FeePolicy, checked_fee, checked_size, gas_limit, replacement_price},
        nonces::NoncePool,
        refusal::Refusal,
        rpc::{At, ChainRpc, TxReceipt},
        signer::Signer,
    },
};

/// A transaction that no node has seen for this long is broadcast again.
const RESEND_SECONDS: u64 = 10;
/// A transaction that waits in pools for this long is replaced by a dearer one.
const REPLACE_SECONDS: u64 = 60;

/// What a step needs. The key, the pool and every record handed in belong to the same account.
#[derive(Clone, Copy)]
pub struct Outbox<'a> {
    pub rpc: &'a dyn ChainRpc,
    pub key: &'a dyn Signer,
    pub nonces: &'a NoncePool,
    pub fees: FeePolicy,
}

impl Outbox<'_> {
    /// Takes a record as it was persisted and returns what to persist before the next call. On an error the record stands as it
    /// was; the same step can be taken again at any time. `now` is in unix seconds.
    ///
    /// A contract that refuses before anything is signed is an error ([`ChainError::Refused`]) and costs nothing; one that
    /// refuses inside a mined transaction is the final state [`OutboxState::Failed`].
    pub async fn step(&self, record: &OutboxRecord, now: u64) -> Result<OutboxRecord, ChainError> {
        self.check_signer(record).await?;
        let state = match &record.state {
            OutboxState::Planned => OutboxState::Signed { attempts: vec![self.sign_first(record).await?] },
            OutboxState::Signed { attempts } => self.broadcast(attempts, now).await?,
            OutboxState::Sent { attempts, sent_at, missing_at } => {
                self.follow(record, attempts, *sent_at, *missing_at, now).await?
            }
            OutboxState::Included { attempts, inclusion } => self.finalize(record, attempts, inclusion, now).await?,
            finished @ (OutboxState::Finalized { .. } | OutboxState::Failed { .. }) => finished.clone(),
        };
        let next = OutboxRecord { state, ..record.clone() };
        if next.is_finished() || matches!(next.state, OutboxState::Planned) {
            self.nonces.release(&record.intent.key);
        }
        Ok(next)
    }

    async fn check_signer(&self, record: &OutboxRecord) -> Result<(), ChainError> {
        let (found, found_chain) = (self.key.address(), self.rpc.chain_id().await?);
        if (found, found_chain) == (record.from, record.chain_id) {
            return Ok(());
        }
        let (expected, expected_chain) = (record.from, record.chain_id);
        Err(ChainError::WrongSigner { expected, expected_chain, found, found_chain })
    }

    // ------------------------------------------------------------ Planned

    async fn sign_first(&self, record: &OutboxRecord) -> Result<Attempt, ChainError> {
        let call = &record.intent.call;
        self.check_funds(record, Wei(0)).await?;
        let estimate = self.rpc.estimate_gas(&call.request(record.from)).await?;
        let gas_limit = gas_limit(estimate, &call.data, call.to.is_none())?;
        let gas_price = self.fees.gas_price();
        self.check_funds(record, checked_fee(gas_limit, gas_price)?).await?;
        // The final one, on which endpoints agree: a nonce too high would leave a gap that nobody fills, and the nonces from there to
        // the head are in the pool of reservations, or are found to be used.
        let final_block = self.rpc.agreed().block(At::Finalized).await?;
        let next_on_chain = self.rpc.agreed().nonce(record.from, At::Hash(final_block.hash)).await?;
        let nonce = self.nonces.reserve(&record.intent.key, next_on_chain)?;
        self.sign(record, nonce, gas_limit, gas_price).await
    }

    /// Nodes word this differently, so it is checked before they are asked.
    async fn check_funds(&self, record: &OutboxRecord, fee: Wei) -> Result<(), ChainError> {
        let needed = Wei(record.intent.call.value.0.saturating_add(fee.0));
        let balance = self.rpc.balance(record.from).await?;
        if balance < needed {
            return Err(ChainError::InsufficientFunds { account: record.from, balance, needed });
        }
        Ok(())
    }

    /// Legacy type: XDC's base fee is a constant, so there is nothing a type-2 transaction could save.
    async fn sign(
        &self,
        record: &OutboxRecord,
        nonce: u64,
        gas_limit: u64,
        gas_price: Wei,
    ) -> Result<Attempt, ChainError> {
        let call = &record.intent.call;
        let transaction = TxLegacy {
            chain_id: Some(record.chain_id),
            nonce,
            gas_price: gas_price.0,
            gas_limit,
            to: call.to.map_or(TxKind::Create, |to| TxKind::Call(Address::from(to))),
            value: U256::from(call.value.0),
            input: call.data.clone(),
        };
        let signature = self.key.sign(&transaction.encoded_for_signing()).await?;
        let envelope = TxEnvelope::from(transaction.into_signed(signature));
        let (hash, raw) = (*envelope.tx_hash(), envelope.encoded_2718());
        checked_size(raw.len())?;
        Ok(Attempt { nonce, gas_limit, gas_price, hash, raw: Bytes::from(raw) })
    }

    // ------------------------------------------------------------ Signed

    async fn broadcast(&self, attempts: &[Attempt], now: u64) -> Result<OutboxState, ChainError> {
        if let Some(newest) = attempts.last() {
            // Known, used and underpriced all mean that this account's nonce is taken; by whom, the receipt will tell.
            self.rpc.send_raw(&newest.raw).await?;
        }
        Ok(OutboxState::Sent { attempts: attempts.to_vec(), sent_at: now, missing_at: None })
    }

    // ------------------------------------------------------------ Sent

    async fn follow(
        &self,
        record: &OutboxRecord,
        attempts: &[Attempt],
        sent_at: u64,
        missing_at: Option<u64>,
        now: u64,
    ) -> Result<OutboxState, ChainError> {
        let included = |receipt| OutboxState::Included {
            attempts: attempts.to_vec(),
            inclusion: Inclusion::of(receipt, attempts),
        };
        if let Some(receipt) = receipt_of_any(self.rpc, attempts).await? {
            return Ok(included(receipt));
        }
        // Whatever used up the nonce in a final block has its receipt by the time we look for it. That ours are not there leads to a
        // second transaction, so one endpoint alone is believed neither about the nonce nor about the receipts.
        let agreed = self.rpc.agreed();
        let finalized = agreed.block(At::Finalized).await?;
        let used = agreed.nonce(record.from, At::Hash(finalized.hash)).await?;
        if record.nonce().is_none_or(|nonce| used <= nonce) {
            return self.nudge(record, attempts, sent_at, now).await;
        }
        match receipt_of_any(agreed, attempts).await? {
            Some(receipt) => Ok(included(receipt)),
            // An endpoint of several nodes can have the transaction on one and lack its receipt on another, for any time.
            None if is_known(agreed, attempts).await? => {
                Ok(OutboxState::Sent { attempts: attempts.to_vec(), sent_at, missing_at: None })
            }
            None => Ok(self.missing(attempts, sent_at, missing_at, finalized.number)),
        }
    }

    /// The nonce is used up in a final block and none of our transactions is there. Believed at a second, later final block, since a
    /// node may index receipts a little after the block; then the work is planned anew.
    fn missing(&self, attempts: &[Attempt], sent_at: u64, missing_at: Option<u64>, finalized: u64) -> OutboxState {
        match missing_at {
            Some(first) if finalized > first => OutboxState::Planned,
            first => OutboxState::Sent { attempts: attempts.to_vec(), sent_at, missing_at: first.or(Some(finalized)) },
        }
    }

    async fn nudge(
        &self,
        record: &OutboxRecord,
        attempts: &[Attempt],
        sent_at: u64,
        now: u64,
    ) -> Result<OutboxState, ChainError> {
        let waited = now.saturating_sub(sent_at);
        let unchanged = OutboxState::Sent { attempts: attempts.to_vec(), sent_at, missing_at: None };
        let Some(newest) = attempts.last() else { return Ok(OutboxState::Planned) };
        if waited >= RESEND_SECONDS && !self.rpc.knows(newest.hash).await? {
            return self.broadcast(attempts, now).await;
        }
        if waited < REPLACE_SECONDS || attempts.len() >= MAX_ATTEMPTS {
            return Ok(unchanged);
        }
        match self.replacement(record, newest).await? {
            Some(dearer) => Ok(OutboxState::Signed { attempts: [attempts, &[dearer]].concat() }),
            None => Ok(unchanged),
        }
    }

    async fn replacement(&self, record: &OutboxRecord, newest: &Attempt) -> Result<Option<Attempt>, ChainError> {
        let Some(price) = replacement_price(newest.gas_price) else { return Ok(None) };
        let Ok(fee) = checked_fee(newest.gas_limit, price) else { return Ok(None) };
        if self.check_funds(record, fee).await.is_err() {
            return Ok(None);
        }
        self.sign(record, newest.nonce, newest.gas_limit, price).await.map(Some)
    }

    // ------------------------------------------------------------ Included

    async fn finalize(
        &self,
        record: &OutboxRecord,
        attempts: &[Attempt],
        inclusion: &Inclusion,
        now: u64,
    ) -> Result<OutboxState, ChainError> {
        let agreed = self.rpc.agreed();
        if agreed.block(At::Finalized).await?.number < inclusion.block_number {
            return Ok(record.state.clone());
        }
        // Read again below finality: the block we saw first may have been dropped, or never was.
        let Some(receipt) = receipt_of_any(agreed, attempts).await? else {
            return Ok(OutboxState::Sent { attempts: attempts.to_vec(), sent_at: now, missing_at: None });
        };
        let found = Inclusion::of(receipt, attempts);
        if found != *inclusion {
            return Ok(OutboxState::Included { attempts: attempts.to_vec(), inclusion: found });
        }
        if found.succeeded {
            return Ok(OutboxState::Finalized { inclusion: found });
        }
        let refusal = self.why_it_failed(record, attempts, &found).await;
        Ok(OutboxState::Failed { inclusion: found, refusal })
    }

    /// Receipts carry no reason; the call is made again on the state before its block. Best effort: the state may be pruned.
    async fn why_it_failed(&self, record: &OutboxRecord, attempts: &[Attempt], inclusion: &Inclusion) -> Refusal {
        let limit = attempts.iter().find(|attempt| attempt.hash == inclusion.hash).map(|attempt| attempt.gas_limit);
        if limit == Some(inclusion.gas_used) {
            // Another estimate may be enough.
            return Refusal::later("OutOfGas", format!("all {} gas was used up", inclusion.gas_used));
        }
        let request = record.intent.call.request(record.from);
        for block in [inclusion.block_number.saturating_sub(1), inclusion.block_number] {
            if let Err(ChainError::Refused(refusal)) = self.rpc.call(&request, At::Number(block)).await {
                return refusal;
            }
        }
        Refusal::without_reason(&format!("transaction {}", inclusion.hash))
    }
}

async fn receipt_of_any(rpc: &dyn ChainRpc, attempts: &[Attempt]) -> Result<Option<TxReceipt>, ChainError> {
    for attempt in attempts.iter().rev() {
        if let Some(receipt) = rpc.receipt(attempt.hash).await? {
            return Ok(Some(receipt));
        }
    }
    Ok(None)
}

/// Whether a node still has one of the transactions, in a block or in its pool.
async fn is_known(rpc: &dyn ChainRpc, attempts: &[Attempt]) -> Result<bool, ChainError> {
    for attempt in attempts {
        if rpc.knows(attempt.hash).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
