//! The dashboard and the alerts ask only for what the platform shows.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use integration_tests::http::get;
use integration_tests::platform::Platform;

/// Names of ours and of HAProxy's that a text contains.
fn metrics_in(text: &str) -> BTreeSet<String> {
    const PREFIXES: [&str; 5] = [
        "colossus_",
        "registrator_",
        "router_config_",
        "haproxy_",
        "process_",
    ];
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_alerts_use_metrics_that_exist() {
    let directory = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../deploy/monitoring");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    assert!(
        dashboard["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 5)
    );
    let used = metrics_in(&format!("{}{}", read("dashboard.json"), read("alerts.yml")));
    assert!(used.len() > 15, "{used:?}");

    let platform = Platform::up();
    let mut shown = BTreeSet::new();
    for address in [
        platform.admin("registrator"),
        platform.admin("router-config"),
        platform.stats(),
    ] {
        let answer = get(address, "localhost", "/metrics").await.unwrap();
        shown.extend(metrics_in(&answer.body));
    }
    let missing: Vec<_> = used.difference(&shown).collect();
    assert_eq!(missing, Vec::<&String>::new(), "metrics that nobody shows");
}
