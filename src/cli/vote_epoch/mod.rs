//! `grid-operator vote-epoch`: a second reporter. Where the contract wants several reporters to agree, the first one votes for a report
//! and says what it was made from; this one works the epoch out anew from the chain and the published receipts, with the code of
//! `audit_epoch`, and votes for it only when all of it is equal. Whoever makes up the number carries the report. Believes nobody,
//! keeps nothing, and touches no cluster.

mod cast;
mod examine;
mod proposed;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::Duration,
};

use alloy::primitives::B256;

use super::{
    CliError,
    audit_epoch::{AuditFormat, Seen, Sources, Ticker, chain_error, parse_split},
    output::note,
};
use crate::{
    api::ids::{EpochNumber, Wei},
    chain::{
        At, ChainClient, ContractParameters,
        reports::ContractHistory,
        signer::{NamedSigner, SignerArgs},
        votes::Ballot,
    },
    reward::RewardSplit,
};
use proposed::Proposed;

/// Options of `grid-operator vote-epoch`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # Look at what another reporter voted for, and say what a vote would cost
  grid-operator vote-epoch 7 --rpc-url https://erpc.xinfin.network --contract 0xADDRESS --gateway-url https://grid.example \\
    --key-file reporter.key --dry-run
  # Vote for it if it is right
  grid-operator vote-epoch 7 --rpc-url https://erpc.xinfin.network --contract 0xADDRESS --gateway-url https://grid.example \\
    --key-file reporter.key
  # Every epoch from now on, with statements from where somebody else keeps them
  grid-operator vote-epoch --follow --rpc-url https://erpc.xinfin.network --contract 0xADDRESS --key-file reporter.key \\
    --receipts 'https://grid.example/statements/{epoch}.jsonl.zst'
  # The same with a key that is in no file: a Web3Signer over mutual TLS; certificates that are replaced are taken up
  grid-operator vote-epoch --follow --rpc-url https://erpc.xinfin.network --contract 0xADDRESS --gateway-url https://grid.example \\
    --remote-signer-url https://signer.example:9000 --remote-signer-address 0xREPORTER \\
    --remote-signer-ca ca.pem --remote-signer-cert client.pem --remote-signer-key client.key

This reporter's account needs REPORTER_ROLE and XDC for gas.

Exit codes: 0 voted, reported, or nothing left to do, 1 error, 2 something differs and no vote was sent, 3 nobody else has voted yet.")]
pub struct VoteArgs {
    /// Epoch to vote on: the one that the contract takes next.
    #[arg(value_name = "EPOCH", required_unless_present = "follow", conflicts_with = "follow")]
    pub epoch: Option<u64>,
    #[command(flatten)]
    pub sources: Sources,
    #[command(flatten)]
    pub signer: SignerArgs,
    /// The most that an epoch may be meant to allocate beside fees, in wei (default: what the contract allows).
    #[arg(long, value_name = "WEI")]
    pub max_budget_wei: Option<Wei>,
    /// Percent for work, capacity and storage that the network has agreed on.
    #[arg(long, default_value = "60:25:15", value_parser = parse_split)]
    pub split: RewardSplit,
    /// Goes on from epoch to epoch until it is stopped.
    #[arg(long, conflicts_with = "dry_run")]
    pub follow: bool,
    /// Says what it found and what a vote would cost, and sends nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Seconds between two looks with --follow.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub poll_seconds: u64,
    /// Seconds until a transaction must be final.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
    /// How to print verdicts and transactions; in JSON each is a document of its own.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: AuditFormat,
}

/// How a look at an epoch ended, as the exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteExit {
    /// Voted, reported, or nothing left to do.
    Done,
    /// What others voted for is not what follows from the receipts.
    Differs,
    /// Nobody else has voted yet.
    NotYet,
}

impl From<VoteExit> for std::process::ExitCode {
    fn from(exit: VoteExit) -> Self {
        std::process::ExitCode::from(match exit {
            VoteExit::Done => 0,
            VoteExit::Differs => 2,
            VoteExit::NotYet => 3,
        })
    }
}

/// Votes, prints verdicts and transactions to `out`, and says what it does on standard error.
pub async fn run(args: &VoteArgs, out: &mut dyn Write) -> Result<VoteExit, CliError> {
    if args.sources.gateway_url.is_none() && args.sources.receipts.is_none() {
        return Err(CliError::Other("name where the statements are: --gateway-url or --receipts".into()));
    }
    let signer = args.signer.open().await.map_err(chain_error)?;
    let chain = args.sources.connect().await?;
    let me = signer.address();
    if !chain.is_reporter(me).await.map_err(chain_error)? {
        return Err(CliError::Other(format!(
            "{me} lacks REPORTER_ROLE; the contract's admin grants it: cast send {} 'grantRole(bytes32,address)' $(cast keccak REPORTER_ROLE) {me}",
            chain.contract()
        )));
    }
    let parameters = chain.parameters().await.map_err(chain_error)?;
    let mut ticker = Ticker::default();
    let history = chain.report_history(args.sources.from_block, |at| {
        ticker.say(|| format!("read the contract's logs up to block {} of {}", at.block, at.last));
    });
    let history = history.await.map_err(chain_error)?;
    let mut voter = Voter {
        args,
        chain: &chain,
        signer,
        parameters,
        history,
        seen: Seen::default(),
        looked_at: None,
        agreed: BTreeMap::new(),
        refused: BTreeSet::new(),
    };
    match args.epoch {
        Some(epoch) => {
            let Look { exit, said } = voter.look(Some(EpochNumber(epoch)), out).await?;
            note(format_args!("{said}"));
            Ok(exit)
        }
        None => voter.follow(out).await,
    }
}

/// What one look at an epoch came to.
struct Look {
    exit: VoteExit,
    /// For people.
    said: String,
}

/// One run over its epochs.
struct Voter<'a> {
    args: &'a VoteArgs,
    chain: &'a ChainClient,
    signer: NamedSigner,
    parameters: ContractParameters,
    history: ContractHistory,
    /// Receipts that statements of earlier epochs of this run counted.
    seen: Seen,
    /// The epoch that `agreed` and `refused` are about.
    looked_at: Option<EpochNumber>,
    /// What votes are right, with the packed leaves that were worked out for them.
    agreed: BTreeMap<B256, Vec<u8>>,
    refused: BTreeSet<B256>,
}

impl Voter<'_> {
    async fn follow(&mut self, out: &mut dyn Write) -> Result<VoteExit, CliError> {
        let mut last_said = String::new();
        loop {
            // Whatever goes wrong, the next look begins anew.
            let said = match self.look_anew(out).await {
                Ok(look) => look.said,
                Err(error) => format!("{error}; it is tried again"),
            };
            if said != last_said {
                note(format_args!("{said}"));
                last_said = said;
            }
            tokio::time::sleep(Duration::from_secs(self.args.poll_seconds)).await;
        }
    }

    /// A look of a program that has run for long.
    async fn look_anew(&mut self, out: &mut dyn Write) -> Result<Look, CliError> {
        self.signer.renew().await.map_err(chain_error)?;
        self.look(None, out).await
    }

    /// Looks at an epoch; without one, at the one that the contract takes next.
    async fn look(&mut self, epoch: Option<EpochNumber>, out: &mut dyn Write) -> Result<Look, CliError> {
        self.chain.read_on(&mut self.history).await.map_err(chain_error)?;
        let next = self.chain.epoch_state(At::Finalized).await.map_err(chain_error)?.next_epoch;
        if self.looked_at.replace(next) != Some(next) {
            self.agreed.clear();
            self.refused.clear();
        }
        let epoch = epoch.unwrap_or(next);
        let look = |exit, said: String| Ok(Look { exit, said: format!("epoch {epoch}: {said}") });
        if epoch < next {
            return look(VoteExit::Done, "it is reported already; audit-epoch says whether that is right".into());
        }
        if epoch > next {
            return Err(CliError::Other(format!("epoch {epoch} is not next: the contract takes epoch {next} first")));
        }
        let found = self.proposed(epoch).await?;
        if found.is_empty() {
            let said = "no other reporter's vote in a final block says what its leaves were made from";
            return look(VoteExit::NotYet, said.into());
        }
        match self.agreed_on(found, out).await? {
            Some((ballot, packed)) => look(VoteExit::Done, self.cast(&ballot, &packed, out).await?),
            None => {
                let said = "what others voted for does not follow from the receipts; no vote was sent";
                look(VoteExit::Differs, said.into())
            }
        }
    }

    /// The first report that is right, with its packed leaves. Each is worked out once.
    async fn agreed_on(
        &mut self,
        found: Vec<Proposed>,
        out: &mut dyn Write,
    ) -> Result<Option<(Ballot, Vec<u8>)>, CliError> {
        let mut failed = None;
        for proposed in found {
            if let Some(packed) = self.agreed.get(&proposed.hash) {
                return Ok(Some((proposed.ballot, packed.clone())));
            }
            if self.refused.contains(&proposed.hash) {
                continue;
            }
            match self.examine(&proposed, out).await {
                Ok(Some(packed)) => {
                    self.agreed.insert(proposed.hash, packed.clone());
                    return Ok(Some((proposed.ballot, packed)));
                }
                Ok(None) => {
                    self.refused.insert(proposed.hash);
                }
                // It must not keep another report of the epoch from being looked at.
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(None), Err)
    }
}
