use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message;
use prost_types::FileDescriptorSet;

use super::{ENVOY_DESCRIPTORS, EXT_AUTHZ, OWN_DESCRIPTORS, VERIFICATION};

/// The source folder of an installed crate that we depend on.
fn source_of(package: &str) -> PathBuf {
    // Only for this platform: crates that only other platforms need were never downloaded.
    let platform = format!("--filter-platform={}", host());
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", &platform])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages
        .iter()
        .find(|candidate| candidate["name"] == package)
        .unwrap_or_else(|| panic!("no package {package}"));
    PathBuf::from(found["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

fn host() -> String {
    let output = Command::new(env!("CARGO")).arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap_or_else(|| panic!("no host in {text}"))
        .to_owned()
}

fn compile_envoys() -> FileDescriptorSet {
    let proto = source_of("envoy-types").join("proto");
    let includes = ["data-plane-api", "xds", "googleapis", "protoc-gen-validate"]
        .map(|folder| proto.join(folder));
    protox::compile([includes[0].join("envoy/service/auth/v3/external_auth.proto")], includes)
        .unwrap()
}

fn compile_our_own() -> FileDescriptorSet {
    let proto = in_repository("proto");
    protox::compile([proto.join("countersign/v1/verification.proto")], [proto]).unwrap()
}

fn generate(descriptors: FileDescriptorSet) -> String {
    let folder = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(folder.path())
        .compile_fds(descriptors)
        .unwrap();
    fs::read_to_string(folder.path().join("countersign.v1.rs")).unwrap()
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn is_update() -> bool {
    std::env::var_os("UPDATE_DESCRIPTORS").is_some()
}

/// Reflection describes the API of the `envoy-types` version that we use. After an update of that
/// crate, run this test with `UPDATE_DESCRIPTORS=1` to regenerate the file.
#[test]
fn the_descriptors_are_those_of_the_api_we_speak() {
    let current = compile_envoys();
    if is_update() {
        fs::write(in_repository("proto/ext_authz.descriptors.bin"), current.encode_to_vec())
            .unwrap();
        return;
    }
    let committed = FileDescriptorSet::decode(ENVOY_DESCRIPTORS).unwrap();
    assert!(
        committed == current,
        "proto/ext_authz.descriptors.bin is stale: run this test with UPDATE_DESCRIPTORS=1"
    );
    assert_has_method(&committed, EXT_AUTHZ, "Check");
}

/// Builds generate nothing: this test generates code and descriptors from our own `.proto`. After a
/// change to it, or an update of tonic or prost, run this test with `UPDATE_DESCRIPTORS=1` to
/// regenerate both.
#[test]
fn our_own_api_is_the_one_in_its_proto() {
    const CODE: &str = "src/doors/grpc/generated.rs";
    const DESCRIPTORS: &str = "proto/countersign.descriptors.bin";
    let current = compile_our_own();
    let code = generate(current.clone());
    if is_update() {
        fs::write(in_repository(DESCRIPTORS), current.encode_to_vec()).unwrap();
        fs::write(in_repository(CODE), code).unwrap();
        return;
    }
    let committed = FileDescriptorSet::decode(OWN_DESCRIPTORS).unwrap();
    assert!(
        committed == current,
        "{DESCRIPTORS} is stale: run this test with UPDATE_DESCRIPTORS=1"
    );
    assert!(
        fs::read_to_string(in_repository(CODE)).unwrap() == code,
        "{CODE} is stale: run this test with UPDATE_DESCRIPTORS=1"
    );
    assert_has_method(&committed, VERIFICATION, "Verify");
}

fn assert_has_method(descriptors: &FileDescriptorSet, service: &str, method: &str) {
    let (package, service) = service.rsplit_once('.').unwrap();
    let file = descriptors
        .file
        .iter()
        .find(|file| file.package() == package && !file.service.is_empty())
        .unwrap();
    assert_eq!(file.service[0].name(), service);
    assert_eq!(file.service[0].method[0].name(), method);
}
