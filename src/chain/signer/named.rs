//! Who signs, as the options of a command name it: a key file of the person, or a remote signer. The same two sources as an operator's.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{ChainKey, Pem, RemoteSigner, RemoteSignerOptions, Signer, SignerTls};
use crate::{api::ids::NodeAddress, chain::error::ChainError};

/// Longer than any chain of certificates.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Where the key of a command is that signs with one.
#[derive(Debug, Clone, clap::Args)]
pub struct SignerArgs {
    /// File with the key: 64 hexadecimal digits, or an encrypted keystore (JSON) with its password in FILE.password.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "remote_signer_url",
        conflicts_with = "remote_signer_url"
    )]
    pub key_file: Option<PathBuf>,
    #[command(flatten)]
    pub remote: RemoteSignerArgs,
}

impl SignerArgs {
    pub async fn open(&self) -> Result<NamedSigner, ChainError> {
        NamedSigner::open(self.key_file.as_deref(), &self.remote).await
    }
}

/// A signer that holds the key instead of a file. Whoever flattens this has an option for the file, which excludes `remote_signer_url`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RemoteSignerArgs {
    /// Signer that holds the key instead: a Web3Signer in eth1 mode. https://, or http:// on this machine.
    #[arg(long, value_name = "URL", requires = "remote_signer_address")]
    pub remote_signer_url: Option<String>,
    /// Account whose key the remote signer holds, 0x or xdc.
    #[arg(long, value_name = "ADDRESS", requires = "remote_signer_url")]
    pub remote_signer_address: Option<NodeAddress>,
    /// Authority that signed the remote signer's certificate, PEM (default: those of this machine).
    #[arg(long, value_name = "FILE", requires = "remote_signer_url")]
    pub remote_signer_ca: Option<PathBuf>,
    /// Certificate to show to the remote signer, PEM.
    #[arg(long, value_name = "FILE", requires_all = ["remote_signer_url", "remote_signer_key"])]
    pub remote_signer_cert: Option<PathBuf>,
    /// Key of that certificate, PEM.
    #[arg(long, value_name = "FILE", requires_all = ["remote_signer_url", "remote_signer_cert"])]
    pub remote_signer_key: Option<PathBuf>,
}

impl RemoteSignerArgs {
    fn options(&self) -> Result<Option<RemoteSignerOptions>, ChainError> {
        let Some(url) = self.remote_signer_url.clone() else { return Ok(None) };
        let address = self.remote_signer_address.ok_or_else(|| invalid("--remote-signer-address is missing"))?;
        let tls = SignerTls {
            certificate: pem("--remote-signer-cert", self.remote_signer_cert.as_ref())?,
            key: pem("--remote-signer-key", self.remote_signer_key.as_ref())?,
            authority: pem("--remote-signer-ca", self.remote_signer_ca.as_ref())?,
        };
        Ok(Some(RemoteSignerOptions { url, address, tls }))
    }
}

fn invalid(detail: impl Into<String>) -> ChainError {
    ChainError::InvalidSigner { detail: detail.into() }
}

fn pem(option: &str, path: Option<&PathBuf>) -> Result<Option<Pem>, ChainError> {
    let Some(path) = path else { return Ok(None) };
    let named = format!("{option} {}", path.display());
    let unreadable = |error: std::io::Error| invalid(format!("{named} cannot be read: {error}"));
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_PEM_BYTES {
        return Err(invalid(format!("{named} is no PEM file: it has more than {MAX_PEM_BYTES} bytes")));
    }
    let content = std::fs::read(path).map_err(unreadable)?;
    Ok(Some(Pem { named, content }))
}

/// The signer that options name.
pub struct NamedSigner {
    remote: RemoteSignerArgs,
    signer: Arc<dyn Signer>,
    /// Of the files that TLS with a remote signer was made of.
    made_of: Option<blake3::Hash>,
}

impl NamedSigner {
    /// Reads the key, or connects to the remote signer and finds the key there.
    pub async fn open(key_file: Option<&Path>, remote: &RemoteSignerArgs) -> Result<Self, ChainError> {
        let (remote, options) = (remote.clone(), remote.options()?);
        if let Some(options) = options {
            return Ok(NamedSigner { signer: connect(&options).await?, made_of: Some(options.tls.digest()), remote });
        }
        let path = key_file.ok_or_else(|| invalid("neither a key file nor --remote-signer-url was named"))?;
        Ok(NamedSigner { signer: Arc::new(ChainKey::from_file(path)?), made_of: None, remote })
    }

    pub fn signer(&self) -> &dyn Signer {
        self.signer.as_ref()
    }

    pub fn address(&self) -> NodeAddress {
        self.signer.address()
    }

    /// For a program that goes on for long: takes up certificates that were replaced, as they are before they expire.
    pub async fn renew(&mut self) -> Result<(), ChainError> {
        let Some(options) = self.remote.options()? else { return Ok(()) };
        let digest = options.tls.digest();
        if self.made_of != Some(digest) {
            self.signer = connect(&options).await?;
            self.made_of = Some(digest);
        }
        Ok(())
    }
}

async fn connect(options: &RemoteSignerOptions) -> Result<Arc<dyn Signer>, ChainError> {
    Ok(Arc::new(RemoteSigner::connect(options).await?))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const ADDRESS: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        signer: SignerArgs,
    }

    fn parsed(words: &[&str]) -> Result<SignerArgs, clap::Error> {
        Cli::try_parse_from([&["it"], words].concat()).map(|cli| cli.signer)
    }

    #[test]
    fn a_key_is_in_a_file_or_at_a_remote_signer_and_never_in_both() {
        let remote = ["--remote-signer-url", "https://x", "--remote-signer-address", ADDRESS];
        assert!(parsed(&["--key-file", "k"]).is_ok() && parsed(&remote).is_ok());
        let with = |more: &[&'static str]| [&remote[..], more].concat();
        assert!(parsed(&with(&["--remote-signer-cert", "c", "--remote-signer-key", "k"])).is_ok());
        for bad in [
            vec![],
            with(&["--key-file", "k"]),
            remote[..2].to_vec(),
            with(&["--remote-signer-cert", "c"]),
            with(&["--remote-signer-key", "c"]),
            vec!["--key-file", "k", "--remote-signer-ca", "c"],
        ] {
            assert!(parsed(&bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_said_by_the_name_of_its_option() {
        crate::telemetry::install_crypto_provider();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let name = path.display().to_string();
        let remote =
            ["--remote-signer-url", "https://x", "--remote-signer-address", ADDRESS, "--remote-signer-ca", &name];
        let args = parsed(&remote).unwrap();
        let said = async || args.open().await.err().unwrap().to_string();
        let missing = said().await;
        assert!(missing.contains("--remote-signer-ca") && missing.contains("cannot be read"), "{missing}");
        std::fs::write(&path, "nonsense").unwrap();
        let nonsense = said().await;
        assert!(nonsense.contains("--remote-signer-ca") && nonsense.contains("no PEM certificate"), "{nonsense}");
    }
}
