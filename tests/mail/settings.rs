//! The settings of mail as `serve` reads them: from the environment and from files.

use std::fs;

use crate::support::server::Setup;

#[test]
fn a_server_with_a_relay_starts() {
    let server = Setup::sqlite()
        .env("PORTCULLIS_SMTP_URL", "smtp+starttls://user:hunter2@mail.invalid")
        .env("PORTCULLIS_MAIL_FROM", "Portcullis <portcullis@acme.example>")
        .log("trace")
        .start();
    assert!(!server.log().contains("hunter2"));
}

#[test]
fn faults_of_the_relay_are_told_without_its_password() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("smtp.url");
    fs::write(&file, "smtp://user:hunter2@mail.example\n").unwrap();
    for (variable, value) in [
        ("PORTCULLIS_SMTP_URL", "smtp://user:hunter2@mail.example"),
        ("PORTCULLIS_SMTP_URL_FILE", file.to_str().unwrap()),
    ] {
        let (status, told) = Setup::sqlite().env(variable, value).refused();
        assert_eq!(status.code(), Some(2));
        for part in ["PORTCULLIS_SMTP_URL: would send its password", "--mail-from: is missing"] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }
    let (_, told) = Setup::sqlite()
        .env("PORTCULLIS_SMTP_URL_FILE", "/nonexistent")
        .env("PORTCULLIS_MAIL_FROM", "portcullis@acme.example")
        .refused();
    assert!(told.contains("PORTCULLIS_SMTP_URL_FILE: cannot read /nonexistent"), "{told}");
    assert!(!told.contains("--mail-from"), "{told}");
}
