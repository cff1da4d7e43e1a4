//! The worker's claims: every receipt that a gateway countersigned, with both signatures. Append-only; what a node shows
//! should a gateway deny what it accepted.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    api::ids::GridPeerId,
    protocol::{
        names::NetworkId,
        receipt::{self, Acceptance, Receipt},
        wire,
    },
};

/// Where the file is cut off and one older one kept: about 100 000 claims each.
const ROTATE_AT: u64 = 64 << 20;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Claim {
    /// The receipt as the contract hashes it, ABI-encoded, hexadecimal.
    pub receipt: String,
    pub node_signature: String,
    pub epoch: u64,
    pub gateway: GridPeerId,
    pub gateway_signature: String,
}

impl Claim {
    /// `Err` when the acknowledgement does not hold the gateway to this receipt.
    pub(super) fn new(
        receipt: &Receipt,
        node_signature: &[u8],
        ack: &wire::Ack,
        gateway: &GridPeerId,
        network: &NetworkId,
    ) -> Result<Self, String> {
        let acceptance = Acceptance { receipt: receipt.content_hash(), epoch: ack.epoch };
        let expected = gateway.address().map_err(|error| error.to_string())?;
        if receipt::signer_of(&acceptance, network, &ack.signature) != Some(expected) {
            return Err(format!("the acknowledgement is not signed by {gateway} over this receipt"));
        }
        Ok(Claim {
            receipt: hex::encode(alloy::sol_types::SolValue::abi_encode(receipt)),
            node_signature: hex::encode(node_signature),
            epoch: ack.epoch,
            gateway: gateway.clone(),
            gateway_signature: hex::encode(&ack.signature),
        })
    }
}

/// The file. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl Claims {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("claims.ndjson");
        let file = Arc::new(Mutex::new(append_to(&path)?));
        Ok(Claims { path, file })
    }

    /// Appends one line, on disk before it returns. Blocks for a disk write: not for an async task's own thread.
    pub(super) fn append(&self, claim: &Claim) -> io::Result<()> {
        let mut line = serde_json::to_vec(claim)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.metadata()?.len() >= ROTATE_AT {
            std::fs::rename(&self.path, self.path.with_extension("ndjson.1"))?;
            *file = append_to(&self.path)?;
        }
        file.write_all(&line)?;
        file.sync_data()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;
    use crate::{api::ids::NodeAddress, protocol::identity::NodeKey};

    fn network() -> NetworkId {
        NetworkId { chain_id: 51, contract: NodeAddress([9; 20]), salt: String::new() }
    }

    fn receipt() -> Receipt {
        let hash = B256::repeat_byte(1);
        Receipt {
            requestId: hash,
            attempt: 1,
            model: hash,
            promptHash: hash,
            outputHash: hash,
            promptTokens: 1,
            outputTokens: 1,
            sampler: hash,
            seed: hash,
            traceRoot: hash,
            startedAt: 1,
            finishedAt: 2,
        }
    }

    #[test]
    fn a_claim_holds_both_signatures_and_survives_a_restart() {
        let (node, gateway, folder) = (NodeKey::generate(), NodeKey::generate(), tempfile::tempdir().unwrap());
        let signature = receipt::sign(&receipt(), &network(), &node).unwrap();
        let acceptance = Acceptance { receipt: receipt().content_hash(), epoch: 3 };
        let countersigned = receipt::sign(&acceptance, &network(), &gateway).unwrap().to_vec();
        let ack = wire::Ack { epoch: 3, signature: countersigned };
        let claim = Claim::new(&receipt(), &signature, &ack, &gateway.peer_id(), &network()).unwrap();
        for _ in 0..2 {
            Claims::open(folder.path()).unwrap().append(&claim).unwrap();
        }
        let text = std::fs::read_to_string(folder.path().join("claims.ndjson")).unwrap();
        let lines: Vec<Claim> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, [claim.clone(), claim]);
    }

    #[test]
    fn an_acknowledgement_of_another_epoch_or_gateway_is_no_claim() {
        let (node, gateway) = (NodeKey::generate(), NodeKey::generate());
        let signature = receipt::sign(&receipt(), &network(), &node).unwrap();
        let acceptance = Acceptance { receipt: receipt().content_hash(), epoch: 3 };
        let countersigned = receipt::sign(&acceptance, &network(), &gateway).unwrap().to_vec();
        let ack = wire::Ack { epoch: 4, signature: countersigned.clone() };
        assert!(Claim::new(&receipt(), &signature, &ack, &gateway.peer_id(), &network()).is_err());
        let ack = wire::Ack { epoch: 3, signature: countersigned };
        assert!(Claim::new(&receipt(), &signature, &ack, &node.peer_id(), &network()).is_err());
    }
}
