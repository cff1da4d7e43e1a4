//! Who may take part: a copy of the ledger's members that the swarm task can ask at once, and what a change causes.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use super::{Gateway, GatewayError};
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    grid::{Membership, Reason, refused},
    protocol::{
        internal::{Member, NodeMode, NodeRole},
        wire::{Assign, AssignedModel, Refused},
    },
    store::{Ledger, LedgerError, MemberRecord},
};

/// A peer that will be a member in a moment (its GridNode was just applied) should not wait long.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Members by peer id.
#[derive(Debug, Default)]
pub struct Members {
    known: RwLock<HashMap<GridPeerId, MemberRecord>>,
}

impl Members {
    pub(super) async fn load(ledger: &Ledger) -> Result<Self, LedgerError> {
        let records = ledger.members().await?;
        let known = records.into_iter().map(|record| (record.member.peer_id.clone(), record)).collect();
        Ok(Members { known: RwLock::new(known) })
    }

    pub(super) fn get(&self, peer: &GridPeerId) -> Option<MemberRecord> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    pub(super) fn all(&self) -> Vec<MemberRecord> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Members that may replay answers of `model`: the network's own, since a verifier sees prompts and is believed.
    pub(super) fn verifiers(&self, model: &ModelDigest) -> Vec<MemberRecord> {
        let may = |record: &MemberRecord| {
            let member = &record.member;
            member.mode == NodeMode::Managed
                && member.roles.contains(&NodeRole::Verify)
                && member.models.contains(model)
        };
        self.all().into_iter().filter(may).collect()
    }

    fn insert(&self, record: MemberRecord) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(record.member.peer_id.clone(), record);
    }

    fn remove(&self, peer: &GridPeerId) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }
}

impl Membership for Members {
    fn admit(&self, peer: &GridPeerId) -> Result<(), Refused> {
        if self.known.read().unwrap_or_else(PoisonError::into_inner).contains_key(peer) {
            return Ok(());
        }
        let message = format!(
            "{peer} is not a member of this grid; its admin adds it with a GridNode of mode External that names this peer id"
        );
        Err(refused(Reason::UnknownPeer, message, Some(TRY_AGAIN)))
    }
}

impl Gateway {
    /// Adds or changes a member. A connected one is told its new assignment.
    pub async fn put_member(self: &Arc<Self>, member: Member) -> Result<(), GatewayError> {
        let address = member
            .peer_id
            .address()
            .map_err(|error| GatewayError::Invalid { reason: "InvalidPeerId", message: error.to_string() })?;
        if !self.ledger.put_member(&member).await? {
            return Ok(());
        }
        let peer = member.peer_id.clone();
        self.members.insert(MemberRecord { member, address });
        self.refresh_standing(&peer).await?;
        self.weigh_profiles(&peer).await?;
        if self.peers.is_connected(&peer) {
            self.spawn_assign(peer);
        }
        self.dispatch.notify_one();
        self.audit.notify_one();
        Ok(())
    }

    /// Removes a member and closes its connections; what it had leased goes elsewhere.
    pub async fn remove_member(&self, peer: &GridPeerId) -> Result<(), GatewayError> {
        self.ledger.remove_member(peer).await?;
        self.members.remove(peer);
        self.judges.forget(peer);
        self.flights.cancel_peer(peer);
        if let Some(workers) = self.workers() {
            workers.disconnect(peer).await;
        }
        self.peers.forget(peer);
        Ok(())
    }

    /// Whether a member gets no new work now.
    pub(super) fn is_closed(&self, peer: &GridPeerId) -> bool {
        self.members.get(peer).is_none_or(|record| !record.member.schedulable)
    }

    /// Tells a connected member what to serve, in a task of its own.
    pub(super) fn spawn_assign(self: &Arc<Self>, peer: GridPeerId) {
        let gateway = self.clone();
        self.spawn(async move { gateway.assign(&peer).await });
    }

    /// Tells a member what to serve. Tried until it takes it or is gone.
    pub(super) async fn assign(&self, peer: &GridPeerId) {
        let mut pause = Duration::from_millis(500);
        while let (Some(workers), Some(record)) = (self.workers(), self.members.get(peer)) {
            if !self.peers.is_connected(peer) {
                return;
            }
            let assign = match self.assignment(&record.member).await {
                Ok(assign) => assign,
                Err(error) => return self.ledger_failed("reading the models of a member", &error),
            };
            match workers.assign(peer, assign).await {
                Ok(()) => return,
                Err(error) => tracing::info!(%peer, "the assignment was not taken: {error}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    async fn assignment(&self, member: &Member) -> Result<Assign, LedgerError> {
        let mut models = Vec::new();
        for digest in &member.models {
            let Some(model) = self.ledger.model(digest).await? else { continue };
            // Of one that is not here yet the size is 0: the member keeps what it may have of it, which may be the last copy.
            models.push(AssignedModel {
                digest: digest.0.to_vec(),
                name: model.source.name,
                bytes: model.bytes,
                context_length: model.source.context_length,
            });
        }
        Ok(Assign { models, roles: member.roles.iter().map(|role| format!("{role:?}")).collect() })
    }
}
