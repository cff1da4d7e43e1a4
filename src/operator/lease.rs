//! The Lease that makes one operator the only writer.
//!
//! Expiry is judged by how long the record has not changed *as seen here*, never by the clock inside it, so clocks of two
//! machines may differ. A Lease has no fencing: what must not happen twice (a report on chain) is fenced where it happens.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};

/// One candidate for a lease.
pub struct LeaseHolder {
    api: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    /// When the last write that made or kept the lease ours was sent.
    renewed: Mutex<Instant>,
}

/// What was last seen of somebody else's lease, and when.
struct Seen {
    resource_version: Option<String>,
    at: Instant,
}

impl LeaseHolder {
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, duration: Duration) -> Self {
        LeaseHolder {
            api: Api::namespaced(client, namespace),
            name: name.into(),
            identity: identity.into(),
            duration,
            renewed: Mutex::new(Instant::now()),
        }
    }

    /// Waits until this process holds the lease.
    pub async fn acquire(&self) {
        let mut seen = Seen { resource_version: None, at: Instant::now() };
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, lease = self.name, "cannot take the lease"),
            }
            // Twice as often as the holder renews: a lease of 15 s moves at most 18 s after its holder died.
            tokio::time::sleep(self.duration / 10).await;
        }
    }

    /// Renews until that fails for so long that somebody else may soon take over; then returns. That is a third of the lease
    /// before anybody can, counted from when the last renewal was sent, and however long an answer is waited for.
    pub async fn hold(&self) {
        while let Some(left) = (self.duration * 2 / 3).checked_sub(self.last_renewed().elapsed()) {
            let next = async {
                tokio::time::sleep(self.duration / 5).await;
                self.renew().await
            };
            match tokio::time::timeout(left, next).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "cannot renew the lease"),
                Err(_) => tracing::warn!(lease = self.name, "renewing the lease takes too long"),
            }
        }
    }

    fn last_renewed(&self) -> Instant {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lease up, so that the next holder need not wait for it to expire.
    pub async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        if holder(&lease) != Some(self.identity.as_str()) {
            return Ok(());
        }
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        Ok(())
    }

    async fn try_acquire(&self, seen: &mut Seen) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            return self.won(self.api.create(&PostParams::default(), &self.record(None))).await;
        };
        if lease.metadata.resource_version != seen.resource_version {
            *seen = Seen { resource_version: lease.metadata.resource_version.clone(), at: Instant::now() };
        }
        let duration = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        let expired = seen.at.elapsed() >= Duration::from_secs(u64::try_from(duration).unwrap_or(0));
        match holder(&lease) {
            Some(other) if other != self.identity && !expired => Ok(false),
            _ => self.won(self.api.replace(&self.name, &PostParams::default(), &self.record(Some(&lease)))).await,
        }
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else { return Ok(false) };
        if holder(&lease) != Some(self.identity.as_str()) {
            return Ok(false);
        }
        self.won(self.api.replace(&self.name, &PostParams::default(), &self.record(Some(&lease)))).await
    }

    /// A conflict means that somebody else was faster.
    async fn won(&self, write: impl Future<Output = Result<Lease, kube::Error>>) -> Result<bool, kube::Error> {
        let sent = Instant::now();
        match write.await {
            Ok(_) => {
                *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = sent;
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The lease as ours. Carries the resource version of what it replaces: of two writers one loses.
    fn record(&self, previous: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = previous.and_then(|lease| lease.spec.as_ref());
        let ours = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: previous.and_then(|lease| lease.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: if ours { before.and_then(|spec| spec.acquire_time.clone()) } else { Some(now.clone()) },
                renew_time: Some(now),
                lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|identity| !identity.is_empty())
}
