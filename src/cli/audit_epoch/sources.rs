//! Where the chain and the published statements are read: options that checking an epoch and voting on one have in common.

use alloy::primitives::B256;

use super::{
    chain_error,
    difference::What,
    source,
    statement::{Seen, Statement},
};
use crate::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::{
        At, ChainClient,
        escrow::{JobEscrow, JobState},
        http::chain_id_of,
    },
    cli::CliError,
    protocol::names::NetworkId,
};

/// Where to read, and whom to believe.
#[derive(Debug, Clone, clap::Args)]
pub struct Sources {
    /// RPC endpoint; may be given several times. Of two or more, two must agree.
    #[arg(long, required = true, value_name = "URL")]
    pub rpc_url: Vec<String>,
    /// The network's GridComputingRewards, 0x or xdc.
    #[arg(long, value_name = "ADDRESS")]
    pub contract: NodeAddress,
    /// Chain that the endpoints must serve (default: what the first one says).
    #[arg(long)]
    pub chain_id: Option<u64>,
    /// The network's gateway, where it publishes statements. Without it and --receipts only the chain is checked: leaves, root and
    /// sums.
    #[arg(long, value_name = "URL", env = "GRID_PUBLIC_URL")]
    pub gateway_url: Option<String>,
    /// Published statement from elsewhere: a file, or a URL. {epoch} stands for the number.
    #[arg(long, value_name = "FILE|URL")]
    pub receipts: Option<String>,
    /// Address of a gateway that may countersign; may be given several times (default: any).
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Vec<NodeAddress>,
    /// The network's GridJobEscrow: what each paid job's escrow gave is then read from the chain, too.
    #[arg(long, value_name = "ADDRESS")]
    pub escrow: Option<NodeAddress>,
    /// A block before the contract, to spare looking for it.
    #[arg(long, value_name = "BLOCK")]
    pub from_block: Option<u64>,
}

impl Sources {
    pub async fn connect(&self) -> Result<ChainClient, CliError> {
        let chain_id = match (self.chain_id, self.rpc_url.first()) {
            (Some(chain_id), _) => chain_id,
            (None, Some(url)) => chain_id_of(url).await.map_err(chain_error)?,
            (None, None) => return Err(CliError::Other("--rpc-url is missing".into())),
        };
        ChainClient::connect(&self.rpc_url, chain_id, self.contract).await.map_err(chain_error)
    }

    /// The statement of an epoch, from the file or URL that was named, else from the network's gateway, by its digest where that is
    /// known. What the statement says of paid jobs is compared with the chain where their contract is known.
    pub async fn statement(
        &self,
        chain: &ChainClient,
        epoch: EpochNumber,
        digest: Option<B256>,
        seen: Seen,
    ) -> Result<(Option<Statement>, Seen), CliError> {
        let place = match (&self.receipts, &self.gateway_url) {
            (Some(place), _) => place.clone(),
            (None, Some(gateway)) => source::published(gateway, epoch, digest),
            (None, None) => return Ok((None, seen)),
        };
        let (chain_id, contract) = (chain.chain_id(), chain.contract());
        // Signatures know chain and contract; the salt of the peer-to-peer protocols is not in them.
        let network = NetworkId { chain_id, contract, salt: String::new() };
        let (mut statement, seen) = source::read(&place, epoch, network, self.gateway.clone(), seen).await?;
        self.check_escrows(chain, &mut statement).await?;
        Ok((Some(statement), seen))
    }

    /// What the statement says that each paid job's escrow gave, against the chain.
    async fn check_escrows(&self, chain: &ChainClient, statement: &mut Statement) -> Result<(), CliError> {
        let (Some(address), false) = (self.escrow, statement.totals.jobs.is_empty()) else { return Ok(()) };
        let escrow = JobEscrow::of(chain, address).await.map_err(chain_error)?;
        for job in &statement.totals.jobs {
            let found = escrow.job(job.escrow.0.into(), At::Finalized).await.map_err(chain_error)?;
            let settled = found.filter(|found| found.state == JobState::Settled);
            let (spent, fee) = settled.map_or((Wei(0), 0), |found| (found.spent, found.fee_bps));
            let differences = &mut statement.differences;
            differences.compare(What::Escrow, format_args!("{} spent", job.escrow), spent, job.spent);
            differences.compare(What::Escrow, format_args!("{} feeBps", job.escrow), fee, job.fee_bps);
        }
        Ok(())
    }
}
