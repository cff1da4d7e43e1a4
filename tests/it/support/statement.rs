//! Statements as a gateway publishes them, with receipts that real keys signed, for whoever works an epoch out anew.

use std::path::PathBuf;

use alloy::primitives::B256;
use prost::Message;
use tempfile::TempDir;
use xdc_grid::{
    api::ids::EpochNumber,
    protocol::{
        identity::NodeKey,
        internal::{EpochTotals, NodeTotals},
        names::NetworkId,
        receipt::{Acceptance, Receipt, sign},
        statement::{CountedReceipt, ReceiptsHash},
    },
    reward::{ComputeUnits, TokenCost},
};

const COST: u64 = 270;
/// Tokens of every answer.
const OUTPUT: u32 = 20;

/// A gateway's key and the folder that it publishes to.
pub struct Publisher {
    pub network: NetworkId,
    pub gateway: NodeKey,
    pub folder: TempDir,
}

/// What was published about an epoch.
pub struct Published {
    pub totals: EpochTotals,
    /// The totals as bytes, which the digest is of.
    pub first_line: String,
    pub digest: B256,
}

impl Publisher {
    pub fn new(network: NetworkId) -> Self {
        Publisher { network, gateway: NodeKey::generate(), folder: tempfile::tempdir().unwrap() }
    }

    pub fn file(&self, epoch: u64) -> PathBuf {
        self.folder.path().join(format!("epoch-{epoch}.jsonl.zst"))
    }

    /// All files, as `--receipts` takes them.
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("epoch-{epoch}.jsonl.zst")
    }

    /// Publishes an epoch in which nodes, named by the byte that their key is made of, answered prompts of these lengths. No length
    /// twice: it stands for the request.
    pub fn publish(&self, epoch: u64, work: &[(u8, &[u32])]) -> Published {
        let mut receipts = Vec::new();
        let mut nodes = Vec::new();
        for (at, (seed, prompts)) in work.iter().enumerate() {
            let node = NodeKey::from_bytes(&[*seed; 32]).unwrap();
            receipts.extend(prompts.iter().map(|prompt| self.receipt(epoch, &node, *prompt)));
            let units = prompts.iter().map(|prompt| ComputeUnits::of_response(TokenCost(COST), *prompt, OUTPUT));
            nodes.push(NodeTotals {
                address: node.address(),
                node_name: format!("node-{seed}"),
                requests: prompts.len() as u64,
                prompt_tokens: prompts.iter().map(|prompt| u64::from(*prompt)).sum(),
                output_tokens: u64::from(OUTPUT) * prompts.len() as u64,
                units: units.sum::<ComputeUnits>().to_string(),
                capacity_units: 7 + at as u64,
                proven_bytes: 1 << 30,
                eligible: true,
                reason: String::new(),
            });
        }
        receipts.sort_by_key(|(content, _)| *content);
        let mut hash = ReceiptsHash::default();
        for (content, counted) in &receipts {
            hash.add(&content.0, counted.epoch, 0, COST, None);
        }
        let totals = EpochTotals {
            epoch: EpochNumber(epoch),
            nodes,
            jobs: Vec::new(),
            audit_secret: "00".repeat(32),
            receipts: receipts.len() as u64,
            receipts_hash: hash.finish(),
        };
        let first_line = serde_json::to_string(&totals).unwrap();
        let lines = receipts.iter().map(|(_, counted)| serde_json::to_string(counted).unwrap());
        let text = [first_line.clone()].into_iter().chain(lines).map(|line| line + "\n").collect::<String>();
        std::fs::write(self.file(epoch), zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
        let digest = B256::from(*blake3::hash(first_line.as_bytes()).as_bytes());
        Published { totals, first_line, digest }
    }

    /// A receipt of a node over so many prompt tokens, with both signatures.
    fn receipt(&self, epoch: u64, node: &NodeKey, prompt: u32) -> (B256, CountedReceipt) {
        let receipt = Receipt {
            requestId: B256::with_last_byte(prompt as u8),
            attempt: 1,
            model: B256::repeat_byte(2),
            promptHash: B256::ZERO,
            outputHash: B256::ZERO,
            promptTokens: prompt,
            outputTokens: OUTPUT,
            sampler: B256::ZERO,
            seed: B256::repeat_byte(epoch as u8),
            traceRoot: B256::ZERO,
            startedAt: 1,
            finishedAt: 2,
        };
        let content = receipt.content_hash();
        let signature = sign(&receipt, &self.network, node).unwrap();
        let acceptance = sign(&Acceptance { receipt: content, epoch }, &self.network, &self.gateway).unwrap();
        let counted = CountedReceipt {
            receipt: receipt.to_wire(&signature).encode_to_vec(),
            epoch,
            countersignature: acceptance.to_vec(),
            prefix_tokens: 0,
            cost_per_token: COST,
            escrow: None,
        };
        (content, counted)
    }
}
