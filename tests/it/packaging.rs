//! The files of an installation besides the binary: completions, manual pages, the unit, the image,
//! the package.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Deployment, Ran, peer, program, repository};

#[test]
fn completions_know_every_command() {
    let deployment = Deployment::bare();
    let commands = commands(&deployment);
    assert!(commands.contains("principal add") && commands.contains("serve"), "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = deployment.done(&["completions", shell]);
        for command in &commands {
            let word = command.rsplit(' ').next().unwrap();
            assert!(script.contains(word), "{shell}: no {command}");
        }
    }
    let unknown = deployment.run(&["completions", "cmd.exe"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
}

#[test]
fn bash_completes_with_the_script() {
    let deployment = Deployment::bare();
    let script = deployment.file("countersign.bash", &deployment.done(&["completions", "bash"]));
    let checked = Ran::of(Command::new(program("bash")).arg("-n").arg(&script));
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""));

    let commands = commands(&deployment);
    for (typed, prefix) in [("", ""), ("principal", "principal "), ("key", "key ")] {
        let complete = format!(
            "source countersign.bash; COMP_WORDS=(countersign {typed} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _countersign countersign '' '{typed}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let ran = Ran::of(
            Command::new(program("bash"))
                .args(["-c", &complete])
                .current_dir(deployment.dir.path()),
        );
        assert_eq!(ran.code, 0, "{ran:?}");
        let offered: BTreeSet<&str> = ran.stdout.lines().collect();
        let below = commands
            .iter()
            .filter_map(|command| command.strip_prefix(prefix))
            .filter(|rest| !rest.contains(' '));
        for command in below {
            assert!(
                offered.contains(command),
                "`countersign {typed}`: no {command} in {offered:?}"
            );
        }
    }
}

#[test]
fn every_command_has_a_manual_page_that_renders() {
    let deployment = Deployment::bare();
    deployment.done(&["man", "--out", "pages/man1"]);
    let folder = deployment.dir.path().join("pages/man1");
    let pages: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();

    let names = commands(&deployment)
        .into_iter()
        .map(|command| format!("countersign-{}.1", command.replace(' ', "-")));
    let expected: BTreeSet<String> = names.chain(["countersign.1".to_owned()]).collect();
    assert_eq!(pages, expected);
    for page in &pages {
        let ran = Ran::of(
            Command::new(program("groff"))
                .args(["-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=200n"])
                .arg(folder.join(page)),
        );
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{page}");
        assert!(ran.stdout.contains("NAME") && ran.stdout.contains("SYNOPSIS"), "{page}: {ran:?}");
        assert!(ran.stdout.contains(page.trim_end_matches(".1")), "{page}: {ran:?}");
    }
    let main = std::fs::read_to_string(folder.join("countersign.1")).unwrap();
    assert!(main.contains(".SH SUBCOMMANDS"), "{main}");
    assert!(deployment.done(&["man"]).contains(".SH SUBCOMMANDS"));

    let ran = deployment.run(&["man", "--out", "pages/man1/countersign.1/below"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("cannot be made"), "{ran:?}");
}

/// In tenths of its own scale from 0 to 10; an unhardened service gets 9.6.
const EXPOSURE_MOST: &str = "15";

#[test]
fn the_unit_is_sound_and_confined() {
    let deployment = Deployment::bare();
    let unit =
        std::fs::read_to_string(repository().join("deploy/systemd/countersign.service")).unwrap();
    assert!(unit.contains("/usr/bin/countersign serve"), "{unit}");
    let file = deployment.file(
        "countersign.service",
        &unit.replace("/usr/bin/countersign", env!("CARGO_BIN_EXE_countersign")),
    );

    let verified =
        Ran::of(Command::new(program("systemd-analyze")).args(["verify", "--man=no"]).arg(&file));
    assert_eq!((verified.code, verified.stderr.as_str()), (0, ""), "{verified:?}");

    let security = |file: &Path| {
        let options = ["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MOST];
        Ran::of(Command::new(program("systemd-analyze")).args(options).arg(file))
    };
    let confined = security(&file);
    assert_eq!(confined.code, 0, "{confined:?}");
    let bare =
        unit.lines().filter(|line| !line.starts_with("Protect")).collect::<Vec<_>>().join("\n");
    let open = security(&deployment.file("open.service", &bare));
    assert_ne!(open.code, 0, "the measure tells nothing: {open:?}");
}

/// The unit starts a command of this binary, as a user that the package creates.
#[test]
fn the_unit_starts_what_is_installed() {
    let unit =
        std::fs::read_to_string(repository().join("deploy/systemd/countersign.service")).unwrap();
    let users =
        std::fs::read_to_string(repository().join("deploy/systemd/countersign.sysusers")).unwrap();
    let of = |key: &str| {
        unit.lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or_else(|| panic!("no {key} in {unit}"))
    };
    assert!(users.lines().any(|line| line.starts_with(&format!("u {} ", of("User=")))), "{users}");

    let (_, arguments) = of("ExecStart=").split_once(' ').unwrap();
    let installed = deb()["assets"]
        .as_array()
        .unwrap()
        .iter()
        .any(|asset| asset[1] == "etc/countersign/" && asset[0] == "deploy/countersign.toml");
    assert!(
        installed && arguments == "serve --config /etc/countersign/countersign.toml",
        "{arguments}"
    );
    let here = repository().join("deploy/countersign.toml");
    let deployment = Deployment::new();
    let ran = deployment.run(&["config", "check", "--config", here.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Each has the name of a listener, by which the service knows it, and a path that the unit may
/// use.
#[test]
fn the_socket_units_belong_to_the_unit() {
    let deployment = Deployment::bare();
    let folder = repository().join("deploy/systemd");
    let service = std::fs::read_to_string(folder.join("countersign.service")).unwrap();
    assert!(service.lines().any(|line| line == "RuntimeDirectory=countersign"), "{service}");
    deployment.file(
        "countersign.service",
        &service.replace("/usr/bin/countersign", env!("CARGO_BIN_EXE_countersign")),
    );
    for listener in ["http", "grpc"] {
        let name = format!("countersign-{listener}.socket");
        let unit = std::fs::read_to_string(folder.join("sockets").join(&name)).unwrap();
        let has = |wanted: &str| {
            assert!(unit.lines().any(|line| line == wanted), "no {wanted} in {unit}");
        };
        has(&format!("FileDescriptorName={listener}"));
        has(&format!("ListenStream=/run/countersign/{listener}.sock"));
        has("Service=countersign.service");

        // The gateway's user need not exist here.
        let file =
            deployment.file(&name, &unit.replace("www-data", "root").replace("envoy", "root"));
        let mut verify = Command::new(program("systemd-analyze"));
        verify
            .args(["verify", "--man=no"])
            .arg(&file)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", deployment.dir.path().display()));
        let verified = Ran::of(&mut verify);
        assert_eq!((verified.code, verified.stderr.as_str()), (0, ""), "{verified:?}");
    }
}

#[test]
fn the_package_is_made_of_what_is_there() {
    let deb = deb();
    for asset in deb["assets"].as_array().unwrap() {
        let source = asset[0].as_str().unwrap();
        let is_built = source.starts_with("target/");
        assert!(is_built || repository().join(source).is_file(), "{source} is not there");
    }
    let units = &deb["systemd-units"];
    let folder = repository().join(units["unit-scripts"].as_str().unwrap());
    for ending in ["service", "sysusers"] {
        assert!(
            folder.join(format!("{}.{ending}", units["unit-name"].as_str().unwrap())).is_file()
        );
    }
    let ran =
        Ran::of(Command::new(program("bash")).arg("-n").arg(repository().join("deploy/deb/build")));
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

/// A build from outside the repository ignores `.cargo/config.toml`, so everything that builds a
/// binary to ship checks for the code that its flags add.
#[test]
fn a_shipped_binary_has_the_code_for_avx_512() {
    let check =
        |binary: &Path| Ran::of(Command::new(repository().join("deploy/check-binary")).arg(binary));
    let ours = check(Path::new(env!("CARGO_BIN_EXE_countersign")));
    assert_eq!(ours.code, 0, "{ours:?}");
    // Other architectures need no such code. A script has none.
    let other = check(&program("bash"));
    assert_eq!(other.code, i32::from(cfg!(target_arch = "x86_64")), "{other:?}");
    assert_eq!(check(&repository().join("deploy/deb/build")).code, 1);

    for (file, line) in [
        ("Makefile", "\tdeploy/check-binary target/release/countersign\n"),
        ("deploy/deb/build", "\ndeploy/check-binary \"$BINARY\"\n"),
        ("Containerfile", "&& deploy/check-binary target/release/countersign "),
    ] {
        assert!(std::fs::read_to_string(repository().join(file)).unwrap().contains(line), "{file}");
    }
}

#[test]
fn the_containerfile_passes_its_linter() {
    let linter = peer("hadolint/bin/hadolint");
    let ran =
        Ran::of(Command::new(&linter).arg("--no-color").arg(repository().join("Containerfile")));
    assert_eq!(ran.code, 0, "{ran:?}");

    let deployment = Deployment::bare();
    let latest = containerfile().replace("rust:1.95.0-bookworm${RUST_DIGEST}", "rust");
    let ran = Ran::of(Command::new(&linter).arg(deployment.file("Containerfile", &latest)));
    assert_ne!(ran.code, 0, "the linter lets everything pass");
}

#[test]
fn the_image_is_pinned_unprivileged_and_made_of_what_is_there() {
    let text = containerfile();
    let instructions: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once(' ')).collect();
    let of = |wanted: &str| {
        instructions
            .iter()
            .filter(|(name, _)| *name == wanted)
            .map(|(_, rest)| *rest)
            .collect::<Vec<_>>()
    };

    let toolchain = metadata()["packages"][0]["rust_version"].as_str().unwrap().to_owned();
    assert_eq!(of("FROM").len(), 2);
    for image in of("FROM") {
        let image = image.split(' ').next().unwrap();
        let (name, digest) =
            image.split_once("${").unwrap_or_else(|| panic!("{image} takes no digest"));
        assert!(digest.ends_with("_DIGEST}"), "{image}");
        let (_, tag) = name.rsplit_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        assert_ne!(tag, "latest", "{image}");
        assert!(
            !name.contains("/rust:") || tag.starts_with(&toolchain),
            "{image} is not {toolchain}"
        );
    }
    let user = *of("USER").last().unwrap();
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{user}");

    let ignored = std::fs::read_to_string(repository().join(".containerignore")).unwrap();
    let copied = of("COPY").into_iter().filter(|arguments| !arguments.starts_with("--from"));
    let sources: Vec<&str> = copied
        .flat_map(|arguments| arguments.split(' ').rev().skip(1).collect::<Vec<_>>())
        .collect();
    assert!(sources.contains(&"src") && sources.contains(&"Cargo.lock"), "{sources:?}");
    for source in sources {
        assert!(repository().join(source).exists(), "{source} is not there");
        assert!(ignored.lines().any(|line| line == format!("!{source}")), "{source} is ignored");
    }
    // The image that builds it must have everything that Cargo.toml names.
    for target in metadata()["packages"][0]["targets"].as_array().unwrap() {
        let path = PathBuf::from(target["src_path"].as_str().unwrap());
        let first = path.strip_prefix(repository()).unwrap().components().next().unwrap();
        let kind = target["kind"][0].as_str().unwrap();
        assert!(
            kind == "test" || ignored.contains(&format!("!{}", first.as_os_str().display())),
            "{}",
            path.display()
        );
    }
}

/// Every command with its parents: `principal add`. Without help.
fn commands(deployment: &Deployment) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(command) = open.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = deployment.done(&arguments);
        let below = help
            .split_once("\nCommands:\n")
            .map_or("", |(_, listed)| listed.split("\n\n").next().unwrap());
        let names = below
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .filter(|line| !line.starts_with(' '));
        for name in names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help") {
            let deeper = [command.as_slice(), &[name.to_owned()]].concat();
            found.insert(deeper.join(" "));
            open.push(deeper);
        }
    }
    found
}

fn containerfile() -> String {
    std::fs::read_to_string(repository().join("Containerfile")).unwrap()
}

fn deb() -> Value {
    metadata()["packages"][0]["metadata"]["deb"].clone()
}

fn metadata() -> Value {
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"];
    let mut metadata =
        Ran::of(Command::new(env!("CARGO")).args(arguments).current_dir(repository())).json();
    // The package at the root comes with the members of its workspace.
    let packages = metadata["packages"].as_array_mut().unwrap();
    packages.retain(|package| package["name"] == "countersign");
    assert_eq!(packages.len(), 1);
    metadata
}
