//! The reference of denials, generated from `src/domain/decision.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use countersign::domain::decision::{DenialCode, DenialReason};
use syn::parse::{ParseStream, Parser as _};
use syn::{Attribute, Ident, Item, LitStr, Token};

use super::{hold, settings};
use crate::harness::repository;

const SOURCE: &str = "src/domain/decision.rs";

#[test]
fn the_reference_of_denials_is_what_the_code_says() {
    hold(
        "reference/denials.md",
        SOURCE,
        &format!("## Codes\n\n{}\n## Reasons\n\n{}", codes(), reasons()),
    );
}

fn codes() -> String {
    let mut table =
        "| code | status | what the client is told | exact reasons |\n| --- | --- | --- | --- |\n"
            .to_owned();
    for code in DenialCode::ALL {
        let status = code.status();
        let reasons = DenialReason::ALL.iter().filter(|reason| reason.code() == code);
        let reasons: Vec<String> = reasons.map(|reason| format!("`{}`", reason.name())).collect();
        writeln!(
            table,
            "| `{}` | {status} | {} | {} |",
            code.name(),
            code.explanation(),
            reasons.join(", ")
        )
        .unwrap();
    }
    table
}

fn reasons() -> String {
    let meanings = meanings();
    let mut table = "| reason | code | meaning |\n| --- | --- | --- |\n".to_owned();
    for reason in DenialReason::ALL {
        writeln!(
            table,
            "| `{}` | `{}` | {} |",
            reason.name(),
            reason.code().name(),
            meanings[reason.name()]
        )
        .unwrap();
    }
    table
}

/// The comments in the table `denial_reasons!`, by name of the reason.
fn meanings() -> BTreeMap<String, String> {
    let file =
        syn::parse_file(&std::fs::read_to_string(repository().join(SOURCE)).unwrap()).unwrap();
    let table = file.items.into_iter().find_map(|item| match item {
        Item::Macro(item) if item.mac.path.is_ident("denial_reasons") => Some(item.mac.tokens),
        _ => None,
    });
    let rows = |input: ParseStream<'_>| {
        let mut rows = BTreeMap::new();
        while !input.is_empty() {
            let attributes = input.call(Attribute::parse_outer)?;
            input.parse::<Ident>()?;
            input.parse::<Token![=]>()?;
            let name = input.parse::<LitStr>()?.value();
            input.parse::<Token![=>]>()?;
            input.parse::<Ident>()?;
            input.parse::<Token![,]>()?;
            rows.insert(name, settings::doc(&attributes));
        }
        Ok(rows)
    };
    rows.parse2(table.expect("the table of reasons")).unwrap()
}
