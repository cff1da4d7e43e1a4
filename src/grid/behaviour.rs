//! What the node speaks. Order matters: behaviours that may deny a connection come first, so that none after them holds
//! state of a connection that never was.

use std::time::Duration;

use libp2p::{
    PeerId, StreamProtocol, allow_block_list,
    connection_limits::{self, ConnectionLimits},
    gossipsub, identify,
    identity::Keypair,
    kad, memory_connection_limits, ping,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use super::{
    adverts, connection_rate,
    error::GridError,
    exchange::{
        AssignExchange, AuthExchange, ChallengeExchange, Exchange, ExchangeBehaviour, InfoExchange, JobExchange,
    },
    limits::{GridLimits, frame_limit},
    metrics::Metrics,
    start::{GridConfig, Role},
    streams,
};
use crate::protocol::names::{Net, Protocol};

/// Largest number of routing records kept for others.
const MAX_RECORDS: usize = 1024;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub limits: connection_limits::Behaviour,
    pub connection_rate: connection_rate::Behaviour,
    pub memory: Toggle<memory_connection_limits::Behaviour>,
    pub blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub kad: kad::Behaviour<kad::store::MemoryStore>,
    pub gossip: adverts::Gossip,
    pub auth: ExchangeBehaviour<AuthExchange>,
    pub assign: ExchangeBehaviour<AssignExchange>,
    pub job: ExchangeBehaviour<JobExchange>,
    pub challenge: ExchangeBehaviour<ChallengeExchange>,
    pub info: ExchangeBehaviour<InfoExchange>,
    pub streams: streams::Behaviour,
}

impl Behaviour {
    pub(super) fn new(keypair: &Keypair, config: &GridConfig, metrics: &Metrics) -> Result<Self, GridError> {
        let net = config.network.net();
        let (role, limits) = (config.role, &config.limits);
        let times = limits.answer_times;
        let invalid = |error: libp2p::swarm::InvalidProtocol| GridError::Transport(error.to_string());
        let accepted = match role {
            Role::Gateway => vec![Protocol::Blob],
            Role::Worker => vec![Protocol::Infer, Protocol::Audit, Protocol::Blob],
        };
        let accepted = accepted.into_iter().map(|protocol| StreamProtocol::try_from_owned(protocol.name(&net)));
        Ok(Behaviour {
            limits: connection_limits::Behaviour::new(connection_limits(limits)),
            connection_rate: connection_rate::Behaviour::new(limits.connections_per_ip, metrics.clone()),
            memory: memory(config.memory_limit_bytes),
            blocked: allow_block_list::Behaviour::default(),
            identify: identify(keypair, config, &net),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(Duration::from_secs(5)).with_timeout(Duration::from_secs(5)),
            ),
            kad: kad(keypair.public().to_peer_id(), role, &net).map_err(invalid)?,
            gossip: adverts::gossip(keypair, role, &net)?,
            auth: AuthExchange::build(&net, role, 4, times.auth).map_err(invalid)?,
            assign: AssignExchange::build(&net, role, 4, times.assign).map_err(invalid)?,
            job: JobExchange::build(&net, role, 256, times.job).map_err(invalid)?,
            challenge: ChallengeExchange::build(&net, role, 8, times.challenge).map_err(invalid)?,
            info: InfoExchange::build(&net, role, 4, times.info).map_err(invalid)?,
            streams: streams::Behaviour::new(accepted.collect::<Result<_, _>>().map_err(invalid)?),
        })
    }
}

fn connection_limits(limits: &GridLimits) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending_incoming))
        .with_max_pending_outgoing(Some(limits.pending_outgoing))
        .with_max_established(Some(limits.established))
        .with_max_established_per_peer(Some(limits.established_per_peer))
}

fn memory(bytes: Option<u64>) -> Toggle<memory_connection_limits::Behaviour> {
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    bytes.map(memory_connection_limits::Behaviour::with_max_bytes).into()
}

fn identify(keypair: &Keypair, config: &GridConfig, net: &Net) -> identify::Behaviour {
    // The version names the network: what a stranger's tool prints first then says which grid this is.
    let settings = identify::Config::new(format!("xdc-grid/{net}"), keypair.public())
        .with_agent_version(config.software.clone())
        .with_hide_listen_addrs(config.role == Role::Worker);
    identify::Behaviour::new(settings)
}

/// Routing only. Inserts are manual: a peer found on the way is not yet one of ours.
fn kad(
    peer: PeerId,
    role: Role,
    net: &Net,
) -> Result<kad::Behaviour<kad::store::MemoryStore>, libp2p::swarm::InvalidProtocol> {
    let mut config = kad::Config::new(StreamProtocol::try_from_owned(Protocol::Kad.name(net))?);
    config
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_max_packet_size(frame_limit(Protocol::Kad));
    let store = kad::store::MemoryStoreConfig { max_records: MAX_RECORDS, ..Default::default() };
    let mut kad = kad::Behaviour::with_config(peer, kad::store::MemoryStore::with_config(peer, store), config);
    // Without this it would wait for a confirmed external address, which a node behind NAT never has.
    kad.set_mode(Some(match role {
        Role::Gateway => kad::Mode::Server,
        Role::Worker => kad::Mode::Client,
    }));
    Ok(kad)
}

/// What identify says about a peer's protocols.
pub(super) fn other_network<'a>(info: &'a identify::Info, net: &Net) -> Option<&'a str> {
    let nets: Vec<_> = info.protocols.iter().filter_map(|name| crate::protocol::names::net_of(name.as_ref())).collect();
    let ours = net.to_string();
    if nets.contains(&ours.as_str()) { None } else { nets.first().copied() }
}

/// So that other rooms of this folder need not know which crate it is from.
pub(super) type GossipMessage = gossipsub::Message;
