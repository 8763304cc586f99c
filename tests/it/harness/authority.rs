//! A certificate authority made by OpenSSL, stored in files.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let authority = Self { dir: dir.to_owned() };
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        );
        authority
    }

    /// Creates NAME.pem and NAME.key, with a new key each time.
    pub fn certify(&self, name: &str) {
        std::fs::write(self.dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
            .unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.next.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.next.pem"
        ));
        for kind in ["key", "pem"] {
            std::fs::rename(self.file(&format!("{name}.next"), kind), self.file(name, kind))
                .unwrap();
        }
    }

    /// The certificate in NAME.pem; `ca` is the authority's own.
    pub fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.file(name, "pem")).unwrap()
    }

    /// The private key in NAME.key.
    pub fn private_key(&self, name: &str) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(self.file(name, "key")).unwrap()
    }

    /// The path of NAME.pem or NAME.key; `ca` is the authority's own.
    pub fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{name}.{kind}"))
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&self.dir)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "openssl {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
