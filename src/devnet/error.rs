//! Why the chain cannot start or go on.

use std::{io, net::SocketAddr, path::PathBuf};

use super::rules::jsonrpc::RpcError;

#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    #[error(
        "{} was not found: install Foundry (`make tools` puts it into the tool cache's bin folder, which then belongs on the PATH), or name \
         the program with --anvil",
        program.display()
    )]
    NoAnvil { program: PathBuf },
    #[error("{} cannot be started: {source}", program.display())]
    AnvilUnusable { program: PathBuf, source: io::Error },
    #[error(
        "anvil ended before it listened: {detail}. If its port is taken, name another with --anvil-port, or 0 for any free one"
    )]
    AnvilEnded { detail: String },
    #[error("anvil did not listen within {seconds} s: look at what it prints with --log debug")]
    AnvilSilent { seconds: u64 },
    #[error("anvil ended on its own: {detail}")]
    AnvilGone { detail: String },
    #[error("cannot listen on {address}: {source}. Name another address with --listen, for instance {}:0 for any free port", address.ip())]
    Listen { address: SocketAddr, source: io::Error },
    #[error("--upstream {url}: {detail}")]
    Upstream { url: String, detail: String },
    #[error(
        "the node behind has chain id {found}, not {expected}: set --chain-id {found}, or choose another --upstream"
    )]
    WrongChainId { expected: u64, found: u64 },
    #[error("the server ended: {0}")]
    Server(io::Error),
}

impl DevnetError {
    pub(super) fn upstream(url: &str, error: &RpcError) -> Self {
        DevnetError::Upstream { url: url.to_owned(), detail: error.message.clone() }
    }
}
