//! fleet's API, version 1, to the letter: statuses, texts and pages are those of fleet's own server (`api/*.go`), and where
//! a version differs from what was measured with 1.0.0, that counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use fleet::{DesiredState, Placement, UnitFile, UnitName, UnitOption};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Shared;
use super::registry::Known;

/// How many items are on a page. fleet takes no other number.
const PAGE: usize = 100;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/fleet/v1/units", any(units))
        .route("/fleet/v1/units/{name}", any(unit))
        .route("/fleet/v1/state", any(states))
        .route("/fleet/v1/machines", any(machines))
        .fallback(async || error(StatusCode::NOT_FOUND, ""))
        .with_state(shared)
}

fn error(code: StatusCode, message: &str) -> Response {
    (
        code,
        Json(json!({"error": {"code": code.as_u16(), "message": message}})),
    )
        .into_response()
}

fn bad(message: &str) -> Response {
    error(StatusCode::BAD_REQUEST, message)
}

/// The parts of a query, decoded.
fn parameters(query: Option<&str>) -> BTreeMap<String, Vec<String>> {
    let mut parameters = BTreeMap::<_, Vec<_>>::new();
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.entry(key.to_owned()).or_default().push(decoded(value));
    }
    parameters
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex: Option<u8> = (byte == b'%')
            .then(|| [rest.next().unwrap_or_default(), rest.next().unwrap_or_default()])
            .and_then(|hex| u8::from_str_radix(&String::from_utf8_lossy(&hex), 16).ok());
        bytes.push(hex.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The page that a query asks for, from 1.
fn asked_page(parameters: &BTreeMap<String, Vec<String>>) -> Result<usize, String> {
    let Some(tokens) = parameters.get("nextPageToken") else {
        return Ok(1);
    };
    let [token] = tokens.as_slice() else {
        return Err("too many values for page token".to_owned());
    };
    let bytes = URL_SAFE.decode(token).map_err(|error| error.to_string())?;
    let [a, b, c, d] = bytes.as_slice() else {
        return Err("unexpected EOF".to_owned());
    };
    let (limit, page) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
    if usize::from(limit) != PAGE {
        Err(format!("token limit must be {PAGE}"))
    } else if page == 0 {
        Err("token page must be greater than zero".to_owned())
    } else {
        Ok(usize::from(page))
    }
}

/// One page of a list. When the last page is full, fleet gives a token for one more, which is empty; an empty list is left
/// out.
fn page(key: &str, items: &[Value], parameters: &BTreeMap<String, Vec<String>>) -> Response {
    let number = match asked_page(parameters) {
        Ok(number) => number,
        Err(message) => return bad(&message),
    };
    let (start, stop) = ((number - 1) * PAGE, number * PAGE);
    let mut body = Map::new();
    if start < items.len() {
        body.insert(key.to_owned(), items[start..stop.min(items.len())].into());
        if stop <= items.len() {
            let limit = u16::try_from(PAGE).unwrap_or_default().to_le_bytes();
            let next = u16::try_from(number + 1).unwrap_or_default().to_le_bytes();
            body.insert(
                "nextPageToken".to_owned(),
                URL_SAFE.encode([limit, next].concat()).into(),
            );
        }
    }
    Json(body).into_response()
}

fn only_get() -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        "only GET supported against this resource",
    )
}

async fn units(State(shared): State<Arc<Shared>>, method: Method, RawQuery(query): RawQuery) -> Response {
    if method != Method::GET {
        return only_get();
    }
    let all: Vec<Value> = {
        let registry = shared.registry();
        registry
            .units
            .iter()
            .map(|(name, known)| shown(&registry, name, known))
            .collect()
    };
    page("units", &all, &parameters(query.as_deref()))
}

/// A unit as the API shows it: what is empty is left out. A global unit has no machine, and is always `inactive`.
fn shown(registry: &super::Registry, name: &UnitName, known: &Known) -> Value {
    let mut unit = Map::new();
    unit.insert("name".to_owned(), name.as_str().into());
    unit.insert("options".to_owned(), json!(known.options));
    unit.insert("desiredState".to_owned(), known.desired.as_str().into());
    let mut current = DesiredState::Inactive;
    if let Some(target) = &known.target {
        unit.insert("machineID".to_owned(), target.as_str().into());
        let member = registry.alive().find(|member| member.host.id == *target);
        current = match member.and_then(|member| member.loaded.get(name)) {
            Some(true) => DesiredState::Launched,
            Some(false) => DesiredState::Loaded,
            None => DesiredState::Inactive,
        };
    }
    unit.insert("currentState".to_owned(), current.as_str().into());
    unit.into()
}

async fn unit(
    State(shared): State<Arc<Shared>>,
    Path(item): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match method {
        Method::GET => get(&shared, &item),
        Method::DELETE => destroy(&shared, &item),
        Method::PUT => set(&shared, &item, &headers, &body),
        _ => error(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET, PUT and DELETE supported against this resource",
        ),
    }
}

fn get(shared: &Shared, item: &str) -> Response {
    let registry = shared.registry();
    let name = item.parse::<UnitName>().ok();
    match name.and_then(|name| registry.units.get_key_value(&name)) {
        Some((name, known)) => Json(shown(&registry, name, known)).into_response(),
        None => error(StatusCode::NOT_FOUND, "unit does not exist"),
    }
}

fn destroy(shared: &Shared, item: &str) -> Response {
    let known = item
        .parse::<UnitName>()
        .ok()
        .and_then(|name| shared.registry().units.remove(&name));
    match known {
        Some(_) => {
            shared.wake.notify_one();
            StatusCode::NO_CONTENT.into_response()
        }
        None => error(StatusCode::NOT_FOUND, "unit does not exist"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Put {
    #[serde(default)]
    name: String,
    #[serde(default)]
    desired_state: String,
    #[serde(default)]
    options: Option<Vec<UnitOption>>,
}

fn set(shared: &Shared, item: &str, headers: &HeaderMap, body: &[u8]) -> Response {
    let types: Vec<_> = headers.get_all(CONTENT_TYPE).iter().collect();
    let [content_type] = types.as_slice() else {
        let message = format!("expected 1 Content-Type, got {}", types.len());
        return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &message);
    };
    let content_type = content_type.to_str().unwrap_or_default();
    if content_type.split(';').next().unwrap_or_default().trim() != "application/json" {
        return error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "only acceptable Content-Type is application/json",
        );
    }
    let put: Put = match serde_json::from_slice(body) {
        Ok(put) => put,
        Err(error) => return bad(&format!("unable to decode body: {error}")),
    };
    if !put.name.is_empty() && put.name != item {
        return bad(&format!(
            "name in URL {item:?} differs from unit name in request body {:?}",
            put.name
        ));
    }
    let name: UnitName = match item.parse() {
        Ok(name) => name,
        Err(error) => return bad(&format!("invalid unit name: {error}")),
    };
    match change(shared, &name, &put.desired_state, put.options.unwrap_or_default()) {
        Ok(status) => {
            shared.wake.notify_one();
            status.into_response()
        }
        Err(response) => *response,
    }
}

fn change(
    shared: &Shared,
    name: &UnitName,
    desired: &str,
    options: Vec<UnitOption>,
) -> Result<StatusCode, Box<Response>> {
    let mut registry = shared.registry();
    let known = registry.units.get_mut(name);
    if known.is_none() {
        if options.is_empty() {
            let message = "unit does not exist and options field empty";
            return Err(error(StatusCode::CONFLICT, message).into());
        }
        validate(name, &options).map_err(|message| bad(&message))?;
    } else if desired.is_empty() {
        let message = "must provide DesiredState to update existing unit";
        return Err(error(StatusCode::CONFLICT, message).into());
    }
    let desired: DesiredState = desired
        .parse()
        .map_err(|_| bad(&format!("invalid value {desired:?} for JobState")))?;
    if name.is_template() && desired != DesiredState::Inactive {
        return Err(bad(&format!("cannot activate template {:?}", name.as_str())).into());
    }
    if let Some(known) = known {
        // The options that came along are not looked at.
        known.desired = desired;
        return Ok(StatusCode::NO_CONTENT);
    }
    registry
        .units
        .insert(name.clone(), Known::new(name, options, desired));
    Ok(StatusCode::CREATED)
}

/// `ValidateOptions`: combinations only. What fleet does not know it takes, and ignores.
fn validate(name: &UnitName, options: &[UnitOption]) -> Result<(), String> {
    let unit = UnitFile::from_options(options.iter().cloned()).map_err(|error| error.to_string())?;
    let placement = Placement::of(name, &unit);
    for peer in &placement.machine_of {
        if let Some(conflict) = placement.conflicts.iter().find(|glob| glob.matches(peer)) {
            return Err(format!(
                "unresolvable requirements: peer {peer:?} matches conflict {:?}",
                conflict.to_string()
            ));
        }
    }
    let (id, peers) = (placement.machine_id.is_some(), !placement.machine_of.is_empty());
    let (conflicts, replaces) = (!placement.conflicts.is_empty(), !placement.replaces.is_empty());
    for (wrong, message) in [
        (id && peers, "MachineID cannot be used with Peers"),
        (id && conflicts, "MachineID cannot be used with Conflicts"),
        (id && placement.global, "MachineID cannot be used with Global"),
        (placement.global && peers, "Global cannot be used with Peers"),
        (
            placement.global && replaces,
            "Global cannot be used with Replaces",
        ),
        (conflicts && replaces, "Conflicts cannot be used with Replaces"),
    ] {
        if wrong {
            return Err(message.to_owned());
        }
    }
    Ok(())
}

async fn states(State(shared): State<Arc<Shared>>, method: Method, RawQuery(query): RawQuery) -> Response {
    if method != Method::GET {
        return only_get();
    }
    let parameters = parameters(query.as_deref());
    let asked = |key: &str, value: &str| {
        let first = parameters.get(key).and_then(|values| values.first());
        first.is_none_or(|asked| asked.is_empty() || asked == value)
    };
    let mut all = Vec::new();
    for member in shared.registry().alive() {
        for state in &member.states {
            if asked("unitName", &state.name) && asked("machineID", &state.machine_id) {
                all.push(json!({
                    "name": state.name,
                    "machineID": state.machine_id,
                    "hash": state.hash,
                    "systemdLoadState": state.systemd_load_state,
                    "systemdActiveState": state.systemd_active_state,
                    "systemdSubState": state.systemd_sub_state,
                }));
            }
        }
    }
    all.sort_by_key(Value::to_string);
    page("states", &all, &parameters)
}

async fn machines(State(shared): State<Arc<Shared>>, method: Method, RawQuery(query): RawQuery) -> Response {
    if method != Method::GET {
        return bad("only HTTP GET supported against this resource");
    }
    let all: Vec<Value> = shared
        .registry()
        .alive()
        .map(|member| {
            let mut machine = Map::new();
            machine.insert("id".to_owned(), member.host.id.as_str().into());
            machine.insert("primaryIP".to_owned(), member.host.ip.as_str().into());
            if !member.host.metadata.is_empty() {
                machine.insert("metadata".to_owned(), json!(member.host.metadata));
            }
            machine.into()
        })
        .collect();
    page("machines", &all, &parameters(query.as_deref()))
}
