//! Where a published statement comes from: a file or a URL, compressed with zstd or not.

use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, Read},
    time::Duration,
};

use futures::StreamExt;

use super::{
    Ticker,
    statement::{self, Seen, Statement},
};
use crate::{
    api::ids::{EpochNumber, NodeAddress},
    cli::CliError,
    protocol::names::NetworkId,
};

/// What stands for the number of the epoch.
pub const PLACE: &str = "{epoch}";
/// The largest statement that is fetched, compressed.
const MAX_FETCHED: usize = 1 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two pieces of the answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// First bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Reads and verifies the statement of an epoch.
pub async fn read(
    place: &str,
    epoch: EpochNumber,
    network: NetworkId,
    gateways: Vec<NodeAddress>,
    mut seen: Seen,
) -> Result<(Statement, Seen), CliError> {
    let place = place.replace(PLACE, &epoch.to_string());
    let source: Box<dyn Read + Send> = if place.starts_with("http://") || place.starts_with("https://") {
        Box::new(Cursor::new(fetch(&place).await?))
    } else {
        Box::new(File::open(&place).map_err(|error| CliError::Other(format!("cannot read {place}: {error}")))?)
    };
    let verify = move || {
        let mut ticker = Ticker::default();
        let said = |receipts: u64| ticker.say(|| format!("epoch {epoch}: {receipts} receipts verified"));
        let lines = uncompressed(source).map_err(|error| error.to_string())?;
        let statement = statement::read(lines, epoch, &network, &gateways, &mut seen, said);
        statement.map(|statement| (statement, seen)).map_err(|error| error.to_string())
    };
    // Two signatures a receipt: long work that must not hold up a thread of the runtime.
    let verified = tokio::task::spawn_blocking(verify).await.map_err(|error| CliError::Other(error.to_string()))?;
    verified.map_err(|error| CliError::Other(format!("{place}: {error}")))
}

fn uncompressed(source: Box<dyn Read + Send>) -> std::io::Result<Box<dyn BufRead>> {
    let mut source = BufReader::new(source);
    if source.fill_buf()?.starts_with(&ZSTD) {
        return Ok(Box::new(BufReader::new(zstd::Decoder::with_buffer(source)?)));
    }
    Ok(Box::new(source))
}

async fn fetch(url: &str) -> Result<Vec<u8>, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Other(format!("cannot fetch {url}: {error}"));
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
        .map_err(|error| failed(&error))?;
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let mut pieces = answer.map_err(|error| failed(&error))?.bytes_stream();
    let mut body = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| failed(&error))?;
        if body.len() + piece.len() > MAX_FETCHED {
            return Err(failed(&format!("it is larger than {MAX_FETCHED} bytes; fetch it yourself and name the file")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}
