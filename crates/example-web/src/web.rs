//! What is answered to which request.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        Query, Request, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{options::Options, server::say};

#[derive(Debug)]
struct App {
    host: String,
    greeting: String,
    delay: Duration,
    fail_rate: f64,
    healthy: AtomicBool,
}

/// What one request may ask for in its query, on every path but /health.
#[derive(Debug, Default, Deserialize)]
struct Wish {
    json: Option<String>,
    delay_ms: Option<u64>,
    status: Option<u16>,
    crash: Option<String>,
}

#[derive(Debug, Serialize)]
struct Hello<'a> {
    host: &'a str,
    method: &'a str,
    path: &'a str,
    version: &'a str,
}

/// The whole application.
pub(crate) fn app(options: Options) -> Router {
    let app = Arc::new(App {
        host: host_name(),
        greeting: options.greeting,
        delay: options.delay_ms,
        fail_rate: options.fail_rate,
        healthy: AtomicBool::new(!options.unhealthy),
    });
    Router::new()
        .route("/headers", get(headers))
        .route("/echo", post(echo))
        .route("/ws", get(websocket))
        .route("/crash", post(crash))
        .fallback(hello)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), misbehave))
        // Not under the layer: a health check sees only the health that was set.
        .route("/health", get(health))
        .route("/health/up", post(health_up))
        .route("/health/down", post(health_down))
        .with_state(app)
}

/// The host's name, which in a container is its short ID.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Crashes, waits or fails first, as the options or the request ask.
async fn misbehave(
    State(app): State<Arc<App>>,
    wish: Result<Query<Wish>, axum::extract::rejection::QueryRejection>,
    request: Request,
    next: Next,
) -> Response {
    let Query(wish) = match wish {
        Ok(wish) => wish,
        Err(error) => return error.into_response(),
    };
    if wish.crash.is_some_and(|value| value != "0") {
        die();
    }
    sleep(wish.delay_ms.map_or(app.delay, Duration::from_millis)).await;
    if let Some(status) = wish.status {
        return match StatusCode::from_u16(status) {
            Ok(status) if status.as_u16() >= 200 => (status, format!("{status} as told\n")).into_response(),
            _ => (StatusCode::BAD_REQUEST, "status: not a final HTTP status\n").into_response(),
        };
    }
    if fastrand::f64() < app.fail_rate {
        return (StatusCode::INTERNAL_SERVER_ERROR, "500 by chance\n").into_response();
    }
    next.run(request).await
}

async fn hello(
    State(app): State<Arc<App>>,
    Query(wish): Query<Wish>,
    method: Method,
    uri: Uri,
    // Read to its end, so that the connection can be used again.
    _body: Bytes,
) -> Response {
    if wish.json.is_some() {
        let (method, path) = (method.as_str(), uri.path());
        return Json(Hello {
            host: &app.host,
            method,
            path,
            version: &app.greeting,
        })
        .into_response();
    }
    format!("{} {} {} {}\n", app.host, method, uri.path(), app.greeting).into_response()
}

async fn headers(received: HeaderMap) -> Json<BTreeMap<String, Vec<String>>> {
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in &received {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        all.entry(name.to_string()).or_default().push(value);
    }
    Json(all)
}

async fn echo(headers: HeaderMap, body: Body) -> Response {
    let content_type = headers.get(CONTENT_TYPE).cloned();
    let mut response = Response::new(body);
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo_messages)
}

async fn echo_messages(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn crash() -> StatusCode {
    die()
}

fn die() -> ! {
    say("crashing as told");
    std::process::exit(1)
}

async fn health(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.healthy.load(Ordering::Relaxed) {
        (StatusCode::OK, "healthy\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy\n")
    }
}

async fn health_up(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    app.healthy.store(true, Ordering::Relaxed);
    (StatusCode::OK, "healthy from now on\n")
}

async fn health_down(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    app.healthy.store(false, Ordering::Relaxed);
    (StatusCode::OK, "unhealthy from now on\n")
}
