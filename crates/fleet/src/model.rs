//! What fleet's API speaks of. Reading is tolerant: what fleet leaves out is empty, what it adds is ignored.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::unit::UnitOption;

/// What shall become of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    /// Known to fleet, on no machine.
    Inactive,
    /// On a machine, not started.
    Loaded,
    /// Started.
    Launched,
}

impl DesiredState {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Loaded => "loaded",
            Self::Launched => "launched",
        }
    }
}

impl fmt::Display for DesiredState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DesiredState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Inactive, Self::Loaded, Self::Launched]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no state: use inactive, loaded or launched"))
    }
}

/// A unit that fleet knows: what was asked for. What systemd makes of it is in [`UnitState`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Unit {
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Its file.
    #[serde(deserialize_with = "null_default")]
    pub options: Vec<UnitOption>,
    /// What was asked for; `None` when fleet says something unknown.
    #[serde(deserialize_with = "state_or_none")]
    pub desired_state: Option<DesiredState>,
    /// What fleet made of it. Global units are always `inactive` here.
    #[serde(deserialize_with = "state_or_none")]
    pub current_state: Option<DesiredState>,
    /// Where fleet put it; empty for units that are nowhere, and for global ones.
    #[serde(rename = "machineID", deserialize_with = "null_default")]
    pub machine_id: String,
}

/// What systemd on one machine says of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitState {
    /// The unit's name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// The machine's ID.
    #[serde(rename = "machineID", deserialize_with = "null_default")]
    pub machine_id: String,
    /// Hash of the unit's file, as fleet computes it.
    #[serde(deserialize_with = "null_default")]
    pub hash: String,
    /// `loaded`, `not-found`, …
    #[serde(deserialize_with = "null_default")]
    pub systemd_load_state: String,
    /// `active`, `activating`, `failed`, …
    #[serde(deserialize_with = "null_default")]
    pub systemd_active_state: String,
    /// `running`, `dead`, `auto-restart`, …
    #[serde(deserialize_with = "null_default")]
    pub systemd_sub_state: String,
}

/// A machine of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// Its ID: what is in its `/etc/machine-id`.
    #[serde(deserialize_with = "null_default")]
    pub id: String,
    /// Its address, as its fleet publishes it.
    #[serde(rename = "primaryIP", deserialize_with = "null_default")]
    pub primary_ip: String,
    /// What its operator says of it, such as `consul_role=server`.
    #[serde(deserialize_with = "null_default")]
    pub metadata: BTreeMap<String, String>,
}

fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn state_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DesiredState>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fleet_leaves_out_or_does_not_know_is_empty() {
        let unit: Unit = serde_json::from_str(
            r#"{"name":"a.service","desiredState":"launched","currentState":"floating","options":null}"#,
        )
        .expect("unit");
        assert_eq!(unit.desired_state, Some(DesiredState::Launched));
        assert_eq!((unit.current_state, unit.machine_id.as_str()), (None, ""));
        let machine: Machine =
            serde_json::from_str(r#"{"id":"m","primaryIP":"10.0.0.1","metadata":null,"new":1}"#)
                .expect("machine");
        assert_eq!(
            (machine.primary_ip.as_str(), machine.metadata.len()),
            ("10.0.0.1", 0)
        );
    }

    #[test]
    fn states_are_the_apis_words() {
        for state in [
            DesiredState::Inactive,
            DesiredState::Loaded,
            DesiredState::Launched,
        ] {
            assert_eq!(state.to_string().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).expect("json"), state.as_str());
        }
        assert!(
            "started"
                .parse::<DesiredState>()
                .unwrap_err()
                .contains("use inactive")
        );
    }
}
