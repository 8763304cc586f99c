//! Certificates as `openssl req -x509` makes them: root and leaf in one (CA:TRUE).

use std::path::Path;
use std::process::Command;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tempfile::TempDir;

/// A self-signed certificate with its key.
pub struct SelfSigned {
    dir: TempDir,
}

impl SelfSigned {
    /// A certificate for `localhost` only.
    pub fn new() -> Self {
        Self::with(&["subjectAltName=DNS:localhost"])
    }

    /// A certificate with these extensions besides those that the program adds.
    pub fn with(extensions: &[&str]) -> Self {
        let made = Self { dir: tempfile::tempdir().unwrap() };
        let mut arguments = vec!["req", "-x509", "-days", "2", "-out", "own.pem"];
        for extension in extensions {
            arguments.extend(["-addext", extension]);
        }
        made.openssl(&[&arguments[..], &NEW_KEY].concat());
        made
    }

    /// Like [`Self::new`], but expired since 2021, which takes a different command.
    pub fn expired() -> Self {
        let made = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(made.dir.path().join("index"), "").unwrap();
        let settings = "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n\
                        policy=policy\nx509_extensions=extensions\n[policy]\ncommonName=supplied\n[extensions]\n\
                        basicConstraints=critical,CA:TRUE\nsubjectAltName=DNS:localhost\n";
        std::fs::write(made.dir.path().join("settings"), settings).unwrap();
        made.openssl(&[&["req", "-out", "own.csr"][..], &NEW_KEY].concat());
        let mut arguments = vec![
            "ca",
            "-batch",
            "-config",
            "settings",
            "-selfsign",
            "-keyfile",
            "own.key",
            "-in",
            "own.csr",
        ];
        arguments.extend([
            "-startdate",
            "20200101000000Z",
            "-enddate",
            "20210101000000Z",
            "-notext",
            "-out",
            "own.pem",
        ]);
        made.openssl(&arguments);
        made
    }

    /// Path of the certificate.
    pub fn pem(&self) -> String {
        self.file("own.pem")
    }

    /// Path of the key.
    pub fn key(&self) -> String {
        self.file("own.key")
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.pem()).unwrap()
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(self.key()).unwrap()
    }

    /// Signs another certificate, as an authority does. Returns the paths of certificate and key.
    pub fn sign(&self) -> (String, String) {
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=leaf",
            "-keyout",
            "leaf.key",
            "-out",
            "leaf.csr",
        ]);
        std::fs::write(self.dir.path().join("names"), "subjectAltName=DNS:localhost\n").unwrap();
        let mut arguments = vec![
            "x509",
            "-req",
            "-in",
            "leaf.csr",
            "-CA",
            "own.pem",
            "-CAkey",
            "own.key",
            "-CAcreateserial",
        ];
        arguments.extend(["-days", "2", "-extfile", "names", "-out", "leaf.pem"]);
        self.openssl(&arguments);
        (self.file("leaf.pem"), self.file("leaf.key"))
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(Path::new(self.dir.path()))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "openssl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// All of them have the same subject.
const NEW_KEY: [&str; 9] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
    "-subj",
    "/CN=localhost",
    "-keyout",
    "own.key",
];
