//! How often each node is looked at though nobody says that it changed: the chain tells nobody. The more nodes, the more seldom, so
//! that a large fleet does not keep the API server, the gateway and the chain busy.

use std::{sync::OnceLock, time::Duration};

use kube::runtime::reflector::Store;

use super::known::KnownNode;
use crate::operator::runner::Guarded;

/// A small fleet's nodes.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// What all nodes together may cost: some 16 looks a second.
const EACH: Duration = Duration::from_millis(60);
const LONGEST: Duration = Duration::from_secs(300);

/// The nodes that there are. Cheap to ask.
#[derive(Default)]
pub struct Fleet {
    nodes: OnceLock<Store<Guarded<KnownNode>>>,
}

impl Fleet {
    /// Notes where the nodes are counted; the first one stays.
    pub fn count(&self, nodes: Store<Guarded<KnownNode>>) {
        // A second controller of the same kind would count the same nodes.
        let _ = self.nodes.set(nodes);
    }

    /// When a node at which nothing is on its way is looked at again.
    pub fn look_again(&self) -> Duration {
        look_again(self.nodes.get().map_or(0, Store::len))
    }
}

fn look_again(nodes: usize) -> Duration {
    EACH.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX)).clamp(LOOK_AGAIN, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_is_asked_more_seldom_and_never_forgotten() {
        assert_eq!(look_again(3), LOOK_AGAIN);
        assert_eq!(look_again(1_000), Duration::from_secs(60));
        assert_eq!(look_again(usize::MAX), LONGEST);
    }
}
