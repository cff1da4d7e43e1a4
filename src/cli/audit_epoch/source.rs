//! Where a published statement comes from: a file or a URL, compressed with zstd or not.

use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, Read},
    time::Duration,
};

use alloy::primitives::B256;
use futures::StreamExt;

use super::{
    Ticker,
    statement::{self, Seen, Statement},
};
use crate::{
    api::ids::{EpochNumber, NodeAddress},
    cli::{CliError, output},
    protocol::{internal::ApiError, names::NetworkId, statement::STATEMENTS},
};

/// What stands for the number of the epoch.
pub const PLACE: &str = "{epoch}";
/// The largest statement that is fetched, compressed.
const MAX_FETCHED: usize = 1 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a refusal that are read.
const MAX_REFUSAL: u64 = 64 << 10;
/// Between two pieces of the answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// First bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Where a gateway gives out the statement of an epoch. With its digest nothing else can come from there.
pub fn published(gateway: &str, epoch: EpochNumber, digest: Option<B256>) -> String {
    let gateway = gateway.trim_end_matches('/');
    match digest {
        Some(digest) => format!("{gateway}{STATEMENTS}/{epoch}/{}", hex::encode(digest)),
        None => format!("{gateway}{STATEMENTS}/{epoch}"),
    }
}

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
    let answer = client.get(url).send().await.map_err(|error| failed(&error))?;
    if !answer.status().is_success() {
        return Err(failed(&refusal(answer).await));
    }
    let mut pieces = answer.bytes_stream();
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

/// What a gateway says, or the status of any other server.
async fn refusal(answer: reqwest::Response) -> String {
    let status = answer.status();
    let short = answer.content_length().is_some_and(|bytes| bytes <= MAX_REFUSAL);
    let said = if short { answer.json::<ApiError>().await.ok() } else { None };
    said.map_or_else(|| format!("HTTP {status}"), |said| format!("HTTP {status}: {}", output::one_line(&said.message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_asked_for_by_its_digest_where_the_report_names_it() {
        let digest = B256::repeat_byte(0xab);
        let with = published("https://grid.example/", EpochNumber(7), Some(digest));
        assert_eq!(with, format!("https://grid.example/grid/v1/statements/7/{}", "ab".repeat(32)));
        assert_eq!(published("http://g", EpochNumber(7), None), "http://g/grid/v1/statements/7");
    }
}
