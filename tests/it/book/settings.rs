//! The reference of settings, generated from the structs in `src/config`: comments, types and
//! actual defaults.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use countersign::config::Settings;
use serde_json::Value;
use syn::{
    Attribute, Expr, Fields, GenericArgument, Item, ItemEnum, ItemStruct, Lit, Meta, PathArguments,
    Type,
};

use super::hold;
use crate::harness::{repository, variable};

#[test]
fn the_reference_of_settings_is_what_the_code_says() {
    hold("reference/settings.md", "src/config", &reference());
}

fn reference() -> String {
    let mut defaults = serde_json::to_value(Settings::default()).unwrap();
    // Not shown, because a URL may hold a password; the default has none.
    defaults["database"]["url"] = Settings::default().database.url.servers().next().unwrap().into();
    let root = Source::read("src/config.rs");
    let mut text = String::new();
    for field in named_fields(&root.structs["Settings"]) {
        let section = field.ident.as_ref().unwrap().to_string();
        let source = Source::read(&format!("src/config/{section}.rs"));
        let settings = &source.structs[&type_name(&field.ty)];
        source.section(&section, &source.intro, settings, &defaults[&section], &mut text);
    }
    text
}

/// One file of `src/config`.
struct Source {
    intro: String,
    structs: BTreeMap<String, ItemStruct>,
    enums: BTreeMap<String, ItemEnum>,
}

impl Source {
    fn read(file: &str) -> Self {
        let path = repository().join(file);
        let file = syn::parse_file(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut source =
            Self { intro: doc(&file.attrs), structs: BTreeMap::new(), enums: BTreeMap::new() };
        for item in file.items {
            match item {
                Item::Struct(item) => drop(source.structs.insert(item.ident.to_string(), item)),
                Item::Enum(item) => drop(source.enums.insert(item.ident.to_string(), item)),
                _ => {}
            }
        }
        source
    }

    /// Writes the settings of a section, then those of its subsections.
    fn section(
        &self,
        path: &str,
        intro: &str,
        settings: &ItemStruct,
        defaults: &Value,
        text: &mut String,
    ) {
        let (inner, own): (Vec<_>, Vec<_>) =
            named_fields(settings).partition(|field| self.is_section(&field.ty));
        write!(text, "## `{path}`\n\n{intro}\n\n").unwrap();
        let said = doc(&settings.attrs);
        let about = said
            .strip_prefix(&format!("`{path}.*`"))
            .unwrap_or(&said)
            .trim_start_matches([':', ' ']);
        if !about.is_empty() {
            write!(text, "{about}\n\n").unwrap();
        }
        for field in own {
            let key = format!("{path}.{}", field.ident.as_ref().unwrap());
            let default = defaults
                .get(field.ident.as_ref().unwrap().to_string())
                .unwrap_or_else(|| panic!("{key} has no default"));
            let (meaning, default) = meaning_and_default(&key, &doc(&field.attrs), default);
            let (kind, variable) = (self.kind(&field.ty), variable(&key));
            write!(
                text,
                "### `{key}`\n\n{meaning}\n\n- {kind}\n- default: {default}\n- `{variable}`\n\n"
            )
            .unwrap();
        }
        for field in inner {
            let name = field.ident.as_ref().unwrap().to_string();
            let inner = &self.structs[&type_name(&field.ty)];
            self.section(
                &format!("{path}.{name}"),
                &doc(&field.attrs),
                inner,
                &defaults[&name],
                text,
            );
        }
    }

    fn is_section(&self, ty: &Type) -> bool {
        let name = type_name(ty);
        name.ends_with("Settings") && self.structs.contains_key(&name)
    }

    /// The values that a setting accepts.
    fn kind(&self, ty: &Type) -> String {
        let name = type_name(ty);
        match name.as_str() {
            "Option" => self.kind(type_argument(ty).unwrap()),
            "bool" => "`true` or `false`".to_owned(),
            "Duration" => "duration".to_owned(),
            "usize" | "u64" | "u32" | "u16" => "whole number".to_owned(),
            "Share" => "number from 0 to 1".to_owned(),
            "PathBuf" => "path".to_owned(),
            "Vec" => "list".to_owned(),
            "OtlpEndpoint" => "URL".to_owned(),
            "ListenAddress" => "address and port".to_owned(),
            "Secret" => "text; secret, never shown".to_owned(),
            "DatabaseUrl" => "URL; never shown, because it may hold a password".to_owned(),
            "NonceUrl" => {
                "`memory:`, or a URL, which is never shown, because it may hold a password"
                    .to_owned()
            }
            _ => self.enums.get(&name).and_then(choices).unwrap_or_else(|| "text".to_owned()),
        }
    }
}

/// The values of an enum without data.
fn choices(item: &ItemEnum) -> Option<String> {
    let is_lowercase = item.attrs.iter().any(|attribute| matches!(&attribute.meta, Meta::List(list) if list.path.is_ident("serde") && list.tokens.to_string().contains("\"lowercase\"")));
    let all_plain = item.variants.iter().all(|variant| variant.fields.is_empty());
    let choice = |variant: &syn::Variant| {
        let about = doc(&variant.attrs);
        format!(
            "`{}` ({})",
            variant.ident.to_string().to_lowercase(),
            lowercase_first(about.trim_end_matches('.'))
        )
    };
    (is_lowercase && all_plain)
        .then(|| item.variants.iter().map(choice).collect::<Vec<_>>().join(", "))
}

fn lowercase_first(text: &str) -> String {
    let acronym = text.chars().take(2).filter(char::is_ascii_uppercase).count() == 2;
    let mut characters = text.chars();
    match characters.next() {
        Some(first) if !acronym => first.to_lowercase().chain(characters).collect(),
        _ => text.to_owned(),
    }
}

/// Removes the sentence about the default from a comment, and compares it to the actual default.
fn meaning_and_default(key: &str, comment: &str, real: &Value) -> (String, String) {
    let real = match real {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap()).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    let shown = if real.is_empty() { String::new() } else { format!("`{real}`") };
    let Some(start) =
        comment.find("Default ").filter(|&start| start == 0 || comment[..start].ends_with(' '))
    else {
        return (comment.to_owned(), if shown.is_empty() { "none".to_owned() } else { shown });
    };
    let rest = &comment[start + "Default ".len()..];
    let (said, after) = rest.split_once(". ").unwrap_or((rest.trim_end_matches('.'), ""));
    let meaning = format!("{}{after}", &comment[..start]).trim().to_owned();
    assert!(!meaning.is_empty(), "the comment of {key} says nothing but its default");

    let value = said
        .strip_prefix('`')
        .and_then(|rest| rest.split('`').next())
        .or_else(|| said.split([' ', ';', ':']).next())
        .unwrap();
    let default = if is_same(value, &real) {
        said.replacen(&format!("`{value}`"), value, 1).replacen(
            value,
            &format!("`{}`", value.replace(',', "")),
            1,
        )
    } else if real.is_empty() {
        said.to_owned()
    } else {
        let is_value = said.starts_with(['`', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
        let is_wrong = is_value || ["none", "empty", "true", "false"].contains(&value);
        assert!(
            !is_wrong,
            "the comment of {key} says that its default is {said}, and it is {real}"
        );
        format!("{shown}, {said}")
    };
    assert!(
        !real.is_empty() || !said.starts_with('`'),
        "the comment of {key} says that its default is {said}, and there is none"
    );
    (meaning, default)
}

/// Whether the value in a comment is the actual one. Digits may have commas between them, and
/// durations and fractions have several notations.
fn is_same(said: &str, real: &str) -> bool {
    let is_same_number = || said.parse::<f64>().is_ok_and(|it| real.parse() == Ok(it));
    let is_same_duration = || {
        humantime::parse_duration(said)
            .ok()
            .is_some_and(|it| humantime::parse_duration(real) == Ok(it))
    };
    said.replace(',', "") == real || is_same_number() || is_same_duration()
}

fn named_fields(item: &ItemStruct) -> impl Iterator<Item = &syn::Field> {
    let Fields::Named(fields) = &item.fields else { panic!("{} has no named fields", item.ident) };
    fields.named.iter()
}

fn type_name(ty: &Type) -> String {
    let Type::Path(path) = ty else { panic!("a setting has a type that is no path") };
    path.path.segments.last().unwrap().ident.to_string()
}

fn type_argument(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let PathArguments::AngleBracketed(arguments) = &path.path.segments.last()?.arguments else {
        return None;
    };
    arguments
        .args
        .iter()
        .find_map(|argument| if let GenericArgument::Type(ty) = argument { Some(ty) } else { None })
}

/// A doc comment with its lines joined; paragraphs are kept.
pub(super) fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(line) => Some(line.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let text = lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n");
    text.split("\n\n")
        .map(|paragraph| paragraph.replace('\n', " "))
        .collect::<Vec<_>>()
        .join("\n\n")
}
