//! The published statement of an epoch: what anybody needs to do the reporter's sum again. JSON lines under zstd. The first line is
//! [`EpochTotals`], the very bytes that the gateway closed the epoch with; then a [`CountedReceipt`] a line, by ascending content
//! hash. Hashes and counts only: no text.
//!
//! The totals name the receipts by one hash ([`ReceiptsHash`]), and BLAKE3 of the first line, the statement's digest, stands in the
//! ContributionReport: whoever has the digest can be shown no other receipts.
//!
//! [`EpochTotals`]: super::internal::EpochTotals

use serde::{Deserialize, Serialize};

use crate::api::ids::EscrowId;

/// Where a gateway that publishes gives statements out, on its public port: `…/{epoch}` leads to `…/{epoch}/{digest}`, whose bytes
/// never change.
pub const STATEMENTS: &str = "/grid/v1/statements";

/// The longest line of a receipt, in bytes.
pub const MAX_LINE: usize = 4 << 10;
/// The longest first line: an epoch with 50 000 nodes takes about 16 MB.
pub const MAX_TOTALS: usize = 16 << 20;
/// The most receipts of one statement.
pub const MAX_RECEIPTS: u64 = 5_000_000;

/// A receipt that an epoch counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountedReceipt {
    /// `wire::Receipt` with the worker's signature, in hexadecimal digits.
    #[serde(with = "hex::serde")]
    pub receipt: Vec<u8>,
    /// In which the gateway accepted it. At most the epoch that counts it.
    pub epoch: u64,
    /// The gateway's signature over receipt and epoch (`receipt::Acceptance`), in hexadecimal digits.
    #[serde(with = "hex::serde")]
    pub countersignature: Vec<u8>,
    /// Of the output tokens, those that an earlier worker made. The gateway's word.
    #[serde(default)]
    pub prefix_tokens: u32,
    /// What a token of the model costs, in MFLOP. The network's word.
    pub cost_per_token: u64,
    /// The escrow of the paid job that it is counted for; absent for work that no user paid for. The gateway's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escrow: Option<EscrowId>,
}

/// One hash over all receipts that an epoch counts and what they count for.
pub struct ReceiptsHash(blake3::Hasher);

impl Default for ReceiptsHash {
    fn default() -> Self {
        ReceiptsHash(blake3::Hasher::new_derive_key("xdc-grid counted receipts v1"))
    }
}

impl ReceiptsHash {
    /// To be called by ascending content hash.
    pub fn add(
        &mut self,
        content: &[u8; 32],
        epoch: u64,
        prefix_tokens: u32,
        cost_per_token: u64,
        escrow: Option<&EscrowId>,
    ) {
        self.0.update(content);
        self.0.update(&epoch.to_le_bytes());
        self.0.update(&prefix_tokens.to_le_bytes());
        self.0.update(&cost_per_token.to_le_bytes());
        // Nothing for unpaid work: such epochs keep the hash that they had before jobs were paid.
        if let Some(escrow) = escrow {
            self.0.update(b"escrow").update(&escrow.0);
        }
    }

    /// 64 hexadecimal digits.
    pub fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receipt_counts_for_is_in_the_hash() {
        let hash = |epoch, prefix, cost, escrow: Option<u8>| {
            let mut hash = ReceiptsHash::default();
            hash.add(&[1; 32], epoch, prefix, cost, escrow.map(|id| EscrowId([id; 32])).as_ref());
            hash.finish()
        };
        let all = [
            hash(1, 2, 3, None),
            hash(2, 2, 3, None),
            hash(1, 3, 3, None),
            hash(1, 2, 4, None),
            hash(1, 2, 3, Some(1)),
            hash(1, 2, 3, Some(2)),
            ReceiptsHash::default().finish(),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn a_line_comes_back_as_it_was_written() {
        let line = CountedReceipt {
            receipt: vec![1, 255],
            epoch: 3,
            countersignature: vec![2; 65],
            prefix_tokens: 0,
            cost_per_token: 270,
            escrow: None,
        };
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.starts_with(r#"{"receipt":"01ff","epoch":3,"#), "{text}");
        assert_eq!(serde_json::from_str::<CountedReceipt>(&text).unwrap(), line);
    }
}
