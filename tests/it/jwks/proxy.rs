//! Key sets through an outgoing proxy, which alone resolves host names.

use crate::harness::{Behaviour, Deployment, JwksServer, Ran, Signer, Tinyproxy};

const PASSWORD: &str = "hunter2";

struct Setup {
    proxy: Tinyproxy,
    server: JwksServer,
}

impl Setup {
    fn new() -> Self {
        let setup =
            Self { proxy: Tinyproxy::start("countersign", PASSWORD), server: JwksServer::https() };
        setup.server.put("/keys", Behaviour::set([Signer::named("one").jwk()]));
        setup
    }

    fn proxy_url(&self) -> String {
        format!("http://countersign:{PASSWORD}@{}", self.proxy.address)
    }

    /// Fetches the key set once.
    fn fetch(&self, with: impl FnOnce(Deployment) -> Deployment) -> Ran {
        let deployment = with(Deployment::new().trusting(&self.server));
        deployment.done(&["principal", "add", "alice"]);
        let trust = deployment.add_trust("alice", &self.server.url("/keys"));
        deployment.run(&["trust", "refresh", &trust])
    }
}

#[test]
fn key_sets_are_fetched_through_the_proxy() {
    let setup = Setup::new();
    let ran = setup.fetch(|deployment| deployment.set("jwks.proxy", &setup.proxy_url()));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(setup.proxy.passed().len(), 1, "{:?}", setup.proxy.passed());
    assert_eq!(setup.server.requests("/keys").len(), 1);
}

#[test]
fn what_the_proxy_refuses_is_told_without_the_password() {
    let setup = Setup::new();
    let wrong = format!("http://countersign:{PASSWORD}-wrong@{}", setup.proxy.address);
    let ran = setup.fetch(|deployment| deployment.set("jwks.proxy", &wrong));
    assert_eq!((ran.code, setup.server.connections()), (1, 0), "{ran:?}");
    assert!(ran.stderr.contains("proxy") && !ran.stderr.contains(PASSWORD), "{ran:?}");

    let nobody = format!("http://countersign:{PASSWORD}@127.0.0.1:{}", crate::harness::free_port());
    let ran = setup.fetch(|deployment| deployment.set("jwks.proxy", &nobody));
    assert_eq!((ran.code, setup.server.connections()), (1, 0), "no way around it: {ran:?}");
    assert!(!ran.stderr.contains(PASSWORD), "{ran:?}");
}

#[test]
fn the_environment_counts_if_it_is_asked_for() {
    let setup = Setup::new();
    let with_variable =
        |deployment: Deployment| deployment.variable("HTTPS_PROXY", &setup.proxy_url());

    let ran = setup.fetch(with_variable);
    assert_eq!((ran.code, setup.proxy.passed().len()), (0, 0), "it was not asked for: {ran:?}");
    let ran = setup.fetch(|deployment| with_variable(deployment).set("jwks.proxy", "environment"));
    assert_eq!((ran.code, setup.proxy.passed().len()), (0, 1), "{ran:?}");
    let ran = setup.fetch(|deployment| {
        with_variable(deployment).set("jwks.proxy", "environment").variable("NO_PROXY", "localhost")
    });
    assert_eq!((ran.code, setup.proxy.passed().len()), (0, 1), "an exception: {ran:?}");
    let ran = setup.fetch(|deployment| deployment.set("jwks.proxy", "environment"));
    assert_eq!((ran.code, setup.proxy.passed().len()), (0, 1), "there is none: {ran:?}");
    assert_eq!(setup.server.requests("/keys").len(), 4);
}

/// Addresses cannot be checked if the proxy resolves names. A host of the local network has to be
/// listed.
#[test]
fn behind_a_proxy_names_are_checked() {
    let setup = Setup::new();
    let deployment = Deployment::new().set("jwks.proxy", &setup.proxy_url());
    deployment.done(&["principal", "add", "alice"]);
    for host in [
        "localhost",
        "keys",
        "keys.internal",
        "metadata.google.internal",
        "keys.default.svc.cluster.local",
        "10.0.0.1",
    ] {
        let ran = deployment.run(&["trust", "add", "alice", &setup.server.url_of(host, "/keys")]);
        assert!(ran.code == 1 && ran.stderr.contains("jwks.allowed_hosts"), "{host}: {ran:?}");
    }
    assert_eq!(deployment.run(&["trust", "add", "alice", "https://keys.example/"]).code, 0);
    assert_eq!(setup.proxy.passed().len(), 0);
}

#[test]
fn the_check_of_the_settings_tells_the_way_out() {
    let setup = Setup::new();
    let told = |with: &dyn Fn(Deployment) -> Deployment| {
        let ran = with(Deployment::new()).run(&["config", "check"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!ran.stdout.contains(PASSWORD), "{ran:?}");
        ran.stdout.lines().filter(|line| line.starts_with("jwks")).collect::<Vec<_>>().join("\n")
    };
    let through = format!("through the proxy http://{}", setup.proxy.address);
    assert_eq!(told(&|deployment| deployment), "jwks           ok");
    assert!(
        told(&|deployment| deployment.set("jwks.proxy", &setup.proxy_url())).contains(&through)
    );
    let environment = |deployment: Deployment| deployment.set("jwks.proxy", "environment");
    assert!(
        told(&|deployment| environment(deployment).variable("https_proxy", &setup.proxy_url()))
            .contains(&through)
    );
    assert!(told(&|deployment| environment(deployment)).contains("none in the environment"));
}

#[test]
fn what_is_no_proxy_is_refused() {
    for value in [
        "proxy.example:3128",
        "socks5://hunter2@proxy.example",
        "http://u:hunter2@proxy.example/path",
        "http://[hunter2",
    ] {
        let ran = Deployment::new().set("jwks.proxy", value).run(&["config", "check"]);
        assert!(
            ran.code == 2 && ran.stderr.contains("jwks.proxy") && !ran.stderr.contains(PASSWORD),
            "{value}: {ran:?}"
        );
    }
    let deployment = Deployment::new()
        .set("jwks.proxy", "environment")
        .variable("HTTPS_PROXY", "socks5://u:hunter2@proxy.example");
    let ran = deployment.run(&["config", "check"]);
    assert!(
        ran.code == 1 && ran.stderr.contains("HTTPS_PROXY") && !ran.stderr.contains(PASSWORD),
        "{ran:?}"
    );
}
