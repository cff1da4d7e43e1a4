//! Faults at a chosen call: a tower layer over the kube client, and the same plan around a chain's RPC. A call can be lost, be
//! answered into the void, be late, come twice, be refused, or be the last thing that its process ever did. A process that
//! died stays dead: none of its calls ends any more, until the test drops it.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context as Task, Poll},
    time::Duration,
};

use axum::body::Body as AnswerBody;
use futures::StreamExt;
use http::{Method, Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It never arrives, and the caller is told that the connection broke.
    LoseRequest,
    /// It is carried out, and the caller is told that the connection broke.
    LoseAnswer,
    /// It is carried out after others had their turn.
    Delay,
    /// It is carried out twice, as a proxy that retries does; the caller sees the second answer.
    Duplicate,
    /// The server refuses it with this HTTP status.
    Refuse(u16),
    /// The process stops before the call leaves, and goes on when it is woken.
    Sleep,
    /// The process dies before the call leaves.
    DieBefore,
    /// The process dies after the call was carried out.
    DieAfter,
}

impl Fault {
    pub const ALL: [Fault; 9] = [
        Fault::LoseRequest,
        Fault::LoseAnswer,
        Fault::Delay,
        Fault::Duplicate,
        Fault::Refuse(409),
        Fault::Refuse(429),
        Fault::Refuse(500),
        Fault::DieBefore,
        Fault::DieAfter,
    ];
}

/// One call as the plan sees it.
#[derive(Debug, Clone)]
pub struct Call {
    /// Counted from 0 over all calls of a process.
    pub index: usize,
    /// Counted from 0 over the calls that change something.
    pub write: Option<usize>,
    /// `PATCH /apis/xdcgrid.io/…`, or the method of an RPC.
    pub name: String,
    /// The body of a write, empty otherwise.
    pub body: String,
    /// It opens a watch.
    pub watch: bool,
    /// It asks for objects with certain labels only.
    pub selects: bool,
}

impl Call {
    /// A call by its name alone.
    pub fn named(name: impl Into<String>) -> Self {
        Call { index: 0, write: None, name: name.into(), body: String::new(), watch: false, selects: false }
    }
}

type Choose = Box<dyn Fn(&Call) -> Option<Fault> + Send + Sync>;
type Loses = Box<dyn Fn(&Call) -> bool + Send + Sync>;

struct State {
    choose: Choose,
    loses_events: OnceLock<Loses>,
    lost_events: Mutex<BTreeSet<String>>,
    calls: AtomicUsize,
    writes: AtomicUsize,
    hits: Mutex<Vec<(Fault, Call)>>,
    away: AtomicBool,
    dead: watch::Sender<bool>,
    asleep: watch::Sender<bool>,
}

/// The faults of one process. Clones are the same process.
#[derive(Clone)]
pub struct Faults(Arc<State>);

impl Faults {
    pub fn none() -> Self {
        Faults::choosing(|_| None)
    }

    /// `choose` is asked before every call.
    pub fn choosing(choose: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Faults(Arc::new(State {
            choose: Box::new(choose),
            loses_events: OnceLock::new(),
            lost_events: Mutex::default(),
            calls: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            hits: Mutex::default(),
            away: AtomicBool::new(false),
            dead: watch::Sender::new(false),
            asleep: watch::Sender::new(false),
        }))
    }

    /// `fault` at the `n`-th call that changes something, counted from 0.
    pub fn at_write(n: usize, fault: Fault) -> Self {
        Faults::choosing(move |call| (call.write == Some(n)).then_some(fault))
    }

    /// The watches that `loses` names never tell their first event: instead they end, as one does whose version is gone. `loses` is
    /// asked for every watch that began.
    pub fn losing_events(self, loses: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Self {
        let _ = self.0.loses_events.set(Box::new(loses));
        self
    }

    /// From now on nothing arrives, or everything again.
    pub fn set_away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    /// The first call that a fault happened to; `None` while none did.
    pub fn hit(&self) -> Option<Call> {
        self.0.hits.lock().unwrap().first().map(|(_, call)| call.clone())
    }

    /// What happened to which calls, in words.
    pub fn told(&self) -> Vec<String> {
        let hits = self.0.hits.lock().unwrap();
        hits.iter().map(|(fault, call)| format!("{fault:?} at call {}: {}", call.index, call.name)).collect()
    }

    /// The names of the watches that had something to tell and did not.
    pub fn lost_events(&self) -> BTreeSet<String> {
        self.0.lost_events.lock().unwrap().clone()
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    pub fn is_dead(&self) -> bool {
        *self.0.dead.borrow()
    }

    /// Returns once the process is dead.
    pub async fn died(&self) {
        let _ = self.0.dead.subscribe().wait_for(|dead| *dead).await;
    }

    /// Returns once the process sleeps.
    pub async fn fell_asleep(&self) {
        let _ = self.0.asleep.subscribe().wait_for(|asleep| *asleep).await;
    }

    /// Lets a process that sleeps go on.
    pub fn wake(&self) {
        self.0.asleep.send_replace(false);
    }

    /// `work` as far as the process gets with it: `None` when it died on the way.
    pub async fn until_death<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.died() => None,
            done = work => Some(done),
        }
    }

    /// A client of the same API server that goes through these faults.
    pub fn client(&self, inner: &Client) -> Client {
        Client::new(tower::Layer::layer(self, inner.clone()), inner.default_namespace().to_owned())
    }

    fn next(&self, call: Call, is_write: bool) -> Option<Fault> {
        let index = self.0.calls.fetch_add(1, Ordering::SeqCst);
        let write = is_write.then(|| self.0.writes.fetch_add(1, Ordering::SeqCst));
        let call = Call { index, write, ..call };
        let fault = (self.0.choose)(&call);
        if let Some(fault) = fault {
            self.0.hits.lock().unwrap().push((fault, call));
        }
        fault
    }

    fn without_events(&self, name: String, watch: Response<AnswerBody>) -> Response<AnswerBody> {
        let state = self.0.clone();
        watch.map(|body| {
            let mut events = body.into_data_stream();
            let end = async move {
                let _ = events.next().await;
                state.lost_events.lock().unwrap().insert(name);
                let expired = json!({"type": "ERROR", "object": status(410)});
                Ok::<_, std::convert::Infallible>(format!("{expired}\n"))
            };
            AnswerBody::from_stream(futures::stream::once(end))
        })
    }

    async fn stay_dead(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    async fn die(&self) {
        self.0.dead.send_replace(true);
        std::future::pending::<()>().await;
    }

    async fn sleep(&self) {
        self.0.asleep.send_replace(true);
        let _ = self.0.asleep.subscribe().wait_for(|asleep| !asleep).await;
    }

    /// Carries out `act` with whatever fault is due. `lost` is the error of a broken connection, `refused` that of a status.
    pub async fn around<T, E, F>(
        &self,
        call: Call,
        is_write: bool,
        act: impl Fn() -> F,
        lost: impl Fn() -> E,
        refused: impl Fn(u16) -> Result<T, E>,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.stay_dead().await;
        if self.0.away.load(Ordering::SeqCst) {
            return Err(lost());
        }
        let fault = self.next(call, is_write);
        let outcome = match fault {
            Some(Fault::LoseRequest) => return Err(lost()),
            Some(Fault::Refuse(status)) => return refused(status),
            Some(Fault::DieBefore) => {
                self.die().await;
                return Err(lost());
            }
            Some(Fault::Sleep) => {
                self.sleep().await;
                act().await
            }
            Some(Fault::Delay) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                act().await
            }
            Some(Fault::Duplicate) => {
                let _ = act().await;
                act().await
            }
            Some(Fault::LoseAnswer | Fault::DieAfter) | None => act().await,
        };
        match fault {
            Some(Fault::LoseAnswer) => return Err(lost()),
            Some(Fault::DieAfter) => self.die().await,
            _ => {}
        }
        self.stay_dead().await;
        outcome
    }
}

impl tower::Layer<Client> for Faults {
    type Service = FaultyServer;

    fn layer(&self, inner: Client) -> FaultyServer {
        FaultyServer { faults: self.clone(), inner }
    }
}

/// The API server as a process with faults sees it.
#[derive(Clone)]
pub struct FaultyServer {
    faults: Faults,
    inner: Client,
}

impl tower::Service<Request<Body>> for FaultyServer {
    type Response = Response<AnswerBody>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, kube::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let FaultyServer { faults, inner } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let is_write = parts.method != Method::GET;
            let bytes = if is_write { body.collect_bytes().await? } else { bytes::Bytes::new() };
            let asks = |what| parts.uri.query().is_some_and(|query| query.contains(what));
            let call = Call {
                body: String::from_utf8_lossy(&bytes).into_owned(),
                watch: asks("watch=true"),
                selects: asks("labelSelector="),
                ..Call::named(format!("{} {}", parts.method, parts.uri.path()))
            };
            let watch = call.watch.then(|| call.clone());
            let act = move || {
                let body = if bytes.is_empty() { Body::empty() } else { Body::from(bytes.to_vec()) };
                let (inner, request) = (inner.clone(), Request::from_parts(parts.clone(), body));
                async move { inner.send(request).await.map(|answer| answer.map(AnswerBody::new)) }
            };
            let answer = faults.around(call, is_write, act, broken, |status| Ok(refusal(status))).await?;
            // A watch that was refused never began.
            let begun = watch.filter(|_| answer.status().is_success());
            let lost = begun.filter(|watch| faults.0.loses_events.get().is_some_and(|loses| loses(watch)));
            Ok(match lost {
                Some(watch) => faults.without_events(watch.name, answer),
                None => answer,
            })
        })
    }
}

/// How kube reports a connection that broke.
fn broken() -> kube::Error {
    kube::Error::Service("the connection broke".into())
}

fn refusal(code: u16) -> Response<AnswerBody> {
    Response::builder().status(code).body(AnswerBody::from(status(code).to_string())).unwrap()
}

fn status(code: u16) -> Value {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": format!("injected {code}"), "metadata": {},
    })
}
