//! A node's key: for a Managed node an immutable Secret that is made once, for an External one only the peer id.

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Resource, ResourceExt, api::PostParams};

use super::build::{key_secret_name, labels};
use crate::{
    api::{
        conditions::Finding,
        grid_node::GridNode,
        ids::{GridPeerId, NodeAddress},
        reasons::Reason,
    },
    operator::error::Error,
    protocol::identity::NodeKey,
};

/// Key of the Secret, and name of the file that the worker reads.
pub const KEY_FILE: &str = "node.key";

/// Who a node is.
#[derive(Clone)]
pub struct NodeIdentity {
    pub peer_id: GridPeerId,
    pub address: NodeAddress,
    /// Only for Managed nodes: signs the consent to be registered.
    pub key: Option<NodeKey>,
}

impl NodeIdentity {
    pub fn of_peer(peer: &str) -> Result<Self, Finding> {
        let invalid = |message: String| Finding::no(Reason::InvalidObject, format!("spec.peerID: {message}"));
        let peer_id: GridPeerId = peer.parse().map_err(|error| invalid(format!("{error}")))?;
        let address = peer_id.address().map_err(|error| invalid(error.to_string()))?;
        Ok(NodeIdentity { peer_id, address, key: None })
    }

    fn of_key(key: NodeKey) -> Self {
        NodeIdentity { peer_id: key.peer_id(), address: key.address(), key: Some(key) }
    }

    /// Reads the node's key Secret; makes it when it is not there. Of two makers one loses and reads the other's key.
    pub async fn ensure(node: &GridNode, secrets: &Api<Secret>) -> Result<Result<Self, Finding>, Error> {
        let name = key_secret_name(&node.name_any());
        let secret = match secrets.get_opt(&name).await? {
            Some(secret) => secret,
            None => match secrets.create(&PostParams::default(), &secret_of(node, &NodeKey::generate())).await {
                Err(kube::Error::Api(status)) if status.code == 409 => secrets.get(&name).await?,
                created => created?,
            },
        };
        Ok(read(&secret))
    }

    /// Who a node is that is being deleted. Never a new key: where the Secret went first, the status still knows the peer id.
    pub async fn of_leaving(node: &GridNode, secrets: &Api<Secret>) -> Result<Result<Self, Finding>, Error> {
        if let Some(secret) = secrets.get_opt(&key_secret_name(&node.name_any())).await? {
            return Ok(read(&secret));
        }
        let peer = node.status.as_ref().and_then(|status| status.peer_id.as_deref());
        Ok(Self::of_peer(peer.unwrap_or_default()))
    }
}

fn read(secret: &Secret) -> Result<NodeIdentity, Finding> {
    let content = secret.data.as_ref().and_then(|data| data.get(KEY_FILE));
    let text = content.and_then(|content| std::str::from_utf8(&content.0).ok());
    text.and_then(NodeKey::from_hex).map(NodeIdentity::of_key).ok_or_else(|| {
        let name = secret.name_any();
        let message = format!(
            "Secret {name} has no node key under {KEY_FILE:?} (64 hexadecimal digits); delete it to get a new identity"
        );
        Finding::no(Reason::NodeKeyInvalid, message)
    })
}

fn secret_of(node: &GridNode, key: &NodeKey) -> Secret {
    let name = node.name_any();
    Secret {
        metadata: ObjectMeta {
            name: Some(key_secret_name(&name)),
            labels: Some(labels(&name)),
            owner_references: node.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some([(KEY_FILE.to_owned(), ByteString(hex::encode(key.secret_bytes()).into_bytes()))].into()),
        immutable: Some(true),
        type_: Some("xdcgrid.io/node-key".into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::grid_node::validate::tests::managed;

    #[test]
    fn a_key_secret_is_immutable_owned_and_read_back_as_the_same_node() {
        let key = NodeKey::generate();
        let secret = secret_of(&managed(), &key);
        assert_eq!(secret.immutable, Some(true));
        assert_eq!(secret.metadata.owner_references.as_ref().unwrap()[0].kind, "GridNode");
        assert_eq!(read(&secret).map(|identity| identity.peer_id).unwrap(), key.peer_id());
    }

    #[test]
    fn a_secret_without_a_key_says_so_and_shows_nothing() {
        let mut secret = secret_of(&managed(), &NodeKey::generate());
        secret.data = Some([(KEY_FILE.to_owned(), ByteString(b"deadbeef".to_vec()))].into());
        let Err(finding) = read(&secret) else { panic!("no key") };
        assert_eq!(finding.reason, "NodeKeyInvalid");
        assert!(!finding.message.contains("deadbeef"));
    }
}
