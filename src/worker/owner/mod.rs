//! `grid-worker register|unregister|claim`: what the owner of a machine does about its node on the chain, from the machine itself.
//! The only part of the worker that talks to the chain; it needs the owner's key for as long as one command runs and keeps nothing.
//! Every command says what it will cost before it sends anything, and sends nothing with `--dry-run`.

pub mod claim;
pub mod register;
pub mod unregister;

use std::{io::Write, path::PathBuf};

use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{
        At, ChainClient, ChainError, Inclusion, Intent, KeyError as ChainKeyError,
        deploy::execute,
        outbox::Pace,
        quote::Quote,
        registration::{NodeRegistration, RegistrationStatus},
        signer::{NamedSigner, RemoteSignerArgs},
    },
    protocol::identity::{KeyError, NodeKey},
};

pub use claim::{ClaimOptions, claim};
pub use register::{RegisterOptions, register};
pub use unregister::{UnregisterOptions, unregister};

/// The chain, the contract, and who pays.
#[derive(Debug, Clone, clap::Args)]
pub struct OwnerOptions {
    /// JSON-RPC endpoint of the chain. Repeatable: more than one guards against one that lies or lags.
    #[arg(long = "rpc-url", env = "GRID_RPC_URL", value_delimiter = ',', required = true)]
    pub rpc_urls: Vec<String>,
    /// Chain id of the network's chain: 50 is XDC, 51 is Apothem.
    #[arg(long, env = "GRID_CHAIN_ID")]
    pub chain_id: u64,
    /// Address of the network's GridComputingRewards contract.
    #[arg(long, env = "GRID_CONTRACT")]
    pub contract: NodeAddress,
    /// File with the owner's private key, or with an encrypted keystore whose password is in the file of the same name with
    /// `.password` at its end. It pays the fee, and at registration the stake, which it gets back.
    #[arg(
        long,
        env = "GRID_OWNER_KEY_FILE",
        required_unless_present = "remote_signer_url",
        conflicts_with = "remote_signer_url"
    )]
    pub owner_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub remote: RemoteSignerArgs,
    /// Says what it would cost, and sends nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Which node: by its address, or by its key.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = true)]
pub struct NodeOptions {
    /// File with the node's key.
    #[arg(long, env = "GRID_KEY_FILE")]
    pub key_file: Option<PathBuf>,
    /// Address of the node, where its key is elsewhere.
    #[arg(long, value_name = "ADDRESS")]
    pub node: Option<NodeAddress>,
}

impl NodeOptions {
    fn address(&self) -> Result<NodeAddress, OwnerError> {
        match (&self.node, &self.key_file) {
            (Some(node), _) => Ok(*node),
            (None, Some(file)) => Ok(NodeKey::read(file)?.address()),
            (None, None) => Err(OwnerError::NoNode),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error(transparent)]
    NodeKey(#[from] KeyError),
    #[error(transparent)]
    OwnerKey(#[from] ChainKeyError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("which node? name its key with --key-file or its address with --node")]
    NoNode,
    #[error("a stake of {} XDC is too small: this network asks for {} XDC", stake.to_xdc(), least.to_xdc())]
    Stake { stake: Wei, least: Wei },
    #[error("node {0} is not registered on this contract")]
    NotRegistered(NodeAddress),
    #[error("node {node} belongs to {owner}; the key is that of {given}")]
    NotOwner { node: NodeAddress, owner: NodeAddress, given: NodeAddress },
    #[error("node {0} has nothing to claim: it earned nothing yet, or all of it was paid")]
    NothingToClaim(NodeAddress),
    #[error("cannot measure this machine: {0}")]
    Measure(String),
}

/// The owner at the contract, for one command.
struct Owner {
    key: NamedSigner,
    client: ChainClient,
    dry_run: bool,
}

impl Owner {
    async fn open(options: &OwnerOptions) -> Result<Self, OwnerError> {
        let key = NamedSigner::open(options.owner_key_file.as_deref(), &options.remote).await?;
        let client = ChainClient::connect(&options.rpc_urls, options.chain_id, options.contract).await?;
        Ok(Owner { key, client, dry_run: options.dry_run })
    }

    /// Says what the intent costs and carries it out until it is final; `None` for a dry run.
    async fn carry_out(&self, what: &str, intent: Intent) -> Result<Option<Inclusion>, OwnerError> {
        let quote = Quote::of(self.client.rpc(), self.key.address(), &intent).await?;
        announce(&format!("{what}, from {}: {quote}", self.key.address()));
        if self.dry_run {
            return Ok(None);
        }
        let rpc = self.client.rpc();
        Ok(Some(execute(rpc, self.client.chain_id(), self.key.signer(), intent, Pace::default()).await?))
    }

    /// A registration that is this owner's.
    async fn own(&self, node: NodeAddress) -> Result<NodeRegistration, OwnerError> {
        let found = self.client.node(node, At::Latest).await?.ok_or(OwnerError::NotRegistered(node))?;
        if found.owner == self.key.address() {
            return Ok(found);
        }
        Err(OwnerError::NotOwner { node, owner: found.owner, given: self.key.address() })
    }
}

/// What is about to happen, on standard error: the result alone is the output.
fn announce(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

const NOTHING_SENT: &str = "nothing was sent (--dry-run)";

/// Where a transaction ended up, for people.
fn receipt(included: &Inclusion) -> String {
    format!(
        "in block {} (transaction {}, {} gas, fee {} XDC)",
        included.block_number,
        included.hash,
        included.gas_used,
        included.fee.to_xdc()
    )
}

fn is_leaving(registration: &NodeRegistration) -> bool {
    registration.status == RegistrationStatus::Exiting
}
