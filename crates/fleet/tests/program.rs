//! The program fleet-units, as a person runs it: what it prints, and its exit codes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy's allow-*-in-tests knows functions marked #[test] only, not their helpers"
)]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use wiremock::matchers::{body_json, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// Its exit code, what it said on stdout, and what on stderr.
async fn run(server: Option<&MockServer>, arguments: &[&str]) -> (i32, String, String) {
    let endpoint = server.map_or("unix:///nonexistent/fleet.sock".to_owned(), MockServer::uri);
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-units"));
    command
        .args(arguments)
        .env("FLEETCTL_ENDPOINT", endpoint)
        .stdin(Stdio::null());
    // The server runs on this test's own thread.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

async fn answer(server: &MockServer, verb: &str, resource: &str, code: u16, body: Value) {
    Mock::given(method(verb))
        .and(path(format!("/fleet/v1/{resource}")))
        .respond_with(ResponseTemplate::new(code).set_body_json(body))
        .mount(server)
        .await;
}

async fn fleet() -> MockServer {
    let server = MockServer::start().await;
    let machines = json!({"machines": [
        {"id": "b5f01905aaaaaaaaaaaaaaaaaaaaaaaa", "primaryIP": "10.0.0.12", "metadata": {"zone": "b", "disk": "ssd"}},
        {"id": "c7d12c16aaaaaaaaaaaaaaaaaaaaaaaa", "primaryIP": "10.0.0.11"},
    ]});
    answer(&server, "GET", "machines", 200, machines).await;
    server
}

fn write(directory: &Path, name: &str, fleet: &str) -> String {
    let file = directory.join(name);
    std::fs::write(
        &file,
        format!("[Service]\nExecStart=/bin/true\n[X-Fleet]\n{fleet}\n"),
    )
    .unwrap();
    file.display().to_string()
}

#[tokio::test]
async fn check_needs_no_fleet_and_its_exit_code_tells() {
    let directory = tempfile::tempdir().unwrap();
    let good = write(directory.path(), "good@.service", "Conflicts=good@*.service");
    let wrong = write(directory.path(), "wrong.service", "Conflict=good@*.service");
    let old = write(directory.path(), "old.service", "X-Conflicts=good@*.service");
    let broken = directory.path().join("broken.service").display().to_string();
    std::fs::write(&broken, "[Service\n").unwrap();

    assert_eq!(
        run(None, &["check", &good]).await,
        (0, "1 file checked: no errors\n".to_owned(), String::new())
    );
    let (code, out, _) = run(None, &["check", &good, &wrong]).await;
    assert_eq!(code, 1);
    assert!(
        out.contains("wrong.service: error: line 4: fleet knows no Conflict=")
            && out.ends_with("2 files checked: there are errors\n"),
        "{out}"
    );
    let (code, out, _) = run(None, &["check", &old]).await;
    assert!(
        code == 0 && out.contains("warning: line 4: X-Conflicts= is an old name"),
        "{out}"
    );
    let (code, _, err) = run(None, &["check", &broken, "/nonexistent/x.service"]).await;
    assert!(
        code == 1 && err.contains("broken.service: line 1: a section is written as [Name]"),
        "{err}"
    );
    assert!(
        err.contains("/nonexistent/x.service: it cannot be read: No such file"),
        "{err}"
    );
}

#[tokio::test]
async fn wrong_usage_is_64_and_a_fleet_that_is_not_there_is_1() {
    for arguments in [
        &[][..],
        &["start"],
        &["bogus"],
        &["--endpoint", "nowhere", "list"],
        &["list", "--timeout", "soon"],
    ] {
        let (code, _, err) = run(None, arguments).await;
        assert!(code == 64 && !err.is_empty(), "{arguments:?}: {err}");
    }
    assert_eq!(run(None, &["--help"]).await.0, 0);
    let (code, _, err) = run(None, &["machines"]).await;
    assert!(code == 1 && err.starts_with("error: cannot list the machines: the request to fleet at unix:///nonexistent/fleet.sock failed: "), "{err}");
}

#[tokio::test]
async fn lists_are_tables() {
    let server = fleet().await;
    let states = json!({"states": [
        {"name": "b.service", "machineID": "gone0000aaaaaaaaaaaaaaaaaaaaaaaa", "systemdActiveState": "failed", "systemdSubState": "failed"},
        {"name": "a.service", "machineID": "b5f01905aaaaaaaaaaaaaaaaaaaaaaaa", "systemdActiveState": "active", "systemdSubState": "running"},
    ]});
    answer(&server, "GET", "state", 200, states).await;
    let options = json!([{"section": "X-Fleet", "name": "Global", "value": "true"}]);
    let units = json!({"units": [{"name": "a.service", "options": options, "desiredState": "launched", "currentState": "inactive"}]});
    answer(&server, "GET", "units", 200, units).await;

    let (code, out, _) = run(Some(&server), &["machines"]).await;
    assert_eq!(
        (code, out.as_str()),
        (
            0,
            "MACHINE      IP         METADATA\nc7d12c16...  10.0.0.11  -\nb5f01905...  10.0.0.12  disk=ssd,zone=b\n"
        )
    );
    let (_, out, _) = run(Some(&server), &["list"]).await;
    assert_eq!(
        out,
        "UNIT       MACHINE                ACTIVE  SUB\na.service  b5f01905.../10.0.0.12  active  running\n\
         b.service  gone0000...            failed  failed\n"
    );
    let (_, out, _) = run(Some(&server), &["list", "--files"]).await;
    assert_eq!(
        out,
        "UNIT       DESIRED   CURRENT   MACHINE\na.service  launched  inactive  global\n"
    );
}

#[tokio::test]
async fn an_instance_is_started_from_the_template_that_fleet_knows() {
    let server = fleet().await;
    let missing = json!({"error": {"code": 404, "message": "unit does not exist"}});
    let options = json!([{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]);
    answer(&server, "GET", "units/web@1.service", 404, missing.clone()).await;
    answer(&server, "GET", "units/other@1.service", 404, missing.clone()).await;
    answer(&server, "GET", "units/other@.service", 404, missing).await;
    answer(
        &server,
        "GET",
        "units/web@.service",
        200,
        json!({"name": "web@.service", "options": options}),
    )
    .await;
    Mock::given(method("PUT"))
        .and(path("/fleet/v1/units/web@1.service"))
        .and(body_json(json!({"desiredState": "launched", "options": options})))
        .respond_with(ResponseTemplate::new(201))
        .expect(1)
        .mount(&server)
        .await;
    let state = json!({"states": [{"name": "web@1.service", "machineID": "b5f01905aaaaaaaaaaaaaaaaaaaaaaaa", "systemdActiveState": "active", "systemdSubState": "running"}]});
    answer(&server, "GET", "state", 200, state).await;

    // One that fails does not keep the others.
    let (code, out, err) = run(Some(&server), &["start", "other@1", "web@", "web@1"]).await;
    assert_eq!(code, 1);
    assert_eq!(out, "web@1.service: active (running) on b5f01905.../10.0.0.12\n");
    assert!(
        err.contains("fleet knows no other@1.service: submit its file first"),
        "{err}"
    );
    assert!(
        err.contains("web@.service is a template, which cannot run: start an instance, web@1 for example"),
        "{err}"
    );
}

#[tokio::test]
async fn what_fleet_would_ignore_is_not_sent_and_another_version_only_when_asked() {
    let server = fleet().await;
    let directory = tempfile::tempdir().unwrap();
    let wrong = write(directory.path(), "wrong.service", "Conflict=a.service");
    let (code, _, err) = run(Some(&server), &["submit", &wrong]).await;
    assert!(
        code == 1 && err.contains("fleet would not do what it says"),
        "{err}"
    );

    let known = json!({"name": "web.service", "options": [{"section": "Service", "name": "ExecStart", "value": "/bin/false"}]});
    answer(&server, "GET", "units/web.service", 200, known).await;
    let file = write(directory.path(), "web.service", "Global=true");
    let (code, _, err) = run(Some(&server), &["start", &file]).await;
    assert!(
        code == 1 && err.contains("fleet has another version of web.service: --replace"),
        "{err}"
    );

    answer(&server, "DELETE", "units/web.service", 204, json!(null)).await;
    answer(&server, "PUT", "units/web.service", 201, json!(null)).await;
    answer(&server, "GET", "state", 200, json!({})).await;
    let (code, out, err) = run(Some(&server), &["start", "--replace", &file]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "web.service: started on every machine that it may run on\n"),
        "{err}"
    );
    let sent: Vec<String> = server
        .received_requests()
        .await
        .unwrap()
        .iter()
        .map(|request| request.method.to_string())
        .collect();
    assert!(
        sent.ends_with(&["DELETE", "GET", "PUT"].map(str::to_owned)),
        "{sent:?}"
    );
}
