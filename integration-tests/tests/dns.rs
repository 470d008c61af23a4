//! The examples in `deploy/dns`, run by the real name servers: every name of the domain leads to the virtual IP, and no
//! other name is theirs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::docker::{Container, docker, try_docker};
use integration_tests::wait::until;

const IMAGE: &str = "colossus/test-dns";

const SOON: Duration = Duration::from_secs(20);

/// What an operator puts into an example: the domain and its addresses.
#[derive(Clone, Copy, Debug)]
struct Site {
    domain: &'static str,
    vip: &'static str,
    vip6: &'static str,
}

/// What is in the examples.
const EXAMPLE: Site = Site {
    domain: "cluster.local",
    vip: "192.0.2.100",
    vip6: "2001:db8::100",
};

/// Somebody's own.
const OWN: Site = Site {
    domain: "apps.example.org",
    vip: "198.51.100.7",
    vip6: "2001:db8:7::7",
};

impl Site {
    fn name(&self, host: &str) -> String {
        format!("{host}.{}", self.domain)
    }
}

/// The files of a name server, as they lie on a host.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The servers run as users of their own.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(directory)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// An example of `deploy/dns`, with a site's domain and addresses in it.
fn example(name: &str, site: Site) -> String {
    let directory = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../deploy/dns");
    let text = std::fs::read_to_string(directory.join(name)).unwrap();
    text.replace(EXAMPLE.domain, site.domain)
        .replace(EXAMPLE.vip6, site.vip6)
        .replace(EXAMPLE.vip, site.vip)
}

/// A configuration with the lines that are only proposed: those that begin with `#` and no blank.
fn with_options(text: &str) -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(option) if option.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{option}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(on).collect()
}

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: String,
    /// The data of all answers.
    data: BTreeSet<String>,
    /// Their times to live in seconds.
    ttls: BTreeSet<u32>,
}

impl Answer {
    fn parse(said: &str) -> Option<Self> {
        let status = said.split("status: ").nth(1)?.split(',').next()?.to_owned();
        let records = said
            .lines()
            .filter(|line| !line.starts_with(';') && !line.is_empty())
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let (mut data, mut ttls) = (BTreeSet::new(), BTreeSet::new());
        for record in records {
            let [_, ttl, _, _, value @ ..] = record.as_slice() else {
                return None;
            };
            data.insert(value.join(" "));
            ttls.insert(ttl.parse().ok()?);
        }
        Some(Self { status, data, ttls })
    }
}

/// A container without a network, in which the name servers of one test run, each at its own loopback address.
struct Lab {
    container: Container,
}

impl Lab {
    /// With `files` where BIND, and dnsmasq in this test, look for theirs.
    fn new(files: &Files) -> Self {
        assert!(
            try_docker(&["image", "inspect", IMAGE]).is_ok(),
            "the image {IMAGE} is missing; in the project: docker build -t {IMAGE} integration-tests/images/dns"
        );
        let mount = format!("{}:/etc/bind:ro", files.path().display());
        Self {
            container: Container::run(
                &["--network=none", "--init", "-v", &mount],
                IMAGE,
                &["sleep", "infinity"],
            ),
        }
    }

    fn exec(&self, command: &[&str]) -> Result<String, String> {
        try_docker(&[&["exec", self.container.id()], command].concat())
    }

    /// Starts a server that stays in the foreground. What it has to say is in the container's log.
    fn start(&self, command: &str) {
        let command = format!("exec {command} >/proc/1/fd/2 2>&1");
        docker(&["exec", "-d", self.container.id(), "sh", "-c", &command]);
    }

    /// dnsmasq with this file, at this address.
    fn start_dnsmasq(&self, file: &str, address: &str) {
        self.check_dnsmasq(file);
        self.start(&format!(
            "dnsmasq --keep-in-foreground --log-facility=- --no-hosts --pid-file= --bind-interfaces \
             --listen-address={address} --conf-file=/etc/bind/{file}"
        ));
    }

    fn check_dnsmasq(&self, file: &str) {
        let file = format!("--conf-file=/etc/bind/{file}");
        self.exec(&["dnsmasq", "--test", &file]).unwrap();
    }

    /// BIND with `/etc/bind/named.conf`, and with the zones that it names checked before.
    fn start_bind(&self) {
        let checked = self.exec(&["named-checkconf", "-z", "/etc/bind/named.conf"]);
        assert!(checked.is_ok(), "{checked:?}");
        self.start("named -g -u bind -c /etc/bind/named.conf");
    }

    /// `dig` from one address to another.
    fn dig(&self, from: &str, server: &str, name: &str, kind: &str) -> Result<Answer, String> {
        let at = format!("@{server}");
        let said = self.exec(&[
            "dig",
            "-b",
            from,
            &at,
            "+time=2",
            "+tries=2",
            "+noall",
            "+comments",
            "+answer",
            name,
            kind,
        ])?;
        Answer::parse(&said).ok_or(said)
    }

    /// Asks the server at 127.0.0.1.
    fn ask(&self, name: &str, kind: &str) -> Answer {
        self.dig("127.0.0.1", "127.0.0.1", name, kind)
            .unwrap_or_else(|error| panic!("{kind} of {name}: {error}"))
    }

    async fn until_answering(&self, server: &str, name: &str) {
        until("the name server answers", SOON, || async {
            self.dig("127.0.0.1", server, name, "A").map(drop)
        })
        .await;
    }
}

fn found(data: &[&str]) -> Answer {
    Answer {
        status: "NOERROR".to_owned(),
        data: data.iter().map(|&text| text.to_owned()).collect(),
        ttls: BTreeSet::from([30]),
    }
}

fn nothing(status: &str) -> Answer {
    Answer {
        status: status.to_owned(),
        data: BTreeSet::new(),
        ttls: BTreeSet::new(),
    }
}

/// What both servers must say of a site's names.
fn check_site(lab: &Lab, site: Site) {
    for host in ["example", "example.n2", "deep.example.n2", "EXAMPLE"] {
        let name = site.name(host);
        assert_eq!(lab.ask(&name, "A"), found(&[site.vip]), "{name}");
        assert_eq!(lab.ask(&name, "AAAA"), found(&[site.vip6]), "{name}");
        assert_eq!(lab.ask(&name, "TXT"), nothing("NOERROR"), "{name}");
    }
    assert_eq!(lab.ask(site.domain, "A"), found(&[site.vip]));
    assert_eq!(lab.ask(site.domain, "AAAA"), found(&[site.vip6]));
    let similar = format!("not{}", site.domain);
    for other in ["other.example", &similar] {
        assert_eq!(lab.ask(other, "A"), nothing("REFUSED"), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dnsmasq_leads_every_name_of_the_domain_to_the_virtual_ip() {
    for site in [EXAMPLE, OWN] {
        let files = Files::new();
        let text = example("dnsmasq.conf.example", site);
        files.write("dnsmasq.conf", &format!("{text}\nno-resolv\n"));
        files.write("with-options.conf", &with_options(&text));
        let lab = Lab::new(&files);
        lab.check_dnsmasq("with-options.conf");
        lab.start_dnsmasq("dnsmasq.conf", "127.0.0.1");
        lab.until_answering("127.0.0.1", &site.name("example")).await;
        check_site(&lab, site);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dnsmasq_asks_others_for_other_names_and_nobody_for_those_of_the_domain() {
    let files = Files::new();
    let text = example("dnsmasq.conf.example", EXAMPLE);
    files.write(
        "dnsmasq.conf",
        &format!("{text}\nno-resolv\nserver=127.0.0.2\nhost-record=db.cluster.local,192.0.2.50\n"),
    );
    files.write(
        "outside.conf",
        "no-resolv\nhost-record=other.example,203.0.113.9\ntxt-record=example.cluster.local,asked-outside\n",
    );
    let lab = Lab::new(&files);
    lab.start_dnsmasq("outside.conf", "127.0.0.2");
    lab.start_dnsmasq("dnsmasq.conf", "127.0.0.1");
    lab.until_answering("127.0.0.2", "other.example").await;
    lab.until_answering("127.0.0.1", "example.cluster.local").await;

    let other = lab.ask("other.example", "A");
    assert_eq!(other.data, BTreeSet::from(["203.0.113.9".to_owned()]));
    let outside = lab
        .dig("127.0.0.1", "127.0.0.2", "example.cluster.local", "TXT")
        .unwrap();
    assert_eq!(outside.data, BTreeSet::from(["\"asked-outside\"".to_owned()]));
    assert_eq!(lab.ask("example.cluster.local", "TXT"), nothing("NOERROR"));
    assert_eq!(lab.ask("db.cluster.local", "A"), found(&["192.0.2.50"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bind_leads_every_name_of_the_domain_to_the_virtual_ip() {
    for site in [EXAMPLE, OWN] {
        let files = Files::new();
        files.write("named.conf", &example("bind/named.conf.example", site));
        let zone = format!("db.{}", site.domain);
        files.write(&zone, &example("bind/db.cluster.local.example", site));
        let lab = Lab::new(&files);
        let path = format!("/etc/bind/{zone}");
        lab.exec(&["named-checkzone", site.domain, &path]).unwrap();
        lab.start_bind();
        lab.until_answering("127.0.0.1", &site.name("example")).await;
        check_site(&lab, site);

        // A node with a record of its own has a wildcard of its own; a name without one hides what is below it.
        assert_eq!(lab.ask(&site.name("n3"), "A"), found(&["192.0.2.13"]));
        assert_eq!(lab.ask(&site.name("example.n3"), "A"), found(&[site.vip]));
        assert_eq!(lab.ask(&site.name("example.ns1"), "A"), nothing("NXDOMAIN"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bind_shows_the_virtual_ip_inside_and_the_public_address_outside() {
    let outside = Site {
        vip: "203.0.113.100",
        ..EXAMPLE
    };
    let files = Files::new();
    files.write(
        "named.conf",
        &example("bind/named.conf.split-horizon.example", EXAMPLE),
    );
    let zone = "bind/db.cluster.local.example";
    files.write("db.cluster.local", &example(zone, EXAMPLE));
    files.write("db.cluster.local.outside", &example(zone, outside));
    let lab = Lab::new(&files);
    lab.start_bind();
    let name = "example.cluster.local";
    lab.until_answering("127.0.0.1", name).await;

    assert_eq!(lab.ask(name, "A"), found(&[EXAMPLE.vip]));
    let seen_outside = lab.dig("127.0.0.9", "127.0.0.1", name, "A").unwrap();
    assert_eq!(seen_outside, found(&[outside.vip]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subdomain_can_be_given_away_to_the_name_servers_of_the_platform() {
    let files = Files::new();
    let text = example("dnsmasq.conf.example", OWN);
    files.write("dnsmasq.conf", &format!("{text}\nno-resolv\n"));
    files.write(
        "named.conf",
        "options { directory \"/var/cache/bind\"; listen-on { 127.0.0.1; }; recursion yes; dnssec-validation no; };\n\
         zone \"example.org\" { type primary; file \"/etc/bind/db.parent\"; };\n",
    );
    let parent = example("bind/db.parent.example", OWN);
    // Of its two name servers one is there.
    let parent = parent
        .replace("192.0.2.2", "127.0.0.2")
        .replace("192.0.2.3", "127.0.0.3");
    files.write("db.parent", &parent);
    let lab = Lab::new(&files);
    lab.start_dnsmasq("dnsmasq.conf", "127.0.0.2");
    lab.start_bind();
    lab.until_answering("127.0.0.2", &OWN.name("example")).await;
    until("BIND asks the name servers of the platform", SOON, || async {
        let answer = lab.dig("127.0.0.1", "127.0.0.1", &OWN.name("example.n2"), "A")?;
        let expected = BTreeSet::from([OWN.vip.to_owned()]);
        (answer.data == expected)
            .then_some(())
            .ok_or(format!("{answer:?}"))
    })
    .await;
}
