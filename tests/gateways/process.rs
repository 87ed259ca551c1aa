//! Gateways as child processes, with the files of deploy/gateways.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use portcullis::clock::Stopwatch;
use tempfile::TempDir;

use super::exchange;
use crate::support::tools;
use crate::support::wait::PATIENCE;

/// The gateways that the tests start. APISIX is in none of the registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Nginx,
    Caddy,
    Traefik,
    /// Traefik that identifies itself by a client certificate.
    TraefikCertificate,
    EnvoyGrpc,
    EnvoyHttp,
}

/// What a gateway stands between.
#[derive(Debug, Clone)]
pub(super) struct Backends {
    /// `--listen` of Portcullis.
    pub(super) grpc: SocketAddr,
    /// `--gateway-listen` of Portcullis.
    pub(super) http: SocketAddr,
    /// The same as a Unix socket, for gateways that take one.
    pub(super) http_socket: Option<PathBuf>,
    /// The service.
    pub(super) upstream: SocketAddr,
    /// The secret of the gateway's credential.
    pub(super) credential: String,
    /// What it identifies itself with instead.
    pub(super) client_tls: Option<ClientTls>,
}

/// A client certificate, its key, and the authority of the server, in PEM.
#[derive(Debug, Clone)]
pub(super) struct ClientTls {
    pub(super) server_ca: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Changes to the shipped files, beside those that every test makes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changes {
    /// Takes the authorization out and leaves all else as it is.
    pub(super) unguarded: bool,
    /// Texts that stand in the files, and what stands there instead.
    pub(super) replaced: &'static [(&'static str, &'static str)],
}

/// A gateway that runs. Killed when dropped; a test that fails prints its log.
pub(super) struct Gateway {
    /// Which one it is.
    pub(super) kind: Kind,
    address: SocketAddr,
    child: Child,
    home: TempDir,
}

/// Another address of this machine at each call, so that no port is fought over: neither by tests of this process nor,
/// most likely, by those of another one.
pub(super) fn address(port: u16) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let process = 16 + (std::process::id() % 239) as u8;
    loop {
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // Not the addresses of networks and broadcasts.
        if low != 0 && low != 255 {
            return (Ipv4Addr::new(127, process, high, low), port).into();
        }
    }
}

impl Kind {
    /// Every gateway, each with the identity that its files ship with.
    pub(super) const ALL: [Self; 5] =
        [Self::Nginx, Self::Caddy, Self::Traefik, Self::EnvoyGrpc, Self::EnvoyHttp];

    /// Flags of `portcullis credential create` for this gateway, as docs/gateways.md gives them.
    pub(super) fn client_source(self) -> &'static [&'static str] {
        match self {
            Self::Nginx | Self::Caddy | Self::Traefik | Self::TraefikCertificate => {
                &["--client-address-header", "X-Forwarded-For"]
            }
            Self::EnvoyHttp => &["--client-address-header", "X-Client-Address"],
            Self::EnvoyGrpc => &[],
        }
    }

    /// Its files in deploy/gateways, the main one first.
    pub(super) fn files(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &["nginx/nginx.conf"],
            Self::Caddy => &["caddy/Caddyfile"],
            Self::Traefik => &[
                "traefik/traefik.yml",
                "traefik/dynamic/portcullis.yml",
                "traefik/dynamic/portcullis-credential.yml",
            ],
            Self::TraefikCertificate => {
                &["traefik/traefik.yml", "traefik/client-certificate/portcullis.yml"]
            }
            Self::EnvoyGrpc => &["envoy-grpc/envoy.yaml"],
            Self::EnvoyHttp => &["envoy-http/envoy.yaml"],
        }
    }

    /// Addresses and places that differ from those of the files.
    fn places(self, own: SocketAddr, backends: &Backends, home: &Path) -> Vec<(String, String)> {
        let home = home.to_str().expect("a path in UTF-8");
        let Backends { grpc, http, http_socket, upstream, credential, client_tls: _ } = backends;
        let pair = |from: &str, to: String| (from.to_owned(), to);
        let socket = |address: SocketAddr| {
            format!("{{ address: {}, port_value: {} }}", address.ip(), address.port())
        };
        match self {
            Self::Nginx => vec![
                pair("127.0.0.1:8000", own.to_string()),
                pair(
                    "127.0.0.1:8081",
                    match http_socket {
                        Some(path) => format!("unix:{}", path.display()),
                        None => http.to_string(),
                    },
                ),
                pair("127.0.0.1:9000", upstream.to_string()),
                pair("/etc/nginx/portcullis-credential.conf", format!("{home}/credential.conf")),
                // Debian's directories belong to the installed package.
                pair(
                    "http {\n",
                    format!(
                        "http {{ access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; \
                         fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n"
                    ),
                ),
            ],
            Self::Caddy => vec![
                pair("bind 127.0.0.1", format!("bind {}", own.ip())),
                pair("127.0.0.1:8081", http.to_string()),
                pair("127.0.0.1:9000", upstream.to_string()),
                pair("/etc/portcullis/gateway-credential", format!("{home}/credential")),
            ],
            Self::Traefik => vec![
                pair("127.0.0.1:8000", own.to_string()),
                pair("/etc/traefik/dynamic", format!("{home}/dynamic")),
                pair("127.0.0.1:8081", http.to_string()),
                pair("127.0.0.1:9000", upstream.to_string()),
                pair("pclpep_...", credential.clone()),
            ],
            Self::TraefikCertificate => vec![
                pair("127.0.0.1:8000", own.to_string()),
                pair("/etc/traefik/dynamic", format!("{home}/client-certificate")),
                pair("/etc/traefik/", format!("{home}/")),
                pair("127.0.0.1:8081", http.to_string()),
                pair("127.0.0.1:9000", upstream.to_string()),
            ],
            Self::EnvoyGrpc | Self::EnvoyHttp => {
                let (port, portcullis) =
                    if self == Self::EnvoyGrpc { (50051, *grpc) } else { (8081, *http) };
                let written = |port| format!("{{ address: 127.0.0.1, port_value: {port} }}");
                vec![
                    pair(&written(8000), socket(own)),
                    pair(&written(port), socket(portcullis)),
                    pair(&written(9000), socket(*upstream)),
                ]
            }
        }
    }

    /// What the file has that asks Portcullis.
    fn authorization(self) -> &'static str {
        match self {
            Self::Nginx => "auth_request /portcullis;",
            Self::Caddy => "forward_auth 127.0.0.1:8081",
            Self::Traefik | Self::TraefikCertificate => "middlewares: [",
            Self::EnvoyGrpc | Self::EnvoyHttp => "envoy.filters.http.ext_authz",
        }
    }

    /// The file without its authorization.
    fn unguarded(self, text: &str) -> String {
        let between = |text: &str, from: &str, to: &str| {
            let start = text.find(from).expect("the authorization's first line");
            let end = start + text[start..].find(to).expect("what follows the authorization");
            format!("{}{}", &text[..start], &text[end..])
        };
        match self {
            Self::Nginx => {
                let kept = |line: &&str| {
                    let line = line.trim_start();
                    !line.starts_with("auth_request") && !line.starts_with("error_page")
                };
                let kept = text.lines().filter(kept).collect::<Vec<_>>().join("\n");
                // The values of a decision that isn't asked for.
                let mut empty = String::from("location / {");
                for name in
                    ["reason", "token_id", "account_id", "scope", "pending_action", "token_expires"]
                {
                    empty.push_str(&format!(" set $portcullis_{name} \"\";"));
                }
                kept.replace("location / {", &empty)
            }
            Self::Caddy => between(text, "\t\tforward_auth", "\t\t# The client is warned"),
            Self::Traefik => text.replace(
                "[portcullis-headers, portcullis-credential, portcullis, portcullis-credential-removed]",
                "[portcullis-headers]",
            ),
            Self::TraefikCertificate => {
                text.replace("[portcullis-headers, portcullis]", "[portcullis-headers]")
            }
            Self::EnvoyGrpc | Self::EnvoyHttp => between(
                text,
                "                  - name: envoy.filters.http.ext_authz",
                "                  - name: envoy.filters.http.router",
            ),
        }
    }

    fn command(self, home: &Path, credential: &str) -> Command {
        let main = home.join(Path::new(self.files()[0]).file_name().expect("a file"));
        match self {
            Self::Nginx => {
                let mut command = Command::new(tools::tool("TEST_NGINX"));
                let pid = format!("daemon off; pid {}/pid;", home.display());
                command.arg("-p").arg(home).args(["-e", "stderr", "-g", &pid, "-c"]).arg(main);
                command
            }
            Self::Caddy => {
                let mut command = Command::new(tools::tool("TEST_CADDY"));
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(main);
                command
            }
            Self::Traefik | Self::TraefikCertificate => {
                let mut command = Command::new(tools::tool("TEST_TRAEFIK"));
                command.arg(format!("--configFile={}", main.display()));
                command
            }
            Self::EnvoyGrpc | Self::EnvoyHttp => {
                let mut command = Command::new(tools::tool("TEST_ENVOY"));
                command
                    .args(["--disable-hot-restart", "--concurrency", "1", "-c"])
                    .arg(main)
                    .env("PORTCULLIS_CREDENTIAL", credential);
                command
            }
        }
    }
}

/// A shipped file.
pub(super) fn shipped(file: &str) -> String {
    let path = tools::source("deploy/gateways").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Gateway {
    /// Starts it with the shipped configuration and waits until it serves.
    pub(super) fn start(kind: Kind, backends: &Backends) -> Self {
        Self::start_with(kind, backends, Changes::default())
    }

    /// The same, with `changes`.
    pub(super) fn start_with(kind: Kind, backends: &Backends, changes: Changes) -> Self {
        let home = TempDir::with_prefix("portcullis-gateway-").expect("a temporary directory");
        let own = address(8000);
        write(&home, "credential", &backends.credential);
        let set = format!("set $portcullis_credential \"{}\";\n", backends.credential);
        write(&home, "credential.conf", &set);
        if let Some(ClientTls { server_ca, certificate, key }) = &backends.client_tls {
            write(&home, "portcullis-ca.pem", server_ca);
            write(&home, "client.pem", certificate);
            write(&home, "client.key", key);
        }
        let mut texts: Vec<String> = kind.files().iter().map(|file| shipped(file)).collect();
        if changes.unguarded {
            let text = texts.iter_mut().find(|text| text.contains(kind.authorization()));
            let text = text.expect("a file with the authorization");
            *text = kind.unguarded(text);
        }
        let extra = changes.replaced.iter().map(|&(from, to)| (from.to_owned(), to.to_owned()));
        let places = kind.places(own, backends, home.path());
        for (from, to) in extra.chain(places) {
            // Without authorization, Portcullis has no place in most files.
            let there = texts.iter().any(|text| text.contains(&from));
            assert!(there || changes.unguarded, "{kind:?}: the files don't have `{from}`");
            for text in &mut texts {
                *text = text.replace(&from, &to);
            }
        }
        for (file, text) in kind.files().iter().zip(&texts) {
            let name = file.split_once('/').expect("a directory of its own").1;
            write(&home, name, text);
        }
        let log = fs::File::create(home.path().join("log")).expect("a log");
        let mut command = kind.command(home.path(), &backends.credential);
        let child = command
            .current_dir(home.path())
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        let mut gateway = Self { kind, address: own, child, home };
        gateway.wait_until_it_routes();
        gateway
    }

    /// Where it serves.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A port that is open is not enough: Traefik reads its routes after it listens.
    fn wait_until_it_routes(&mut self) {
        let begun = Stopwatch::start();
        let probe = b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";
        loop {
            let ended = self.child.try_wait().expect("its status");
            assert!(ended.is_none(), "{:?} ended: {ended:?}", self.kind);
            if TcpStream::connect(self.address).is_ok() {
                let answer = exchange::send(self.address, Ipv4Addr::LOCALHOST, probe);
                if answer.is_some_and(|answer| answer.status != 404) {
                    return;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "{:?} does not serve", self.kind);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // nginx's workers outlive a master that is killed.
        let pid = self.child.id().to_string();
        let _ = Command::new("sh").args(["-c", r#"kill -s TERM "$1""#, "sh", &pid]).status();
        let begun = Stopwatch::start();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(5)
        {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            eprintln!("--- the end of {:?}'s log\n{}", self.kind, tail.join("\n"));
        }
    }
}

fn write(home: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = home.path().join(name);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(&path, text).expect("a file of the test");
    path
}
