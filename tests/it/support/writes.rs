//! Counts what a client writes, by path. What is asked again and again must not be written again and again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use http::{Method, Request};
use kube::{Client, client::Body};
use tower::util::MapRequestLayer;

/// Writes by path, without the query.
#[derive(Clone, Default)]
pub struct Writes {
    counted: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Writes {
    /// The same client, counted.
    pub fn counting(&self, config: kube::Config) -> Client {
        let writes = self.clone();
        let count = move |request: Request<Body>| {
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                *writes.counted.lock().unwrap().entry(request.uri().path().to_owned()).or_default() += 1;
            }
            request
        };
        let layer = MapRequestLayer::new(count);
        kube::client::ClientBuilder::try_from(config).unwrap().with_layer(&layer).build()
    }

    /// Writes so far to paths that contain `part`.
    pub fn of(&self, part: &str) -> u32 {
        self.counted.lock().unwrap().iter().filter(|(path, _)| path.contains(part)).map(|(_, count)| count).sum()
    }
}
