//! `grid-worker serve`: a real server with the real model, spoken to over HTTP as its clients do.

mod clients;
mod forms;
mod limits;
mod process;
mod texts;
mod tools;
mod vectors;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use clap::Parser;
use futures::StreamExt;
use reqwest::Response;
use serde_json::{Value, json};
use xdc_grid::worker::{
    AnswerEngine, EngineProvider, EngineSettings, LocalEngines,
    serve::{ServeOptions, Server},
};

use crate::engine::model_path;

const MODEL: &str = "smollm2-135m-instruct";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: ServeOptions,
}

fn options(model: &Path, extra: &[&str]) -> ServeOptions {
    let base = ["serve", model.to_str().unwrap(), "--listen", "127.0.0.1:0", "--kv-budget", "256Mi", "--threads", "2"];
    Cli::parse_from(base.iter().chain(extra)).options
}

/// A server and a client.
struct Serving {
    server: Server,
    client: reqwest::Client,
    address: SocketAddr,
}

impl Serving {
    /// With the test model, ready.
    async fn start(extra: &[&str]) -> Self {
        Self::start_with(&model_path(), extra, Arc::new(LocalEngines)).await.ready().await
    }

    async fn start_with(model: &Path, extra: &[&str], engines: Arc<dyn EngineProvider>) -> Self {
        xdc_grid::telemetry::install_crypto_provider();
        let server = Server::start(options(model, extra), engines).await.unwrap();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(180)).build().unwrap();
        let address = server.address();
        Serving { server, client, address }
    }

    async fn ready(self) -> Self {
        self.until("it is ready", async || self.get("/ready").await.status() == 200).await;
        self
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).json(body).send().await.unwrap()
    }

    /// The body of an answer that must be one.
    async fn ask(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body).await;
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Status and error of a request that must be refused.
    async fn refused(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path, body).await;
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        (status, body["error"].clone())
    }

    /// The value of a metric, summed over its labels.
    async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().unwrap())
        };
        text.lines().filter_map(of).sum()
    }

    async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let waiting = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), waiting)
            .await
            .unwrap_or_else(|_| panic!("{what} in two minutes"));
    }
}

/// A greedy question whose answer is known.
fn capital() -> Value {
    chat("What is the capital of France?", json!({"temperature": 0, "max_tokens": 24}))
}

/// A request whose answer is long.
fn long(tokens: u32) -> Value {
    let bias: Value = json!({"0": -100, "2": -100});
    chat("Tell me a very long story.", json!({"max_tokens": tokens, "seed": 3, "logit_bias": bias, "stream": true}))
}

fn chat(question: &str, extra: Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": question},
    ]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The objects of a stream, and whether it ended with `[DONE]`.
async fn events(response: Response) -> (Vec<Value>, bool) {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let done = data.last() == Some(&"[DONE]");
    let objects = data.iter().filter(|line| **line != "[DONE]").map(|line| serde_json::from_str(line).unwrap());
    (objects.collect(), done)
}

/// Reads a stream until its first object is there, and returns the rest of it.
async fn begun(response: Response) -> impl futures::Stream<Item = reqwest::Result<bytes::Bytes>> {
    assert_eq!(response.status(), 200);
    let mut chunks = Box::pin(response.bytes_stream());
    let first = chunks.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"data: "), "{first:?}");
    chunks
}

/// Loads the real engine once it is told to.
struct Gate(Mutex<mpsc::Receiver<()>>);

impl EngineProvider for Gate {
    fn load(&self, path: &Path, settings: &EngineSettings) -> Result<Arc<dyn AnswerEngine>, String> {
        self.0.lock().unwrap().recv().map_err(|error| error.to_string())?;
        LocalEngines.load(path, settings)
    }
}
