//! docs/gateways.md shows the files of deploy/gateways, word for word, and its first steps work as printed.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::process::{address, shipped};
use crate::support::tools::{self, source};

fn guide() -> String {
    fs::read_to_string(source("docs/gateways.md")).expect("docs/gateways.md")
}

#[test]
fn the_guide_shows_every_shipped_file() {
    let guide = guide();
    let mut shown = Vec::new();
    let directory = source("deploy/gateways");
    let mut pending = vec![directory.clone()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(path).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let file = path.strip_prefix(&directory).expect("a path in it");
            let file = file.to_str().expect("UTF-8").to_owned();
            let link = format!("[`deploy/gateways/{file}`](../deploy/gateways/{file})");
            assert!(guide.contains(&link), "no link to {file}");
            let text = shipped(&file);
            assert!(guide.contains(&format!("\n{text}```\n")), "{file} is not shown as it is");
            shown.push(file);
        }
    }
    assert!(shown.len() >= 8, "only {shown:?}");
}

/// The commands of the first section, in a shell with nothing but the programs that it names. Only addresses differ,
/// and where nginx, which is not installed here, keeps its own files.
#[test]
fn the_first_ten_minutes_work_as_printed() {
    let guide = guide();
    let start = guide.find("## Ten minutes to a denied request").expect("the section");
    let section = guide[start..].split("\n## ").next().expect("the section");
    let mut script = String::from("set -euo pipefail\n");
    for block in section.split("```sh\n").skip(1) {
        script.push_str(block.split("```").next().expect("a block"));
    }
    script.push_str("kill $(cat nginx.pid) $(jobs -p)\n");

    let home = TempDir::with_prefix("portcullis-guide-").expect("a temporary directory");
    let (nginx, gateways, service) = (address(8000), address(8081), address(9000));
    let (grpc, pages) = (address(50051), address(8080));
    let moved = |text: String| {
        text.replace("127.0.0.1:8000", &nginx.to_string())
            .replace("127.0.0.1:8081", &gateways.to_string())
            .replace("127.0.0.1:9000", &service.to_string())
            .replace("--bind 127.0.0.1 9000", &format!("--bind {} 9000", service.ip()))
    };
    let own = format!(
        "http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; \
         fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n",
        home.path().display()
    );
    let conf = moved(shipped("nginx/nginx.conf")).replace("http {\n", &own);
    let conf = format!("pid {}/nginx.pid;\n{conf}", home.path().display());
    fs::write(home.path().join("nginx.conf"), conf).expect("nginx.conf");

    let programs = [Path::new(env!("CARGO_BIN_EXE_portcullis")), &tools::tool("TEST_NGINX")]
        .map(|program| program.parent().expect("a directory").to_owned());
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(programs.into_iter().chain(env::split_paths(&path))).expect("PATH");
    let output = Command::new("bash")
        .args(["-c", &moved(script)])
        .current_dir(home.path())
        .env_clear()
        .env("PATH", path)
        .env("PORTCULLIS_LISTEN", grpc.to_string())
        .env("PORTCULLIS_HTTP_LISTEN", pages.to_string())
        .env("PORTCULLIS_SERVER", format!("http://{grpc}"))
        .output()
        .expect("bash");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    let answers: Vec<_> = printed.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 3, "{printed}\n{errors}");
    for (answer, parts) in answers.iter().zip([
        ["401 Unauthorized", "Portcullis-Reason: TOKEN_MALFORMED"],
        ["403 Forbidden", "Portcullis-Reason: SCOPE_NOT_GRANTED"],
        ["404 ", "File not found"],
    ]) {
        for part in parts {
            assert!(answer.contains(part), "`{part}` is not in {answer}\n{errors}");
        }
    }
}
