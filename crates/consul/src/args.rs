//! The arguments of a service that talks to an agent: the same names and the same environment everywhere, those that
//! Consul's own programs use.

use std::path::PathBuf;

use crate::config::{Address, Config, TlsConfig, TokenSource};

/// Where the agent is, and how to be let in. Flatten it into the service's own arguments.
///
/// ```
/// use clap::Parser;
///
/// #[derive(Parser)]
/// struct Args {
///     #[command(flatten)]
///     consul: consul::ConsulArgs,
/// }
///
/// let args = Args::parse_from(["service", "--consul", "unix:///run/consul.sock"]);
/// assert_eq!(args.consul.config().address.to_string(), "unix:///run/consul.sock");
/// ```
#[derive(clap::Args, Clone, Debug)]
pub struct ConsulArgs {
    /// Consul's agent: http://HOST:PORT, https://HOST:PORT or unix:///path/to/consul.sock.
    #[arg(
        long,
        env = "CONSUL_HTTP_ADDR",
        value_name = "ADDRESS",
        default_value = "http://127.0.0.1:8500",
        help_heading = "Consul"
    )]
    pub consul: Address,

    /// How to be let in.
    #[command(flatten)]
    pub auth: ConsulAuthArgs,
}

impl ConsulArgs {
    /// What a client is built from.
    #[must_use]
    pub fn config(&self) -> Config {
        self.auth.config(self.consul.clone())
    }
}

/// How to be let in, for a service that is told the agent's address in another way.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ConsulAuthArgs {
    /// File with the Consul ACL token; read again when it changes.
    #[arg(
        long,
        env = "CONSUL_HTTP_TOKEN_FILE",
        value_name = "FILE",
        help_heading = "Consul"
    )]
    pub consul_token_file: Option<PathBuf>,

    /// File with the certificates of the authorities that may sign Consul's, for https [default: the system's].
    #[arg(long, env = "CONSUL_CACERT", value_name = "FILE", help_heading = "Consul")]
    pub consul_ca_file: Option<PathBuf>,

    /// File with the certificate to show to Consul, for https; needs --consul-key-file.
    #[arg(
        long,
        env = "CONSUL_CLIENT_CERT",
        value_name = "FILE",
        help_heading = "Consul"
    )]
    pub consul_cert_file: Option<PathBuf>,

    /// File with the key of the certificate to show to Consul.
    #[arg(long, env = "CONSUL_CLIENT_KEY", value_name = "FILE", help_heading = "Consul")]
    pub consul_key_file: Option<PathBuf>,
}

impl ConsulAuthArgs {
    /// What a client of the agent at `address` is built from. The files are read when it is built.
    #[must_use]
    pub fn config(&self, address: Address) -> Config {
        Config {
            token: match &self.consul_token_file {
                Some(file) => TokenSource::File(file.clone()),
                None => TokenSource::None,
            },
            tls: TlsConfig {
                ca_file: self.consul_ca_file.clone(),
                client_cert_file: self.consul_cert_file.clone(),
                client_key_file: self.consul_key_file.clone(),
            },
            ..Config::new(address)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        consul: ConsulArgs,
    }

    #[test]
    fn the_arguments_are_well_formed_and_named_as_consul_names_its_own() {
        let command = Args::command();
        command.clone().debug_assert();
        let named: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| Some((arg.get_long()?, arg.get_env()?.to_str()?)))
            .collect();
        assert_eq!(
            named,
            [
                ("consul", "CONSUL_HTTP_ADDR"),
                ("consul-token-file", "CONSUL_HTTP_TOKEN_FILE"),
                ("consul-ca-file", "CONSUL_CACERT"),
                ("consul-cert-file", "CONSUL_CLIENT_CERT"),
                ("consul-key-file", "CONSUL_CLIENT_KEY"),
            ]
        );
    }

    #[test]
    fn what_is_said_is_in_the_configuration() {
        let args = Args::parse_from([
            "test",
            "--consul=https://h:8501",
            "--consul-token-file=/t",
            "--consul-ca-file=/a",
            "--consul-cert-file=/c",
            "--consul-key-file=/k",
        ]);
        let config = args.consul.config();
        assert_eq!(config.address.to_string(), "https://h:8501");
        assert!(matches!(config.token, TokenSource::File(file) if file.as_os_str() == "/t"));
        assert_eq!(
            config.tls,
            TlsConfig {
                ca_file: Some("/a".into()),
                client_cert_file: Some("/c".into()),
                client_key_file: Some("/k".into()),
            }
        );
    }

    #[test]
    fn a_wrong_address_names_the_flag() {
        let error = Args::try_parse_from(["test", "--consul", "ftp://h"])
            .err()
            .expect("error");
        let text = error.to_string();
        assert!(
            text.contains("--consul") && text.contains("scheme is unknown"),
            "{text}"
        );
    }
}
