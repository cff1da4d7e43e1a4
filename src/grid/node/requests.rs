//! Requests: ours on their way out, others' on their way to the service.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    PeerId,
    request_response::{Event, InboundFailure, Message, OutboundFailure},
};
use tokio::{sync::Semaphore, time::Instant};
use tracing::debug;

use super::{Node, Service, respond};
use crate::{
    api::ids::GridPeerId,
    grid::{
        error::{FrameError, RequestError},
        exchange::{
            Answer, AnswerChannel, Ask, AssignExchange, ChallengeExchange, Exchange, ExchangeEvent, InfoExchange,
            JobExchange,
        },
        identity::libp2p_id,
        peers::Standing,
        refusal::{Reason, Refusable, Refusal},
    },
    protocol::wire::{InfoReply, info_reply},
};

/// How the service answers one kind of request.
type Run<X> = fn(&dyn Service, GridPeerId, <X as Exchange>::Request) -> BoxFuture<'static, <X as Exchange>::Response>;
/// Which answer it becomes.
type Wrap<X> = fn(AnswerChannel<X>, <X as Exchange>::Response) -> Answer;

impl Node {
    /// Sends a request, or says at once why not.
    pub(super) fn ask<X: Exchange>(&mut self, ask: Ask<X>) {
        let Ask { peer, request, reply } = ask;
        let Some(peer) = libp2p_id(&peer).filter(|peer| self.peers.standing(peer) == Standing::Authenticated) else {
            return respond(reply, Err(RequestError::NotConnected));
        };
        if !self.peers.take_outbound(&peer, X::PROTOCOL, std::time::Instant::now()) {
            return respond(reply, Err(RequestError::RateLimited));
        }
        let id = X::behaviour(self.swarm.behaviour_mut()).send_request(&peer, Ok(request));
        X::pending(&mut self.pending).insert(id, (Instant::now(), reply));
    }

    pub(super) fn assign_event(&mut self, event: ExchangeEvent<AssignExchange>) {
        self.exchange_event::<AssignExchange>(
            event,
            |service, peer, request| service.on_assign(peer, request),
            Answer::Assign,
        );
    }

    pub(super) fn job_event(&mut self, event: ExchangeEvent<JobExchange>) {
        self.exchange_event::<JobExchange>(
            event,
            |service, peer, request| service.on_offer(peer, request),
            Answer::Job,
        );
    }

    pub(super) fn challenge_event(&mut self, event: ExchangeEvent<ChallengeExchange>) {
        self.exchange_event::<ChallengeExchange>(
            event,
            |service, peer, request| service.on_challenge(peer, request),
            Answer::Challenge,
        );
    }

    pub(super) fn info_event(&mut self, event: ExchangeEvent<InfoExchange>) {
        let run: Run<InfoExchange> = |service, peer, _| {
            let info = service.on_info(peer);
            info.map(|info| InfoReply { kind: Some(info_reply::Kind::Info(info)) }).boxed()
        };
        self.exchange_event::<InfoExchange>(event, run, Answer::Info);
    }

    fn exchange_event<X: Exchange>(&mut self, event: ExchangeEvent<X>, run: Run<X>, wrap: Wrap<X>) {
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                if let Err((channel, refusal)) = self.serve::<X>(peer, request, channel, run, wrap) {
                    let answer = X::Response::from_refused(refusal.wire.clone());
                    self.refuse(peer, X::PROTOCOL.part(), refusal);
                    let _ = X::behaviour(self.swarm.behaviour_mut()).send_response(channel, Ok(answer));
                }
            }
            Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                if let Some(refusal) = response.as_ref().err().and_then(Refusal::of_frame) {
                    self.refuse(peer, X::PROTOCOL.part(), refusal);
                }
                self.complete::<X>(request_id, response.map_err(RequestError::Frame));
            }
            Event::OutboundFailure { request_id, error, .. } => self.complete::<X>(request_id, Err(outbound(error))),
            Event::InboundFailure { peer, error, .. } => {
                if !matches!(error, InboundFailure::ConnectionClosed) {
                    debug!(%peer, protocol = X::PROTOCOL.part(), %error, "a request was not answered");
                }
            }
            Event::ResponseSent { .. } => {}
        }
    }

    fn complete<X: Exchange>(
        &mut self,
        id: libp2p::request_response::OutboundRequestId,
        outcome: Result<X::Response, RequestError>,
    ) {
        let Some((asked, reply)) = X::pending(&mut self.pending).remove(&id) else { return };
        let label = if outcome.is_ok() { "answered" } else { "failed" };
        self.metrics.request(X::PROTOCOL, label, asked.elapsed().as_secs_f64());
        respond(reply, outcome);
    }

    /// Gives a request to the service in a task of its own, or says why not.
    fn serve<X: Exchange>(
        &mut self,
        peer: PeerId,
        request: Result<X::Request, FrameError>,
        channel: AnswerChannel<X>,
        run: Run<X>,
        wrap: Wrap<X>,
    ) -> Result<(), (AnswerChannel<X>, Refusal)> {
        let (id, request) = match self.checked::<X>(&peer, request) {
            Ok(checked) => checked,
            Err(refusal) => return Err((channel, refusal)),
        };
        let limit = self.serving.limit;
        let places = self.serving.places.entry(X::PROTOCOL).or_insert_with(|| Arc::new(Semaphore::new(limit)));
        let (Ok(place), Some(service)) = (places.clone().try_acquire_owned(), self.serving.service.as_deref()) else {
            let message = format!("{limit} {} requests are being answered already", X::PROTOCOL.part());
            return Err((channel, Refusal::retry(Reason::Busy, message, Duration::from_millis(500))));
        };
        let answer = run(service, id, request);
        let answers = self.serving.answers.clone();
        tokio::spawn(async move {
            let answer = wrap(channel, answer.await);
            drop(place);
            // Fails only when the swarm task has ended.
            let _ = answers.send(answer).await;
        });
        Ok(())
    }

    fn checked<X: Exchange>(
        &mut self,
        peer: &PeerId,
        request: Result<X::Request, FrameError>,
    ) -> Result<(GridPeerId, X::Request), Refusal> {
        let id = self.peers.id(peer).filter(|_| self.peers.standing(peer) >= Standing::Trusted);
        let Some(id) = id else {
            return Err(Refusal::new(Reason::NotAuthenticated, "authenticate first"));
        };
        self.peers.take_inbound(peer, X::PROTOCOL, std::time::Instant::now())?;
        let request = request.map_err(|error| {
            Refusal::of_frame(&error).unwrap_or_else(|| Refusal::new(Reason::MalformedFrame, error.to_string()))
        })?;
        Ok((id, request))
    }

    /// An answer came back from the service.
    pub(super) fn answer(&mut self, answer: Answer) {
        let behaviour = self.swarm.behaviour_mut();
        // An error means that the asker has gone or its time is up.
        let _ = match answer {
            Answer::Assign(channel, reply) => behaviour.assign.send_response(channel, Ok(reply)).is_ok(),
            Answer::Job(channel, reply) => behaviour.job.send_response(channel, Ok(reply)).is_ok(),
            Answer::Challenge(channel, reply) => behaviour.challenge.send_response(channel, Ok(reply)).is_ok(),
            Answer::Info(channel, reply) => behaviour.info.send_response(channel, Ok(reply)).is_ok(),
        };
    }
}

fn outbound(error: OutboundFailure) -> RequestError {
    match error {
        OutboundFailure::DialFailure => RequestError::NotConnected,
        OutboundFailure::Timeout => RequestError::Timeout,
        OutboundFailure::ConnectionClosed => RequestError::ConnectionClosed,
        OutboundFailure::UnsupportedProtocols => RequestError::Unsupported,
        OutboundFailure::Io(error) => RequestError::Frame(FrameError::Io(error)),
    }
}
