//! Three endpoints of one chain, each of which can refuse, lose, repeat, lag or lie.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use alloy::primitives::{B256, Bytes, keccak256};
use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

/// What happens to one question on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFault {
    TooManyRequests,
    LoseRequest,
    /// It is carried out, and the answer is lost.
    LoseAnswer,
    Duplicate,
    Garbage,
}

impl WireFault {
    pub const ALL: [WireFault; 5] = [
        WireFault::TooManyRequests,
        WireFault::LoseRequest,
        WireFault::LoseAnswer,
        WireFault::Duplicate,
        WireFault::Garbage,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// It stands still some blocks back, and drops what it is sent.
    Stale,
    /// It makes up final blocks, receipts, nonces, balances, gas and the contract's state, and drops what it is sent.
    Invents,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finality {
    /// The same block for everybody, however long the chain gets.
    Frozen,
    /// An error, as after a restart of the node.
    Lost,
}

#[derive(Default)]
struct Shared {
    finality: Mutex<Option<(Finality, u64)>>,
    /// Questions until one is never answered.
    hang_in: Mutex<Option<u64>>,
    hangs: watch::Sender<bool>,
}

struct Endpoint {
    upstream: String,
    http: reqwest::Client,
    shared: Arc<Shared>,
    faults: Mutex<VecDeque<WireFault>>,
    lie: Mutex<Option<Lie>>,
}

pub struct Proxies {
    endpoints: Vec<(String, Arc<Endpoint>)>,
    shared: Arc<Shared>,
    servers: Vec<JoinHandle<()>>,
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

impl Proxies {
    pub async fn start(upstream: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let (mut endpoints, mut servers) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let endpoint = Arc::new(Endpoint {
                upstream: upstream.to_owned(),
                http: reqwest::Client::new(),
                shared: shared.clone(),
                faults: Mutex::default(),
                lie: Mutex::default(),
            });
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let app = Router::new().route("/", post(relay)).with_state(endpoint.clone());
            servers.push(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }));
            endpoints.push((url, endpoint));
        }
        Proxies { endpoints, shared, servers }
    }

    pub fn urls(&self) -> Vec<String> {
        self.endpoints.iter().map(|(url, _)| url.clone()).collect()
    }

    pub fn spoil(&self, endpoint: usize, fault: WireFault) {
        self.endpoints[endpoint].1.faults.lock().unwrap().push_back(fault);
    }

    /// One liar at a time: of three endpoints two are honest.
    pub fn lie(&self, endpoint: usize, lie: Lie) {
        for (index, (_, found)) in self.endpoints.iter().enumerate() {
            *found.lie.lock().unwrap() = (index == endpoint).then_some(lie);
        }
    }

    pub fn set_finality(&self, finality: Finality, at: u64) {
        *self.shared.finality.lock().unwrap() = Some((finality, at));
    }

    pub fn calm(&self) {
        *self.shared.finality.lock().unwrap() = None;
        for (_, endpoint) in &self.endpoints {
            *endpoint.lie.lock().unwrap() = None;
            endpoint.faults.lock().unwrap().clear();
        }
    }

    pub fn hang_at(&self, question: u64) {
        *self.shared.hang_in.lock().unwrap() = Some(question);
    }

    pub async fn hangs(&self) {
        let _ = self.shared.hangs.subscribe().wait_for(|hangs| *hangs).await;
    }

    pub fn go_on(&self) {
        *self.shared.hang_in.lock().unwrap() = None;
        self.shared.hangs.send_replace(false);
    }
}

async fn relay(State(endpoint): State<Arc<Endpoint>>, body: axum::body::Bytes) -> Response {
    let mut question: Value = serde_json::from_slice(&body).unwrap();
    let hang = endpoint.is_to_hang();
    let fault = endpoint.faults.lock().unwrap().pop_front();
    match fault {
        Some(WireFault::TooManyRequests) => return StatusCode::TOO_MANY_REQUESTS.into_response(),
        Some(WireFault::LoseRequest) => return StatusCode::BAD_GATEWAY.into_response(),
        Some(WireFault::Garbage) => return "<html>".into_response(),
        _ => {}
    }
    let answer = endpoint.answer(&mut question).await;
    if fault == Some(WireFault::Duplicate) {
        let _ = endpoint.answer(&mut question).await;
    }
    if hang {
        endpoint.shared.hangs.send_replace(true);
        // Long enough for the caller to be gone.
        let _ = endpoint.shared.hangs.subscribe().wait_for(|hangs| !hangs).await;
    }
    match fault {
        Some(WireFault::LoseAnswer) => StatusCode::BAD_GATEWAY.into_response(),
        _ => axum::Json(answer).into_response(),
    }
}

fn hex(number: u64) -> Value {
    json!(format!("{number:#x}"))
}

impl Endpoint {
    fn is_to_hang(&self) -> bool {
        let mut left = self.shared.hang_in.lock().unwrap();
        match *left {
            Some(0) => left.take().is_some(),
            Some(n) => {
                *left = Some(n - 1);
                false
            }
            None => false,
        }
    }

    async fn answer(&self, question: &mut Value) -> Value {
        let id = question["id"].clone();
        let of = |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
        let lie = *self.lie.lock().unwrap();
        let method = question["method"].as_str().unwrap().to_owned();
        if let Some(lie) = lie {
            match (lie, method.as_str()) {
                (_, "eth_sendRawTransaction") => {
                    let raw: Bytes = serde_json::from_value(question["params"][0].clone()).unwrap();
                    return of(json!(keccak256(raw)));
                }
                (Lie::Stale, "eth_getTransactionReceipt" | "eth_getTransactionByHash") => return of(Value::Null),
                (Lie::Stale, "eth_blockNumber") => return of(hex(self.head().await.saturating_sub(6))),
                (Lie::Stale, _) => self.turn_back(question).await,
                (Lie::Invents, method) => {
                    let truth = self.forward(question).await;
                    return self.invent(method, question, truth).await;
                }
            }
        }
        let finality = *self.shared.finality.lock().unwrap();
        if let Some((finality, at)) = finality
            && method == "eth_getBlockByNumber"
            && question["params"][0] == "finalized"
        {
            match finality {
                Finality::Frozen => question["params"][0] = hex(at),
                Finality::Lost => {
                    let error = json!({"code": -32000, "message": "method handler crashed"});
                    return json!({"jsonrpc": "2.0", "id": id, "error": error});
                }
            }
        }
        self.forward(question).await
    }

    /// Asks about a state of some blocks ago instead of the newest.
    async fn turn_back(&self, question: &mut Value) {
        let head = self.head().await;
        for parameter in question["params"].as_array_mut().into_iter().flatten() {
            match parameter.as_str() {
                Some("latest") => *parameter = hex(head.saturating_sub(6)),
                Some("finalized") => *parameter = hex(head.saturating_sub(8)),
                _ => {}
            }
        }
    }

    async fn invent(&self, method: &str, question: &Value, mut truth: Value) -> Value {
        let false_hash = json!(B256::repeat_byte(0xbd));
        match method {
            "eth_getTransactionReceipt" => {
                let head = self.head().await;
                truth["result"] = json!({
                    "transactionHash": question["params"][0], "blockNumber": hex(head), "blockHash": false_hash,
                    "status": hex(head % 2), "gasUsed": "0x5208",
                });
            }
            "eth_getBlockByNumber" if question["params"][0] == "finalized" => {
                let head = self.head().await;
                truth["result"] = json!({"number": hex(head + 3), "hash": false_hash, "timestamp": hex(1)});
            }
            "eth_getTransactionCount" => truth["result"] = hex(1_000),
            "eth_estimateGas" => truth["result"] = json!("0x7530"),
            "eth_getBalance" => truth["result"] = json!("0x0"),
            "eth_call" => truth["result"] = json!(Bytes::from(vec![1; 512])),
            _ => {}
        }
        truth
    }

    async fn head(&self) -> u64 {
        let question = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []});
        let digits = self.forward(&question).await["result"].as_str().unwrap().trim_start_matches("0x").to_owned();
        u64::from_str_radix(&digits, 16).unwrap()
    }

    async fn forward(&self, question: &Value) -> Value {
        self.http.post(&self.upstream).json(question).send().await.unwrap().json().await.unwrap()
    }
}
