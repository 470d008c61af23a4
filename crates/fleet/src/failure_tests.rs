//! What a failing, slow or foreign server does to the client. What fleet itself does is tested against a stand-in that
//! follows its measured behaviour (`integration-tests/tests/fleet_api.rs`).

use std::time::Duration;

use wiremock::matchers::{any, method, path, query_param, query_param_is_missing};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::{Client, Config, DesiredState, Error, StateFilter, UnitFile, UnitName};

fn client(endpoint: &str) -> Client {
    let mut config = Config::new(endpoint.parse().expect("endpoint"));
    config.timeout = Duration::from_millis(500);
    Client::new(config).expect("client")
}

async fn answering(response: ResponseTemplate) -> (MockServer, Client) {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(response).mount(&server).await;
    let client = client(&server.uri());
    (server, client)
}

fn name() -> UnitName {
    "a.service".parse().expect("name")
}

fn unit() -> UnitFile {
    UnitFile::parse("[Service]\nExecStart=/bin/true\n").expect("unit")
}

#[tokio::test]
async fn fleets_own_words_are_in_the_error() {
    let body = serde_json::json!({"error": {"code": 400, "message": "invalid\nunit type: \u{1b}\"svc\""}});
    let (_server, client) = answering(ResponseTemplate::new(400).set_body_json(body)).await;
    let error = client
        .create(&name(), &unit(), DesiredState::Launched)
        .await
        .expect_err("400");
    assert_eq!(
        error.to_string(),
        "cannot create unit a.service: fleet answered 400: invalid unit type: \"svc\""
    );
    assert!(!error.is_transient() && !error.is_conflict());
}

#[tokio::test]
async fn an_error_page_that_is_not_fleets_is_shown_and_cut() {
    let page = format!("<html>\r\n{}", "x".repeat(100_000));
    let (_server, client) = answering(ResponseTemplate::new(502).set_body_string(page)).await;
    let Err(Error::Status {
        code: 502, message, ..
    }) = client.units().await
    else {
        panic!("no 502")
    };
    assert!(message.starts_with("<html> x") && message.len() <= 512);
}

#[tokio::test]
async fn only_fleets_own_404_means_that_there_is_no_such_unit() {
    let (_server, client) = answering(ResponseTemplate::new(404).set_body_string("404 page not found")).await;
    assert_eq!(
        client.unit(&name()).await.expect_err("not fleet's").status(),
        Some(404)
    );
    assert_eq!(
        client.destroy(&name()).await.expect_err("not fleet's").status(),
        Some(404)
    );

    let body = serde_json::json!({"error": {"code": 404, "message": "unit does not exist"}});
    let (_server, client) = answering(ResponseTemplate::new(404).set_body_json(body)).await;
    assert_eq!(client.unit(&name()).await.expect("fleet's"), None);
    assert!(!client.destroy(&name()).await.expect("fleet's"));
}

#[tokio::test]
async fn another_success_is_not_taken_for_fleets() {
    let (_server, client) = answering(ResponseTemplate::new(200).set_body_string("hello")).await;
    assert!(matches!(
        client.destroy(&name()).await,
        Err(Error::Unexpected { code: 200, .. })
    ));
    let created = client.create(&name(), &unit(), DesiredState::Loaded).await;
    assert!(
        matches!(created, Err(Error::Unexpected { code: 200, .. })),
        "{created:?}"
    );
    assert!(matches!(client.machines().await, Err(Error::Decode { .. })));
}

#[tokio::test]
async fn garbage_in_a_list_is_an_error_and_nothing_is_taken_for_empty() {
    for body in [
        "null",
        "[]",
        "{\"units\":{}}",
        "{\"units\":[1]}",
        "{\"nextPageToken\":7}",
        "{\"units\":[",
    ] {
        let (_server, client) = answering(ResponseTemplate::new(200).set_body_string(body)).await;
        assert!(
            matches!(client.units().await, Err(Error::Decode { .. })),
            "{body}"
        );
    }
    for body in ["{}", "{\"units\":null}", "{\"units\":[],\"nextPageToken\":\"\"}"] {
        let (_server, client) = answering(ResponseTemplate::new(200).set_body_string(body)).await;
        assert_eq!(client.units().await.expect(body), []);
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_meets_the_deadline() {
    let (_server, client) = answering(ResponseTemplate::new(200).set_delay(Duration::from_secs(30))).await;
    let error = client.machines().await.expect_err("deadline");
    assert!(
        matches!(error, Error::Deadline { .. }) && error.is_transient(),
        "{error:?}"
    );
}

#[tokio::test]
async fn nobody_there_is_said_with_the_endpoint() {
    let error = client("unix:///nonexistent/fleet.sock")
        .machines()
        .await
        .expect_err("nobody");
    assert_eq!(
        error.to_string(),
        "cannot list the machines: the request to fleet at unix:///nonexistent/fleet.sock failed"
    );
    assert!(std::error::Error::source(&error).is_some() && error.is_transient());
}

#[tokio::test]
async fn pages_that_lead_in_a_circle_end() {
    let (_server, client) =
        answering(ResponseTemplate::new(200).set_body_string("{\"nextPageToken\":\"AAA=\"}")).await;
    assert!(matches!(client.units().await, Err(Error::Pages { pages: 2, .. })));
}

#[tokio::test]
async fn filters_stay_on_every_page() {
    let server = MockServer::start().await;
    let first = serde_json::json!({"states": [{"name": "a.service", "machineID": "m1"}], "nextPageToken": "ZAACAA=="});
    let second = serde_json::json!({"states": [{"name": "a.service", "machineID": "m2"}]});
    let page = |token: Option<&str>, body| {
        let mock = Mock::given(method("GET"))
            .and(path("/fleet/v1/state"))
            .and(query_param("unitName", "a.service"))
            .and(query_param("machineID", "m"));
        let mock = match token {
            Some(token) => mock.and(query_param("nextPageToken", token)),
            None => mock.and(query_param_is_missing("nextPageToken")),
        };
        mock.respond_with(ResponseTemplate::new(200).set_body_json(body))
    };
    page(None, first).mount(&server).await;
    page(Some("ZAACAA=="), second).mount(&server).await;
    let filter = StateFilter {
        unit: Some(name()),
        machine_id: Some("m".into()),
    };
    let machines: Vec<_> = client(&server.uri())
        .states(&filter)
        .await
        .expect("both pages")
        .into_iter()
        .map(|state| state.machine_id)
        .collect();
    assert_eq!(machines, ["m1", "m2"]);
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let body = vec![b' '; crate::MAX_ANSWER + 1];
    let server = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200).set_body_bytes(body))
        .mount(&server)
        .await;
    let mut config = Config::new(server.uri().parse().expect("endpoint"));
    config.timeout = Duration::from_secs(20);
    let client = Client::new(config).expect("client");
    assert!(matches!(client.units().await, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn a_unit_that_does_not_stop_is_not_created_twice() {
    let server = MockServer::start().await;
    let old = serde_json::json!({"name": "a.service", "options": [{"section": "Service", "name": "ExecStart", "value": "/bin/false"}]});
    let still = serde_json::json!({"states": [{"name": "a.service", "machineID": "m1"}]});
    let one = "/fleet/v1/units/a.service";
    Mock::given(method("GET"))
        .and(path(one))
        .respond_with(ResponseTemplate::new(200).set_body_json(old))
        .mount(&server)
        .await;
    Mock::given(method("DELETE"))
        .and(path(one))
        .respond_with(ResponseTemplate::new(204))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("PUT"))
        .respond_with(ResponseTemplate::new(201))
        .expect(0)
        .mount(&server)
        .await;
    Mock::given(path("/fleet/v1/state"))
        .respond_with(ResponseTemplate::new(200).set_body_json(still))
        .mount(&server)
        .await;
    let mut config = Config::new(server.uri().parse().expect("endpoint"));
    config.stop_timeout = Duration::from_millis(300);
    let error = Client::new(config)
        .expect("client")
        .replace(&name(), &unit(), DesiredState::Launched)
        .await
        .expect_err("it still runs");
    assert!(
        matches!(&error, Error::StillRunning { machines, .. } if machines == &["m1"]),
        "{error:?}"
    );
}
