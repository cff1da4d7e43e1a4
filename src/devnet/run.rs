//! From options to a running chain, and back down.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle, time::MissedTickBehavior};

use super::{
    anvil::Anvil, blocks::Blocks, error::DevnetError, node::Node, options::DevnetOptions, rules::quantity, server,
    upstream::Upstream,
};

/// A running chain. Dropping it ends it, anvil included; [`Devnet::stop`] also lets anvil write its state.
#[derive(Debug)]
pub struct Devnet {
    address: SocketAddr,
    node: Arc<Node>,
    /// None in front of an `--upstream`.
    anvil: Option<Anvil>,
    server: JoinHandle<std::io::Result<()>>,
    miner: JoinHandle<()>,
}

impl Devnet {
    /// Starts anvil if there is none to sit in front of, takes over from its miner, and listens.
    pub async fn start(options: DevnetOptions) -> Result<Self, DevnetError> {
        let address = options.listen;
        // First of all: a taken port should not cost the start of a chain.
        let listener = TcpListener::bind(address).await.map_err(|source| DevnetError::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| DevnetError::Listen { address, source })?;
        let anvil = match &options.upstream {
            Some(_) => None,
            None => Some(Anvil::start(&options).await?),
        };
        let url = options.upstream.as_deref().or(anvil.as_ref().map(Anvil::url)).unwrap_or_default();
        let (upstream, blocks) = connect(url, options.chain_id).await?;
        let node = Arc::new(Node::new(upstream, blocks, options.chain_id, options.address_form()));
        let server = tokio::spawn(serve(listener, node.clone()));
        let miner = tokio::spawn(make_blocks(node.clone(), options.block_time));
        Ok(Devnet { address, node, anvil, server, miner })
    }

    /// Where JSON-RPC is answered.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes blocks, with `seconds` of chain time between them where given; the number of the newest.
    pub async fn mine(&self, blocks: u64, seconds: Option<u64>) -> Result<u64, super::rules::jsonrpc::RpcError> {
        self.node.mine(blocks, seconds).await
    }

    /// Serves until `stop`, or until anvil or the server ends on its own, which is an error.
    pub async fn until(mut self, stop: impl Future<Output = ()>) -> Result<(), DevnetError> {
        let outcome = tokio::select! {
            () = stop => Ok(()),
            error = gone(self.anvil.as_mut()) => Err(error),
            ended = &mut self.server => {
                Err(DevnetError::Server(ended.unwrap_or_else(|error| Err(error.into())).err().unwrap_or_else(|| {
                    std::io::Error::other("it stopped listening")
                })))
            }
        };
        self.stop().await;
        outcome
    }

    /// Ends server and miner, then anvil.
    pub async fn stop(mut self) {
        self.server.abort();
        self.miner.abort();
        if let Some(anvil) = self.anvil.take() {
            anvil.stop().await;
        }
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        self.server.abort();
        self.miner.abort();
    }
}

async fn gone(anvil: Option<&mut Anvil>) -> DevnetError {
    match anvil {
        Some(anvil) => anvil.gone().await,
        None => std::future::pending().await,
    }
}

async fn connect(url: &str, chain_id: u64) -> Result<(Upstream, Blocks), DevnetError> {
    let unusable = |detail: String| DevnetError::Upstream { url: url.to_owned(), detail };
    let upstream = Upstream::new(url).map_err(|error| unusable(error.to_string()))?;
    let found = upstream.request("eth_chainId", json!([])).await.map_err(|error| DevnetError::upstream(url, &error))?;
    let found = quantity(&found).ok_or_else(|| unusable("its chain id is no number".to_owned()))?;
    if found != chain_id {
        return Err(DevnetError::WrongChainId { expected: chain_id, found });
    }
    let blocks = Blocks::take_over(upstream.clone()).await.map_err(|error| DevnetError::upstream(url, &error))?;
    Ok((upstream, blocks))
}

async fn serve(listener: TcpListener, node: Arc<Node>) -> std::io::Result<()> {
    axum::serve(listener, server::router(node)).await
}

/// A block every so many seconds; none at all when that is 0.
async fn make_blocks(node: Arc<Node>, seconds: u64) {
    if seconds == 0 {
        return;
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = node.mine(1, None).await {
            tracing::warn!(%error, "no block was made");
        }
    }
}

/// What the program does: starts, says where, and goes on until it is told to stop.
pub async fn run(options: DevnetOptions) -> Result<(), DevnetError> {
    let stop = stop_signal();
    let devnet = Devnet::start(options.clone()).await?;
    for line in devnet.anvil.iter().flat_map(Anvil::accounts) {
        println!("{line}");
    }
    let rhythm = match options.block_time {
        0 => "blocks on request only".to_owned(),
        seconds => format!("a block every {seconds} s"),
    };
    let behind = devnet.anvil.as_ref().map(Anvil::url).or(options.upstream.as_deref()).unwrap_or_default();
    println!("xdc-devnet: chain {} on {}, {rhythm}; anvil behind it on {behind}", options.chain_id, devnet.url());
    devnet.until(stop).await
}

/// Ctrl-C, a closed terminal, or what `kill` sends.
fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Taken now: what comes while anvil starts is not lost.
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    async move {
        let waits = signals.into_iter().map(|caught| {
            Box::pin(async move {
                match caught {
                    Ok(mut caught) => drop(caught.recv().await),
                    Err(_) => std::future::pending().await,
                }
            })
        });
        futures::future::select_all(waits).await;
    }
}
