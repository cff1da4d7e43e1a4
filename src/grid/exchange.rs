//! The request-response protocols as types: what each sends, its limits, and where the swarm keeps it.

use std::{collections::HashMap, time::Duration};

use libp2p::{
    StreamProtocol,
    request_response::{self, OutboundRequestId, ProtocolSupport, ResponseChannel},
};
use prost::Message;
use tokio::{sync::oneshot, time::Instant};

use super::{
    behaviour::Behaviour,
    codec::MessageCodec,
    error::{FrameError, RequestError},
    limits::frame_limit,
    refusal::Refusable,
    start::Role,
};
use crate::protocol::{
    names::{Net, Protocol},
    wire,
};

/// The libp2p behaviour of one exchange.
pub(super) type ExchangeBehaviour<X> =
    request_response::Behaviour<MessageCodec<<X as Exchange>::Request, <X as Exchange>::Response>>;
/// Its events.
pub(super) type ExchangeEvent<X> = request_response::Event<
    Result<<X as Exchange>::Request, FrameError>,
    Result<<X as Exchange>::Response, FrameError>,
>;
/// Where an answer goes.
pub(super) type AnswerChannel<X> = ResponseChannel<Result<<X as Exchange>::Response, FrameError>>;

/// A request-response protocol.
pub(super) trait Exchange: Sized + Send + 'static {
    type Request: Message + Default + Send + 'static;
    type Response: Message + Default + Refusable + Send + 'static;
    const PROTOCOL: Protocol;
    /// Who asks.
    const ASKER: Role;

    fn behaviour(behaviour: &mut Behaviour) -> &mut ExchangeBehaviour<Self>;
    fn pending(pending: &mut Pending) -> &mut PendingOf<Self>;

    /// The behaviour for a node of `role`: it only offers the side that it plays. `time`: from the first byte of a request to the last
    /// of its answer.
    fn build(
        net: &Net,
        role: Role,
        streams: usize,
        time: Duration,
    ) -> Result<ExchangeBehaviour<Self>, libp2p::swarm::InvalidProtocol> {
        let name = StreamProtocol::try_from_owned(Self::PROTOCOL.name(net))?;
        let support = if role == Self::ASKER { ProtocolSupport::Outbound } else { ProtocolSupport::Inbound };
        let config =
            request_response::Config::default().with_request_timeout(time).with_max_concurrent_streams(streams);
        let codec = MessageCodec::new(frame_limit(Self::PROTOCOL));
        Ok(request_response::Behaviour::with_codec(codec, [(name, support)], config))
    }
}

/// A request from this process, with the place for its answer.
pub(super) struct Ask<X: Exchange> {
    pub peer: crate::api::ids::GridPeerId,
    pub request: X::Request,
    pub reply: oneshot::Sender<Result<X::Response, RequestError>>,
}

impl<X: Exchange> std::fmt::Debug for Ask<X> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ask({}, {})", X::PROTOCOL.part(), self.peer)
    }
}

/// One exchange's requests that wait for an answer. Every way a request can end removes it here and completes its asker.
pub(super) type PendingOf<X> =
    HashMap<OutboundRequestId, (Instant, oneshot::Sender<Result<<X as Exchange>::Response, RequestError>>)>;

/// All requests that wait for an answer.
#[derive(Default)]
pub(super) struct Pending {
    assign: PendingOf<AssignExchange>,
    job: PendingOf<JobExchange>,
    challenge: PendingOf<ChallengeExchange>,
    info: PendingOf<InfoExchange>,
    /// Authentication keeps its state with the peer.
    auth: PendingOf<AuthExchange>,
}

macro_rules! exchange {
    ($name:ident, $field:ident, $protocol:ident, $asker:ident, $request:ident, $response:ident) => {
        #[derive(Debug)]
        pub(super) struct $name;

        impl Exchange for $name {
            type Request = wire::$request;
            type Response = wire::$response;
            const PROTOCOL: Protocol = Protocol::$protocol;
            const ASKER: Role = Role::$asker;

            fn behaviour(behaviour: &mut Behaviour) -> &mut ExchangeBehaviour<Self> {
                &mut behaviour.$field
            }

            fn pending(pending: &mut Pending) -> &mut PendingOf<Self> {
                &mut pending.$field
            }
        }
    };
}

exchange!(AuthExchange, auth, Auth, Worker, AuthRequest, AuthResponse);
exchange!(AssignExchange, assign, Assign, Gateway, Assign, AssignReply);
exchange!(JobExchange, job, Job, Gateway, Offer, OfferReply);
exchange!(ChallengeExchange, challenge, Challenge, Gateway, ChallengeRequest, ChallengeReply);
exchange!(InfoExchange, info, Info, Gateway, InfoRequest, InfoReply);

/// An answer on its way from a handler's task back to the swarm.
pub(super) enum Answer {
    Assign(AnswerChannel<AssignExchange>, wire::AssignReply),
    Job(AnswerChannel<JobExchange>, wire::OfferReply),
    Challenge(AnswerChannel<ChallengeExchange>, wire::ChallengeReply),
    Info(AnswerChannel<InfoExchange>, wire::InfoReply),
}
