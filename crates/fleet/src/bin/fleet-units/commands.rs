//! What each command does. Of several units each is done on its own: one that fails does not keep the others.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet::{
    Client, Config, DesiredState, Error, Machine, NameError, Placement, Severity, StateFilter, Unit,
    UnitFile, UnitName, UnitState, check,
};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::args::{Args, Command};
use crate::files::{self, FileError, Source};
use crate::show::{chain, machine, problem, say, short, table};

/// How often it is looked whether a unit runs.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why one unit could not be dealt with.
#[derive(Debug, Error)]
enum Failure {
    #[error("{name:?} is no unit's name")]
    Name { name: String, source: NameError },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Fleet(#[from] Error),
    #[error("{name}: fleet would not do what it says (see above)")]
    Refused { name: UnitName },
    #[error("{name} is a template, which cannot run: start an instance, {}@1 for example", name.prefix())]
    Template { name: UnitName },
    #[error("fleet knows no {name}: submit its file first, or start the file")]
    Unknown { name: UnitName },
    #[error("fleet has another version of {name}: --replace stops it and takes this one")]
    Differs { name: UnitName },
    #[error("{name} does not run after {}: {state}", humantime::format_duration(*after))]
    NotRunning {
        name: UnitName,
        after: Duration,
        state: String,
    },
}

/// Gives whether all went well.
pub(crate) async fn run(args: Args) -> Result<bool, Error> {
    if let Command::Check { files } = &args.command {
        return Ok(check_files(files));
    }
    let mut config = Config::new(args.endpoint);
    config.timeout = args.timeout;
    let client = Client::new(config)?;
    match args.command {
        // Done above: it needs no client.
        Command::Check { .. } => Ok(true),
        Command::Machines { full } => machines(&client, full).await,
        Command::List { files: true } => list_files(&client).await,
        Command::List { files: false } => list(&client).await,
        Command::Status { units } => Ok(each(&units, |unit| status(&client, unit)).await),
        Command::Submit { files, replace } => Ok(each(&files, |file| submit(&client, file, replace)).await),
        Command::Start { units, replace, wait } => {
            Ok(each(&units, |unit| start(&client, unit, replace, wait)).await)
        }
        Command::Stop { units } => Ok(each(&units, |unit| stop(&client, unit)).await),
        Command::Destroy { units } => Ok(each(&units, |unit| destroy(&client, unit)).await),
    }
}

/// Does `work` for each item, one after the other, and says what fails.
async fn each<'a, T, F>(items: &'a [T], work: impl Fn(&'a T) -> F) -> bool
where
    F: Future<Output = Result<(), Failure>>,
{
    let mut all_well = true;
    for item in items {
        if let Err(failure) = work(item).await {
            problem(&chain(&failure));
            all_well = false;
        }
    }
    all_well
}

fn check_files(paths: &[PathBuf]) -> bool {
    let mut all_well = true;
    for path in paths {
        match files::read(path) {
            Ok(source) => all_well &= findings(&path.display().to_string(), &source),
            Err(error) => {
                problem(&chain(&error));
                all_well = false;
            }
        }
    }
    let files = if paths.len() == 1 { "file" } else { "files" };
    say(&format!(
        "{} {files} checked: {}",
        paths.len(),
        if all_well { "no errors" } else { "there are errors" }
    ));
    all_well
}

/// Prints what is wrong with a unit. Gives whether fleet would do what it says.
fn findings(shown: &str, source: &Source) -> bool {
    let findings = check(&source.name, &source.unit);
    for finding in &findings {
        say(&format!("{shown}: {finding}"));
    }
    findings.iter().all(|finding| finding.severity < Severity::Error)
}

async fn machines(client: &Client, full: bool) -> Result<bool, Error> {
    let mut machines = client.machines().await?;
    machines.sort_by(|a, b| a.primary_ip.cmp(&b.primary_ip).then_with(|| a.id.cmp(&b.id)));
    let rows: Vec<_> = machines
        .into_iter()
        .map(
            |Machine {
                 id,
                 primary_ip,
                 metadata,
             }| {
                let pairs: Vec<_> = metadata
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                [if full { id } else { short(&id) }, primary_ip, pairs.join(",")]
            },
        )
        .collect();
    say(&table(["MACHINE", "IP", "METADATA"], &rows));
    Ok(true)
}

async fn list(client: &Client) -> Result<bool, Error> {
    let machines = client.machines().await?;
    let mut states = client.states(&StateFilter::default()).await?;
    states.sort();
    let rows: Vec<_> = states.into_iter().map(|state| row(state, &machines)).collect();
    say(&table(["UNIT", "MACHINE", "ACTIVE", "SUB"], &rows));
    Ok(true)
}

fn row(state: UnitState, machines: &[Machine]) -> [String; 4] {
    let place = machine(&state.machine_id, machines);
    [
        state.name,
        place,
        state.systemd_active_state,
        state.systemd_sub_state,
    ]
}

async fn list_files(client: &Client) -> Result<bool, Error> {
    let machines = client.machines().await?;
    let mut units = client.units().await?;
    units.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<_> = units
        .into_iter()
        .map(|unit| {
            let place = if is_global(&unit) {
                "global".to_owned()
            } else {
                machine(&unit.machine_id, &machines)
            };
            [
                unit.name,
                word(unit.desired_state),
                word(unit.current_state),
                place,
            ]
        })
        .collect();
    say(&table(["UNIT", "DESIRED", "CURRENT", "MACHINE"], &rows));
    Ok(true)
}

fn word(state: Option<DesiredState>) -> String {
    state.map(|state| state.to_string()).unwrap_or_default()
}

fn is_global(unit: &Unit) -> bool {
    let (Ok(name), Ok(file)) = (
        unit.name.parse(),
        UnitFile::from_options(unit.options.iter().cloned()),
    ) else {
        return false;
    };
    Placement::of(&name, &file).global
}

fn unit_name(text: &str) -> Result<UnitName, Failure> {
    UnitName::from_short(text).map_err(|source| Failure::Name {
        name: text.to_owned(),
        source,
    })
}

fn only(name: &UnitName) -> StateFilter {
    StateFilter {
        unit: Some(name.clone()),
        machine_id: None,
    }
}

async fn known(client: &Client, name: &UnitName) -> Result<Unit, Failure> {
    client
        .unit(name)
        .await?
        .ok_or_else(|| Failure::Unknown { name: name.clone() })
}

async fn status(client: &Client, text: &str) -> Result<(), Failure> {
    let name = unit_name(text)?;
    let unit = known(client, &name).await?;
    let machines = client.machines().await?;
    let place = match (is_global(&unit), unit.machine_id.is_empty()) {
        (true, _) => "every machine that it may run on".to_owned(),
        (false, true) => "no machine".to_owned(),
        (false, false) => machine(&unit.machine_id, &machines),
    };
    say(&format!(
        "{name}: {} is wanted, on {place}",
        word(unit.desired_state)
    ));
    let mut states = client.states(&only(&name)).await?;
    states.sort();
    for state in states {
        let [_, place, active, sub] = row(state, &machines);
        say(&format!("  {place}: {active} ({sub})"));
    }
    Ok(())
}

async fn submit(client: &Client, path: &Path, replace: bool) -> Result<(), Failure> {
    let Source { name, unit } = read_checked(path)?;
    let state = match client.unit(&name).await? {
        // What runs goes on running, as the other version.
        Some(known) => known.desired_state.unwrap_or(DesiredState::Inactive),
        None => DesiredState::Inactive,
    };
    let replaced = put(client, &name, &unit, state, replace).await?;
    say(&format!(
        "{name}: {}",
        if replaced { "replaced" } else { "submitted" }
    ));
    Ok(())
}

fn read_checked(path: &Path) -> Result<Source, Failure> {
    let source = files::read(path)?;
    if findings(&path.display().to_string(), &source) {
        Ok(source)
    } else {
        Err(Failure::Refused { name: source.name })
    }
}

/// Gives fleet this version of a unit. Gives whether there was another one.
async fn put(
    client: &Client,
    name: &UnitName,
    unit: &UnitFile,
    state: DesiredState,
    replace: bool,
) -> Result<bool, Failure> {
    if replace {
        return Ok(client.replace(name, unit, state).await?);
    }
    if let Some(known) = client.unit(name).await?
        && UnitFile::from_options(known.options).as_ref() != Ok(unit)
    {
        return Err(Failure::Differs { name: name.clone() });
    }
    client.create(name, unit, state).await?;
    Ok(false)
}

async fn start(client: &Client, text: &str, replace: bool, wait: Duration) -> Result<(), Failure> {
    let (name, unit) = if files::is_path(text) {
        let Source { name, unit } = read_checked(Path::new(text))?;
        refuse_template(&name)?;
        put(client, &name, &unit, DesiredState::Launched, replace).await?;
        (name, unit)
    } else {
        let name = unit_name(text)?;
        refuse_template(&name)?;
        let unit = launch_known(client, &name).await?;
        (name, unit)
    };
    if Placement::of(&name, &unit).global {
        say(&format!("{name}: started on every machine that it may run on"));
        return Ok(());
    }
    until_running(client, &name, wait).await
}

fn refuse_template(name: &UnitName) -> Result<(), Failure> {
    if name.is_template() {
        return Err(Failure::Template { name: name.clone() });
    }
    Ok(())
}

/// Starts a unit that fleet knows, or an instance of a template that it knows.
async fn launch_known(client: &Client, name: &UnitName) -> Result<UnitFile, Failure> {
    if let Some(unit) = client.unit(name).await? {
        client.set_state(name, DesiredState::Launched).await?;
        return Ok(UnitFile::from_options(unit.options).unwrap_or_default());
    }
    let template = match name.template() {
        Some(template) => client.unit(&template).await?,
        None => None,
    };
    let file = template.and_then(|template| UnitFile::from_options(template.options).ok());
    let file = file.ok_or_else(|| Failure::Unknown { name: name.clone() })?;
    client.create(name, &file, DesiredState::Launched).await?;
    Ok(file)
}

async fn until_running(client: &Client, name: &UnitName, wait: Duration) -> Result<(), Failure> {
    if wait.is_zero() {
        say(&format!("{name}: start asked for"));
        return Ok(());
    }
    let deadline = Instant::now() + wait;
    loop {
        let states = client.states(&only(name)).await?;
        if let Some(running) = states.iter().find(|state| state.systemd_active_state == "active") {
            let place = machine(&running.machine_id, &client.machines().await?);
            say(&format!(
                "{name}: {} ({}) on {place}",
                running.systemd_active_state, running.systemd_sub_state
            ));
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::NotRunning {
                name: name.clone(),
                after: wait,
                state: describe(client, name, states.first()).await?,
            });
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn describe(client: &Client, name: &UnitName, state: Option<&UnitState>) -> Result<String, Failure> {
    let machines = client.machines().await?;
    Ok(match state {
        Some(state) => format!(
            "{} ({}) on {}",
            state.systemd_active_state,
            state.systemd_sub_state,
            machine(&state.machine_id, &machines)
        ),
        None => match known(client, name).await?.machine_id.as_str() {
            "" => format!(
                "no machine may run it ({} alive); see its [X-Fleet]",
                machines.len()
            ),
            id => format!("{} has not taken it up yet", machine(id, &machines)),
        },
    })
}

async fn stop(client: &Client, text: &str) -> Result<(), Failure> {
    let name = unit_name(text)?;
    // Otherwise fleet would load one that is only submitted.
    if known(client, &name).await?.desired_state != Some(DesiredState::Inactive) {
        client.set_state(&name, DesiredState::Loaded).await?;
    }
    say(&format!("{name}: stop asked for"));
    Ok(())
}

async fn destroy(client: &Client, text: &str) -> Result<(), Failure> {
    let name = unit_name(text)?;
    if client.destroy(&name).await? {
        say(&format!("{name}: destroyed"));
    } else {
        say(&format!("{name}: fleet does not know it"));
    }
    Ok(())
}
