//! A parser of samples in the Prometheus text format, version 0.0.4. Comments, including types, are
//! skipped. None of the existing libraries fits: the licence of one is not allowed here, and the
//! others are unmaintained and either take a comma in a label's value for the next label or leave
//! its escapes undecoded.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

/// One line: name, labels and value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
}

/// A line that is not in this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not in the Prometheus text format")]
pub(super) struct BadExposition {
    line: usize,
}

/// All samples of `text`, in order.
pub(super) fn parse(text: &str) -> Result<Vec<Sample>, BadExposition> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim_matches([' ', '\t', '\r'])));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| sample(line).ok_or(BadExposition { line: number }))
        .collect()
}

/// `name{label="value"} 1.5 1700000000000`; labels and time are optional. The time is ignored.
fn sample(line: &str) -> Option<Sample> {
    let (name, rest) = name(line, true)?;
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    let mut numbers = rest.split_ascii_whitespace();
    let value = numbers.next()?.parse().ok()?;
    let time_is_one = numbers.next().is_none_or(|time| time.parse::<i64>().is_ok());
    (time_is_one && numbers.next().is_none()).then(|| Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The labels before the closing brace, and the text after it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (label, after) = name(rest, false)?;
        let quoted = after.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?;
        let (value, after) = quoted_value(quoted)?;
        labels.push((label.to_owned(), value));
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return None,
        }
    }
}

/// The value up to the closing quote, and the text after it.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
    None
}

/// A name and the text after it. Names of metrics may contain colons.
fn name(text: &str, may_have_colons: bool) -> Option<(&str, &str)> {
    let belongs = |c: char| c.is_ascii_alphanumeric() || c == '_' || (may_have_colons && c == ':');
    let (name, rest) = text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()));
    (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then_some((name, rest))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_format_allows_is_read() {
        let text = "# HELP up Whether it is up.\n# TYPE up gauge\nup 1\n\n  spaced { a = \"x,y\" , b=\"}\\\"\\\\\\n\" , }  +Inf 1700000000000\r\n\
                    bucket{le=\"0.5\"} 1e3\nnothing NaN\n";
        let samples = parse(text).unwrap();

        assert_eq!(samples[0], Sample { name: "up".to_owned(), labels: vec![], value: 1.0 });
        let labels =
            vec![("a".to_owned(), "x,y".to_owned()), ("b".to_owned(), "}\"\\\n".to_owned())];
        assert_eq!(samples[1], Sample { name: "spaced".to_owned(), labels, value: f64::INFINITY });
        assert_eq!(
            samples[2],
            Sample {
                name: "bucket".to_owned(),
                labels: vec![("le".to_owned(), "0.5".to_owned())],
                value: 1e3
            }
        );
        assert!(samples[3].value.is_nan());
    }

    #[test]
    fn what_is_something_else_is_named_by_its_line() {
        for line in [
            "<html>",
            "no_value",
            "9up 1",
            "up one",
            "up{} ",
            "up{a} 1",
            "up{a=b} 1",
            "up{a=\"b} 1",
            "up{a=\"b\" c=\"d\"} 1",
            "up{a=\"b\"",
            "up{a=\"\\x\"} 1",
            "up{a:b=\"c\"} 1",
            "up 1 soon",
            "up 1 2 3",
        ] {
            assert_eq!(parse(&format!("up 1\n{line}\n")), Err(BadExposition { line: 2 }), "{line}");
        }
    }

    fn written(samples: &[Sample]) -> String {
        let mut text = String::new();
        for Sample { name, labels, value } in samples {
            text.push_str(name);
            let escaped =
                |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let labels: Vec<String> = labels
                .iter()
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            if !labels.is_empty() {
                write!(text, "{{{}}}", labels.join(",")).unwrap();
            }
            writeln!(text, " {value}").unwrap();
        }
        text
    }

    prop_compose! {
        fn any_sample()(
            name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,20}",
            labels in prop::collection::vec(("[a-zA-Z_][a-zA-Z0-9_]{0,10}", "[^\\r\\p{C}]{0,12}|[\\\\\",}={ \n]{0,6}"), 0..4),
            value in prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::INFINITE,
        ) -> Sample {
            Sample { name, labels, value }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(samples in prop::collection::vec(any_sample(), 0..8)) {
            prop_assert_eq!(parse(&written(&samples)), Ok(samples));
        }

        #[test]
        fn nothing_makes_it_panic(text in "[ -~\n\t\\PC]{0,80}") {
            let _ = parse(&text);
        }
    }
}
