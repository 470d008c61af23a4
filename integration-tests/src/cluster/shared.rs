//! One cluster for all tests of a program: one after the other has it.
//!
//! It takes longer to start hosts than to run most tests. So a test that is done leaves its cluster to the next one,
//! which first [restores](Cluster::restore) it; the last one removes it. A test that fails leaves evidence, and its cluster
//! to nobody.

use std::ops::Deref;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::create::test_name;
use super::{Cluster, ClusterOptions};

#[derive(Debug)]
struct Place {
    taken: bool,
    /// How many tests wait for it. While there are any, it need not be removed.
    waiting: usize,
    left: Option<Cluster>,
}

static PLACE: Mutex<Place> = Mutex::new(Place {
    taken: false,
    waiting: 0,
    left: None,
});
static FREE: Condvar = Condvar::new();

fn place() -> MutexGuard<'static, Place> {
    PLACE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to have the hosts to oneself; to be given back also when they cannot be started.
#[derive(Debug)]
struct Turn;

impl Turn {
    fn wait() -> Self {
        let mut place = place();
        place.waiting += 1;
        let mut place = FREE
            .wait_while(place, |place| place.taken)
            .unwrap_or_else(PoisonError::into_inner);
        place.waiting -= 1;
        place.taken = true;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        place().taken = false;
        FREE.notify_one();
    }
}

/// A cluster in the hands of one test.
#[derive(Debug)]
pub struct Shared {
    cluster: Option<Cluster>,
    // The last field, so that the next test begins when this one is done with its hosts.
    _turn: Turn,
}

impl Shared {
    /// Waits for its turn, and gives hosts that are ready: the ones of the test before, or new ones.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn take(nodes: usize) -> Self {
        Self::take_like(ClusterOptions::test(nodes)).await
    }

    /// [`Shared::take`] for hosts with these options, but for the cluster's name.
    ///
    /// # Panics
    /// The same.
    pub async fn take_like(options: ClusterOptions) -> Self {
        let turn = Turn::wait();
        let left = place().left.take().filter(|cluster| {
            let name = cluster.options().name.clone();
            *cluster.options()
                == ClusterOptions {
                    name,
                    ..options.clone()
                }
        });
        let cluster = match left {
            Some(mut cluster) => {
                if let Some(test) = test_name() {
                    cluster.test = test;
                }
                cluster.restore().await;
                cluster
            }
            None => Cluster::start(options).await,
        };
        Self {
            cluster: Some(cluster),
            _turn: turn,
        }
    }
}

impl Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster.as_ref().expect("until it is dropped")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let cluster = self.cluster.take();
        if !std::thread::panicking() {
            let mut place = place();
            if place.waiting > 0 {
                place.left = cluster;
                return;
            }
        }
        // Out of the lock: collecting evidence and removing hosts takes seconds.
        drop(cluster);
    }
}
