//! `countersign demo`: serves with built-in defaults and shows decisions.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use secrecy::ExposeSecret;

use crate::{
    app::{self, App, DemoAnswers, FirstKey, Listeners},
    client::{Binding, Signer},
    config::{ListenAddress, Settings, telemetry::LogFormat},
    domain::{algorithm::KeyFamily, key::PrivateKey, principal::Username, scope::Scopes},
    engine::{
        issue::MintTerms,
        ports::{KeyTerms, NewPrincipal, RegistryError},
        registry::{AddKeyError, TrustError},
    },
};

const FOLDER: &str = "countersign-demo";
const USERNAME: &str = "demo";

pub(super) fn run(mut settings: Settings) -> super::CommandResult {
    let folder = PathBuf::from(FOLDER);
    fs::create_dir_all(&folder)?;
    // Settings from the environment stay; the rest is for a demo: loopback only, and all files in
    // one folder.
    let defaults = Settings::default();
    let local = |address: &mut ListenAddress, default: &ListenAddress| {
        if let (true, ListenAddress::Tcp(address)) = (address == default, address) {
            address.set_ip([127, 0, 0, 1].into());
        }
    };
    local(&mut settings.server.http_listen, &defaults.server.http_listen);
    local(&mut settings.server.grpc_listen, &defaults.server.grpc_listen);
    if settings.database.url.servers().eq(defaults.database.url.servers()) {
        settings.database.url =
            format!("sqlite://{}?mode=rwc", folder.join("countersign.db").display()).parse()?;
    }
    if settings.issuer.signing_keys_dir == defaults.issuer.signing_keys_dir {
        settings.issuer.signing_keys_dir = folder.join("signing-keys");
    }
    settings.telemetry.log = "warn,countersign::decision=off".parse()?;
    settings.telemetry.log_format = LogFormat::Text;
    let log = app::init_log(&settings)?;
    super::block_on(demo(settings, log.control(), &folder.join("demo-key.pem")))?
}

async fn demo(settings: Settings, log: app::LogControl, key_file: &Path) -> super::CommandResult {
    let listeners = Listeners::bind(&settings)?;
    let (http, grpc) = (listeners.http.address()?, listeners.grpc.address()?);
    let key = demo_key(key_file)?;
    register(&settings, &key).await?;
    let app = App::build(&settings, log).await?;
    let (stop, hurry) = super::serve::told_to_stop()?;
    let served = tokio::spawn(app.serve(listeners.open()?, stop, hurry));
    // Used nonces are kept in memory, which is empty. So tokens from before the start are denied,
    // and the times of tokens are whole seconds.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    tokio::time::sleep(
        Duration::from_secs(1).saturating_sub(Duration::from_nanos(now.subsec_nanos().into())),
    )
    .await;

    super::print(&format!(
        "Principal \"{USERNAME}\" signs with {}; the service knows the public half only.\n\n",
        key_file.display()
    ))?;
    show(&Signer::new(USERNAME, key), &http, &grpc).await?;
    let issued = app::issuer(&settings, FirstKey::Make)
        .await?
        .mint(&Username::new(USERNAME)?, MintTerms::default(), "cli:demo")
        .await?;
    let bearer = format!("Bearer {}", issued.access_token);
    print(
        "An access token, which passes until it expires or is revoked:",
        app::show((&http, &bearer), (&grpc, &bearer)).await?,
    )?;
    super::print(&usage(key_file, &http, &settings.server.admin_listen))?;
    served.await??;
    Ok(())
}

/// The key of the previous demo, or a new one.
fn demo_key(file: &Path) -> Result<PrivateKey, super::Failure> {
    match fs::read_to_string(file) {
        Ok(pem) => Ok(PrivateKey::parse(&pem, None)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = PrivateKey::generate(KeyFamily::Ed25519, 2048)?;
            super::key::write_secret(file, key.to_pem()?.expose_secret())?;
            Ok(key)
        }
        Err(error) => Err(error.into()),
    }
}

/// Adds the demo principal and key unless a previous demo has added them.
async fn register(settings: &Settings, key: &PrivateKey) -> super::CommandResult {
    let registry = super::registry(settings).await?;
    let username = Username::new(USERNAME)?;
    let new = NewPrincipal {
        scopes: Scopes::parse("demo:read demo:write")?,
        ..NewPrincipal::named(username.clone())
    };
    match registry.add_principal(new).await {
        Ok(_) | Err(TrustError::Registry(RegistryError::PrincipalExists(_))) => {}
        Err(error) => return Err(error.into()),
    }
    match registry.add_key(&username, &key.public_key().to_pem(), KeyTerms::default()).await {
        Ok(_) | Err(AddKeyError::Registry(RegistryError::KeyExists { .. })) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn show(signer: &Signer, http: &ListenAddress, grpc: &ListenAddress) -> super::CommandResult {
    let token = |age: u64| -> Result<String, crate::client::SignError> {
        Ok(format!(
            "JWT {}",
            signer.sign(Binding::default(), SystemTime::now() - Duration::from_secs(age))?
        ))
    };
    let (first, second) = (token(0)?, token(0)?);
    print("A fresh token at each door:", app::show((http, &first), (grpc, &second)).await?)?;
    print(
        "The same tokens again, each at the other door:",
        app::show((http, &second), (grpc, &first)).await?,
    )?;
    let (old, older) = (token(60)?, token(61)?);
    print("Tokens signed a minute ago:", app::show((http, &old), (grpc, &older)).await?)?;
    Ok(())
}

fn print(what: &str, DemoAnswers { http, grpc }: DemoAnswers) -> std::io::Result<()> {
    super::print(&format!("{what}\n  HTTP  {http}\n  gRPC  {grpc}\n"))
}

fn usage(key_file: &Path, http: &ListenAddress, admin: &ListenAddress) -> String {
    let program = std::env::current_exe()
        .map_or_else(|_| "countersign".to_owned(), |path| path.display().to_string());
    let key_file = fs::canonicalize(key_file).unwrap_or_else(|_| key_file.to_owned());
    let key_file = key_file.display();
    format!(
        "\nTry it (each token passes once; run it again for another):\n\n  \
         curl -i {}/validate_request -H \"$({program} sign {USERNAME} --key {key_file} --header)\"\n\n\
         Serving: HTTP {http}, readiness and metrics {}/readyz and /metrics. Stop with Ctrl-C.\n",
        for_curl(http),
        for_curl(admin)
    )
}

/// The arguments for curl to reach the listener.
fn for_curl(listener: &ListenAddress) -> String {
    match listener {
        ListenAddress::Tcp(address) => format!("http://{address}"),
        ListenAddress::Unix(path) => format!("--unix-socket {} http://localhost", path.display()),
    }
}
