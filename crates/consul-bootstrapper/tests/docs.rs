//! The reference says all that the program can be told, and says it where it can be found.
#![allow(
    clippy::expect_used,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};

use clap::{Command, CommandFactory};
use consul_bootstrapper::args::Args;
use consul_bootstrapper::metrics::Metrics;
use daemon::HasCommon;
use prometheus::Registry;

const REFERENCE: &str = include_str!("../../../docs/reference/consul-bootstrapper.md");

/// The rows of the reference's table of options, as cells: option, variable, default, meaning, example.
fn rows() -> BTreeMap<&'static str, Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        let line = line.trim_matches('|');
        line.split('|')
            .map(|cell| cell.trim_matches([' ', '`']))
            .collect()
    };
    let rows = REFERENCE
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(cells);
    // Other tables name options, too, and have fewer columns.
    rows.filter(|cells| cells.len() == 5)
        .filter_map(|cells| {
            let option = cells.first()?.strip_prefix("--")?;
            Some((option.split([' ', '`']).next()?, cells))
        })
        .collect()
}

/// Those of a command itself, without what every program has.
fn options(command: &Command) -> BTreeSet<String> {
    let longs = command.get_arguments().filter_map(|arg| arg.get_long());
    longs
        .filter(|long| !matches!(*long, "help" | "version"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_option_is_in_the_table_with_its_variable_its_default_and_an_example() {
    let mut command = Args::command();
    command.build();
    let rows = rows();
    let named: BTreeSet<String> = rows.keys().map(|option| (*option).to_owned()).collect();
    assert_eq!(named, options(&command));
    for arg in command.get_arguments() {
        let Some((option, cells)) = arg.get_long().and_then(|long| rows.get_key_value(long)) else {
            continue;
        };
        let [_, variable, default, _, example] = cells.as_slice() else {
            unreachable!("five cells")
        };
        let env = arg.get_env().and_then(|env| env.to_str()).unwrap_or_default();
        assert_eq!(*variable, env, "the variable of --{option}");
        let value = match option {
            // Each service has its own.
            &"admin-addr" => Some(Args::DEFAULT_ADMIN_ADDR),
            _ => arg.get_default_values().first().and_then(|value| value.to_str()),
        };
        if let Some(value) = value.filter(|value| *value != "false") {
            assert_eq!(*default, value, "the default of --{option}");
        }
        let shown = example.starts_with(&format!("--{option}")) || example.starts_with(&format!("{env}="));
        assert!(shown, "the example of --{option}: {example}");
    }
}

#[test]
fn every_command_has_a_chapter_with_its_options() {
    let mut command = Args::command();
    command.build();
    let inherited = options(&command);
    for command in command.get_subcommands() {
        let name = command.get_name();
        // Those two are in every service, and need no more than their line in the synopsis.
        if matches!(name, "help" | "status" | "healthcheck") {
            assert!(
                name == "help" || REFERENCE.contains(&format!("{name} ")),
                "{name}"
            );
            continue;
        }
        assert!(
            REFERENCE.contains(&format!("\n### {name}\n")),
            "a chapter on `{name}`"
        );
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let usage = format!("{name} {} ", sub.get_name());
            assert!(REFERENCE.contains(&usage), "{usage}");
        }
        for option in options(command).difference(&inherited) {
            assert!(
                REFERENCE.contains(&format!("--{option}")),
                "--{option} of `{name}`"
            );
        }
    }
}

#[test]
fn every_metric_and_every_state_is_named() {
    let registry = Registry::new();
    Metrics::new(&registry).expect("metrics");
    let names = [
        "state",
        "steps_total",
        "etcd_available",
        "consul_leader",
        "server",
        "slots",
        "raft_voters",
        "autopilot_healthy",
    ];
    for name in names.map(|name| format!("consul_bootstrapper_{name}")) {
        assert!(REFERENCE.contains(&format!("| `{name}` |")), "{name}");
    }
    for family in registry.gather() {
        let name = family.name();
        assert!(REFERENCE.contains(&format!("| `{name}` |")), "{name}");
        for label in family
            .get_metric()
            .iter()
            .flat_map(prometheus::proto::Metric::get_label)
        {
            if label.name() == "state" {
                assert!(
                    REFERENCE.contains(&format!("`{}`", label.value())),
                    "the state {}",
                    label.value()
                );
            }
        }
    }
}
