//! How the client's settings are resolved; the environment is an argument here.

use super::*;

struct Parsed(ClientArgs);

impl Parsed {
    /// The defaults of the command line, in an empty data directory.
    fn in_dir(dir: &Path) -> Self {
        Self(ClientArgs {
            server: "http://127.0.0.1:50051".to_owned(),
            server_ca: None,
            client_cert: None,
            client_key: None,
            timeout: Duration::from_secs(10),
            plaintext: false,
            credential_file: None,
            data_dir: dir.to_owned(),
        })
    }

    fn server(mut self, server: &str) -> Self {
        self.0.server = server.to_owned();
        self
    }

    fn resolve(self, variables: SecretVariables) -> Result<ClientSettings, String> {
        self.0.resolve_with(variables).map_err(|e| e.to_string())
    }
}

fn variables(value: Option<&str>, file: Option<&Path>) -> SecretVariables {
    SecretVariables {
        name: "PORTCULLIS_CREDENTIAL",
        file_name: "PORTCULLIS_CREDENTIAL_FILE",
        value: value.map(SecretString::from),
        file: file.map(Path::to_owned),
    }
}

fn used(settings: &ClientSettings) -> Option<(&str, &str)> {
    let credential = settings.credential.as_ref()?;
    Some((credential.secret.expose_secret(), &credential.source))
}

#[test]
fn a_flag_beats_variables_and_they_beat_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join(OPERATOR_CREDENTIAL_FILE);
    fs::write(&left, "left\n").unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "filed\r\n").unwrap();
    let parsed = || Parsed::in_dir(dir.path());

    let settings = parsed().resolve(variables(None, None)).unwrap();
    assert_eq!(used(&settings), Some(("left", left.to_str().unwrap())));
    let settings = parsed().resolve(variables(Some("plain"), None)).unwrap();
    assert_eq!(used(&settings), Some(("plain", "PORTCULLIS_CREDENTIAL")));
    let settings = parsed().resolve(variables(None, Some(&file))).unwrap();
    assert_eq!(used(&settings).unwrap().0, "filed");
    let mut flagged = parsed();
    flagged.0.credential_file = Some(file.clone());
    let settings = flagged.resolve(variables(Some("plain"), None)).unwrap();
    assert_eq!(used(&settings), Some(("filed", file.to_str().unwrap())));
}

#[test]
fn the_data_directory_is_for_this_host_only() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        Parsed::in_dir(dir.path()).resolve(variables(None, None)).unwrap().credential.is_none()
    );
    fs::write(dir.path().join(OPERATOR_CREDENTIAL_FILE), "left").unwrap();
    for (server, found) in [
        ("http://localhost:1", true),
        ("http://[::1]:1", true),
        ("http://127.8.9.1:1", true),
        ("https://127.0.0.1:1", true),
        ("unix:/run/p.sock", true),
        ("http://10.0.0.1:1", false),
        ("https://pdp.example.com", false),
        ("http://localhost.example.com", false),
    ] {
        let settings =
            Parsed::in_dir(dir.path()).server(server).resolve(variables(None, None)).unwrap();
        assert_eq!(settings.credential.is_some(), found, "{server}");
    }
}

#[test]
fn no_secret_travels_unencrypted_without_plaintext() {
    let dir = tempfile::tempdir().unwrap();
    let remote = || Parsed::in_dir(dir.path()).server("http://pdp.example.com:50051");
    let error = remote().resolve(variables(Some("hush-hush"), None)).unwrap_err();
    assert!(error.contains("--plaintext") && error.contains("pdp.example.com:50051"), "{error}");
    assert!(!error.contains("hush"), "{error}");

    let mut allowed = remote();
    allowed.0.plaintext = true;
    assert!(allowed.resolve(variables(Some("hush-hush"), None)).is_ok());
    let bare = remote().resolve(variables(None, None)).unwrap();
    assert!(bare.guard_secret("the token").is_err());
}

#[test]
fn faulty_settings_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for (server, part) in [
        ("127.0.0.1:50051", "http://"),
        ("grpc://host:1", "must begin with http://"),
        ("http://", "is not a URL"),
        ("http://me:pw@host", "user or password"),
        ("http://127.0.0.1:1/path", "must end after the port"),
        ("unix:p.sock", "must be unix: and an absolute path"),
        ("unix:/p.sock?mode=0660", "with nothing after it"),
    ] {
        let error =
            Parsed::in_dir(dir.path()).server(server).resolve(variables(None, None)).unwrap_err();
        assert!(error.contains(part), "{server}: {error}");
    }
    let errors = [
        (variables(Some(""), None), "the credential in PORTCULLIS_CREDENTIAL is empty"),
        (variables(Some("two\nlines"), None), "visible ASCII"),
        (variables(None, Some(Path::new("/nowhere/at/all"))), "/nowhere/at/all can't be read"),
    ];
    for (variables, part) in errors {
        let error = Parsed::in_dir(dir.path()).resolve(variables).unwrap_err();
        assert!(error.contains(part), "{error}");
        assert!(!error.contains("two"), "{error}");
    }
    let mut idle = Parsed::in_dir(dir.path());
    idle.0.timeout = Duration::ZERO;
    assert!(idle.resolve(variables(None, None)).unwrap_err().contains("--timeout"));
    let mut with_ca = Parsed::in_dir(dir.path());
    with_ca.0.server_ca = Some("ca.pem".into());
    assert!(with_ca.resolve(variables(None, None)).unwrap_err().contains("https://"));
}

#[test]
fn a_unix_socket_is_written_as_the_server_prints_it() {
    let dir = tempfile::tempdir().unwrap();
    for server in ["unix:/run/p.sock", "unix:///run/p.sock"] {
        let parsed = Parsed::in_dir(dir.path()).server(server);
        let settings = parsed.resolve(variables(Some("hush-hush"), None)).unwrap();
        assert_eq!(settings.server, ServerAddress::Unix("/run/p.sock".to_owned()));
        assert_eq!(settings.server.to_string(), "unix:/run/p.sock");
        assert!(settings.guard_secret("the token").is_ok(), "nobody reads along on a socket");
    }
}

#[test]
fn a_debug_print_shows_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Parsed::in_dir(dir.path()).resolve(variables(Some("hush-hush"), None)).unwrap();
    assert!(!format!("{settings:?}").contains("hush"));
}

#[test]
fn a_token_comes_from_a_file_a_variable_or_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "from file\n").unwrap();
    let token = |file: Option<&Path>, variables| {
        TokenArgs { token_file: file.map(Path::to_owned) }
            .resolve_with(variables)
            .map(|secret| secret.map(|s| s.expose_secret().to_owned()))
            .unwrap()
    };
    assert_eq!(token(Some(&file), variables(Some("v"), None)).as_deref(), Some("from file"));
    assert_eq!(token(None, variables(Some(""), None)).as_deref(), Some(""));
    assert_eq!(token(None, variables(None, Some(&file))).as_deref(), Some("from file"));
    assert_eq!(token(Some(Path::new("-")), variables(Some("v"), None)), None);
    assert_eq!(token(None, variables(None, None)), None);
}
