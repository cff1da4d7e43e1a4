//! What the operator is told about this gateway and its nodes.

use alloy::primitives::keccak256;

use super::{Gateway, GatewayError, standing::NodeStanding};
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    protocol::{
        internal::{EvidenceReport, GatewayInfo, NodeModel, NodeReport},
        wire::NodeInfo,
    },
    store::MemberRecord,
};

impl Gateway {
    pub async fn info(&self) -> GatewayInfo {
        let network = self.network_config();
        let peer_id = self.key.peer_id();
        let mut addresses = match self.workers() {
            Some(workers) => workers.addresses().await,
            None => Vec::new(),
        };
        for address in network.iter().flat_map(|network| &network.external_addresses) {
            let address = if address.contains("/p2p/") { address.clone() } else { format!("{address}/p2p/{peer_id}") };
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        GatewayInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer_id,
            network,
            addresses,
            connected_peers: self.peers.connected_count(),
            revision: *self.revisions().borrow(),
        }
    }

    /// All members, sorted by peer id.
    pub async fn node_reports(&self) -> Result<Vec<NodeReport>, GatewayError> {
        let mut members = self.members.all();
        members.sort_by(|a, b| a.member.peer_id.cmp(&b.member.peer_id));
        let mut reports = Vec::with_capacity(members.len());
        for record in &members {
            reports.push(self.report(record).await?);
        }
        Ok(reports)
    }

    pub async fn node_report(&self, peer: &GridPeerId) -> Result<NodeReport, GatewayError> {
        let record = self.members.get(peer).ok_or_else(|| GatewayError::NotFound {
            reason: "NodeUnknown",
            message: format!("{peer} is not a member of this grid"),
        })?;
        self.report(&record).await
    }

    async fn report(&self, record: &MemberRecord) -> Result<NodeReport, GatewayError> {
        let peer = &record.member.peer_id;
        let view = self.peers.get(peer);
        let standing = self.standings.get(peer);
        let epoch = self.epoch_at(self.clock.now_ms()).0;
        let info = view.statement.as_ref().map(|statement| &statement.info);
        let never = !view.connected && view.reason.is_empty();
        Ok(NodeReport {
            peer_id: peer.clone(),
            node_name: record.member.node_name.clone(),
            connected: view.connected,
            reason: if never { "NeverConnected".into() } else { view.reason },
            message: if never { "it has not connected since this gateway started".into() } else { view.message },
            software: view.software,
            processor: info.map(|info| info.processor.clone()).unwrap_or_default(),
            threads: info.map_or(0, |info| info.threads),
            memory_bytes: info.map_or(0, |info| info.memory_bytes),
            accelerators: info.map(|info| info.accelerators.clone()).unwrap_or_default(),
            models: info.map(models).unwrap_or_default(),
            // In this order: whoever closes a node and is then told that nothing runs may rely on it.
            schedulable: record.member.schedulable,
            running: self.flights.load(peer).requests,
            queued: info.map_or(0, |info| info.queued),
            slots: info.map_or(0, |info| info.slots),
            evidence: EvidenceReport { proof: self.proof(record, &standing).await?, ..evidence(&standing) },
            capability: standing.capability,
            current_epoch: self.ledger.contribution(&record.address, epoch).await?,
            last_epoch: self.ledger.contribution(&record.address, epoch.saturating_sub(1)).await?,
        })
    }

    /// What convicted a node, if the evidence was ever enough for its stake.
    async fn proof(&self, record: &MemberRecord, standing: &NodeStanding) -> Result<Option<String>, GatewayError> {
        if standing.evidence.convicted_ms == 0 {
            return Ok(None);
        }
        let convicted = self.ledger.conviction(&record.address).await?;
        Ok(Some(keccak256(convicted.concat()).to_string()))
    }
}

fn models(info: &NodeInfo) -> Vec<NodeModel> {
    let digest = |bytes: &[u8]| bytes.try_into().ok().map(ModelDigest);
    let ready = info.models.iter().filter_map(|model| {
        Some(NodeModel {
            digest: digest(&model.digest)?,
            state: "Ready".into(),
            message: String::new(),
            prefill_rate_milli: model.prefill_rate_milli,
            decode_rate_milli: model.decode_rate_milli,
            kernel_profile: model.kernel_profile.clone(),
        })
    });
    let pending = info.pending.iter().filter_map(|model| {
        Some(NodeModel {
            digest: digest(&model.digest)?,
            state: model.state.clone(),
            message: model.message.clone(),
            prefill_rate_milli: 0,
            decode_rate_milli: 0,
            kernel_profile: String::new(),
        })
    });
    ready.chain(pending).collect()
}

fn evidence(standing: &NodeStanding) -> EvidenceReport {
    let evidence = &standing.evidence;
    EvidenceReport {
        log10_e: standing.evidence().log10_e(),
        audits_passed: evidence.passed,
        audits_failed: evidence.failed,
        audits_inconclusive: evidence.inconclusive,
        quarantined: standing.quarantined(),
        message: evidence.message.clone(),
        proof: None,
    }
}
