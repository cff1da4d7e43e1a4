//! The node key as libp2p sees it, and the two spellings of a peer id.

use libp2p::{PeerId, identity};

use super::error::GridError;
use crate::{api::ids::GridPeerId, protocol::identity::NodeKey};

/// The libp2p keypair of a node key.
pub(super) fn keypair(key: &NodeKey) -> Result<identity::Keypair, GridError> {
    let mut secret = key.secret_bytes();
    let secret = identity::secp256k1::SecretKey::try_from_bytes(&mut secret)
        .map_err(|error| GridError::Transport(error.to_string()))?;
    Ok(identity::secp256k1::Keypair::from(secret).into())
}

/// `None` for a peer whose key is not secp256k1: it has no chain address and can be no member.
pub(super) fn grid_id(peer: &PeerId) -> Option<GridPeerId> {
    peer.to_string().parse().ok()
}

/// `None` only for an id that no libp2p accepts.
pub(super) fn libp2p_id(peer: &GridPeerId) -> Option<PeerId> {
    peer.as_str().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libp2p_and_the_grid_derive_the_same_peer_id() {
        let key = NodeKey::generate();
        let peer = keypair(&key).unwrap().public().to_peer_id();
        assert_eq!(grid_id(&peer), Some(key.peer_id()));
        assert_eq!(libp2p_id(&key.peer_id()), Some(peer));
        assert_eq!(grid_id(&identity::Keypair::generate_ed25519().public().to_peer_id()), None);
    }
}
