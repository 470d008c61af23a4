//! Unit files: text to options and back.
//!
//! The common ground of systemd (`systemd.syntax(7)`) and of the parser that fleet uses (go-systemd): what the two would
//! read differently is refused.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most characters in one line. go-systemd and systemd before 237 refuse a longer one.
const LINE_MAX: usize = 2048;

/// One option: `name=value` in `[section]`. As fleet's API has it; whether it can be written in a file is
/// [`UnitFile::from_options`]'s to say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnitOption {
    /// Its section, without brackets.
    pub section: String,
    /// Its name.
    pub name: String,
    /// Its value, on one line.
    pub value: String,
}

impl UnitOption {
    /// An option.
    pub fn new(section: impl Into<String>, name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            section: section.into(),
            name: name.into(),
            value: value.into(),
        }
    }
}

/// Why a text is no unit file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// An option before the first section.
    #[error("this stands before any section: begin with one, such as [Unit]")]
    BeforeSection,
    /// No `=`.
    #[error("this is neither [Section], nor Name=value, nor a comment: is the = missing?")]
    NotAnOption,
    /// Nothing, or blanks, where a name belongs.
    #[error("{name:?} is no name of an option: use letters, digits and hyphens")]
    OptionName {
        /// What stands there.
        name: String,
    },
    /// `[` without its `]`, or something after it.
    #[error("a section is written as [Name], with nothing before or after it on its line")]
    SectionHeader,
    /// The name of a section is empty, or has characters that it may not have.
    #[error("{name:?} is no name of a section: use letters, digits and hyphens")]
    SectionName {
        /// What stands there.
        name: String,
    },
    /// A comment between the lines of one value.
    #[error(
        "a comment within a continued line: systemd leaves it out, fleet takes it into the value; move it up"
    )]
    CommentInValue,
    /// A backslash at the end that is not clearly a continuation.
    #[error(
        "one backslash as the very last character continues a line: remove the blanks after it, or the others before it"
    )]
    Backslash,
    /// The file ends where a line should be continued.
    #[error("the file ends in the middle of a continued line: remove the backslash at its end")]
    Unfinished,
    /// A control character other than a tab.
    #[error("the control character {character:?}: remove it")]
    Control {
        /// It.
        character: char,
    },
    /// A line that is too long.
    #[error(
        "it has {length} characters, and fleet reads no more than 2048 in a line: continue it on the next with a backslash"
    )]
    TooLong {
        /// Its length, in bytes.
        length: usize,
    },
}

/// Why an option cannot be written in a unit file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("[{section}] {name}= cannot be written in a unit file: {problem}")]
pub struct OptionError {
    /// The section as given.
    pub section: String,
    /// The name as given.
    pub name: String,
    /// Why not.
    pub problem: &'static str,
}

/// A unit file: options in their order, duplicates and all.
///
/// Two are equal when their options are; comments, continued lines and blanks make no difference.
#[derive(Clone, Debug, Default)]
pub struct UnitFile {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    option: UnitOption,
    /// Where it began in the text, from 1; `None` when it was not read from a text.
    line: Option<usize>,
}

impl PartialEq for UnitFile {
    fn eq(&self, other: &Self) -> bool {
        self.options().eq(other.options())
    }
}

impl Eq for UnitFile {}

impl UnitFile {
    /// Reads a unit file.
    ///
    /// Continued lines become one, with a blank for each backslash, as systemd has it.
    ///
    /// # Errors
    /// With the line, for what systemd or fleet would refuse, and for what they would read differently.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Parser::default().run(text)
    }

    /// A unit file with these options. Values that were continued lines (fleet keeps them so) become one line.
    ///
    /// # Errors
    /// For the first option that a file cannot hold.
    pub fn from_options(options: impl IntoIterator<Item = UnitOption>) -> Result<Self, OptionError> {
        let entries = options
            .into_iter()
            .map(|option| writable(option).map(|option| Entry { option, line: None }))
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// All options, in their order.
    pub fn options(&self) -> impl DoubleEndedIterator<Item = &UnitOption> {
        self.entries.iter().map(|entry| &entry.option)
    }

    /// The options as fleet's API takes them.
    #[must_use]
    pub fn into_options(self) -> Vec<UnitOption> {
        self.entries.into_iter().map(|entry| entry.option).collect()
    }

    /// The options of one section, each with its line in the text (from 1), if there was one.
    pub fn section<'a>(
        &'a self,
        section: &'a str,
    ) -> impl DoubleEndedIterator<Item = (&'a UnitOption, Option<usize>)> + 'a {
        self.entries
            .iter()
            .filter(move |entry| entry.option.section == section)
            .map(|entry| (&entry.option, entry.line))
    }

    /// The values of one option, in their order.
    pub fn values<'a>(&'a self, section: &'a str, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.section(section)
            .filter(move |(option, _)| option.name == name)
            .map(|(option, _)| option.value.as_str())
    }
}

/// The file's text, which [`UnitFile::parse`] reads back as the same. Sections stay apart as they were.
impl fmt::Display for UnitFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = None;
        for option in self.options() {
            if section != Some(&option.section) {
                let gap = if section.is_some() { "\n" } else { "" };
                writeln!(f, "{gap}[{}]", option.section)?;
                section = Some(&option.section);
            }
            writeln!(f, "{}={}", option.name, option.value)?;
        }
        Ok(())
    }
}

fn is_control(c: &char) -> bool {
    c.is_control() && *c != '\t'
}

fn is_section_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '[' || c == ']')
}

fn is_option_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['[', '#', ';'])
        && !name.ends_with('\\')
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '=')
}

/// The option with its value on one line, if a file can hold it.
fn writable(option: UnitOption) -> Result<UnitOption, OptionError> {
    let value = joined(&option.value);
    let problem = if !is_section_name(&option.section) {
        "this is no name of a section"
    } else if !is_option_name(&option.name) {
        "this is no name of an option"
    } else if value.contains(|c| is_control(&c)) {
        "the value has a line break or another control character"
    } else if value.ends_with('\\') {
        "the value ends in a backslash, which would continue the line"
    } else {
        return Ok(UnitOption { value, ..option });
    };
    Err(OptionError {
        section: option.section,
        name: option.name,
        problem,
    })
}

/// A value whose lines were continued, as one.
fn joined(value: &str) -> String {
    value
        .replace("\\\r\n", " ")
        .replace("\\\n", " ")
        .trim()
        .to_owned()
}

#[derive(Default)]
struct Parser {
    section: Option<String>,
    entries: Vec<Entry>,
    /// A continued line: its text so far, and where it began.
    open: Option<(String, usize)>,
}

impl Parser {
    fn run(mut self, text: &str) -> Result<UnitFile, ParseError> {
        let mut last = 0;
        // Editors of another system put a mark before the first line.
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            last = index + 1;
            self.line(line, last)
                .map_err(|problem| ParseError { line: last, problem })?;
        }
        if self.open.is_some() {
            return Err(ParseError {
                line: last,
                problem: Problem::Unfinished,
            });
        }
        Ok(UnitFile {
            entries: self.entries,
        })
    }

    fn line(&mut self, line: &str, number: usize) -> Result<(), Problem> {
        if let Some(character) = line.chars().find(is_control) {
            return Err(Problem::Control { character });
        }
        if line.len() > LINE_MAX {
            return Err(Problem::TooLong { length: line.len() });
        }
        if line.trim_start().starts_with(['#', ';']) {
            return match self.open {
                Some(_) => Err(Problem::CommentInValue),
                None => Ok(()),
            };
        }
        let (text, continued) = match line.strip_suffix('\\') {
            Some(text) => (text, true),
            None => (line, false),
        };
        // Two of them are one to systemd and a continuation to fleet; blanks after one hide it.
        if text.trim_end().ends_with('\\') {
            return Err(Problem::Backslash);
        }
        let (mut whole, began) = self.open.take().unwrap_or((String::new(), number));
        whole.push_str(text);
        if continued {
            whole.push(' ');
            self.open = Some((whole, began));
            return Ok(());
        }
        self.logical_line(whole.trim(), began)
    }

    fn logical_line(&mut self, line: &str, began: usize) -> Result<(), Problem> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.strip_suffix(']').ok_or(Problem::SectionHeader)?;
            if !is_section_name(name) {
                return Err(Problem::SectionName {
                    name: name.to_owned(),
                });
            }
            self.section = Some(name.to_owned());
            return Ok(());
        }
        let (name, value) = line.split_once('=').ok_or(Problem::NotAnOption)?;
        let section = self.section.clone().ok_or(Problem::BeforeSection)?;
        let name = name.trim_end();
        if !is_option_name(name) {
            return Err(Problem::OptionName {
                name: name.to_owned(),
            });
        }
        let value = value.trim();
        // `Name=` and a lone continued line after it that ends in a backslash and a blank, say.
        if value.ends_with('\\') {
            return Err(Problem::Backslash);
        }
        self.entries.push(Entry {
            option: UnitOption::new(section, name, value),
            line: Some(began),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(text: &str) -> Vec<UnitOption> {
        UnitFile::parse(text)
            .unwrap_or_else(|error| panic!("{text:?}: {error}"))
            .into_options()
    }

    fn problem(text: &str) -> (usize, Problem) {
        let error = UnitFile::parse(text).expect_err(text);
        (error.line, error.problem)
    }

    #[test]
    fn options_come_in_their_order_with_duplicates() {
        let text = "# a comment\n\n[Unit]\nDescription = a  b \n; another\nAfter=x.service\nAfter=\nAfter=y.service\r\n\
                    [Service]\nEnvironment=A=1 B=2\n[Unit]\nWants=z.service";
        assert_eq!(
            options(text),
            [
                UnitOption::new("Unit", "Description", "a  b"),
                UnitOption::new("Unit", "After", "x.service"),
                UnitOption::new("Unit", "After", ""),
                UnitOption::new("Unit", "After", "y.service"),
                UnitOption::new("Service", "Environment", "A=1 B=2"),
                UnitOption::new("Unit", "Wants", "z.service"),
            ]
        );
    }

    #[test]
    fn a_continued_line_is_one_with_a_blank_for_the_backslash() {
        let unit =
            UnitFile::parse("[Service]\nExecStart=/bin/a \\\n    -b \\\n-c\nExecStop=/bin/d\n").unwrap();
        let values: Vec<_> = unit.values("Service", "ExecStart").collect();
        assert_eq!(values, ["/bin/a      -b  -c"]);
        let lines: Vec<_> = unit.section("Service").map(|(_, line)| line).collect();
        assert_eq!(lines, [Some(2), Some(5)]);
    }

    #[test]
    fn backslashes_within_a_value_are_its_own() {
        assert_eq!(options("[S]\nA=a\\x2db\\\n c")[0].value, "a\\x2db  c");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, expected) in [
            ("A=b", 1, Problem::BeforeSection),
            ("\n\nhello", 3, Problem::NotAnOption),
            ("[Unit]\nAfter x.service", 2, Problem::NotAnOption),
            ("[Unit", 1, Problem::SectionHeader),
            ("[Unit] x", 1, Problem::SectionHeader),
            ("[]", 1, Problem::SectionName { name: String::new() }),
            ("[A b]", 1, Problem::SectionName { name: "A b".into() }),
            ("[A]\n=b", 2, Problem::OptionName { name: String::new() }),
            (
                "[A]\nExec Start=b",
                2,
                Problem::OptionName {
                    name: "Exec Start".into(),
                },
            ),
            ("[A]\nB=c \\\n# d\n e", 3, Problem::CommentInValue),
            ("[A]\nB=c \\\\\n", 2, Problem::Backslash),
            ("[A]\nB=c \\ \nD=e", 2, Problem::Backslash),
            ("[A]\nB=c \\", 2, Problem::Unfinished),
            ("[A]\nB=\u{1b}[31m", 2, Problem::Control { character: '\u{1b}' }),
            ("[A]\nB=a\rC=d", 2, Problem::Control { character: '\r' }),
        ] {
            assert_eq!(problem(text), (line, expected), "{text:?}");
        }
        let long = format!("[A]\nB={}", "x".repeat(2047));
        assert_eq!(problem(&long), (2, Problem::TooLong { length: 2049 }));
    }

    #[test]
    fn sections_are_written_when_they_change() {
        let unit = UnitFile::parse("[A]\nB=c\nD=e \\\n f\n[G]\nH=\n").unwrap();
        assert_eq!(unit.to_string(), "[A]\nB=c\nD=e   f\n\n[G]\nH=\n");
    }

    #[test]
    fn continued_values_of_the_api_become_one_line() {
        let unit = UnitFile::from_options([UnitOption::new("S", "ExecStart", "/bin/a \\\n  -b\n")]).unwrap();
        assert_eq!(unit, UnitFile::parse("[S]\nExecStart=/bin/a \\\n  -b").unwrap());
    }

    #[test]
    fn an_option_that_would_be_another_one_in_a_file_is_refused() {
        for (section, name, value) in [
            ("", "A", "b"),
            ("A]\n[B", "A", "b"),
            ("S", "", "b"),
            ("S", "A=B", "c"),
            ("S", "#A", "b"),
            ("S", "[A", "b"),
            ("S", "A", "b\nExecStart=/bin/evil"),
            ("S", "A", "b\\"),
        ] {
            let option = UnitOption::new(section, name, value);
            let error = UnitFile::from_options([option]).expect_err("refused").to_string();
            assert!(error.contains("cannot be written in a unit file"), "{error}");
        }
    }

    fn text() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            "\\[[A-Z][a-z]{0,5}\\]",
            "[A-Za-z]{1,8}[ ]?=[ ]?[ -~]{0,20}",
            "[A-Za-z]{1,8}=[a-z ]{0,9}\\\\",
            "[#;][ -~]{0,9}",
            "\\PC{0,20}",
            "[\\\\ =#\\[\\]a\t]{0,9}",
        ];
        proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_a_line_of_its_own(text in prop_oneof![text(), any::<String>()]) {
            match UnitFile::parse(&text) {
                Ok(unit) => prop_assert_eq!(UnitFile::parse(&unit.to_string()), Ok(unit)),
                Err(error) => prop_assert!((1..=text.lines().count()).contains(&error.line)),
            }
        }

        #[test]
        fn what_is_written_is_read_back(options in proptest::collection::vec(
            ("\\PC{1,6}", "\\PC{1,6}", "\\PC{0,12}")
                .prop_map(|(section, name, value)| UnitOption { section, name, value }),
            0..8,
        )) {
            let valid = options.into_iter().filter(|option| UnitFile::from_options([option.clone()]).is_ok());
            let unit = UnitFile::from_options(valid).expect("each of them can be written");
            prop_assert_eq!(UnitFile::parse(&unit.to_string()), Ok(unit));
        }
    }
}
