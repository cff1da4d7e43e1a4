//! The swarm's part of authentication: who says what next, and what follows from it.

use std::time::{Duration, Instant};

use libp2p::{
    PeerId,
    request_response::{Event, Message, OutboundFailure},
    swarm::ConnectionId,
};
use tracing::{debug, info, warn};

use super::{FAREWELL, Node};
use crate::{
    grid::{
        auth::not_admitted,
        error::FrameError,
        exchange::{AuthExchange, ExchangeEvent},
        identity::grid_id,
        peers::Standing,
        refusal::{Reason, Refusable, Refusal},
        service::GridEvent,
    },
    protocol::{
        names::Protocol,
        wire::{AuthAccepted, AuthRequest, AuthResponse, Refused, auth_request, auth_response},
    },
};

impl Node {
    /// Dialer: opens the exchange.
    pub(super) fn say_hello(&mut self, peer: PeerId) {
        let nonce = rand::random();
        let hello = self.identity.hello(nonce, &self.software);
        if let Some(state) = self.peers.connected.get_mut(&peer) {
            state.hello = Some(nonce);
            self.send_auth(peer, auth_request::Kind::Hello(hello));
        }
    }

    pub(super) fn auth_event(&mut self, event: ExchangeEvent<AuthExchange>) {
        match event {
            Event::Message { peer, connection_id, message: Message::Request { request, channel, .. } } => {
                let response = self.answer_auth(peer, connection_id, request).unwrap_or_else(|refusal| {
                    let refused = refusal.wire.clone();
                    self.turn_away(peer, refusal);
                    AuthResponse::from_refused(refused)
                });
                // An error means that the peer has gone meanwhile.
                let _ = self.swarm.behaviour_mut().auth.send_response(channel, Ok(response));
            }
            Event::Message { peer, connection_id, message: Message::Response { response, .. } } => {
                self.auth_response(peer, connection_id, response);
            }
            Event::OutboundFailure { peer, error, .. } => {
                debug!(%peer, %error, "authentication failed");
                // Without the protocol it is of another network or no grid node; identify says which.
                if !matches!(error, OutboundFailure::UnsupportedProtocols) {
                    self.disconnect(peer);
                }
            }
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    /// Listener: answers `Hello` and `Proof`.
    fn answer_auth(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        request: Result<AuthRequest, FrameError>,
    ) -> Result<AuthResponse, Refusal> {
        let now = Instant::now();
        let request = request.map_err(|error| {
            Refusal::of_frame(&error).unwrap_or_else(|| Refusal::new(Reason::MalformedFrame, error.to_string()))
        })?;
        let Some(id) = grid_id(&peer) else {
            return Err(Refusal::new(Reason::UnknownPeer, "a grid identity is a secp256k1 key (16Uiu2HA…)"));
        };
        let kind = match request.kind {
            Some(auth_request::Kind::Hello(hello)) => {
                self.peers.take_inbound(&peer, Protocol::Auth, now)?;
                self.membership.admit(&id).map_err(not_admitted)?;
                let (challenge, challenged) = self.identity.challenge(&id, &hello, rand::random())?;
                if let Some(state) = self.peers.connected.get_mut(&peer) {
                    state.challenged = Some((challenged, now));
                }
                auth_response::Kind::Challenge(challenge)
            }
            Some(auth_request::Kind::Proof(proof)) => {
                let challenged = self.peers.connected.get_mut(&peer).and_then(|state| state.challenged.take());
                let deadline = self.peers.limits.auth_deadline;
                let challenged = challenged.filter(|(_, at)| now.saturating_duration_since(*at) <= deadline);
                let Some((challenged, _)) = challenged else {
                    return Err(Refusal::new(Reason::NoChallenge, "there is no open challenge for this proof"));
                };
                self.identity.verify(&id, &challenged, &proof)?;
                self.authenticated(peer, connection, challenged.software);
                auth_response::Kind::Accepted(AuthAccepted {})
            }
            None => return Err(Refusal::new(Reason::MalformedFrame, "neither Hello nor Proof")),
        };
        Ok(AuthResponse { kind: Some(kind) })
    }

    /// Dialer: takes the challenge, then the verdict.
    fn auth_response(&mut self, peer: PeerId, connection: ConnectionId, response: Result<AuthResponse, FrameError>) {
        let outcome =
            match response.map(|response| response.kind) {
                Ok(Some(auth_response::Kind::Challenge(challenge))) => self.take_challenge(peer, &challenge),
                Ok(Some(auth_response::Kind::Accepted(_))) if self.peers.standing(&peer) == Standing::Trusted => {
                    self.authenticated(peer, connection, String::new());
                    self.dialer.succeeded(&peer);
                    Ok(())
                }
                Ok(Some(auth_response::Kind::Refused(refused))) => {
                    self.refused_by(peer, refused);
                    return;
                }
                Ok(_) => Err(Refusal::new(Reason::MalformedFrame, "an answer out of order")),
                Err(error) => Err(Refusal::of_frame(&error)
                    .unwrap_or_else(|| Refusal::new(Reason::MalformedFrame, error.to_string()))),
            };
        if let Err(refusal) = outcome {
            warn!(%peer, reason = %refusal.reason, message = refusal.wire.message, "refused a gateway");
            self.refuse(peer, Protocol::Auth.part(), refusal);
            self.disconnect(peer);
        }
    }

    fn take_challenge(
        &mut self,
        peer: PeerId,
        challenge: &crate::protocol::wire::AuthChallenge,
    ) -> Result<(), Refusal> {
        let id = grid_id(&peer).ok_or_else(|| Refusal::new(Reason::UnknownPeer, "not a secp256k1 identity"))?;
        self.membership.admit(&id).map_err(not_admitted)?;
        let state = self.peers.connected.get_mut(&peer);
        let Some((state, nonce)) = state.and_then(|state| state.hello.take().map(|nonce| (state, nonce))) else {
            return Err(Refusal::new(Reason::NoChallenge, "a challenge that was not asked for"));
        };
        let proof = self.identity.prove(&id, nonce, challenge)?;
        state.standing = state.standing.max(Standing::Trusted);
        self.send_auth(peer, auth_request::Kind::Proof(proof));
        Ok(())
    }

    fn send_auth(&mut self, peer: PeerId, kind: auth_request::Kind) {
        self.swarm.behaviour_mut().auth.send_request(&peer, Ok(AuthRequest { kind: Some(kind) }));
    }

    /// Both sides are convinced.
    fn authenticated(&mut self, peer: PeerId, connection: ConnectionId, software: String) {
        let Some(state) = self.peers.connected.get_mut(&peer) else { return };
        // It may come back over another transport before its old connection is known to be dead.
        let transport = state.connections.get(&connection).map_or("other", |connection| connection.transport);
        let role = self.identity.role.counterpart();
        if let Some(before) = state.counted.replace(transport) {
            self.metrics.peer_went(role, before);
        }
        self.metrics.peer_came(role, transport);
        state.standing = Standing::Authenticated;
        self.close_others(&peer, connection);
        if self.is_worker() {
            for address in self.dialer.addresses(&peer).to_vec() {
                self.swarm.behaviour_mut().kad.add_address(&peer, address);
            }
        }
        if let Some((id, address)) = grid_id(&peer).and_then(|id| id.address().ok().map(|address| (id, address))) {
            info!(peer = %id, %software, "peer authenticated");
            self.emit(GridEvent::PeerAuthenticated { peer: id, address, software });
        }
    }

    /// Listener: refuses and closes, a moment later, so that the answer arrives.
    fn turn_away(&mut self, peer: PeerId, refusal: Refusal) {
        self.refuse(peer, Protocol::Auth.part(), refusal);
        let Some(state) = self.peers.connected.get_mut(&peer) else { return };
        let before = std::mem::replace(&mut state.standing, Standing::Stranger);
        let counted = state.counted.take();
        let farewell = Instant::now() + FAREWELL;
        state.connections.values_mut().for_each(|connection| connection.deadline = farewell);
        state.refused = true;
        // It was a member and is none any more.
        self.gone(&peer, before, counted, "refused".into());
    }

    /// Dialer: the gateway does not want us, now.
    fn refused_by(&mut self, peer: PeerId, refused: Refused) {
        warn!(%peer, reason = refused.reason, message = refused.message, "the gateway refused this node");
        let patience = Duration::from_millis(refused.retry_after_ms);
        if let Some(id) = grid_id(&peer) {
            self.emit(GridEvent::RefusedBy { peer: id, refused });
        }
        self.dialer.failed(&peer, patience, rand::random(), Instant::now());
        self.disconnect(peer);
    }

    /// It has been told already why it is closed.
    pub(super) fn already_refused(&self, peer: &PeerId) -> bool {
        self.peers.connected.get(peer).is_some_and(|state| state.refused)
    }
}
