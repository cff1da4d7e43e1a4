//! ContributionReport: closes epochs, writes down what they amount to, and takes the report to the chain.

pub mod leaves;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::context::Context;

pub async fn run(_: Arc<Context>, stop: CancellationToken) {
    stop.cancelled().await;
}
