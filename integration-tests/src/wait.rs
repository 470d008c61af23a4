//! Waiting for conditions.

use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at. Short, since tests measure with it; long enough for two cores.
const EVERY: Duration = Duration::from_millis(10);

/// Waits until `condition` is `Ok` and gives its value.
///
/// # Panics
/// After `within`, with `what` was waited for and the condition's last complaint.
pub async fn until<T, F, Fut>(what: &str, within: Duration, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + within;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(complaint) if Instant::now() > deadline => {
                panic!("not within {within:?}: {what}: {complaint}")
            }
            Err(_) => tokio::time::sleep(EVERY).await,
        }
    }
}

/// Looks at a condition for all of `duration`: it must hold throughout.
///
/// For what must *not* happen there is nothing to wait for but the end of a bounded time.
///
/// # Panics
/// When it does not hold.
pub async fn throughout<F, Fut>(what: &str, duration: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    let end = Instant::now() + duration;
    while Instant::now() < end {
        if let Err(complaint) = condition().await {
            panic!("does not hold: {what}: {complaint}");
        }
        tokio::time::sleep(EVERY).await;
    }
}
