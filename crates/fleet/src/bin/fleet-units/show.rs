//! What is printed.

use std::error::Error;
use std::io::{self, Write as _};

use fleet::Machine;

/// One line on stdout. Where nobody reads it any more, it is lost: that is no failure.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{line}"));
}

/// One line on stderr.
pub(crate) fn problem(line: &str) {
    drop(writeln!(io::stderr().lock(), "error: {line}"));
}

/// An error and all its sources on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Rows under a head, each column as wide as it must be. An empty cell shows as `-`.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let cells: Vec<[String; N]> = std::iter::once(head.map(str::to_owned))
        .chain(rows.iter().cloned())
        .map(|row| row.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }))
        .collect();
    let mut widths = [0; N];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines = cells.iter().map(|row| {
        let padded = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A machine as people see it: the beginning of its ID, and its address when it is alive.
pub(crate) fn machine(id: &str, machines: &[Machine]) -> String {
    if id.is_empty() {
        return String::new();
    }
    let short = short(id);
    match machines.iter().find(|machine| machine.id == id) {
        Some(machine) => format!("{short}/{}", machine.primary_ip),
        None => short,
    }
}

/// The first eight characters of an ID.
pub(crate) fn short(id: &str) -> String {
    match id.char_indices().nth(8) {
        Some((end, _)) => format!("{}...", id.get(..end).unwrap_or(id)),
        None => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [
            ["a.service".to_owned(), String::new()],
            ["b".to_owned(), "x y".to_owned()],
        ];
        assert_eq!(
            table(["UNIT", "SUB"], &rows),
            "UNIT       SUB\na.service  -\nb          x y"
        );
    }

    #[test]
    fn a_machine_is_shown_with_its_address_while_it_is_alive() {
        let machines = [Machine {
            id: "2dde0d31f1b244b9".into(),
            primary_ip: "10.0.0.1".into(),
            ..Machine::default()
        }];
        assert_eq!(machine("2dde0d31f1b244b9", &machines), "2dde0d31.../10.0.0.1");
        assert_eq!(machine("7f1f2982aaaaaaaa", &machines), "7f1f2982...");
        assert_eq!(machine("", &machines), "");
        assert_eq!(short("n1"), "n1");
    }
}
