//! What a failing, slow or hostile server does to the client. A stand-in server is used for nothing else: what
//! Consul does is tested against Consul.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wiremock::matchers::{header, method, path, query_param, query_param_is_missing};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use crate::{
    Client, Config, Continuity, Error, QueryOptions, RaftPeer, ServiceRegistration, TokenSource, WatchEvent,
    WatchOptions,
};

const SERVICES: &str = "/v1/catalog/services";

fn client_with(address: &str, change: impl FnOnce(&mut Config)) -> Client {
    let mut config = Config::new(address.parse().expect("address"));
    change(&mut config);
    Client::new(config).expect("client")
}

fn client(server: &MockServer) -> Client {
    client_with(&server.uri(), |_| {})
}

fn answer(index: u64, body: &str) -> ResponseTemplate {
    ResponseTemplate::new(200)
        .insert_header("X-Consul-Index", index.to_string())
        .insert_header("X-Consul-KnownLeader", "true")
        .insert_header("X-Consul-LastContact", "0")
        .set_body_string(body)
}

async fn serve(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(path(SERVICES))
        .respond_with(response)
        .mount(&server)
        .await;
    server
}

async fn services_error(server: &MockServer) -> Error {
    client(server)
        .catalog_services(&QueryOptions::default())
        .await
        .expect_err("error")
}

/// The watch's first event is an outage with an error of this kind; nothing is taken for empty.
async fn assert_outage(response: ResponseTemplate, is: impl Fn(&Error) -> bool) {
    let server = serve(response).await;
    let mut watch = client(&server).watch_catalog_services(WatchOptions::default());
    match watch.next().await {
        WatchEvent::Unavailable { error, attempts: 1 } => assert!(is(&error), "{error:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_error_status_says_what_was_tried_and_what_consul_said() {
    let page = format!("No cluster leader\r\n{}", "x".repeat(200_000));
    let server = serve(ResponseTemplate::new(500).set_body_string(page)).await;
    let error = services_error(&server).await;
    let Error::Status { code: 500, body, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(body.len() <= 512 && !body.contains('\n'));
    assert!(error.is_no_leader() && error.is_transient());
    assert!(
        error
            .to_string()
            .starts_with("cannot list the catalog's services: Consul answered 500: No cluster")
    );
}

#[tokio::test]
async fn no_failure_reads_as_empty() {
    let text = |code: u16, body: &str| ResponseTemplate::new(code).set_body_string(body);
    assert_outage(text(500, "No cluster leader"), Error::is_no_leader).await;
    assert_outage(text(429, "Too many"), |e| e.status() == Some(429)).await;
    assert_outage(text(403, "Permission denied"), Error::is_forbidden).await;
    assert_outage(text(404, ""), Error::is_not_found).await;
    assert_outage(text(200, ""), |e| matches!(e, Error::Decode { .. })).await;
    assert_outage(answer(7, "<html>"), |e| matches!(e, Error::Decode { .. })).await;
    assert_outage(answer(7, "null"), |e| matches!(e, Error::Decode { .. })).await;
    assert_outage(answer(7, r#"{"web":["#), |e| matches!(e, Error::Decode { .. })).await;
    assert_outage(text(200, "{}"), |e| matches!(e, Error::MissingHeader { .. })).await;
    let leaderless = answer(7, "{}").insert_header("X-Consul-KnownLeader", "false");
    assert_outage(leaderless, Error::is_no_leader).await;
}

#[tokio::test]
async fn a_foreign_404_does_not_read_as_no_keys_or_no_service() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(404).set_body_string("404 page not found"))
        .mount(&server)
        .await;
    let client = client(&server);
    assert!(client.kv_list("a/", &QueryOptions::default()).await.is_err());
    assert!(client.kv_get("a", &QueryOptions::default()).await.is_err());
    assert!(
        client
            .agent_service_blocking("web", None, Duration::ZERO)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_redirect_is_an_error_and_is_not_followed() {
    let server = serve(ResponseTemplate::new(301).insert_header("Location", "/v1/status/leader")).await;
    assert_eq!(services_error(&server).await.status(), Some(301));
    assert_eq!(server.received_requests().await.expect("recorded").len(), 1);
}

#[tokio::test]
async fn a_huge_answer_is_refused() {
    let server = serve(answer(7, &format!("{{\"web\":[\"{}\"]}}", "x".repeat(10_000)))).await;
    let client = client(&server).with_max_answer(5_000);
    let error = client
        .catalog_services(&QueryOptions::default())
        .await
        .expect_err("error");
    assert!(matches!(error, Error::TooLarge { limit: 5_000, .. }), "{error:?}");
}

/// A server that answers every connection with these bytes and then does `then`.
async fn raw_server(bytes: Vec<u8>, close: bool) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&bytes).await;
            if !close {
                open.push(stream);
            }
        }
    });
    address
}

#[tokio::test]
async fn a_huge_answer_without_a_length_is_refused_while_it_is_read() {
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Consul-Index: 7\r\n\r\n".to_vec();
    for _ in 0..100 {
        bytes.extend_from_slice(format!("3e8\r\n{}\r\n", " ".repeat(1_000)).as_bytes());
    }
    let address = raw_server(bytes, false).await;
    let client = client_with(&address.to_string(), |_| {}).with_max_answer(50_000);
    let error = client
        .catalog_services(&QueryOptions::default())
        .await
        .expect_err("error");
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn a_truncated_answer_is_an_error_even_if_it_is_whole_json() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nX-Consul-Index: 7\r\n\r\n{}".to_vec();
    let address = raw_server(bytes, true).await;
    let client = client_with(&address.to_string(), |_| {});
    let error = client
        .catalog_services(&QueryOptions::default())
        .await
        .expect_err("error");
    assert!(matches!(error, Error::Request { .. }), "{error:?}");
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn a_body_that_stalls_meets_the_deadline() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nX-Consul-Index: 7\r\n\r\n{".to_vec();
    let address = raw_server(bytes, false).await;
    let client = client_with(&address.to_string(), |config| {
        config.timeout = Duration::from_millis(100);
    });
    let error = client
        .catalog_services(&QueryOptions::default())
        .await
        .expect_err("error");
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
}

#[tokio::test]
async fn a_slow_answer_meets_the_deadline_and_a_blocking_query_has_its_wait_on_top() {
    let server = MockServer::start().await;
    let slow = Duration::from_millis(400);
    Mock::given(path(SERVICES))
        .respond_with(answer(8, "{}").set_delay(slow))
        .mount(&server)
        .await;
    let client = client_with(&server.uri(), |config| {
        config.timeout = Duration::from_millis(100);
    });
    let error = client
        .catalog_services(&QueryOptions::default())
        .await
        .expect_err("deadline");
    assert!(
        matches!(error, Error::Deadline { after, .. } if after == Duration::from_millis(100)),
        "{error:?}"
    );
    let blocking = QueryOptions {
        index: Some(7),
        wait: Some(Duration::from_secs(10)),
        ..QueryOptions::default()
    };
    assert_eq!(
        client
            .catalog_services(&blocking)
            .await
            .expect("answer")
            .meta
            .index,
        8
    );
}

#[tokio::test]
async fn a_refused_connection_names_the_address() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    drop(listener);
    let error = client_with(&address, |_| {}).leader().await.expect_err("refused");
    assert!(
        matches!(error, Error::Request { .. }) && error.to_string().contains(&address),
        "{error}"
    );
}

#[tokio::test]
async fn token_and_datacenter_are_sent_and_the_token_is_not_in_errors() {
    let server = MockServer::start().await;
    Mock::given(path(SERVICES))
        .and(header("X-Consul-Token", "s3cret"))
        .and(query_param("dc", "dc7"))
        .and(query_param_is_missing("index"))
        .respond_with(answer(7, "{}"))
        .expect(1)
        .mount(&server)
        .await;
    let client = client_with(&server.uri(), |config| {
        config.token = TokenSource::Value("s3cret".into());
        config.datacenter = Some("dc7".into());
    });
    client
        .catalog_services(&QueryOptions::default())
        .await
        .expect("answer");
    let error = client.leader().await.expect_err("not mounted");
    assert!(!format!("{error} {error:?} {client:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_name_that_would_name_another_is_not_sent() {
    let server = MockServer::start().await;
    let client = client(&server);
    for id in ["", "..", "a/../b", "a//b", "/a"] {
        let error = client.deregister_service(id).await.expect_err(id);
        assert!(matches!(error, Error::Identifier { .. }), "{error:?}");
        let error = client
            .register_service(&ServiceRegistration::new(id, "web"))
            .await
            .expect_err(id);
        assert!(matches!(error, Error::Identifier { .. }), "{error:?}");
    }
    assert!(matches!(
        client.kv_delete_recurse("").await,
        Err(Error::Identifier { .. })
    ));
    assert_eq!(server.received_requests().await.expect("recorded").len(), 0);
}

/// Answers from a list, the last one again and again.
struct Script {
    answers: Vec<ResponseTemplate>,
    at: Arc<AtomicUsize>,
}

impl Respond for Script {
    fn respond(&self, _: &Request) -> ResponseTemplate {
        let at = self.at.fetch_add(1, Ordering::SeqCst).min(self.answers.len() - 1);
        self.answers[at].clone()
    }
}

#[tokio::test]
async fn a_watch_rides_out_an_outage_over_http() {
    let server = MockServer::start().await;
    let answers = vec![
        answer(0, r#"{"web":[]}"#),
        ResponseTemplate::new(500).set_body_string("No cluster leader"),
        answer(0, r#"{"web":[]}"#),
        answer(70, r#"{"web":[],"db":null}"#),
        answer(3, "{}"),
        answer(3, "{}"),
        answer(4, r#"{"web":[]}"#).set_delay(Duration::from_millis(1)),
        answer(4, "{}").set_delay(Duration::from_secs(60)),
    ];
    let at = Arc::new(AtomicUsize::new(0));
    Mock::given(path(SERVICES))
        .respond_with(Script { answers, at })
        .mount(&server)
        .await;
    let mut watch = client(&server).watch_catalog_services(WatchOptions::default());
    let mut seen = Vec::new();
    while seen.len() < 6 {
        seen.push(match watch.next().await {
            WatchEvent::Value(snapshot) => Ok((snapshot.index, snapshot.value.len(), snapshot.continuity)),
            WatchEvent::Unavailable { error, attempts } => {
                assert!(error.is_no_leader(), "{error:?}");
                Err(attempts)
            }
        });
    }
    assert_eq!(
        seen,
        [
            Ok((1, 1, Continuity::First)),
            Err(1),
            Ok((1, 1, Continuity::Resumed)),
            Ok((70, 2, Continuity::Continued)),
            Ok((3, 0, Continuity::Reset)),
            Ok((4, 1, Continuity::Continued)),
        ]
    );
    let asked: Vec<Option<String>> = server
        .received_requests()
        .await
        .expect("recorded")
        .iter()
        .map(|request| {
            request
                .url
                .query_pairs()
                .find(|(name, _)| name == "index")
                .map(|(_, index)| index.into_owned())
        })
        .collect();
    let index = |text: &str| Some(text.to_owned());
    assert_eq!(
        asked,
        [None, index("1"), None, index("1"), index("70"), None, index("3")]
    );
}

#[tokio::test]
async fn a_watch_asks_consistently_whenever_it_does_not_block_unless_stale_answers_are_wanted() {
    use crate::Consistency::{Consistent, Default, Stale};
    for (consistency, at_once, blocking) in [
        (Default, "consistent", ""),
        (Consistent, "consistent", "consistent"),
        (Stale, "stale", "stale"),
    ] {
        let server = MockServer::start().await;
        let failure = ResponseTemplate::new(500).set_body_string("No cluster leader");
        let answers = vec![
            answer(7, "{}"),
            answer(8, "{}"),
            failure,
            answer(8, "{}"),
            answer(3, "{}"),
            answer(4, "{}"),
            answer(5, "{}"),
        ];
        let at = Arc::new(AtomicUsize::new(0));
        Mock::given(path(SERVICES))
            .respond_with(Script { answers, at })
            .mount(&server)
            .await;
        let options = WatchOptions {
            consistency,
            ..WatchOptions::default()
        };
        let mut watch = client(&server).watch_catalog_services(options);
        for _ in 0..7 {
            watch.next().await;
        }
        let requests = server.received_requests().await.expect("recorded");
        let asked: Vec<(bool, String)> = requests
            .iter()
            .map(|request| {
                let names: Vec<_> = request.url.query_pairs().map(|(name, _)| name).collect();
                let mode = names
                    .iter()
                    .find(|name| ["consistent", "stale"].contains(&name.as_ref()));
                let mode = mode.map(ToString::to_string).unwrap_or_default();
                (names.iter().any(|name| name == "index"), mode)
            })
            .collect();
        // First, change, failure, after it, reset, after it, change.
        let blocks = [false, true, true, false, true, false, true];
        let expected = blocks.map(|blocks| (blocks, if blocks { blocking } else { at_once }.to_owned()));
        assert_eq!(asked, expected, "{consistency:?}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_spoken_to_and_named_in_errors() {
    let dir = tempfile::tempdir().expect("dir");
    let address = format!("unix://{}", dir.path().join("consul.sock").display());
    let client = client_with(&address, |_| {});
    let error = client.leader().await.expect_err("no socket");
    assert!(
        matches!(error, Error::Request { .. }) && error.to_string().contains(&address),
        "{error}"
    );

    let listener = tokio::net::UnixListener::bind(dir.path().join("consul.sock")).expect("bind");
    let answer = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut request = [0; 4096];
        let length = stream.read(&mut request).await.expect("request");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\"\"")
            .await
            .expect("answer");
        String::from_utf8_lossy(&request[..length]).into_owned()
    };
    let (leader, request) = tokio::join!(client.leader(), answer);
    assert_eq!(leader.expect("leader"), None);
    assert!(
        request.starts_with("GET /v1/status/leader HTTP/1.1\r\n"),
        "{request}"
    );
}

async fn answering(method_name: &str, at: &str, response: ResponseTemplate) -> (MockServer, Client) {
    let server = MockServer::start().await;
    Mock::given(method(method_name))
        .and(path(at))
        .respond_with(response)
        .mount(&server)
        .await;
    let client = client(&server);
    (server, client)
}

#[tokio::test]
async fn a_429_is_the_servers_health_only_if_it_says_so() {
    const HEALTH: &str = "/v1/operator/autopilot/health";
    let sick = r#"{"Healthy":false,"FailureTolerance":0,"Servers":null}"#;
    for (code, body, healthy) in [
        (429, sick, Some(false)),
        (
            200,
            r#"{"Healthy":true,"FailureTolerance":1,"Servers":[]}"#,
            Some(true),
        ),
        (429, "Your IP is issuing too many concurrent connections", None),
        (429, r#"{"Healthy":true}"#, None),
        (500, sick, None),
    ] {
        let (_server, client) =
            answering("GET", HEALTH, ResponseTemplate::new(code).set_body_string(body)).await;
        match (client.autopilot_health().await, healthy) {
            (Ok(health), Some(healthy)) => assert_eq!(health.healthy, healthy),
            (Err(error), None) => assert_eq!(error.status(), Some(code), "{body}"),
            (result, _) => panic!("{code} {body}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn no_failure_reads_as_a_policy_or_peer_that_is_not_there() {
    let refused = || ResponseTemplate::new(403).set_body_string("ACL not found");
    let (_server, client) = answering("GET", "/v1/acl/policies", refused()).await;
    assert!(client.acl_policy("p").await.expect_err("refused").is_forbidden());
    let (_server, client) = answering(
        "DELETE",
        "/v1/operator/raft/peer",
        ResponseTemplate::new(500).set_body_string("No cluster leader"),
    )
    .await;
    let error = client
        .raft_remove_peer(RaftPeer::Id("a"))
        .await
        .expect_err("no leader");
    assert!(error.is_no_leader(), "{error:?}");
}

const SNAPSHOT: &str = "/v1/snapshot";

#[tokio::test]
async fn a_snapshot_that_is_none_is_an_error_whatever_its_status_says() {
    for (response, is) in [
        (
            answer(7, "failed to read snapshot file"),
            (|e| matches!(e, Error::Archive { .. })) as fn(&Error) -> bool,
        ),
        (answer(7, ""), |e| matches!(e, Error::Archive { .. })),
        (ResponseTemplate::new(200), |e| {
            matches!(e, Error::MissingHeader { .. })
        }),
        (ResponseTemplate::new(302), |e| e.status() == Some(302)),
        (
            ResponseTemplate::new(500).set_body_string("No cluster leader"),
            Error::is_no_leader,
        ),
        (
            ResponseTemplate::new(403).set_body_string("Permission denied"),
            Error::is_forbidden,
        ),
    ] {
        let (_server, client) = answering("GET", SNAPSHOT, response).await;
        let error = client
            .snapshot_save(&mut Vec::new(), false, Duration::from_secs(5))
            .await
            .expect_err("none");
        assert!(is(&error), "{error:?}");
    }
}

#[tokio::test]
async fn a_snapshot_may_be_larger_than_any_other_answer() {
    let whole = crate::snapshot::tests::archive(b"state");
    let (_server, client) = answering("GET", SNAPSHOT, answer(7, "").set_body_bytes(whole.clone())).await;
    let mut saved = Vec::new();
    client
        .with_max_answer(10)
        .snapshot_save(&mut saved, false, Duration::from_secs(5))
        .await
        .expect("whole");
    assert!(saved == whole);
}

#[tokio::test]
async fn saving_and_restoring_have_a_deadline_of_their_own() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nX-Consul-Index: 7\r\n\r\n\x1f\x8b".to_vec();
    let address = raw_server(bytes, false).await;
    let client = client_with(&address.to_string(), |_| {});
    let within = Duration::from_millis(100);
    let error = client
        .snapshot_save(&mut Vec::new(), false, within)
        .await
        .expect_err("stalled");
    assert!(
        matches!(error, Error::Deadline { after, .. } if after == within),
        "{error:?}"
    );
    // Nobody writes to the other end.
    let (silent, _end) = tokio::io::duplex(16);
    let error = client
        .snapshot_restore(silent, within)
        .await
        .expect_err("stalled");
    assert!(
        matches!(error, Error::Deadline { after, .. } if after == within),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_disk_that_is_full_is_told_from_a_bad_snapshot() {
    struct Full;
    impl tokio::io::AsyncWrite for Full {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::task::Poll::Ready(Err(std::io::ErrorKind::StorageFull.into()))
        }
        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }
    let (_server, client) = answering("GET", SNAPSHOT, answer(7, "anything")).await;
    let error = client
        .snapshot_save(&mut Full, false, Duration::from_secs(5))
        .await
        .expect_err("full");
    assert!(
        matches!(&error, Error::Stream { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
        "{error:?}"
    );
}
