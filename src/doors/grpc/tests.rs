use std::{path::PathBuf, process::Command};

use prost::Message;
use prost_types::FileDescriptorSet;

use super::{DESCRIPTORS, EXT_AUTHZ};

/// The folder of an installed crate that we depend on.
fn source_of(package: &str) -> PathBuf {
    let output = Command::new(env!("CARGO")).args(["metadata", "--format-version=1", "--offline"]).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages.iter().find(|candidate| candidate["name"] == package).unwrap_or_else(|| panic!("no package {package}"));
    PathBuf::from(found["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

fn compile() -> FileDescriptorSet {
    let proto = source_of("envoy-types").join("proto");
    let includes = ["data-plane-api", "xds", "googleapis", "protoc-gen-validate"].map(|folder| proto.join(folder));
    protox::compile([includes[0].join("envoy/service/auth/v3/external_auth.proto")], includes).unwrap()
}

/// Reflection tells the API of the `envoy-types` version that we speak. After an update of that crate, run this test with
/// `UPDATE_DESCRIPTORS=1` to write the file anew.
#[test]
fn the_descriptors_are_those_of_the_api_we_speak() {
    let current = compile();
    if std::env::var_os("UPDATE_DESCRIPTORS").is_some() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto/ext_authz.descriptors.bin");
        std::fs::write(path, current.encode_to_vec()).unwrap();
        return;
    }
    let committed = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    assert!(committed == current, "proto/ext_authz.descriptors.bin is stale: run this test with UPDATE_DESCRIPTORS=1");
    let (package, service) = EXT_AUTHZ.rsplit_once('.').unwrap();
    let file = committed.file.iter().find(|file| file.package() == package && !file.service.is_empty()).unwrap();
    assert_eq!(file.service[0].name(), service);
    assert_eq!(file.service[0].method[0].name(), "Check");
}
