//! What operators install: completions, manual pages, the Debian package, the manifests for Kubernetes, and what
//! the program consists of.
//!
//! `tests/long/debian` installs, runs, upgrades and removes the package in a fresh Debian.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use portcullis::cli::Cli;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::command::Shell;
use crate::support::tools::{fail, source, succeed, tool};

const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn completions_are_scripts_of_each_shell() {
    let shell = Shell::new();
    for (name, part) in [
        ("bash", "complete -F _portcullis"),
        ("zsh", "#compdef portcullis"),
        ("fish", "complete -c portcullis"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = shell.run(&["completions", name]).ok();
        assert!(script.contains(part), "{name}: {script}");
        for word in ["whitelist", "--lifecycle-window", "report-leaked"] {
            assert!(script.contains(word), "{name} lacks {word}");
        }
    }
    // Bash reads what it is for, and completes a command.
    let script = shell.home().join("portcullis.bash");
    fs::write(&script, shell.run(&["completions", "bash"]).ok()).unwrap();
    let complete = "source \"$1\" && COMP_WORDS=(portcullis whit) COMP_CWORD=1 && \
                    _portcullis portcullis whit portcullis && echo \"${COMPREPLY[@]}\"";
    let completed =
        succeed(Command::new("bash").args(["--norc", "-c", complete, "bash"]).arg(&script));
    assert_eq!(completed, "whitelist\n");
    shell.run(&["completions", "tcsh"]).exits(2);
}

#[test]
fn each_command_has_its_manual_page() {
    let shell = Shell::new();
    shell.run(&["man", "pages/man1"]).exits(0);
    fn pages(command: &clap::Command, name: &str, names: &mut Vec<String>) {
        names.push(name.to_owned());
        for subcommand in command.get_subcommands().filter(|it| it.get_name() != "help") {
            pages(subcommand, &format!("{name}-{}", subcommand.get_name()), names);
        }
    }
    let mut names = Vec::new();
    pages(&Cli::command(), "portcullis", &mut names);
    assert!(names.len() > 30, "{names:?}");
    for name in &names {
        let page = read(shell.home().join(format!("pages/man1/{name}.1")));
        assert!(page.starts_with(".ie") && page.contains(".SH NAME"), "{name}: {page}");
    }
    let serve = read(shell.home().join("pages/man1/portcullis-serve.1"));
    for part in ["PORTCULLIS_LISTEN", "PORTCULLIS_CONFIG", "lifecycle\\-window"] {
        assert!(serve.contains(part), "{part}: {serve}");
    }
    fs::write(shell.home().join("file"), "").unwrap();
    shell.run(&["man", "file"]).exits(2).tells(&["cannot write to file"]);
}

/// The package of this build, which is not compressed.
fn package(home: &Path) -> String {
    let build = source("deploy/debian/build");
    let built =
        succeed(Command::new(build).arg(PROGRAM).arg(home).env("PACKAGE_COMPRESSION", "none"));
    let name = built.split('\'').find(|word| word.ends_with(".deb")).unwrap();
    name.to_owned()
}

#[test]
fn debian_package_holds_the_service_its_settings_and_its_documentation() {
    let home = TempDir::with_prefix("portcullis-package-").unwrap();
    let package = package(home.path());
    let dpkg = |args: &[&str]| succeed(Command::new("dpkg-deb").args(args));
    for (field, value) in [("Package", "portcullis"), ("Version", env!("CARGO_PKG_VERSION"))] {
        assert_eq!(dpkg(&["--field", &package, field]).trim(), value);
    }
    let depends = dpkg(&["--field", &package, "Depends"]);
    assert!(depends.contains("libc6 (>= 2.") && depends.contains("adduser"), "{depends}");
    let contents = dpkg(&["--contents", &package]);
    for line in contents.lines() {
        assert!(line.contains(" root/root "), "{line}");
    }
    let tree = home.path().join("tree");
    dpkg(&["--raw-extract", &package, tree.to_str().unwrap()]);
    for (file, mode) in [
        ("usr/bin/portcullis", 0o755),
        ("usr/lib/systemd/system/portcullis.service", 0o644),
        ("etc/portcullis/portcullis.toml", 0o644),
        ("etc/portcullis/environment", 0o640),
        ("usr/share/man/man1/portcullis-serve.1.gz", 0o644),
        ("usr/share/bash-completion/completions/portcullis", 0o644),
        ("usr/share/zsh/vendor-completions/_portcullis", 0o644),
        ("usr/share/fish/vendor_completions.d/portcullis.fish", 0o644),
        ("usr/share/doc/portcullis/copyright", 0o644),
        ("usr/share/portcullis/monitoring/portcullis.rules.yml", 0o644),
        ("DEBIAN/postinst", 0o755),
        ("DEBIAN/prerm", 0o755),
        ("DEBIAN/postrm", 0o755),
    ] {
        let metadata = fs::metadata(tree.join(file)).unwrap_or_else(|_| panic!("no {file}"));
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{file}");
    }
    for script in ["postinst", "prerm", "postrm"] {
        succeed(Command::new("sh").arg("-n").arg(tree.join("DEBIAN").join(script)));
    }
    let conffiles = read(tree.join("DEBIAN/conffiles"));
    assert_eq!(conffiles, "/etc/portcullis/environment\n/etc/portcullis/portcullis.toml\n");
    succeed(
        Command::new("md5sum").args(["--check", "--quiet", "DEBIAN/md5sums"]).current_dir(&tree),
    );
    // What the unit starts is what the package installs.
    let unit = read(tree.join("usr/lib/systemd/system/portcullis.service"));
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/")).unwrap();
    let (program, arguments) = command.split_once(' ').unwrap();
    let version = succeed(Command::new(tree.join(program)).arg("version"));
    assert_eq!(version.trim(), format!("portcullis {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(arguments, "serve");
}

#[test]
fn the_unit_is_confined() {
    let unit = source("deploy/debian/portcullis.service");
    // In tenths. It fails above that.
    let judged = succeed(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
            .arg(unit),
    );
    assert!(judged.contains("Overall exposure level for portcullis.service"), "{judged}");
}

/// The settings that come with the package and the manifests, those that are commented out as well, are settings of the
/// server: what it refuses are the files that are not there.
#[test]
fn settings_that_are_shipped_are_known() {
    let shell = Shell::new();
    for name in ["deploy/debian/portcullis.toml", "deploy/kubernetes/portcullis.toml"] {
        let text = read(source(name));
        let is_setting = |line: &str| {
            line.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '`', ':']))
        };
        let settings: Vec<_> = text
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|line| is_setting(line)).unwrap_or(line))
            .collect();
        assert!(settings.iter().filter(|line| is_setting(line)).count() >= 7, "{settings:?}");
        fs::write(shell.home().join("portcullis.toml"), settings.join("\n")).unwrap();
        let refused = shell.run(&["serve", "--config", "portcullis.toml"]).exits(2);
        for line in refused.stderr.lines().filter(|line| !line.ends_with("settings are invalid:")) {
            assert!(line.contains("cannot read /etc/portcullis/"), "{name}: {refused}");
        }
    }
}

#[test]
fn the_bill_of_materials_has_every_crate_that_is_linked_and_no_other() {
    let text = succeed(&mut Command::new(source("deploy/sbom")));
    let bill: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
    let program = concat!("pkg:cargo/portcullis@", env!("CARGO_PKG_VERSION"));
    assert_eq!(bill["metadata"]["component"]["purl"], program);
    let components = bill["components"].as_array().unwrap();
    let mut known = BTreeSet::from([program]);
    let lock = read(source("Cargo.lock"));
    for component in components {
        let name = component["name"].as_str().unwrap();
        assert!(known.insert(component["bom-ref"].as_str().unwrap()), "{name} stands twice");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        let checksum = component["hashes"][0]["content"].as_str().unwrap();
        assert!(lock.contains(&format!("checksum = \"{checksum}\"")), "{component}");
    }
    let names: BTreeSet<_> = components.iter().map(|it| it["name"].as_str().unwrap()).collect();
    for linked in ["tonic", "sqlx-core", "libsqlite3-sys", "ring", "rustls", "tokio", "ipnet"] {
        assert!(names.contains(linked), "{linked} is missing");
    }
    // Of tests, of the build, and of the compiler.
    for other in ["proptest", "criterion", "rcgen", "protox", "clap_derive", "syn"] {
        assert!(!names.contains(other), "{other} is not linked");
    }
    for dependency in bill["dependencies"].as_array().unwrap() {
        for on in dependency["dependsOn"].as_array().unwrap() {
            assert!(known.contains(on.as_str().unwrap()), "{dependency}");
        }
    }
}

#[test]
fn kubernetes_manifests_fit_their_schemas() {
    let validate = || Command::new(tool("TEST_KUBERNETES_VALIDATE"));
    let mut listed = Vec::new();
    let kustomization = read(source("deploy/kubernetes/kustomization.yaml"));
    for resource in kustomization.lines().filter_map(|line| line.strip_prefix("  - ")) {
        if resource.ends_with(".yaml") {
            listed.push(resource.to_owned());
        }
    }
    let mut present: Vec<_> = fs::read_dir(source("deploy/kubernetes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml") && name != "kustomization.yaml")
        .collect();
    listed.sort();
    present.sort();
    assert_eq!(listed, present, "kustomization.yaml lists what is there");
    let files = present.iter().map(|name| source("deploy/kubernetes").join(name));
    succeed(validate().arg("--strict").args(files));
    // It does find what is wrong.
    let home = TempDir::with_prefix("portcullis-manifest-").unwrap();
    let wrong =
        read(source("deploy/kubernetes/deployment.yaml")).replace("replicas: 3", "replica: 3");
    fs::write(home.path().join("wrong.yaml"), wrong).unwrap();
    fail(validate().arg("--strict").arg(home.path().join("wrong.yaml")));
}
