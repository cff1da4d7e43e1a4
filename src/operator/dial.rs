//! Whom the operator calls on a job's behalf. A job names URLs, and the operator stands where the job's author may not: beside
//! the cloud's metadata service, on the pod's loopback. Addresses in the denied networks are refused whatever name leads to
//! them, also after a redirect.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use object_store::{
    ClientOptions,
    client::{HttpClient, HttpConnector},
};
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};

const CONNECT: Duration = Duration::from_secs(10);
/// 200 MB may take a while; silence may not.
const TOTAL: Duration = Duration::from_secs(600);
const SILENCE: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;

/// Addresses of one network, as in `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u32,
}

/// Networks that jobs may not reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denied(Arc<[Network]>);

/// An address in a denied network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("jobs may not reach {0}")]
pub struct Refused(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network such as 10.0.0.0/8")]
pub struct ParseNetworkError(String);

impl FromStr for Denied {
    type Err = ParseNetworkError;

    /// Networks, separated by commas; `none` for no network.
    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        if text.trim() == "none" {
            return Ok(Denied::default());
        }
        Ok(Denied(text.split(',').map(|network| network.trim().parse()).collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<_> = self.0.iter().map(|network| format!("{}/{}", network.address, network.prefix)).collect();
        f.write_str(if networks.is_empty() { "none".into() } else { networks.join(",") }.as_str())
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let invalid = || ParseNetworkError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix = prefix.parse().map_err(|_| invalid())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits { Err(invalid()) } else { Ok(Network { address, prefix }) }
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let differs = |bits: u32, difference: u128| self.prefix > 0 && difference >> (bits - self.prefix) != 0;
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                !differs(32, u128::from(network.to_bits() ^ address.to_bits()))
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => !differs(128, network.to_bits() ^ address.to_bits()),
            _ => false,
        }
    }
}

impl Denied {
    /// An IPv4 address in IPv6 clothes is an IPv4 address.
    fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let address = address.to_canonical();
        match self.0.iter().any(|network| network.contains(address)) {
            true => Err(Refused(address.to_string())),
            false => Ok(()),
        }
    }

    /// Refuses a URL whose host is written as an address; a name is looked at when it is resolved.
    pub fn check_url(&self, url: &Url) -> Result<(), Refused> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host.parse().map_or(Ok(()), |address| self.check(address))
    }

    /// A client that follows redirects, for plain URLs.
    pub fn client(&self) -> reqwest::Result<Client> {
        let denied = self.clone();
        self.build(Policy::custom(move |attempt| {
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("too many redirects");
            }
            match denied.check_url(attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(refused) => attempt.error(refused),
            }
        }))
    }

    fn build(&self, redirects: Policy) -> reqwest::Result<Client> {
        Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .timeout(TOTAL)
            .redirect(redirects)
            .dns_resolver(Arc::new(Guard(self.clone())))
            .build()
    }
}

/// Buckets are called without redirects: a signature is for one host.
impl HttpConnector for Denied {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.build(Policy::none());
        let client = client.map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(HttpClient::new(client))
    }
}

/// The system's resolver, without denied addresses.
struct Guard(Denied);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let denied = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One denied address is enough: a name that leads to both is up to no good.
            for address in &found {
                denied.check(address.ip())?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The refusal behind an error, if that is what it is.
pub fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Refused> {
    std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
}

/// The innermost cause: "connection refused" says more than "error sending request".
pub fn cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> Denied {
        "169.254.0.0/16, 127.0.0.0/8,::1/128,fe80::/10".parse().unwrap()
    }

    #[test]
    fn addresses_of_the_networks_are_refused_however_they_are_written() {
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://[::1]:8080/",
            "http://[::ffff:127.0.0.1]/",
            "http://[fe80::1]/",
        ] {
            assert!(denied().check_url(&url.parse().unwrap()).is_err(), "{url}");
        }
        for url in ["http://10.0.0.1/", "https://example.org/", "http://[2001:db8::1]/", "http://168.254.1.1/"] {
            assert_eq!(denied().check_url(&url.parse().unwrap()), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_list_of_networks_reads_as_it_is_written() {
        assert_eq!(denied().to_string().parse(), Ok(denied()));
        assert_eq!("none".parse(), Ok(Denied::default()));
        assert!("0.0.0.0/0".parse::<Denied>().unwrap().check("8.8.8.8".parse().unwrap()).is_err());
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Denied>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_denied_address_is_refused() {
        crate::telemetry::install_crypto_provider();
        let error = denied().client().unwrap().get("http://localhost:9/").send().await.unwrap_err();
        assert!(refusal(&error).is_some(), "{error:?}");
    }
}
