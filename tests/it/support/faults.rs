//! Faults at a chosen call: a tower layer over the kube client, and the same plan around a chain's RPC. A call can be lost, be
//! answered into the void, be late, come twice, be refused, or be the last thing that its process ever did. A process that
//! died stays dead: none of its calls ends any more, until the test drops it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context as Task, Poll},
    time::Duration,
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use serde_json::json;
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
}

type Choose = Box<dyn Fn(&Call) -> Option<Fault> + Send + Sync>;

struct State {
    choose: Choose,
    calls: AtomicUsize,
    writes: AtomicUsize,
    hit: Mutex<Option<Call>>,
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
            calls: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            hit: Mutex::new(None),
            away: AtomicBool::new(false),
            dead: watch::Sender::new(false),
            asleep: watch::Sender::new(false),
        }))
    }

    /// `fault` at the `n`-th call that changes something, counted from 0.
    pub fn at_write(n: usize, fault: Fault) -> Self {
        Faults::choosing(move |call| (call.write == Some(n)).then_some(fault))
    }

    /// From now on nothing arrives, or everything again.
    pub fn set_away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    /// The call that the fault happened to; `None` while it did not.
    pub fn hit(&self) -> Option<Call> {
        self.0.hit.lock().unwrap().clone()
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
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

    fn next(&self, name: String, body: String, is_write: bool) -> Option<Fault> {
        let index = self.0.calls.fetch_add(1, Ordering::SeqCst);
        let write = is_write.then(|| self.0.writes.fetch_add(1, Ordering::SeqCst));
        let call = Call { index, write, name, body };
        let fault = (self.0.choose)(&call);
        if fault.is_some() {
            self.0.hit.lock().unwrap().get_or_insert_with(|| call.clone());
        }
        fault
    }

    async fn stay_dead(&self) {
        if *self.0.dead.borrow() {
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
        name: String,
        body: String,
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
        let fault = self.next(name, body, is_write);
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
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, kube::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let FaultyServer { faults, inner } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let is_write = parts.method != Method::GET;
            let bytes = if is_write { body.collect_bytes().await? } else { bytes::Bytes::new() };
            let name = format!("{} {}", parts.method, parts.uri.path());
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let act = move || {
                let body = if bytes.is_empty() { Body::empty() } else { Body::from(bytes.to_vec()) };
                let (inner, request) = (inner.clone(), Request::from_parts(parts.clone(), body));
                async move { inner.send(request).await }
            };
            faults.around(name, text, is_write, act, broken, |status| Ok(refusal(status))).await
        })
    }
}

/// How kube reports a connection that broke.
fn broken() -> kube::Error {
    kube::Error::Service("the connection broke".into())
}

fn refusal(code: u16) -> Response<Body> {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": format!("injected {code}"),
    });
    Response::builder().status(code).body(Body::from(status.to_string().into_bytes())).unwrap()
}
