//! Keeps the layers apart: which layer may import which, and where foreign crates may be named. The
//! tables below are those of `ARCHITECTURE.md`.
//!
//! Every source file is parsed and every path in it is checked: in `use`, in types, patterns and
//! expressions, in attributes (including strings that hold paths) and in the tokens of macros. Test
//! modules obey the same table.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, ItemExternCrate, ItemMod, ItemUse, LitStr, Macro, Meta, Token, UseTree,
    VisRestricted, braced, bracketed,
    ext::IdentExt,
    parenthesized,
    parse::{ParseBuffer, ParseStream, Parser},
    token,
    visit::{self, Visit},
};

/// Each layer, and what it may import besides itself. `engine::ports` means only that module.
const LAYERS: [(&str, &[&str]); 11] = [
    ("domain", &[]),
    ("roots", &[]),
    ("client", &["domain", "roots"]),
    ("config", &["domain"]),
    ("telemetry", &["domain", "config", "roots"]),
    ("engine", &["domain", "telemetry"]),
    ("stores", &["domain", "engine::ports", "config", "telemetry", "roots"]),
    ("doors", &["domain", "engine", "config", "telemetry", "roots"]),
    ("app", &["domain", "client", "config", "telemetry", "engine", "stores", "doors", "roots"]),
    ("cli", &["app", "engine", "config", "domain", "client", "roots"]),
    ("main", &["cli"]),
];

/// Foreign crates that only these modules may name, by the prefix of their names.
const CRATES: [(&str, &[&str]); 27] = [
    ("sea_orm", &["stores::sql"]),
    ("sqlx", &["stores::sql"]),
    ("redis", &["stores::redis", "stores::nonce", "stores::notify"]),
    ("actix", &["doors::http"]),
    ("hyper", &["doors"]),
    ("http_body", &["doors"]),
    ("rustix", &["app::descriptors"]),
    ("socket2", &["doors::listen", "stores::redis"]),
    ("sd_listen_fds", &["doors::listen"]),
    ("utoipa", &["doors::http"]),
    ("governor", &["doors::http"]),
    ("tonic", &["doors::grpc"]),
    ("prost", &["doors::grpc"]),
    ("protox", &["doors::grpc"]),
    ("envoy_types", &["doors::grpc"]),
    ("migrations", &["app"]),
    ("countersign_migrations", &["app"]),
    ("opentelemetry", &["telemetry"]),
    ("prometheus", &["telemetry"]),
    ("procfs", &["telemetry"]),
    ("clap", &["cli"]),
    ("comfy_table", &["cli"]),
    ("indicatif", &["cli"]),
    ("ratatui", &["cli"]),
    ("crossterm", &["cli"]),
    ("reqwest", &["roots", "stores::jwks", "client::session", "cli::top", "telemetry::otlp"]),
    ("rustls_native_certs", &["roots"]),
];

/// Folders of `stores` that hold several adapters, one per file. Every other module of `stores` is
/// one adapter.
const FOLDERS_OF_ADAPTERS: [&str; 1] = ["nonce"];

/// Modules of `stores` that are not adapters: code that several adapters share.
const SHARED_BY_ADAPTERS: [&str; 1] = ["redis"];

/// Functions that read JSON but accept arrays for objects and bytes that are not text, and the
/// modules that may name them. Everything else uses `domain::json`.
const JSON_READERS: [&str; 4] = ["from_slice", "from_str", "from_value", "from_reader"];
const READS_JSON: [&str; 4] = [
    "domain::json",
    // The text was checked before, the type takes only objects, and the error needs the path of the
    // wrong member.
    "doors::http::admin::body",
    // A value that we wrote to the database ourselves.
    "doors::http::admin::audit",
    // The keys of a set that was already parsed.
    "stores::jwks::fetch",
];

/// Modules that must not read the system's clock: `now` is an argument.
const CLOCKLESS: [&str; 2] = ["domain", "engine"];
const CLOCK_READERS: [&str; 3] = ["now", "now_utc", "now_local"];

#[test]
fn every_layer_imports_only_what_it_may() {
    let files = sources("src");
    let seen: BTreeSet<String> =
        files.iter().filter_map(|(path, _)| module_of(path).into_iter().next()).collect();
    for (layer, _) in LAYERS {
        assert!(seen.contains(layer), "no source of {layer} was found");
    }
    let violations: Vec<Violation> =
        files.iter().flat_map(|(path, text)| violations(path, text)).collect();
    assert!(violations.is_empty(), "\n{}", lines(&violations));
}

#[test]
fn the_migrations_import_nothing_of_ours() {
    let files = sources("migrations/src");
    assert!(!files.is_empty(), "no source of the migrations was found");
    let violations: Vec<Violation> =
        files.iter().flat_map(|(path, text)| violations_in_migrations(path, text)).collect();
    assert!(violations.is_empty(), "\n{}", lines(&violations));
}

/// An import that the tables do not allow.
struct Violation {
    file: PathBuf,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

/// The violations in the file at `path`, which is relative to `src`.
fn violations(path: &Path, text: &str) -> Vec<Violation> {
    let found = Finder::read(path, text);
    let mut what = found.oddities;
    for (module, named) in &found.paths {
        match named.resolved(module) {
            Resolved::Ours(target) => what.extend(check_ours(module, &target)),
            Resolved::Foreign(target) => {
                what.extend(check_foreign(module, &target, named.is_import));
            }
        }
        what.extend(check_clock(module, named));
        what.extend(check_json(module, named));
    }
    what.into_iter().map(|what| Violation { file: path.to_owned(), what }).collect()
}

fn violations_in_migrations(path: &Path, text: &str) -> Vec<Violation> {
    let found = Finder::read(path, text);
    let ours = found
        .paths
        .iter()
        .filter(|(_, named)| named.segments.first().is_some_and(|first| first == "countersign"));
    ours.map(|(_, named)| Violation {
        file: path.to_owned(),
        what: format!("the migrations import `{named}`"),
    })
    .collect()
}

/// Checks an import of one of our own modules, given from the root of the crate.
fn check_ours(module: &[String], target: &[String]) -> Option<String> {
    let from = module.first().map_or("the crate's root", String::as_str);
    let Some(layer) = target.first().filter(|first| *first != "*") else {
        return Some(format!(
            "{} imports the crate's root as a whole, and with it every layer",
            module.join("::")
        ));
    };
    if !LAYERS.iter().any(|(known, _)| known == layer) {
        return Some(format!(
            "{from} imports `{}`, which no layer is; give it a place in the table",
            target.join("::")
        ));
    }
    if layer == from {
        return if layer == "stores" { check_adapters(module, target) } else { None };
    }
    let may = LAYERS.iter().find(|(known, _)| *known == from).map_or(&[][..], |(_, may)| may);
    if may.iter().any(|allowed| starts_with(target, allowed)) {
        return None;
    }
    let may = if may.is_empty() { "nothing of ours".to_owned() } else { may.join(", ") };
    Some(format!("{from} imports `{}`; it may import {may}", target.join("::")))
}

/// Adapters do not use each other. The modules above adapters may name what is below them, and so
/// may their tests, for the battery that every adapter of a port has to pass.
fn check_adapters(module: &[String], target: &[String]) -> Option<String> {
    let without_tests = |path: &[String]| {
        path.iter().take_while(|segment| *segment != "tests").cloned().collect::<Vec<_>>()
    };
    let (from, to) = (without_tests(module), without_tests(target));
    let depth = if from.get(1).is_some_and(|folder| FOLDERS_OF_ADAPTERS.contains(&folder.as_str()))
    {
        3
    } else {
        2
    };
    let adapter = &from[..depth.min(from.len())];
    let is_shared = to.get(1).is_some_and(|module| SHARED_BY_ADAPTERS.contains(&module.as_str()));
    let is_shared_test = to.len() < target.len() && from.starts_with(&to);
    if target.starts_with(adapter) || is_shared || is_shared_test {
        return None;
    }
    Some(format!(
        "the adapter `{}` imports `{}`; adapters never import each other",
        adapter.join("::"),
        target.join("::")
    ))
}

fn check_foreign(module: &[String], target: &[String], is_import: bool) -> Option<String> {
    let name = target.first().filter(|_| is_import || target.len() > 1)?;
    let belongs =
        |of: &str| name == of || name.strip_prefix(of).is_some_and(|rest| rest.starts_with('_'));
    let (_, places) = CRATES.iter().find(|(of, _)| belongs(of))?;
    if places.iter().any(|place| starts_with(module, place)) {
        return None;
    }
    Some(format!(
        "{} names the crate `{name}`; it never leaves {}",
        module.join("::"),
        places.join(" and ")
    ))
}

fn check_clock(module: &[String], named: &Named) -> Option<String> {
    let layer = module.first().filter(|layer| CLOCKLESS.contains(&layer.as_str()))?;
    let reads = named.segments.len() > 1
        && named.segments.last().is_some_and(|last| CLOCK_READERS.contains(&last.as_str()));
    (reads && !named.is_import)
        .then(|| format!("{layer} reads a clock with `{named}`; `now` is an argument there"))
}

/// Tests may read JSON that they wrote themselves.
fn check_json(module: &[String], named: &Named) -> Option<String> {
    let reads = named.segments.first().is_some_and(|first| first == "serde_json")
        && named.segments.last().is_some_and(|last| JSON_READERS.contains(&last.as_str()));
    let may = module.iter().any(|segment| segment == "tests")
        || READS_JSON.iter().any(|place| starts_with(module, place));
    (reads && !may).then(|| {
        format!(
            "{} reads JSON with `{named}`; use `domain::json`, which takes no array for an object",
            module.join("::")
        )
    })
}

fn starts_with(path: &[String], beginning: &str) -> bool {
    let mut segments = path.iter();
    beginning.split("::").all(|wanted| segments.next().is_some_and(|segment| segment == wanted))
}

/// A path as written in the source.
#[derive(Clone, Debug)]
struct Named {
    segments: Vec<String>,
    /// Starts with `::`, so it names a foreign crate.
    is_absolute: bool,
    /// Is in a `use`, in which even a single segment imports something.
    is_import: bool,
}

enum Resolved {
    /// One of our modules, or an item in it, from the root of the crate.
    Ours(Vec<String>),
    /// A foreign crate, or a name that an import brought into scope; the import is checked itself.
    Foreign(Vec<String>),
}

impl Named {
    fn resolved(&self, module: &[String]) -> Resolved {
        let foreign = || Resolved::Foreign(self.segments.clone());
        let (Some(first), false) = (self.segments.first(), self.is_absolute) else {
            return foreign();
        };
        let mut rest = &self.segments[..];
        let mut base = match first.as_str() {
            "crate" | "countersign" => {
                rest = &rest[1..];
                Vec::new()
            }
            "self" | "super" => module.to_vec(),
            layer if module.is_empty() && LAYERS.iter().any(|(known, _)| *known == layer) => {
                Vec::new()
            }
            _ => return foreign(),
        };
        // `self` alone is a value; the `self` in `use a::{self}` adds nothing.
        if self.segments.len() == 1 && !self.is_import {
            return foreign();
        }
        while let Some((step, further)) =
            rest.split_first().filter(|(step, _)| *step == "self" || *step == "super")
        {
            if step == "super" {
                base.pop();
            }
            rest = further;
        }
        base.extend(rest.iter().filter(|segment| *segment != "self").cloned());
        Resolved::Ours(base)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("::"))
    }
}

/// Collects the paths of one file, each with the module that contains it.
struct Finder {
    module: Vec<String>,
    paths: Vec<(Vec<String>, Named)>,
    /// Constructs that would hide imports from this test.
    oddities: Vec<String>,
}

impl Finder {
    fn read(path: &Path, text: &str) -> Self {
        let file =
            syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut finder = Self { module: module_of(path), paths: Vec::new(), oddities: Vec::new() };
        finder.visit_file(&file);
        finder
    }

    fn add(&mut self, segments: Vec<String>, is_absolute: bool, is_import: bool) {
        self.paths.push((self.module.clone(), Named { segments, is_absolute, is_import }));
    }

    fn add_use(&mut self, tree: &UseTree, before: &[String], is_absolute: bool) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_use(&path.tree, &with(&path.ident), is_absolute),
            UseTree::Name(name) => self.add(with(&name.ident), is_absolute, true),
            UseTree::Rename(rename) => self.add(with(&rename.ident), is_absolute, true),
            UseTree::Glob(_) => self.add([before, &["*".to_owned()]].concat(), is_absolute, true),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_use(tree, before, is_absolute));
            }
        }
    }

    /// Adds every path of two segments or more among tokens that are not parsed into a syntax tree.
    fn add_tokens(&mut self, tokens: ParseStream<'_>, reads_strings: bool) -> syn::Result<()> {
        while !tokens.is_empty() {
            let is_absolute = tokens.parse::<Option<Token![::]>>()?.is_some();
            if tokens.peek(syn::Ident::peek_any) {
                self.add_token_path(tokens, &[], is_absolute)?;
            } else if tokens.peek(token::Paren)
                || tokens.peek(token::Bracket)
                || tokens.peek(token::Brace)
            {
                self.add_tokens(&inside(tokens)?, reads_strings)?;
            } else if reads_strings && tokens.peek(LitStr) {
                // `#[serde(with = "crate::wire::duration")]` imports just like a path.
                if let Ok(path) = tokens.parse::<LitStr>()?.parse::<syn::Path>() {
                    self.visit_path(&path);
                }
            } else if !tokens.is_empty() {
                skip(tokens)?;
            }
        }
        Ok(())
    }

    fn add_token_path(
        &mut self,
        tokens: ParseStream<'_>,
        before: &[String],
        is_absolute: bool,
    ) -> syn::Result<()> {
        let mut segments = [before, &[tokens.call(syn::Ident::parse_any)?.to_string()]].concat();
        while tokens.parse::<Option<Token![::]>>()?.is_some() {
            if tokens.peek(syn::Ident::peek_any) {
                segments.push(tokens.call(syn::Ident::parse_any)?.to_string());
            } else if tokens.parse::<Option<Token![*]>>()?.is_some() {
                segments.push("*".to_owned());
            } else if tokens.peek(token::Brace) {
                let list = inside(tokens)?;
                while !list.is_empty() {
                    if list.peek(syn::Ident::peek_any) {
                        self.add_token_path(&list, &segments, is_absolute)?;
                    } else {
                        skip(&list)?;
                    }
                }
                return Ok(());
            }
        }
        if segments.len() > 1 {
            self.add(segments, is_absolute, false);
        }
        Ok(())
    }

    fn read_tokens(&mut self, parse: impl FnOnce(&mut Self) -> syn::Result<()>) {
        if let Err(error) = parse(self) {
            self.oddities.push(format!("tokens that this test cannot read: {error}"));
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add(segments, path.leading_colon.is_some(), false);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
        self.add_use(&item.tree, &[], item.leading_colon.is_some());
    }

    fn visit_item_extern_crate(&mut self, item: &'ast ItemExternCrate) {
        if item.ident == "self" {
            self.oddities.push("gives the crate a second name with `extern crate self`".to_owned());
        }
        self.add(vec![item.ident.to_string()], true, true);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    /// `pub(in crate::doors)` imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}

    fn visit_macro(&mut self, item: &'ast Macro) {
        if item.path.segments.last().is_some_and(|last| last.ident == "include") {
            self.oddities.push("takes code from elsewhere with `include!`".to_owned());
        }
        self.visit_path(&item.path);
        self.read_tokens(|finder| {
            (|tokens: ParseStream<'_>| finder.add_tokens(tokens, false)).parse2(item.tokens.clone())
        });
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        match &attribute.meta {
            Meta::Path(path) => self.visit_path(path),
            Meta::List(list) => {
                self.visit_path(&list.path);
                self.read_tokens(|finder| {
                    (|tokens: ParseStream<'_>| finder.add_tokens(tokens, true))
                        .parse2(list.tokens.clone())
                });
            }
            Meta::NameValue(pair) if pair.path.is_ident("path") => {
                self.oddities.push("takes a module from elsewhere with `#[path]`".to_owned());
            }
            // Links in comments are not imports.
            Meta::NameValue(pair) if pair.path.is_ident("doc") => {}
            Meta::NameValue(pair) => self.visit_expr(&pair.value),
        }
    }
}

/// The tokens inside the next brackets, of any kind.
fn inside<'a>(tokens: &'a ParseBuffer<'_>) -> syn::Result<ParseBuffer<'a>> {
    let inner;
    if tokens.peek(token::Paren) {
        parenthesized!(inner in tokens);
    } else if tokens.peek(token::Bracket) {
        bracketed!(inner in tokens);
    } else {
        braced!(inner in tokens);
    }
    Ok(inner)
}

fn skip(tokens: ParseStream<'_>) -> syn::Result<()> {
    tokens.step(|cursor| {
        cursor
            .token_tree()
            .map(|(_, rest)| ((), rest))
            .ok_or_else(|| cursor.error("nothing to skip"))
    })
}

/// Every source file under `folder` of this repository, with its path relative to it.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((
                    path.strip_prefix(&root).unwrap().to_owned(),
                    fs::read_to_string(&path).unwrap(),
                ));
            }
        }
    }
    files.sort();
    files
}

/// `stores/nonce/redis.rs` is `stores::nonce::redis`, `engine.rs` is `engine`, and `lib.rs` is the
/// root.
fn module_of(path: &Path) -> Vec<String> {
    let without_extension = path.with_extension("");
    let segments = without_extension.iter().map(|segment| segment.to_string_lossy().into_owned());
    segments.filter(|segment| segment != "mod" && segment != "lib").collect()
}

fn lines(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("\n")
}

mod the_checker {
    use super::*;

    fn found(path: &str, text: &str) -> String {
        lines(&violations(Path::new(path), text))
    }

    #[test]
    fn sees_every_import_that_breaks_the_table() {
        for (path, text, says) in [
            (
                "domain/token.rs",
                "use crate::config::Settings;",
                "domain imports `config::Settings`; it may import nothing of ours",
            ),
            ("client.rs", "use crate::engine::ports::Clock;", "client imports"),
            ("config.rs", "use crate::telemetry::log;", "config imports"),
            ("telemetry/log.rs", "use crate::engine::verify::Verdict;", "telemetry imports"),
            ("engine/verify.rs", "use crate::stores::cache::CachedDirectory;", "engine imports"),
            ("engine/verify.rs", "use crate::config::Settings;", "engine imports"),
            (
                "stores/sql/source.rs",
                "use crate::engine::verify::Verifier;",
                "stores imports `engine::verify::Verifier`",
            ),
            ("stores/cache.rs", "use crate::engine;", "stores imports `engine`"),
            ("stores/cache.rs", "use crate::engine::*;", "stores imports `engine::*`"),
            (
                "doors/http.rs",
                "use crate::stores::sql::SqlRegistry;",
                "doors imports `stores::sql::SqlRegistry`",
            ),
            ("app.rs", "use crate::cli::run;", "app imports"),
            ("cli/serve.rs", "use crate::stores::sql::connect;", "cli imports"),
            ("cli/serve.rs", "use crate::telemetry::log;", "cli imports"),
            ("main.rs", "fn main() { countersign::app::check(); }", "main imports `app::check`"),
            (
                "lib.rs",
                "pub mod engine; pub use engine::verify::Verifier;",
                "the crate's root imports",
            ),
            ("engine/verify.rs", "use crate::helpers::retry;", "which no layer is"),
        ] {
            let found = found(path, text);
            assert!(found.contains(says), "{path}: {text}\n{found}");
        }
    }

    #[test]
    fn sees_imports_however_they_are_written() {
        for text in [
            "use crate::{domain::key::Key, stores::{self, cache}};",
            "use crate::stores as elsewhere;",
            "use super::super::stores::cache;",
            "use countersign::stores::cache;",
            "pub use crate::stores::cache::*;",
            "fn f() { crate::stores::sql::connect(); }",
            "fn f() { use super::super::stores::cache; }",
            "fn f(_: Option<Box<crate::stores::Thing>>) {}",
            "fn f() -> impl Into<super::super::stores::Thing> { 1 }",
            "fn f() { <crate::stores::Thing as Default>::default(); }",
            "fn f() { if let crate::stores::Thing::A = x {} }",
            "impl From<crate::stores::Thing> for u8 { fn from(_: u8) -> u8 { 1 } }",
            "fn f() { format!(\"{}\", crate::stores::name()); }",
            "macro_rules! m { () => { $crate::stores::name() }; }",
            "macro_rules! m { () => { use $crate::{domain::key, stores::{cache}}; }; }",
            "thread_local! { static A: crate::stores::A = crate::stores::A; }",
            "#[serde(with = \"crate::stores::wire\")] struct A;",
            "#[derive(crate::stores::Derive)] struct A;",
            "#[crate::stores::attribute] struct A;",
            "mod inner { use super::super::super::stores::cache; }",
            "#[cfg(test)] mod tests { use crate::stores::nonce::memory::MemoryNonceStore; }",
        ] {
            let found = found("engine/verify.rs", text);
            assert!(found.contains("engine imports `stores"), "{text}\n{found}");
        }
    }

    #[test]
    fn sees_what_would_hide_imports() {
        for (path, text) in [
            ("engine.rs", "use super::*;"),
            ("engine/verify.rs", "use crate as all;"),
            ("engine/verify.rs", "use crate::{self as all};"),
            ("engine/verify.rs", "use super::super::*;"),
            ("engine/verify.rs", "extern crate self as all;"),
            ("engine/verify.rs", "#[path = \"../stores/cache.rs\"] mod cache;"),
            ("engine/verify.rs", "include!(\"../stores/cache.rs\");"),
        ] {
            assert_ne!(found(path, text), "", "{path}: {text}");
        }
    }

    #[test]
    fn keeps_adapters_apart() {
        for (path, text) in [
            ("stores/cache.rs", "use crate::stores::sql::SqlRegistry;"),
            ("stores/cache.rs", "use super::sql::SqlRegistry;"),
            ("stores/cache.rs", "use super::*;"),
            ("stores/sql/source.rs", "use super::super::cache::CachedDirectory;"),
            ("stores/nonce/redis.rs", "use super::memory::MemoryNonceStore;"),
            ("stores/nonce/redis.rs", "use super::MemoryNonceStore;"),
            ("stores/nonce.rs", "use super::cache::CachedDirectory;"),
            ("stores/cache/tests.rs", "use crate::stores::sql::SqlRegistry;"),
        ] {
            let found = found(path, text);
            assert!(found.contains("adapters never import each other"), "{path}: {text}\n{found}");
        }
        for (path, text) in [
            ("stores/sql/source.rs", "use super::{SqlRegistry, entity::principals};"),
            ("stores/sql.rs", "mod source; pub use source::A; pub use self::source::B;"),
            (
                "stores/nonce/redis.rs",
                "mod tests { use super::*; use crate::stores::nonce::tests::battery; }",
            ),
            (
                "stores/nonce/tests.rs",
                "use super::{memory::MemoryNonceStore, redis::RedisNonceStore};",
            ),
            ("stores/tests.rs", "use super::{cache::CachedDirectory, sql::SqlRegistry};"),
        ] {
            assert_eq!(found(path, text), "", "{path}: {text}");
        }
    }

    #[test]
    fn keeps_foreign_crates_in_their_places() {
        for (path, text) in [
            ("engine/ports.rs", "use sea_orm::DatabaseConnection;"),
            ("stores/cache.rs", "use sea_orm::EntityTrait;"),
            ("stores/cache.rs", "fn f(_: ::sqlx::Pool) {}"),
            ("stores/cache.rs", "use redis::Cmd;"),
            ("doors/http.rs", "use tonic::Status;"),
            ("doors/http.rs", "use envoy_types as e;"),
            ("doors/response.rs", "fn f() { prost_types::Struct::default(); }"),
            ("doors/grpc.rs", "use actix_web::web;"),
            ("doors/tls.rs", "use actix_web::HttpServer;"),
            ("app.rs", "fn f() { dbg!(actix_web::web::Data::new(1)); }"),
            ("app.rs", "#[tonic::async_trait] impl A for B {}"),
            ("engine/verify.rs", "use reqwest::Client;"),
            ("cli/migrate.rs", "use migrations::Migrator;"),
            ("config.rs", "use clap::Parser;"),
            ("domain/key.rs", "extern crate sqlx;"),
        ] {
            assert!(found(path, text).contains("names the crate"), "{path}: {text}");
        }
        for (path, text) in [
            ("stores/sql/entity/principals.rs", "use sea_orm::entity::prelude::*;"),
            ("stores/nonce/redis.rs", "use redis::{self, Cmd}; fn f(_: redis::Value) {}"),
            ("doors/http/decision.rs", "use actix_web::web;"),
            (
                "doors/grpc/response.rs",
                "use tonic::Code; use envoy_types::pb::google; use tonic_health::ServingStatus;",
            ),
            ("app.rs", "use migrations::{Migrator, sea_orm_migration::MigratorTrait};"),
            ("cli.rs", "use clap::Parser; #[derive(clap::Args)] struct A;"),
        ] {
            assert_eq!(found(path, text), "", "{path}: {text}");
        }
    }

    #[test]
    fn lets_no_clock_into_the_inner_layers() {
        for (path, text) in [
            ("domain/time.rs", "fn f() { SystemTime::now(); }"),
            (
                "domain/time.rs",
                "use std::time::SystemTime as Clock; fn f() { let read = Clock::now; }",
            ),
            ("domain/time.rs", "fn f() { std::time::Instant::now(); }"),
            ("engine/verify.rs", "fn f() { assert!(time::OffsetDateTime::now_utc() > x); }"),
        ] {
            assert!(found(path, text).contains("reads a clock"), "{path}: {text}");
        }
        for (path, text) in [
            (
                "domain/time.rs",
                "use std::time::SystemTime; impl From<SystemTime> for A { fn from(_: SystemTime) -> A { A } }",
            ),
            ("engine/verify.rs", "fn f(&self) { self.clock.now(); }"),
            ("app.rs", "fn f() { SystemTime::now(); }"),
        ] {
            assert_eq!(found(path, text), "", "{path}: {text}");
        }
    }

    #[test]
    fn has_json_read_in_one_place() {
        for (path, text) in [
            ("domain/token.rs", "fn f() { let a: A = serde_json::from_slice(b).ok()?; }"),
            ("doors/http/tokens/body.rs", "use serde_json::from_str;"),
            ("stores/jwks/cache.rs", "fn f() { serde_json::from_value::<Jwk>(key); }"),
            ("cli/top.rs", "fn f() { let read = serde_json::Deserializer::from_reader; }"),
        ] {
            assert!(found(path, text).contains("reads JSON"), "{path}: {text}");
        }
        for (path, text) in [
            ("domain/json.rs", "fn f() { serde_json::from_str(text); }"),
            ("stores/jwks/fetch.rs", "fn f() { serde_json::from_value::<Object<Jwk>>(key); }"),
            ("doors/response.rs", "mod tests { fn f() { serde_json::from_str(text); } }"),
            ("doors/response.rs", "fn f() { serde_json::to_string(&problem); }"),
        ] {
            assert_eq!(found(path, text), "", "{path}: {text}");
        }
    }

    #[test]
    fn is_content_with_what_keeps_to_the_table() {
        for (path, text) in [
            (
                "domain/token.rs",
                "use super::key::VerifyingKey; use crate::domain::time::UnixMillis;",
            ),
            (
                "domain/token.rs",
                "/// See [`crate::engine::verify`].\nstruct A; #[doc = \"crate::engine\"] struct B;",
            ),
            ("client.rs", "use crate::domain::key::PrivateKey;"),
            (
                "config/values.rs",
                "pub(in crate::config) fn f() {} #[serde(with = \"values::duration\")] struct A;",
            ),
            (
                "engine/verify.rs",
                "use crate::{domain::{key, token::{self, Claims}}, telemetry::decisions::Outcome};",
            ),
            (
                "engine/verify.rs",
                "use super::ports::{Clock, KeyDirectory}; fn f(self) { self; self::g(); Self::h(); }",
            ),
            (
                "stores/cache.rs",
                "use crate::{config::registry::RegistrySettings, engine::ports::{self, Clock}};",
            ),
            (
                "doors/http.rs",
                "pub use super::answer::Language; use crate::engine::verify::Verifier;",
            ),
            (
                "app.rs",
                "use crate::{stores::sql::connect, doors::http::HttpDoor}; pub(crate) fn f() {}",
            ),
            ("cli/serve.rs", "use crate::{app::App, config::Settings, client::Signer};"),
            ("main.rs", "fn main() -> ExitCode { countersign::cli::run() }"),
            ("lib.rs", "pub mod domain; pub mod engine;"),
        ] {
            assert_eq!(found(path, text), "", "{path}: {text}");
        }
    }

    #[test]
    fn keeps_the_migrations_alone() {
        let found = |text| lines(&violations_in_migrations(Path::new("lib.rs"), text));
        assert_ne!(found("use countersign::domain::scope::Scopes;"), "");
        assert_ne!(found("fn f() { countersign::domain::x(); }"), "");
        assert_eq!(found("use crate::dialect::Dialect; use sea_orm_migration::prelude::*;"), "");
    }
}
