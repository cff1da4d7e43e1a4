//! Mutual authentication, once per connection: Hello → challenge → proof → accepted. Pure: nonces come in as arguments.
//!
//! Noise and TLS have proven each peer's key already. What is added: both ends are of the same network, in fitting roles and
//! version, and each signed both nonces and both peer ids, so that nothing can be replayed, nor relayed to a third peer, nor
//! used to make somebody sign a text of a stranger's choice.

use std::time::Duration;

use alloy::primitives::B256;

use super::{
    refusal::{Reason, Refusal},
    start::Role,
};
use crate::{
    api::ids::GridPeerId,
    protocol::{
        identity::{KeyError, NodeKey},
        names::NetworkId,
        receipt,
        wire::{AuthChallenge, Hello, Proof},
    },
};

/// Version of this exchange.
const VERSION: u32 = 1;

/// A refused dialer may have been let in by then.
const RETRY_AFTER: Duration = Duration::from_secs(5);

pub(super) type Nonce = [u8; 32];

/// Who this node is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub key: NodeKey,
    pub peer: GridPeerId,
    pub network: NetworkId,
    pub role: Role,
}

/// What the listener remembers between its challenge and the proof. Consumed by the first proof, right or wrong.
#[derive(Debug, PartialEq)]
pub(super) struct Challenged {
    dialer_nonce: Nonce,
    listener_nonce: Nonce,
    pub software: String,
}

impl Identity {
    /// The dialer's first message.
    pub(super) fn hello(&self, nonce: Nonce, software: &str) -> Hello {
        Hello { nonce: nonce.to_vec(), role: self.role.as_str().into(), version: VERSION, software: software.into() }
    }

    /// The listener's answer to a `Hello` from a peer that membership admits.
    pub(super) fn challenge(
        &self,
        dialer: &GridPeerId,
        hello: &Hello,
        nonce: Nonce,
    ) -> Result<(AuthChallenge, Challenged), Refusal> {
        let dialer_nonce = read_nonce(&hello.nonce)?;
        if hello.version != VERSION {
            let message = format!("this peer authenticates with version {VERSION}, not {}: update it", hello.version);
            return Err(Refusal::new(Reason::UnsupportedVersion, message));
        }
        if hello.role != self.role.counterpart().as_str() {
            let message = format!("a {} does not take a {:?} as a peer", self.role.as_str(), short(&hello.role));
            return Err(Refusal::new(Reason::WrongRole, message));
        }
        let statement = self.statement(&self.peer, dialer, &self.peer, dialer_nonce, nonce, self.role);
        let signature = receipt::sign(&statement, &self.network, &self.key).map_err(cannot_sign)?.to_vec();
        let challenge = AuthChallenge { nonce: nonce.to_vec(), signature, role: self.role.as_str().into() };
        Ok((challenge, Challenged { dialer_nonce, listener_nonce: nonce, software: short(&hello.software) }))
    }

    /// The dialer's answer: checks who challenges before it signs anything.
    pub(super) fn prove(
        &self,
        listener: &GridPeerId,
        nonce: Nonce,
        challenge: &AuthChallenge,
    ) -> Result<Proof, Refusal> {
        let listener_nonce = read_nonce(&challenge.nonce)?;
        let role = self.role.counterpart();
        if challenge.role != role.as_str() {
            let message = format!("a {} does not dial a {:?}", self.role.as_str(), short(&challenge.role));
            return Err(Refusal::new(Reason::WrongRole, message));
        }
        let theirs = self.statement(listener, &self.peer, listener, nonce, listener_nonce, role);
        self.check(&theirs, listener, &challenge.signature)?;
        let ours = self.statement(&self.peer, &self.peer, listener, nonce, listener_nonce, self.role);
        let signature = receipt::sign(&ours, &self.network, &self.key).map_err(cannot_sign)?.to_vec();
        Ok(Proof { signature })
    }

    /// The listener's last check.
    pub(super) fn verify(&self, dialer: &GridPeerId, challenged: &Challenged, proof: &Proof) -> Result<(), Refusal> {
        let Challenged { dialer_nonce, listener_nonce, .. } = *challenged;
        let role = self.role.counterpart();
        let statement = self.statement(dialer, dialer, &self.peer, dialer_nonce, listener_nonce, role);
        self.check(&statement, dialer, &proof.signature)
    }

    fn statement(
        &self,
        signer: &GridPeerId,
        dialer: &GridPeerId,
        listener: &GridPeerId,
        dialer_nonce: Nonce,
        listener_nonce: Nonce,
        role: Role,
    ) -> receipt::Auth {
        receipt::Auth {
            network: self.network.net().to_string(),
            signer: signer.to_string(),
            dialer: dialer.to_string(),
            listener: listener.to_string(),
            dialerNonce: B256::from(dialer_nonce),
            listenerNonce: B256::from(listener_nonce),
            role: role.as_str().into(),
            version: VERSION,
        }
    }

    fn check(&self, statement: &receipt::Auth, signer: &GridPeerId, signature: &[u8]) -> Result<(), Refusal> {
        let expected = signer.address().ok();
        if expected.is_some() && receipt::signer_of(statement, &self.network, signature) == expected {
            return Ok(());
        }
        let message = format!("the signature is not {signer}'s over this exchange: is it of the same network?");
        Err(Refusal::new(Reason::BadSignature, message))
    }
}

fn read_nonce(bytes: &[u8]) -> Result<Nonce, Refusal> {
    bytes.try_into().map_err(|_| {
        Refusal::new(Reason::MalformedFrame, format!("a nonce has 32 bytes, this one has {}", bytes.len()))
    })
}

/// Membership's refusal, with a time after which asking again makes sense: the operator may be about to let it in.
pub(super) fn not_admitted(mut wire: crate::protocol::wire::Refused) -> Refusal {
    if wire.retry_after_ms == 0 {
        wire.retry_after_ms = u64::try_from(RETRY_AFTER.as_millis()).unwrap_or_default();
    }
    Refusal { reason: Reason::UnknownPeer, wire }
}

fn cannot_sign(error: KeyError) -> Refusal {
    Refusal::retry(Reason::Busy, error.to_string(), RETRY_AFTER)
}

/// What a peer says about itself, cut to a length fit for logs.
fn short(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ids::NodeAddress;

    const ND: Nonce = [1; 32];
    const NL: Nonce = [2; 32];

    fn identity(role: Role, salt: &str) -> Identity {
        let key = NodeKey::generate();
        let network = NetworkId { chain_id: 51, contract: NodeAddress([7; 20]), salt: salt.into() };
        Identity { peer: key.peer_id(), key, network, role }
    }

    fn pair() -> (Identity, Identity) {
        (identity(Role::Worker, ""), identity(Role::Gateway, ""))
    }

    #[test]
    fn worker_and_gateway_convince_each_other() {
        let (worker, gateway) = pair();
        let (challenge, challenged) =
            gateway.challenge(&worker.peer, &worker.hello(ND, "grid-worker/0.1.0"), NL).unwrap();
        let proof = worker.prove(&gateway.peer, ND, &challenge).unwrap();
        gateway.verify(&worker.peer, &challenged, &proof).unwrap();
        assert_eq!(challenged.software, "grid-worker/0.1.0");
    }

    #[test]
    fn a_proof_of_another_exchange_is_worth_nothing() {
        let (worker, gateway) = pair();
        let (challenge, _) = gateway.challenge(&worker.peer, &worker.hello(ND, ""), NL).unwrap();
        let proof = worker.prove(&gateway.peer, ND, &challenge).unwrap();
        let (_, later) = gateway.challenge(&worker.peer, &worker.hello(ND, ""), [3; 32]).unwrap();
        assert_eq!(gateway.verify(&worker.peer, &later, &proof).unwrap_err().reason, Reason::BadSignature);
    }

    #[test]
    fn a_challenge_cannot_be_relayed_to_a_third_peer() {
        let (worker, gateway) = pair();
        let (challenge, _) = gateway.challenge(&worker.peer, &worker.hello(ND, ""), NL).unwrap();
        let middle = identity(Role::Gateway, "");
        assert_eq!(worker.prove(&middle.peer, ND, &challenge).unwrap_err().reason, Reason::BadSignature);
    }

    #[test]
    fn another_salt_is_another_network() {
        let worker = identity(Role::Worker, "one");
        let gateway = identity(Role::Gateway, "two");
        let (challenge, _) = gateway.challenge(&worker.peer, &worker.hello(ND, ""), NL).unwrap();
        assert_eq!(worker.prove(&gateway.peer, ND, &challenge).unwrap_err().reason, Reason::BadSignature);
    }

    #[test]
    fn roles_versions_and_nonces_are_checked() {
        let (worker, gateway) = pair();
        let hello = worker.hello(ND, "");
        let reason = |hello: &Hello| gateway.challenge(&worker.peer, hello, NL).unwrap_err().reason;
        assert_eq!(reason(&Hello { version: 2, ..hello.clone() }), Reason::UnsupportedVersion);
        assert_eq!(reason(&Hello { role: "gateway".into(), ..hello.clone() }), Reason::WrongRole);
        assert_eq!(reason(&Hello { nonce: vec![1; 31], ..hello }), Reason::MalformedFrame);
    }
}
