//! An API server that answers GETs from a table: what the command asked for that is not in it is a 404.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use xdc_grid::cli::session::Session;

/// Objects by path, and what was asked.
#[derive(Clone, Default)]
pub struct FakeApi {
    objects: BTreeMap<String, Value>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeApi {
    pub fn with(mut self, path: &str, object: Value) -> Self {
        self.objects.insert(path.into(), object);
        self
    }

    /// Objects of a kind, as its list.
    pub fn with_list(self, path: &str, items: Vec<Value>) -> Self {
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items});
        self.with(path, list)
    }

    pub fn session(&self, namespace: &str) -> Session {
        Session { client: self.client(namespace), namespace: namespace.into() }
    }

    pub fn client(&self, namespace: &str) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = fake.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        Client::new(service, namespace)
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        self.asked.lock().unwrap().push(format!("{} {path}", request.method()));
        let (status, body) = match self.objects.get(path).filter(|_| request.method() == http::Method::GET) {
            Some(object) => (200, object.clone()),
            None => (404, missing(path)),
        };
        let body = serde_json::to_vec(&body).unwrap();
        Response::builder().status(status).header("content-type", "application/json").body(Body::from(body)).unwrap()
    }
}

fn missing(path: &str) -> Value {
    let name = path.rsplit('/').next().unwrap();
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
        "message": format!("{name:?} not found"), "details": {"name": name}
    })
}
