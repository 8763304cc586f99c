//! `countersign key`

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::output::{self, Format, moment};
use crate::{
    config::{Settings, SettingsError},
    domain::{
        algorithm::KeyFamily,
        key::{KeyError, PrivateKey},
        principal::{KeyId, Username},
        scope::Scopes,
        time::UnixMillis,
    },
    engine::{
        ports::{KeyRecord, KeyTerms},
        registry::AddKeyError,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Generate a key pair. The private key stays with the client; the public key goes to
    /// `key add`.
    Generate(GenerateArguments),
    /// Register a public key: PEM, OpenSSH, JWK or the key of a certificate.
    Add(AddArguments),
    /// List keys, including revoked ones.
    List {
        /// Only keys of this principal.
        username: Option<Username>,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show one key and its public key text.
    Show {
        /// Id of the key, from `key add` or `key list`.
        id: i64,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Revoke a key permanently.
    Revoke {
        /// Id of the key, from `key add` or `key list`.
        id: i64,
    },
}

#[derive(Debug, Args)]
pub(super) struct GenerateArguments {
    /// Type of the key: ed25519, rsa, p256 or p384.
    #[arg(long = "type", default_value = "ed25519", value_name = "TYPE")]
    family: KeyFamily,
    /// Size of an RSA key in bits: 2048, 3072, 4096 or 8192.
    #[arg(long, default_value_t = 2048, value_name = "N")]
    bits: usize,
    /// Write the private key to FILE, readable only by its owner, and the public key to FILE.pub.
    /// Existing files are not overwritten.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Environment variable with a passphrase to encrypt the private key.
    #[arg(long, value_name = "VAR")]
    passphrase_env: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct AddArguments {
    /// Username of the owning principal.
    username: Username,
    /// File with the public key; `-` reads it from standard input.
    file: PathBuf,
    /// A name for the key [default: the comment of an OpenSSH key].
    #[arg(long)]
    comment: Option<String>,
    /// Scopes to restrict the key to, out of those of its principal, separated by spaces. May be
    /// repeated.
    #[arg(long = "scope", value_name = "SCOPES")]
    scopes: Vec<String>,
    /// Lifetime of the key, such as `90d` [default: until it is revoked].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires_in: Option<std::time::Duration>,
    /// Time from which the key is valid, such as `2030-01-31T00:00:00Z` [default: now].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak)]
    not_before: Option<SystemTime>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

const COLUMNS: [&str; 11] = [
    "id",
    "username",
    "fingerprint",
    "family",
    "comment",
    "scopes",
    "not_before",
    "expires_at",
    "revoked_at",
    "last_used_on",
    "created_at",
];

pub(super) fn run(
    command: KeyCommand,
    settings: impl FnOnce() -> Result<Settings, SettingsError>,
) -> super::CommandResult {
    let command = match command {
        KeyCommand::Generate(arguments) => return generate(&arguments),
        other => other,
    };
    let settings = settings()?;
    super::block_on(async {
        match command {
            KeyCommand::Generate(_) => {}
            KeyCommand::Add(arguments) => add(&settings, arguments).await?,
            KeyCommand::List { username, output } => {
                let keys = super::registry(&settings).await?.keys(username.as_ref()).await?;
                output::list(&COLUMNS, keys.iter().map(row).collect(), output)?;
            }
            KeyCommand::Show { id, output } => {
                let key = super::registry(&settings).await?.key(KeyId(id)).await?;
                let (columns, mut values) = ([&COLUMNS[..], &["key"]].concat(), row(&key));
                values.push(key.key.into());
                output::one(&columns, values, output)?;
            }
            KeyCommand::Revoke { id } => {
                let key = super::registry(&settings).await?.revoke_key(KeyId(id), None).await?;
                super::print(&format!("key {id} of {} is revoked\n", key.username))?;
            }
        }
        Ok(())
    })?
}

async fn add(settings: &Settings, arguments: AddArguments) -> super::CommandResult {
    let text = read(&arguments.file)?;
    let terms = KeyTerms {
        comment: arguments.comment,
        scopes: (!arguments.scopes.is_empty())
            .then(|| Scopes::parse(&arguments.scopes.join(" ")))
            .transpose()?,
        not_before: arguments.not_before.map(UnixMillis::from),
        expires_at: arguments.expires_in.map(|lifetime| {
            UnixMillis::from(SystemTime::now())
                .saturating_add(lifetime)
                .min(UnixMillis::LAST_WRITABLE)
        }),
    };
    let added = super::registry(settings).await?.add_key(&arguments.username, &text, terms).await;
    let added = added.map_err(|error| match error {
        AddKeyError::Key(error) => super::Failure::from(not_usable(&arguments.file, &error)),
        refused @ AddKeyError::Registry(_) => refused.into(),
    })?;
    output::one(&COLUMNS, row(&added), arguments.output)?;
    Ok(())
}

fn generate(arguments: &GenerateArguments) -> super::CommandResult {
    let passphrase = passphrase(arguments.passphrase_env.as_deref())?;
    let key = PrivateKey::generate(arguments.family, arguments.bits)?;
    let private = match &passphrase {
        Some(passphrase) => key.to_encrypted_pem(passphrase)?,
        None => key.to_pem()?,
    };
    let public = key.public_key().to_pem();
    let Some(file) = &arguments.out else {
        super::print(private.expose_secret())?;
        return Ok(());
    };
    let public_file = PathBuf::from(format!("{}.pub", file.display()));
    write_secret(file, private.expose_secret())?;
    if let Err(error) = write_new(&public_file, &public, 0o644) {
        // Do not leave a private key without its public key.
        fs::remove_file(file)?;
        return Err(error);
    }
    let columns = ["private_key", "public_key", "family", "fingerprint"];
    let values = [
        file.display().to_string(),
        public_file.display().to_string(),
        arguments.family.to_string(),
        key.public_key().fingerprint().to_string(),
    ];
    output::one(&columns, values.into_iter().map(Value::String).collect(), Format::Table)?;
    Ok(())
}

/// The passphrase in the environment variable `name`, if one is given.
pub(super) fn passphrase(name: Option<&str>) -> Result<Option<SecretString>, super::Failure> {
    let Some(name) = name else { return Ok(None) };
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Some(value.into())),
        _ => Err(super::Failure::Usage(
            format!(
                "the environment variable {name}, named by --passphrase-env, is not set or empty"
            )
            .into(),
        )),
    }
}

/// The argument that means standard input.
pub(super) const STDIN: &str = "-";

/// The text of `file`, or of standard input for `-`.
pub(super) fn read(file: &Path) -> Result<String, super::Failure> {
    let bytes = read_bytes(file)?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        let file = file.display();
        return Err(format!(
            "{file} is text in UTF-16, as PowerShell's `>` writes it; save it in UTF-8 or ASCII"
        )
        .into());
    }
    let not_text = || {
        format!(
            "{} is not text; keys are read as PEM, OpenSSH or JWK (`openssl pkey -pubin -inform DER` converts DER)",
            file.display()
        )
    };
    Ok(String::from_utf8(bytes).map_err(|_| not_text())?)
}

/// The bytes of `file`, or of standard input for `-`.
pub(super) fn read_bytes(file: &Path) -> Result<Vec<u8>, super::Failure> {
    let mut bytes = Vec::new();
    let result = if file == Path::new(STDIN) {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        fs::File::open(file).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    result.map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    Ok(bytes)
}

/// The text of `error`, with the file that it is about.
pub(super) fn not_usable(file: &Path, error: &KeyError) -> String {
    format!("{}: {}", file.display(), super::one_line(error))
}

/// Creates a file that only its owner may read. Fails if it exists.
pub(super) fn write_secret(file: &Path, text: &str) -> super::CommandResult {
    write_new(file, text, 0o600)
}

fn write_new(file: &Path, text: &str, mode: u32) -> super::CommandResult {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    Ok(written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => format!(
            "{} exists already; nothing is overwritten, choose another name",
            file.display()
        ),
        _ => format!("{} cannot be written: {error}", file.display()),
    })?)
}

fn row(record: &KeyRecord) -> Vec<Value> {
    vec![
        record.id.0.into(),
        record.username.as_str().into(),
        record.fingerprint.as_str().into(),
        record.family.as_str().into(),
        output::text(record.terms.comment.as_deref()),
        output::text(record.terms.scopes.as_ref().map(Scopes::as_str)),
        moment(record.terms.not_before),
        moment(record.terms.expires_at),
        moment(record.revoked_at),
        moment(record.last_used_on),
        moment(Some(record.created_at)),
    ]
}
